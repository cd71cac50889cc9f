"""A segment: the token embeddings of some passages, exact (float16) or compressed.

A compressed segment also has posting lists. It stores the scale and the gain of a token in one byte each, if
a byte is precise enough for the values in the segment.
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
# Rows to read, convert or write at a time: 2 MiB of float16 at D = 128.
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
# Scales, or gains, are stored in bytes if the step of a byte is at most this part of their mean. That error
# is far less than the error of 4 bits.
_SCALE_STEP, _GAIN_STEP = 0.02, 0.003
# A vector has a length of at most 65504 √D, and a gain is at most 10,000 times as large.
LARGEST_SCALE, LARGEST_GAIN = 1e6, 1e12


@dataclass(frozen=True)
class SegmentRecord:
    """A segment's row in the catalog.

    Attributes:
        number: the number in the folder name. A committed number is never used again.
        label: the text in the headers of its files; None in a segment of format 1 or 2.
        storage: how the token embeddings are stored.
        n_documents: passages in the files, with the deleted ones.
        n_tokens: rows in the files, with those of deleted passages.
        n_deleted: passages that are marked as deleted.
        n_deleted_tokens: rows of the passages that are marked as deleted.
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
        """The number of rows of live passages."""
        return self.n_tokens - self.n_deleted_tokens

    def folder(self, root: Path) -> Folder:
        """Its files in an index folder."""
        return Folder(segment_folder(root, self.number), self.files, self.label)


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

    def rows(self, rows: Array | slice) -> CodedRows:
        """The compressed rows at some positions."""
        scales = _unpacked(self._scales[rows], self._ranges[0])
        gains = _unpacked(self._gains[rows], self._ranges[1])
        for name, values, largest in (
            ("scales.npy", scales, LARGEST_SCALE),
            ("gains.npy", gains, LARGEST_GAIN),
        ):
            # This comparison is also false for a NaN.
            if len(values) and not 0 <= values.min() <= values.max() <= largest:
                raise self._damaged(name, "it has a number that is out of range")
        return CodedRows(self.codes(rows), self._residuals[rows], scales, gains)

    def live_rows(self, live: Array) -> Iterator[CodedRows]:
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


def segment_folder(root: Path, number: int) -> Path:
    """The folder of a segment."""
    return root / f"segment-{number:06d}"


def write_exact(
    root: Path, number: int, label: str, *, lengths: Array, blocks: Iterable[Array], dim: int
) -> tuple[FileRecord, ...]:
    """Write an exact segment; returns the records of its files. They are durable when this returns.

    Args:
        root: the index folder.
        number: the number of the new segment.
        label: the text for the headers of its files.
        lengths: (N,) the number of rows of each passage.
        blocks: the rows of all passages, in order, as arrays (n, D) float16.
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
    """Write a compressed segment; returns the records of its files. They are durable when this returns.

    Args:
        root: the index folder.
        number: the number of the new segment.
        label: the text for the headers of its files.
        lengths: (N,) the number of rows of each passage.
        blocks: the rows of all passages, in order. This keeps all but their residuals in memory.
        codec: the codec of the rows.
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
    # Rows from another engine must score as they do there, so their scales and gains are stored exactly.
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
    """The segment. Its rows are mapped, not read.

    Args:
        root: the index folder.
        record: its row in the catalog.
        dim: D.
        codec: the codec of the index, if it has one.

    Raises:
        IndexDamagedError: if a file is missing, or its size, header or content is not the catalog's.
        IndexFormatError: if this version does not know its storage.
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
        raise folder.damaged("codes.npy", "the catalog has no codec for it")
    return _open_compressed(folder, record, codec)


def _open_compressed(folder: Folder, record: SegmentRecord, codec: Codec) -> CompressedSegment:
    n = record.n_tokens
    lengths = _lengths(folder, record)
    size = folder.length("codes.npy", "|u1", PAGE_BYTES) // max(n, 1)
    codes = folder.map("codes.npy", np.dtype(f"<u{size}").str if size in (1, 2, 4) else "<u4", (n,))
    ranges = folder.read("ranges.npy", "<f4", (2, 2))
    if not ((ranges >= 0) & (ranges <= [[LARGEST_SCALE], [LARGEST_GAIN]])).all():
        raise folder.damaged("ranges.npy", "it has a number that is out of range")
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
        raise folder.damaged("ivf_codes.npy", "its codes are not ascending numbers of centroids")
    if counts.sum() != n_postings:
        raise folder.damaged("ivf_counts.npy", "the sum of its counts is not the number of postings")
    return Postings.of(codes, counts, ordinals, n_documents=record.n_documents, folder=folder)


def _lengths(folder: Folder, record: SegmentRecord) -> Array:
    lengths = folder.read("doc_lengths.npy", "<i4", (record.n_documents,)).astype(np.int64)
    if (lengths < 1).any() or lengths.sum() != record.n_tokens:
        raise folder.damaged("doc_lengths.npy", "the sum of its lengths is not the number of rows")
    return lengths


def _live_blocks(live: Array, lengths: Array) -> Iterator[Array]:
    """The positions of the rows of the live passages, in blocks."""
    rows = np.repeat(live, lengths)
    for start in range(0, len(rows), BLOCK_ROWS):
        chosen = np.flatnonzero(rows[start : start + BLOCK_ROWS])
        if len(chosen):
            yield start + chosen


def _packed(values: Array, step_limit: float) -> tuple[Array, tuple[float, float]]:
    """Values (n,) float32 as bytes if that is precise enough, else unchanged; low value and step."""
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
