"""A segment: the token embeddings of some documents, as float16 or in the centroid codec.

A segment of the codec keeps scale and gain of a token in a byte each, where their spread within the segment
allows it, and posting lists beside the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from mlx_colbert.errors import IndexDamagedError, IndexFormatError
from mlx_colbert.index.storage.codec import Codec, code_type
from mlx_colbert.index.storage.files import (
    PAGE_BYTES,
    SMALL_HEADER_BYTES,
    FileRecord,
    Folder,
    NpyFile,
    write_folder,
)
from mlx_colbert.index.storage.postings import Postings
from mlx_colbert.types import Array, CodedRows, TokenEmbeddings

Storage = Literal["exact", "compressed"]
EXACT: Storage = "exact"
COMPRESSED: Storage = "compressed"
# Rows read, converted or written at a time: 2 MiB of float16 at D = 128.
BLOCK_ROWS = 8192

_EXACT_FILES = ("doc_lengths.npy", "vectors.npy")
_COMPRESSED_FILES = (
    "doc_lengths.npy",
    "residuals.npy",
    "codes.npy",
    "scales.npy",
    "gains.npy",
    "ranges.npy",
    "ivf_codes.npy",
    "ivf_counts.npy",
    "ivf_ordinals.npy",
)
# A byte holds scales, or gains, of a segment if its steps are at most this part of their mean: far less than
# what 4 bits lose.
_SCALE_STEP, _GAIN_STEP = 0.02, 0.003
# Rows have lengths up to 65504 √D, and a gain at most 10,000 times as much.
LARGEST_SCALE, LARGEST_GAIN = 1e6, 1e12


@dataclass(frozen=True)
class SegmentRecord:
    """What the catalog says of one segment.

    Attributes:
        number: names the folder; never used again once committed.
        label: what its files have in their headers; None in a segment of format 1 or 2.
        storage: how the token embeddings are stored.
        n_documents: documents in the files, deleted ones too.
        n_tokens: rows in the files, those of deleted documents too.
        n_deleted: documents marked as deleted.
        n_deleted_tokens: rows of the documents marked as deleted.
        files: one record per file.
    """

    number: int
    label: str | None
    storage: Storage
    n_documents: int
    n_tokens: int
    n_deleted: int
    n_deleted_tokens: int
    files: tuple[FileRecord, ...]

    @property
    def live_tokens(self) -> int:
        """Rows of the documents that are not deleted."""
        return self.n_tokens - self.n_deleted_tokens

    def folder(self, root: Path) -> Folder:
        """Its files, in the folder of an index."""
        return Folder(segment_folder(root, self.number), self.files, self.label)


@dataclass(frozen=True, eq=False)
class ExactSegment:
    """The mapped files of a segment of float16 rows.

    Attributes:
        record: what the catalog says of it.
        path: its folder.
        embeddings: N documents; `vectors` (T, D) float16, a read-only memory map.
    """

    record: SegmentRecord
    path: Path
    embeddings: TokenEmbeddings

    @property
    def lengths(self) -> Array:
        """(N,) int64, rows of each document."""
        return self.embeddings.lengths

    @property
    def offsets(self) -> Array:
        """(N + 1,) int64, where the rows of each document begin."""
        return self.embeddings.offsets

    def live_rows(self, live: Array) -> Iterator[Array]:
        """Blocks (n, D) float16 that hold the rows of the live documents, in order.

        Args:
            live: (N,) bool, False for a deleted document.
        """
        for rows in _live_blocks(live, self.lengths):
            yield self.embeddings.vectors[rows]


@dataclass(frozen=True, eq=False)
class CompressedSegment:
    """The mapped files of a segment of the centroid codec.

    Attributes:
        record: what the catalog says of it.
        path: its folder.
        lengths: (N,) int64, rows of each document.
        offsets: (N + 1,) int64, where the rows of each document begin.
        postings: documents by centroid.

    Raises:
        IndexDamagedError: from the methods that read, if what they read cannot be right.
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
        # MLX would read whatever lies beyond the centroids.
        if len(codes) and codes.max() >= self._n_centroids:
            raise self._damaged("codes.npy", "it holds a code without a centroid")
        return codes

    def rows(self, rows: Array | slice) -> CodedRows:
        """Some rows."""
        scales = _unpacked(self._scales[rows], self._ranges[0])
        gains = _unpacked(self._gains[rows], self._ranges[1])
        for name, values, largest in (
            ("scales.npy", scales, LARGEST_SCALE),
            ("gains.npy", gains, LARGEST_GAIN),
        ):
            # A NaN is not in the range either.
            if len(values) and not 0 <= values.min() <= values.max() <= largest:
                raise self._damaged(name, "it holds a number that cannot be")
        return CodedRows(self.codes(rows), self._residuals[rows], scales, gains)

    def live_rows(self, live: Array) -> Iterator[CodedRows]:
        """Blocks that hold the rows of the live documents, in order.

        Args:
            live: (N,) bool, False for a deleted document.
        """
        for rows in _live_blocks(live, self.lengths):
            yield self.rows(rows)

    def _damaged(self, name: str, problem: str) -> IndexDamagedError:
        return self.record.folder(self.path.parent).damaged(name, problem)


