"""A segment: the token embeddings of some documents in files that never change once a commit names them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_colbert.errors import IndexDamagedError, IndexFormatError, IndexStoreError
from mlx_colbert.types import Array, TokenEmbeddings

# Every token embedding as float16, scored exactly.
CODEC = "float16"
VECTORS_NAME = "vectors.npy"
LENGTHS_NAME = "doc_lengths.npy"
# A page of Apple silicon: MLX adopts host memory without a copy only where it starts on a page.
VECTORS_HEADER_BYTES = 16384
LENGTHS_HEADER_BYTES = 128
# Rows read, converted or written at a time: 2 MiB of float16 at D = 128.
BLOCK_ROWS = 8192

_FOLDER = re.compile(r"segment-(\d{6,})(\.tmp)?")
_READ_BYTES = 1 << 20
_REBUILD = "Restore it from a backup, or build the index again."


@dataclass(frozen=True)
class FileRecord:
    """What the catalog says of one file of a segment.

    Attributes:
        name: file name within the segment's folder.
        n_bytes: exact size.
        crc32: zlib.crc32 of all bytes.
    """

    name: str
    n_bytes: int
    crc32: int


@dataclass(frozen=True)
class SegmentRecord:
    """What the catalog says of one segment.

    Attributes:
        number: names the folder; never used again once committed.
        codec: how the token embeddings are stored.
        n_documents: documents in the files, deleted ones too.
        n_tokens: rows in the files, those of deleted documents too.
        n_deleted: documents marked as deleted.
        n_deleted_tokens: rows of the documents marked as deleted.
        files: one record per file.
    """

    number: int
    codec: str
    n_documents: int
    n_tokens: int
    n_deleted: int
    n_deleted_tokens: int
    files: tuple[FileRecord, ...]

    @property
    def live_tokens(self) -> int:
        """Rows of the documents that are not deleted."""
        return self.n_tokens - self.n_deleted_tokens


@dataclass(frozen=True, eq=False)
class Segment:
    """The mapped files of one segment.

    Attributes:
        record: what the catalog says of it.
        path: its folder.
        embeddings: N documents; `vectors` (T, D) float16, a read-only memory map.
    """

    record: SegmentRecord
    path: Path
    embeddings: TokenEmbeddings

    def live_rows(self, live: Array) -> Iterator[Array]:
        """Blocks (n, D) float16 that hold the rows of the live documents, in order.

        Args:
            live: (N,) bool, False for a deleted document.
        """
        rows = np.repeat(live, self.embeddings.lengths)
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            yield self.embeddings.vectors[block][rows[block]]


def segment_folder(root: Path, number: int) -> Path:
    """The folder of a segment."""
    return root / f"segment-{number:06d}"


def npy_header(dtype: str, shape: tuple[int, ...], size: int) -> bytes:
    r"""A version 1.0 .npy header, padded so that the data starts at byte `size`.

    Source: numpy.lib.format; a header over 10,000 bytes is read with np.load(..., max_header_size=16384).

    >>> npy_header("<i4", (3,), 128)[:10]
    b'\x93NUMPY\x01\x00v\x00'
    """
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    prefix = b"\x93NUMPY\x01\x00" + (size - 10).to_bytes(2, "little")
    return prefix + text.encode("ascii").ljust(size - 11) + b"\n"


def write_segment(
    root: Path, number: int, lengths: Array, blocks: Iterable[Array], *, dim: int
) -> tuple[FileRecord, ...]:
    """The records of the files written; the segment is on the disk, under its final name, when this returns.

    Args:
        root: the index folder.
        number: number of the new segment.
        lengths: (N,) rows of each document.
        blocks: arrays (n, D) float16 that hold the rows of all documents, in order.
        dim: D.
    """
    folder = segment_folder(root, number)
    temporary = folder.with_name(f"{folder.name}.tmp")
    temporary.mkdir()
    try:
        lengths_header = npy_header("<i4", lengths.shape, LENGTHS_HEADER_BYTES)
        vectors_header = npy_header("<f2", (int(lengths.sum()), dim), VECTORS_HEADER_BYTES)
        files = (
            _write_file(temporary / LENGTHS_NAME, lengths_header, [lengths.astype("<i4")]),
            _write_file(temporary / VECTORS_NAME, vectors_header, blocks),
        )
        sync_folder(temporary)
        temporary.rename(folder)
        sync_folder(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return files


def open_segment(root: Path, record: SegmentRecord, *, dim: int) -> Segment:
    """The segment with its vectors mapped, not read.

    Raises:
        IndexDamagedError: if a file is missing, or disagrees with the catalog in size, header or lengths.
        IndexFormatError: if the codec is not known.
    """
    if record.codec != CODEC:
        raise IndexFormatError(
            root, f"codec {record.codec!r} is not known to this version ({CODEC}). Upgrade mlx-colbert."
        )
    folder = segment_folder(root, record.number)
    shape = (record.n_tokens, dim)
    headers = {
        LENGTHS_NAME: npy_header("<i4", (record.n_documents,), LENGTHS_HEADER_BYTES),
        VECTORS_NAME: npy_header("<f2", shape, VECTORS_HEADER_BYTES),
    }
    if {file.name for file in record.files} != set(headers):
        raise IndexDamagedError(folder, f"the catalog does not name its files. {_REBUILD}")
    for file in record.files:
        _check_file(folder / file.name, file, headers[file.name])
    try:
        lengths = np.fromfile(folder / LENGTHS_NAME, "<i4", offset=LENGTHS_HEADER_BYTES).astype(np.int64)
        vectors = np.asarray(np.memmap(folder / VECTORS_NAME, "<f2", "r", VECTORS_HEADER_BYTES, shape))
    except OSError as error:
        raise IndexStoreError(folder, f"cannot be read: {error.strerror}.") from error
    if (lengths < 1).any() or lengths.sum() != record.n_tokens:
        raise IndexDamagedError(folder / LENGTHS_NAME, f"its lengths do not sum to the rows. {_REBUILD}")
    return Segment(record, folder, TokenEmbeddings(vectors, lengths))


def check_contents(root: Path, record: SegmentRecord) -> None:
    """Reads every byte of a segment and compares it with the catalog's checksums.

    Raises:
        IndexDamagedError: if a checksum differs.
    """
    for file in record.files:
        path = segment_folder(root, record.number) / file.name
        checksum = 0
        try:
            with path.open("rb") as stream:
                while block := stream.read(_READ_BYTES):
                    checksum = zlib.crc32(block, checksum)
        except OSError as error:
            raise IndexDamagedError(path, f"cannot be read: {error.strerror}. {_REBUILD}") from error
        if checksum != file.crc32:
            raise IndexDamagedError(path, f"its checksum differs from the catalog's. {_REBUILD}")


def collect_garbage(root: Path, live: Collection[int]) -> None:
    """Removes the segment folders that no committed row names; call it as the only writer.

    Args:
        root: the index folder.
        live: numbers of the segments that the catalog names.
    """
    for path in list(root.iterdir()):
        match = _FOLDER.fullmatch(path.name)
        if match is None or (match[2] is None and int(match[1]) in live):
            continue
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _write_file(path: Path, header: bytes, blocks: Iterable[Array]) -> FileRecord:
    checksum = zlib.crc32(header)
    with path.open("xb") as file:
        file.write(header)
        for block in blocks:
            data = np.ascontiguousarray(block).data
            file.write(data)
            checksum = zlib.crc32(data, checksum)
        file.flush()
        _sync(file.fileno())
        return FileRecord(path.name, file.tell(), checksum)


def _check_file(path: Path, record: FileRecord, header: bytes) -> None:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise IndexDamagedError(path, f"is no regular file. {_REBUILD}")
        with path.open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            found = file.read(len(header))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexDamagedError(path, f"is missing. {_REBUILD}") from error
    except OSError as error:
        raise IndexStoreError(path, f"cannot be read: {error.strerror}.") from error
    if n_bytes != record.n_bytes:
        raise IndexDamagedError(path, f"has {n_bytes} bytes, the catalog says {record.n_bytes}. {_REBUILD}")
    if found != header:
        raise IndexDamagedError(path, f"its .npy header differs from the catalog's. {_REBUILD}")


def _sync(descriptor: int) -> None:
    # On macOS fsync leaves data in the drive's cache, F_FULLFSYNC does not; some network drives lack it.
    if hasattr(fcntl, "F_FULLFSYNC"):
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass
    os.fsync(descriptor)
