"""A segment: the token embeddings of some passages, exact (float16) or compressed, in mapped files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index.storage.packing import unpacked
from mlx_colbert.index.storage.postings import Postings
from mlx_colbert.index.storage.records import SegmentRecord
from mlx_colbert.types import Array, CompressedRows, TokenEmbeddings

# Rows to read, convert or write at a time: 2 MiB of float16 at D = 128.
BLOCK_ROWS = 8192

# A vector has a length of at most 65504 √D, and a gain is at most 10,000 times as large.
LARGEST_SCALE, LARGEST_GAIN = 1e6, 1e12


@dataclass(frozen=True, eq=False)
class ExactSegment:
    """The mapped files of an exact segment.

    Attributes:
        record: its row in the catalog.
        path: its folder.
        embeddings: N passages; `vectors` (T, D) float16, a read-only memory map.
    """

    record: SegmentRecord
    path: Path
    embeddings: TokenEmbeddings

    @property
    def lengths(self) -> Array:
        """The number of rows of each passage, (N,) int64."""
        return self.embeddings.lengths

    @property
    def offsets(self) -> Array:
        """The first row of each passage, and the end, (N + 1,) int64."""
        return self.embeddings.offsets

    def live_rows(self, live: Array) -> Iterator[Array]:
        """The rows of the live passages, in order, as blocks (n, D) float16.

        Args:
            live: (N,) bool, False for a deleted passage.
        """
        for rows in _live_blocks(live, self.lengths):
            yield self.embeddings.vectors[rows]


@dataclass(frozen=True, eq=False)
class CompressedSegment:
    """The mapped files of a compressed segment.

    Attributes:
        record: its row in the catalog.
        path: its folder.
        lengths: (N,) int64, the number of rows of each passage.
        offsets: (N + 1,) int64, the first row of each passage, and the end.
        postings: the passages by centroid.

    Raises:
        IndexDamagedError: from the methods that read rows, if a value is out of range.
    """

    record: SegmentRecord
    path: Path
    lengths: Array
    offsets: Array
    postings: Postings
    _n_centroids: int
    _codes: Array
    _residuals: Array
    _scales: Array
    _gains: Array
    _ranges: Array

    def codes(self, rows: Array | slice) -> Array:
        """The codes (n,) of some rows."""
        codes = self._codes[rows]
        # MLX would read memory after the centroids.
        if len(codes) and codes.max() >= self._n_centroids:
            raise self._damaged("codes.npy", "it has a code without a centroid")
        return codes

    def rows(self, rows: Array | slice) -> CompressedRows:
        """The compressed rows at some positions."""
        scales = unpacked(self._scales[rows], self._ranges[0])
        gains = unpacked(self._gains[rows], self._ranges[1])
        for name, values, largest in (
            ("scales.npy", scales, LARGEST_SCALE),
            ("gains.npy", gains, LARGEST_GAIN),
        ):
            # This comparison is also false for a NaN.
            if len(values) and not 0 <= values.min() <= values.max() <= largest:
                raise self._damaged(name, "it has a number that is out of range")
        return CompressedRows(self.codes(rows), self._residuals[rows], scales, gains)

    def live_rows(self, live: Array) -> Iterator[CompressedRows]:
        """The rows of the live passages, in order, as blocks.

        Args:
            live: (N,) bool, False for a deleted passage.
        """
        for rows in _live_blocks(live, self.lengths):
            yield self.rows(rows)

    def _damaged(self, name: str, problem: str) -> IndexDamagedError:
        return self.record.folder(self.path.parent).damaged(name, problem)


Segment = ExactSegment | CompressedSegment


def rows_of(segment: Segment, ordinals: Array) -> Array:
    """The positions (n,) int64 of the rows of some passages, one passage after the other."""
    lengths = segment.lengths[ordinals]
    starts = segment.offsets[ordinals] - (np.cumsum(lengths) - lengths)
    rows: Array = np.arange(int(lengths.sum())) + np.repeat(starts, lengths)
    return rows


S = TypeVar("S", bound=Segment)


@dataclass(frozen=True, eq=False)
class LiveSegment(Generic[S]):
    """A segment, and the passages in it that may be found.

    Attributes:
        segment: the mapped files.
        live: (N,) bool, False for a passage that is deleted or not selected.
        n_live: how many are True.
    """

    segment: S
    live: Array
    n_live: int


def of_kind(segments: Iterable[LiveSegment[Segment]], kind: type[S]) -> list[LiveSegment[S]]:
    """The segments of one kind of storage."""
    return [
        LiveSegment(part.segment, part.live, part.n_live)
        for part in segments
        if isinstance(part.segment, kind)
    ]


def _live_blocks(live: Array, lengths: Array) -> Iterator[Array]:
    """The positions of the rows of the live passages, in blocks."""
    rows = np.repeat(live, lengths)
    for start in range(0, len(rows), BLOCK_ROWS):
        chosen = np.flatnonzero(rows[start : start + BLOCK_ROWS])
        if len(chosen):
            yield start + chosen
