"""A file that was read: its name, its state, and its passages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_colbert.documents.blocks import Block, Heading
from mlx_colbert.documents.file_passages import read_file
from mlx_colbert.documents.joining import joined
from mlx_colbert.documents.kinds import Kind
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.records import csv_records, json_records, passage_of_record, tsv_records
from mlx_colbert.documents.shard import Shard
from mlx_colbert.documents.unread import Unread
from mlx_colbert.errors import InputError
from mlx_colbert.json_values import JsonObject
from mlx_colbert.types import Source

__all__ = ["EMPTY", "RECORD_SUFFIXES", "InputFile"]

_RECORDS = {".jsonl": json_records, ".csv": csv_records, ".tsv": tsv_records}
RECORD_SUFFIXES = tuple(_RECORDS)
# What is said of a file without text.
EMPTY = "is empty. Nothing was read from it."
# About the memory of a heading or a block without its text.
_PART_BYTES = 800


@dataclass(frozen=True)
class InputFile:
    """A file with passages, which was read.

    Attributes:
        path: the file.
        source: its name in an index, and its state when it was read.
        kind: its kind. None: a file of rows.
        parts: its headings and blocks. None: a file of rows, or they are not in memory.
        shard: only the rows of this shard are passages. None: all.
    """

    path: Path
    source: Source
    kind: Kind | None = None
    parts: Sequence[Heading | Block] | None = None
    shard: Shard | None = None

    @property
    def has_rows(self) -> bool:
        """Whether it is a file of rows. Its passages do not depend on a model."""
        return self.kind is None

    @property
    def is_blank(self) -> bool:
        """Whether it was read and has no text. It has no passages."""
        return self.parts is not None and not any(map(_has_text, self.parts))

    @property
    def memory_bytes(self) -> int:
        """About the memory that its headings and blocks need."""
        texts = (part.text if isinstance(part, Block) else part.source for part in self.parts or ())
        return sum(sys.getsizeof(text) + _PART_BYTES for text in texts)

    def emptied(self) -> InputFile:
        """The same file with nothing in memory. It is read again when its passages are needed."""
        return replace(self, parts=None)

    def passages(
        self,
        fits: Callable[[str], bool] | None = None,
        *,
        unread: Unread | None = None,
        keep_blank: bool = False,
    ) -> Iterator[tuple[str, Passage]]:
        """(place for an error message, passage) of each passage.

        The file is read again, unless its headings and blocks are in memory.

        Args:
            fits: whether a model reads a text to its end.
            unread: receives the number of blank rows that are left out.
            keep_blank: keep blank rows.

        Raises:
            InputError: if a row is not valid, or the file has no text.
            OSError: if the file cannot be read.
        """
        if self.kind is None:
            return self._row_passages(unread, keep_blank)
        return self._block_passages(self.kind, fits)

    def _block_passages(
        self, kind: Kind, fits: Callable[[str], bool] | None
    ) -> Iterator[tuple[str, Passage]]:
        parts: Iterable[Heading | Block] | None = self.parts
        if parts is None:
            content = read_file(self.path, max_bytes=kind.max_bytes)
            parts = kind.parts(content.data, str(self.path))
        own = {"path": self.source.uri.partition("/")[2], "kind": kind.name}
        # Most passages of a file have the same metadata, which are checked once.
        plain = JsonObject(own, f"{self.path}: metadata")
        for number, passage in enumerate(joined(parts, kind.name, fits), start=1):
            place, metadata = f"{self.path}#{number}", plain
            if passage.metadata:
                metadata = JsonObject({**passage.metadata, **own}, f"{place}: metadata")
            doc_id = f"{self.source.uri}#{number}"
            yield place, Passage(doc_id, passage.text, metadata, self.source, passage.position)

    def _row_passages(self, unread: Unread | None, keep_blank: bool) -> Iterator[tuple[str, Passage]]:
        empty = True
        with self.path.open("rb") as stream:
            for lines, record in _RECORDS[self.path.suffix.lower()](stream, str(self.path)):
                if self.shard is not None and not self.shard.has(self.source.uri, lines[0]):
                    empty = False
                    continue
                place, default_id = f"{self.path}:{lines[0]}", f"{self.source.uri}:{lines[0]}"
                passage = passage_of_record(record, place, default_id=default_id)
                if not (passage.text or keep_blank):
                    if unread is not None:
                        unread.blank_rows += 1
                    continue
                yield place, replace(passage, source=self.source, position={"lines": lines})
                empty = False
        if empty:
            raise InputError(f"{self.path}: {EMPTY}")


def _has_text(part: Heading | Block) -> bool:
    return bool(part.text.strip() if isinstance(part, Block) else part.source)