Segment = ExactSegment | CompressedSegment


def rows_of(segment: Segment, ordinals: Array) -> Array:
    """The positions (n,) int64 of the rows of some documents, one document after the other."""
    lengths = segment.lengths[ordinals]
    starts = segment.offsets[ordinals] - (np.cumsum(lengths) - lengths)
    rows: Array = np.arange(int(lengths.sum())) + np.repeat(starts, lengths)
    return rows


S = TypeVar("S", bound=Segment)


@dataclass(frozen=True, eq=False)
class LiveSegment(Generic[S]):
    """A segment, and which of its documents may be found.

    Attributes:
        segment: the mapped files.
        live: (N,) bool, False for a document that is deleted, or may not be found.
        n_live: how many are True.
    """

    segment: S
    live: Array
    n_live: int


def of_kind(segments: Iterable[LiveSegment[Segment]], kind: type[S]) -> list[LiveSegment[S]]:
    """Those of the segments that are stored in one way."""
    return [
        LiveSegment(part.segment, part.live, part.n_live)
        for part in segments
        if isinstance(part.segment, kind)
    ]


def segment_folder(root: Path, number: int) -> Path:
    """The folder of a segment."""
    return root / f"segment-{number:06d}"


def write_exact(
    root: Path, number: int, label: str, *, lengths: Array, blocks: Iterable[Array], dim: int
) -> tuple[FileRecord, ...]:
    """The records of the files of a new segment of float16 rows, which is on the disk when this returns.

    Args:
        root: the index folder.
        number: number of the new segment.
        label: what its files have in their headers.
        lengths: (N,) rows of each document.
        blocks: arrays (n, D) float16 that hold the rows of all documents, in order.
        dim: D.
    """
    files = (
        NpyFile.of("doc_lengths.npy", lengths.astype("<i4")),
        NpyFile("vectors.npy", "<f2", (int(lengths.sum()), dim), PAGE_BYTES, blocks),
    )
    return write_folder(segment_folder(root, number), label, files)


def write_compressed(
    root: Path, number: int, label: str, *, lengths: Array, blocks: Iterable[CodedRows], codec: Codec
) -> tuple[FileRecord, ...]:
    """The records of the files of a new segment of coded rows, which is on the disk when this returns.

    Args:
        root: the index folder.
        number: number of the new segment.
        label: what its files have in their headers.
        lengths: (N,) rows of each document.
        blocks: the rows of all documents, in order; all but their residuals are kept in memory meanwhile.
        codec: what made them.
    """
    return write_folder(segment_folder(root, number), label, _compressed_files(lengths, blocks, codec))


def _compressed_files(lengths: Array, blocks: Iterable[CodedRows], codec: Codec) -> Iterator[NpyFile]:
    kept: list[tuple[Array, Array, Array]] = []

    def residuals() -> Iterator[Array]:
        for block in blocks:
            kept.append((block.codes, block.scales, block.gains))
            yield block.residuals

    n_tokens = int(lengths.sum())
    yield NpyFile.of("doc_lengths.npy", lengths.astype("<i4"))
    shape = (n_tokens, codec.residual_bytes)
    yield NpyFile("residuals.npy", "|u1", shape, PAGE_BYTES, residuals())
    codes, scales, gains = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    codes = codes.astype(code_type(codec.n_centroids))
    # What another engine coded has to score as it does there, so it is kept exactly.
    loss = 1.0 if len(codec.rotation) else 0.0
    packed_scales, scale_range = _packed(scales, loss * _SCALE_STEP)
    packed_gains, gain_range = _packed(gains, loss * _GAIN_STEP)
    yield NpyFile.of("codes.npy", codes, header_bytes=PAGE_BYTES)
    yield NpyFile.of("scales.npy", packed_scales, header_bytes=PAGE_BYTES)
    yield NpyFile.of("gains.npy", packed_gains, header_bytes=PAGE_BYTES)
    yield NpyFile.of("ranges.npy", np.array([scale_range, gain_range], np.float32))
    postings = Postings.build(codes, lengths)
    yield NpyFile.of("ivf_codes.npy", postings.codes)
    yield NpyFile.of("ivf_counts.npy", postings.counts)
    yield NpyFile.of("ivf_ordinals.npy", postings.ordinals, header_bytes=PAGE_BYTES)


