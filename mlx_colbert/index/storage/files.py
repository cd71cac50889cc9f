"""Folders of .npy files: how they are written, mapped and checked. Committed files never change."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import re
import shutil
import weakref
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.types import Array

# The page size of Apple silicon. MLX uses host memory without a copy only if it starts at a page.
PAGE_BYTES = 16384
SMALL_HEADER_BYTES = 128
REBUILD = "Restore it from a backup, or build the index again."

_FOLDER = re.compile(r"(segment|codec)-(\d{6,})(\.tmp)?")
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """A file's row in the catalog.

    Attributes:
        name: the file name in its folder.
        n_bytes: the exact size.
        crc32: zlib.crc32 of all bytes.
    """

    name: str
    n_bytes: int
    crc32: int


@dataclass(frozen=True)
class NpyFile:
    """A file to write.

    Attributes:
        name: the file name in its folder.
        dtype: numpy's name of the type, for example "<f2".
        shape: the shape of the whole array.
        header_bytes: the offset of the data.
        blocks: the data as several arrays, in order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    header_bytes: int
    blocks: Iterable[Array]

    @classmethod
    def of(cls, name: str, array: Array, *, header_bytes: int = SMALL_HEADER_BYTES) -> NpyFile:
        """The file of one array, little-endian."""
        dtype = array.dtype.newbyteorder("<")
        return cls(name, dtype.str, array.shape, header_bytes, [array.astype(dtype, copy=False)])


def npy_header(dtype: str, shape: tuple[int, ...], size: int, label: str | None = None) -> bytes:
    r"""A version 1.0 .npy header, padded so that the data starts at byte `size`.

    The label is a Python comment in the header. numpy reads the header as Python.

    Source: numpy.lib.format. To read a header over 10,000 bytes, use np.load(..., max_header_size=16384).

    >>> npy_header("<i4", (3,), 128)[:10]
    b'\x93NUMPY\x01\x00v\x00'
    """
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    if label is not None:
        text += f" # {label}"
    assert len(text) <= size - 11, text
    prefix = b"\x93NUMPY\x01\x00" + (size - 10).to_bytes(2, "little")
    return prefix + text.encode("ascii").ljust(size - 11) + b"\n"


