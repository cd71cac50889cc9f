"""The files of a segment: how they are written and opened.

A compressed segment also has posting lists. It stores the scale and the gain of a token in one byte each, if
a byte is precise enough for the values in the segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mlx_colbert.errors import IndexFormatError
from mlx_colbert.index.storage.codec import Codec, code_type
from mlx_colbert.index.storage.files import (
    PAGE_BYTES,
    SMALL_HEADER_BYTES,
    FileRecord,
    Folder,
    NpyFile,
    write_folder,
)
from mlx_colbert.index.storage.packing import packed
from mlx_colbert.index.storage.postings import Postings
from mlx_colbert.index.storage.records import COMPRESSED, EXACT, SegmentRecord, segment_folder
from mlx_colbert.index.storage.segment import (
    LARGEST_GAIN,
    LARGEST_SCALE,
    CompressedSegment,
    ExactSegment,
    Segment,
)
from mlx_colbert.types import Array, CompressedRows, TokenEmbeddings

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
    root: Path, number: int, label: str, *, lengths: Array, blocks: Iterable[CompressedRows], codec: Codec
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


def _compressed_files(lengths: Array, blocks: Iterable[CompressedRows], codec: Codec) -> Iterator[NpyFile]:
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
    packed_scales, scale_range = packed(scales, loss * _SCALE_STEP)
    packed_gains, gain_range = packed(gains, loss * _GAIN_STEP)
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
