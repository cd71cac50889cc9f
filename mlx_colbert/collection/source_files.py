"""Reads the lines of the files that passages come from, and no file outside the folders of a collection."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.hits import CollectionHit, Surroundings
from mlx_colbert.documents.decoding import decode
from mlx_colbert.documents.file_passages import read_file
from mlx_colbert.documents.kinds import kind_of
from mlx_colbert.documents.sources import content_hash
from mlx_colbert.errors import CollectionError, InputError

__all__ = ["FileLines", "has_lines", "lines_of", "surroundings", "with_surroundings"]

# The kinds of files whose passages have lines.
_KINDS_WITH_LINES = frozenset(("markdown", "restructuredtext", "html", "code", "text", "rows", "mail"))


@dataclass(frozen=True)
class FileLines:
    """The lines of a file.

    Attributes:
        uri: its name in the index.
        path: its path.
        lines: its lines, without their ends.
        is_indexed: whether the passages in the index are those of this content.
    """

    uri: str
    path: Path
    lines: list[str]
    is_indexed: bool


def has_lines(uri: str) -> bool:
    """Whether a file has lines of text, by its name. A PDF has none.

    >>> has_lines("notes/tea.md"), has_lines("papers/bees.pdf")
    (True, False)
    """
    kind = kind_of(PurePosixPath(uri).name)
    return kind is not None and kind.name in _KINDS_WITH_LINES


def lines_of(collection: Collection, uri: str) -> FileLines:
    """The lines of a file that is in the index of a collection.

    Args:
        collection: the collection.
        uri: the name of the file in the index.

    Raises:
        CollectionError: if it is not in the index, or a link leads to a hidden file or out of the folders.
        InputError: if it has no lines of text, as a PDF, or is too large.
        OSError: if it cannot be read.
    """
    source = next((source for source in collection.index.sources() if source.uri == uri), None)
    path = collection.settings.path_of(uri)
    if source is None or path is None:
        raise CollectionError(collection.name, f"has no file {uri!r:.200}.")
    folder = collection.settings.folders[uri.partition("/")[0]]
    kind = kind_of(path.name, max_file_bytes=collection.settings.max_file_bytes)
    if kind is None or not has_lines(uri):
        raise InputError(f"{uri}: has no lines. Give the id of a passage.")
    try:
        data = read_file(path, max_bytes=kind.max_bytes, within=folder).data
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        reason = f"{uri} is a link that leads to a hidden file or out of {folder}."
        raise CollectionError(collection.name, reason) from error
    text = decode(data, uri)
    is_indexed = content_hash(hashlib.sha256(data).hexdigest()) == source.content_hash
    return FileLines(uri, path, text.removesuffix("\n").split("\n"), is_indexed)


def with_surroundings(hit: CollectionHit, collection: Collection, n_lines: int) -> CollectionHit:
    """A hit with the lines around it, as `surroundings` finds them."""
    return replace(hit, surroundings=surroundings(hit, collection, n_lines))


def surroundings(hit: CollectionHit, collection: Collection, n_lines: int) -> Surroundings | None:
    """The lines around a passage. None: they are not known, for example because the file has changed.

    Args:
        hit: a hit of the collection.
        collection: the collection.
        n_lines: the most lines before it, and after it.
    """
    span = (hit.position or {}).get("lines")
    if span is None or hit.source is None:
        return None
    try:
        file = lines_of(collection, hit.source)
    except (CollectionError, InputError, OSError):
        return None
    if not file.is_indexed:
        return None
    start, end = span[0] - 1, span[1]
    first = max(start - n_lines, 0)
    return Surroundings(first + 1, file.lines[first:start], file.lines[end : end + n_lines])