def write_folder(folder: Path, label: str, files: Iterable[NpyFile]) -> tuple[FileRecord, ...]:
    """Write files into a new folder. They are durable when this returns.

    This writes each file completely before it takes the next one.

    Args:
        folder: the folder. It must not exist.
        label: the name of the index and of the folder, for the header of each file.
        files: the files.

    Returns:
        The records of the files.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    root = os.open(folder.parent, os.O_RDONLY)
    try:
        temporary.mkdir()
        try:
            records = tuple(_write_file(temporary, label, file) for file in files)
            sync_folder(temporary)
            temporary.rename(folder)
            sync(root)
        except BaseException:
            # The paths may be those of another index by now, so the final name is left to the next writer.
            remove(root, temporary.name)
            raise
    finally:
        os.close(root)
    return records


@dataclass(frozen=True)
class Folder:
    """The files of a committed folder.

    Raises:
        IndexDamagedError: from every method, if a file is missing, or its size or header is not the
            catalog's.
        IndexStoreError: from every method, if a file cannot be read.
    """

    path: Path
    files: Sequence[FileRecord]
    # The text in the headers of its files; None in folders of formats 1 and 2.
    label: str | None

    def expect(self, names: Collection[str]) -> None:
        """Raise an error if the catalog has other file names for this folder.

        Raises:
            IndexDamagedError: if a name is missing in the catalog, or is not one of these.
        """
        if {file.name for file in self.files} != set(names):
            raise IndexDamagedError(self.path, f"the catalog has the wrong file names for it. {REBUILD}")

    def read(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """The array of a small file, in memory.

        Raises:
            IndexDamagedError: if the file is missing, or its header, size or checksum is wrong.
        """
        with self._opened(name, dtype, shape, SMALL_HEADER_BYTES) as file:
            file.seek(0)
            data = file.read()
        if zlib.crc32(data) != self._record(name).crc32:
            raise IndexDamagedError(self.path / name, f"its checksum differs from the catalog's. {REBUILD}")
        return np.frombuffer(data[SMALL_HEADER_BYTES:], dtype).reshape(shape)

    def map(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """The array of a file, as a read-only memory map. All readers in this process share the map."""
        with self._opened(name, dtype, shape, PAGE_BYTES) as file:
            return np.ndarray(shape, dtype, _mapped(file), PAGE_BYTES)

    def length(self, name: str, dtype: str, size: int) -> int:
        """The number of items in a one-dimensional file, computed from its size."""
        return (self._record(name).n_bytes - size) // np.dtype(dtype).itemsize

    def damaged(self, name: str, problem: str) -> IndexDamagedError:
        """The error to raise for wrong content of a file."""
        return IndexDamagedError(self.path / name, f"{problem}. {REBUILD}")

    def _record(self, name: str) -> FileRecord:
        return next(file for file in self.files if file.name == name)

    def check_contents(self) -> None:
        """Read every byte and check the checksums."""
        for file in self.files:
            self._check_content(file)

    def problems(self) -> list[str]:
        """The problems that `check_contents` finds, one sentence for each file."""
        found = []
        for file in self.files:
            try:
                self._check_content(file)
            except IndexDamagedError as error:
                found.append(str(error))
        return found

    def _check_content(self, file: FileRecord) -> None:
        path = self.path / file.name
        checksum = 0
        try:
            with path.open("rb") as stream:
                while block := stream.read(_READ_BYTES):
                    checksum = zlib.crc32(block, checksum)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IndexDamagedError(path, f"is missing. {REBUILD}") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        if checksum != file.crc32:
            raise IndexDamagedError(path, f"its checksum differs from the catalog's. {REBUILD}")

    @contextmanager
    def _opened(self, name: str, dtype: str, shape: tuple[int, ...], size: int) -> Iterator[BinaryIO]:
        """The open file, at the first byte after its header. It stays readable if a writer removes it."""
        path = self.path / name
        record = self._record(name)
        label = None if self.label is None else f"{self.label}/{name}"
        header = npy_header(dtype, shape, size, label)
        if record.n_bytes != size + _data_bytes(dtype, shape):
            raise self.damaged(
                name, f"the catalog has {record.n_bytes} bytes for it, wrong for shape {shape}"
            )
        try:
            if path.exists() and not path.is_file():  # to open a pipe would wait forever
                raise IndexDamagedError(path, f"is not a regular file. {REBUILD}")
            with path.open("rb") as file:
                n_bytes = os.fstat(file.fileno()).st_size
                if n_bytes != record.n_bytes:
                    raise IndexDamagedError(
                        path, f"has {n_bytes} bytes, the catalog says {record.n_bytes}. {REBUILD}"
                    )
                if file.read(len(header)) != header:
                    raise IndexDamagedError(path, f"its .npy header differs from the catalog's. {REBUILD}")
                yield file
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IndexDamagedError(path, f"is missing. {REBUILD}") from error
        except OSError as error:
            raise _unreadable(path, error) from error


# The key is the device and number of the file. No other file has them while the file is mapped.
_MAPS: weakref.WeakValueDictionary[tuple[int, int], mmap.mmap] = weakref.WeakValueDictionary()


def _mapped(file: BinaryIO) -> mmap.mmap:
    """The memory map of a whole file. All readers share one, because each map needs a file descriptor."""
    status = os.fstat(file.fileno())
    key = status.st_dev, status.st_ino
    return _MAPS.get(key) or _MAPS.setdefault(key, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _unreadable(path: Path, error: OSError) -> IndexStoreError:
    return IndexStoreError(path, f"cannot be read: {error.strerror or error}. Try again, or check the disk.")


def _data_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def numbered_folders(root: Path) -> Iterator[tuple[str, str, int]]:
    """The complete folders of an index: name, kind (segment or codec) and number."""
    for path in root.iterdir():
        found = _FOLDER.fullmatch(path.name)
        if found and not found[3]:
            yield path.name, found[1], int(found[2])


def collect_garbage(folder: int, live: Collection[str]) -> None:
    """Remove the folders of segments and codecs that are not in the catalog. Call it with the write lock.

    Args:
        folder: a descriptor of the index folder. There may be another index at the path now.
        live: the names of the folders in the catalog.
    """
    for name in os.listdir(folder):
        if name not in live and _FOLDER.fullmatch(name):
            remove(folder, name)


def remove(folder: int, name: str) -> None:
    """Remove a file, a link, or a folder with its content. What cannot be removed stays.

    Args:
        folder: a descriptor of the parent folder.
        name: its name.
    """
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        # It is a folder: Linux and macOS raise different errors.
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def _write_file(folder: Path, label: str, npy: NpyFile) -> FileRecord:
    path = folder / npy.name
    header = npy_header(npy.dtype, npy.shape, npy.header_bytes, f"{label}/{npy.name}")
    checksum = zlib.crc32(header)
    with path.open("xb") as file:
        file.write(header)
        for block in npy.blocks:
            assert block.dtype == npy.dtype, (path.name, block.dtype)
            data = np.ascontiguousarray(block).data
            if data.nbytes:
                file.write(data)
                checksum = zlib.crc32(data, checksum)
        file.flush()
        sync(file.fileno())
        assert file.tell() == npy.header_bytes + _data_bytes(npy.dtype, npy.shape), path.name
        return FileRecord(path.name, file.tell(), checksum)


def sync(descriptor: int) -> None:
    """Make what was written to a file, or the names in a folder, durable."""
    # On macOS fsync leaves data in the drive's cache. F_FULLFSYNC does not, but some network drives lack it.
    if hasattr(fcntl, "F_FULLFSYNC"):
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass
    os.fsync(descriptor)
