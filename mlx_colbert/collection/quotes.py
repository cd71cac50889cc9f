"""What a reference of a user names: a passage, or lines of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.lookup import PlaceInFile, find_file, find_passage, passages_in
from mlx_colbert.collection.source_files import has_lines, lines_of
from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError

__all__ = ["N_LINES", "QuotedLines", "QuotedPassages", "quote", "quoted_lines"]

# Lines that PATH:LINE names.
N_LINES = 20


@dataclass(frozen=True)
class QuotedLines:
    """Lines of a file.

    Attributes:
        collection: the name of the collection.
        source: the name of the file in the index.
        path: the absolute path of the file.
        first: the number of the first of the lines, from 1.
        lines: the lines.
        n_lines: number of lines of the file.
        is_indexed: whether the file is as it was when it was indexed.
    """

    collection: str
    source: str
    path: str
    first: int
    lines: list[str]
    n_lines: int
    is_indexed: bool

    def to_dict(self) -> dict[str, Any]:
        """The lines as a JSON object."""
        return {
            "collection": self.collection,
            "source": self.source,
            "path": self.path,
            "text": "\n".join(self.lines),
            "lines": [self.first, self.first - 1 + len(self.lines)],
            "n_lines": self.n_lines,
            "is_indexed": self.is_indexed,
        }


@dataclass(frozen=True)
class QuotedPassages:
    """Passages of a file that has no lines, such as a PDF. Its bytes are nothing for people.

    Attributes:
        collection: the name of the collection.
        source: the name of the file in the index.
        passages: the passages, in the order of their places.
    """

    collection: str
    source: str
    passages: list[CollectionHit]

    def to_dict(self) -> dict[str, Any]:
        """The passages as a JSON object."""
        return {
            "collection": self.collection,
            "source": self.source,
            "path": self.passages[0].path,
            "text": "\n\n".join(hit.text or "" for hit in self.passages),
            "passages": [hit.to_dict() for hit in self.passages],
        }


def quote(collections: Sequence[Collection], reference: str) -> QuotedLines | QuotedPassages | CollectionHit:
    """The passage, or the lines or passages of a file, that a reference names. Other files are not read.

    Args:
        collections: where to look.
        reference: the id of a passage, its short form; or a file: all of it, or with PATH:LINE:COUNT some
            lines (without COUNT, `N_LINES`), or the passages of some pages (without COUNT, one).

    Raises:
        InputError: if there is nothing of this name, or more than one.
        CollectionNotFoundError: if none of the collections has an index.
        CollectionError: if a link leads to a hidden file or out of the folders.
        OSError: if the file cannot be read.
    """
    if "#" not in reference:
        asked = PlaceInFile.parse(reference)
        try:
            collection, uri = find_file(collections, asked)
        except InputError as problem:
            # A short id may be without its sign, and the id of a document is any text.
            try:
                return find_passage(collections, reference)[1]
            except InputError:
                raise problem from None
        if not has_lines(uri):
            return QuotedPassages(collection.name, uri, passages_in(collection, uri, asked))
        n_lines = asked.n_lines if asked.line is None else asked.n_lines or N_LINES
        return quoted_lines(collection, uri, asked.line or 1, n_lines)
    return find_passage(collections, reference)[1]


def quoted_lines(collection: Collection, uri: str, first: int = 1, n_lines: int | None = None) -> QuotedLines:
    """Lines of a file that is in the index.

    Args:
        collection: the collection.
        uri: the name of the file in the index.
        first: the number of the first line, from 1.
        n_lines: the most lines. None: to the end.

    Raises:
        InputError: if the file has no lines of text, is too large, or has no line of that number.
        CollectionError: if it is not in the index, or a link leads to a hidden file or out of the folders.
        OSError: if it cannot be read.
    """
    file = lines_of(collection, uri)
    if first > len(file.lines):
        raise InputError(f"{uri}: has {counted(len(file.lines), 'line')}, so there is no line {first:,}.")
    end = None if n_lines is None else first - 1 + n_lines
    return QuotedLines(
        collection.name,
        uri,
        str(file.path),
        first,
        file.lines[first - 1 : end],
        len(file.lines),
        file.is_indexed,
    )