def open_segment(root: Path, record: SegmentRecord, *, dim: int, codec: Codec | None) -> Segment:
    """The segment with its rows mapped, not read.

    Args:
        root: the index folder.
        record: what the catalog says of it.
        dim: D.
        codec: of the index, if it has one.

    Raises:
        IndexDamagedError: if a file is missing, or disagrees with the catalog in size, header or content.
        IndexFormatError: if it is stored in a way that is not known.
    """
    folder = record.folder(root)
    if record.storage == EXACT:
        folder.expect(_EXACT_FILES)
        lengths = _lengths(folder, record)
        vectors = folder.map("vectors.npy", "<f2", (record.n_tokens, dim))
        return ExactSegment(record, folder.path, TokenEmbeddings(vectors, lengths))
    if record.storage != COMPRESSED:
        raise IndexFormatError(
            root, f"storage {record.storage!r} is not known to this version. Upgrade mlx-colbert."
        )
    folder.expect(_COMPRESSED_FILES)
    if codec is None:
        raise folder.damaged("codes.npy", "the catalog names no codec for it")
    return _open_compressed(folder, record, codec)


def _open_compressed(folder: Folder, record: SegmentRecord, codec: Codec) -> CompressedSegment:
    n = record.n_tokens
    lengths = _lengths(folder, record)
    size = folder.length("codes.npy", "|u1", PAGE_BYTES) // max(n, 1)
    codes = folder.map("codes.npy", np.dtype(f"<u{size}").str if size in (1, 2, 4) else "<u4", (n,))
    ranges = folder.read("ranges.npy", "<f4", (2, 2))
    if not ((ranges >= 0) & (ranges <= [[LARGEST_SCALE], [LARGEST_GAIN]])).all():
        raise folder.damaged("ranges.npy", "it holds a number that cannot be")
    scales, gains = (
        folder.map(name, "|u1" if folder.length(name, "|u1", PAGE_BYTES) == n else "<f4", (n,))
        for name in ("scales.npy", "gains.npy")
    )
    residuals = folder.map("residuals.npy", "|u1", (n, codec.residual_bytes))
    postings = _postings(folder, record, codec, codes.dtype)
    offsets = np.append(0, np.cumsum(lengths))
    return CompressedSegment(
        record,
        folder.path,
        lengths,
        offsets,
        postings,
        codec.n_centroids,
        codes,
        residuals,
        scales,
        gains,
        ranges,
    )


def _postings(
    folder: Folder, record: SegmentRecord, codec: Codec, dtype: np.dtype[np.unsignedinteger]
) -> Postings:
    n_codes = folder.length("ivf_counts.npy", "<u4", SMALL_HEADER_BYTES)
    codes = folder.read("ivf_codes.npy", dtype.str, (n_codes,))
    counts = folder.read("ivf_counts.npy", "<u4", (n_codes,))
    ordinal = np.dtype(np.min_scalar_type(max(record.n_documents - 1, 0))).newbyteorder("<").str
    n_postings = folder.length("ivf_ordinals.npy", ordinal, PAGE_BYTES)
    ordinals = folder.map("ivf_ordinals.npy", ordinal, (n_postings,))
    if not n_codes or not (codes[1:] > codes[:-1]).all() or codes[-1] >= codec.n_centroids:
        raise folder.damaged("ivf_codes.npy", "its codes are not those of centroids, ascending")
    if counts.sum() != n_postings:
        raise folder.damaged("ivf_counts.npy", "its counts do not sum to the postings")
    return Postings.of(codes, counts, ordinals, n_documents=record.n_documents, folder=folder)


def _lengths(folder: Folder, record: SegmentRecord) -> Array:
    lengths = folder.read("doc_lengths.npy", "<i4", (record.n_documents,)).astype(np.int64)
    if (lengths < 1).any() or lengths.sum() != record.n_tokens:
        raise folder.damaged("doc_lengths.npy", "its lengths do not sum to the rows")
    return lengths


def _live_blocks(live: Array, lengths: Array) -> Iterator[Array]:
    """The positions of the rows of the live documents, by blocks."""
    rows = np.repeat(live, lengths)
    for start in range(0, len(rows), BLOCK_ROWS):
        chosen = np.flatnonzero(rows[start : start + BLOCK_ROWS])
        if len(chosen):
            yield start + chosen


def _packed(values: Array, step_limit: float) -> tuple[Array, tuple[float, float]]:
    """Values (n,) float32 as bytes where that is precise enough, else as they are; low end and step."""
    low, high = float(values.min()), float(values.max())
    step = (high - low) / 255
    if step > step_limit * float(values.mean()):
        return values.astype(np.float32), (0.0, 1.0)
    if step == 0:
        return np.zeros(len(values), np.uint8), (low, 0.0)
    return np.rint((values - low) / step).astype(np.uint8), (low, step)


def _unpacked(values: Array, low_and_step: Array) -> Array:
    if values.dtype != np.uint8:
        return values
    low, step = low_and_step
    return np.asarray(values * step + low)
