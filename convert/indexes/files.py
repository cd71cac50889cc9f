"""Reads the files of another engine's index, and checks their sizes. Nothing in them is run."""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from sys import getsizeof
from typing import Any, TypeVar

import numpy as np

from mlx_colbert.convert.torch_pickle import read_torch_file, torch_file_shapes
from mlx_colbert.counts import counted
from mlx_colbert.errors import (
    CheckpointError,
    IndexDamagedError,
    IndexStoreError,
    UnsafeCheckpointError,
    said,
)
from mlx_colbert.model.safetensors_file import NUMPY_TYPES
from mlx_colbert.types import Array
from mlx_colbert.untrusted import read_json

__all__ = [
    "Folder",
    "NpyArray",
    "Slice",
    "bounded_rows",
    "check_tensor",
    "index_errors",
    "open_database",
    "read_index_json",
    "read_tensors",
    "stored_columns",
    "tensor_shapes",
]

# Most bytes of a value in an SQLite file. The limit of SQLite is 1 GB.
MAX_VALUE_BYTES = 64 << 20
# Memory that the rows of an SQLite file may take: this much, or a few times the size of the file. A value of
# one byte takes fifty, and a large value may be joined to every row.
MAX_ROWS_BYTES, MAX_ROWS_SHARE = 384 << 20, 8
# Steps of SQLite's machine for each byte of the file, and more for a small one; a value takes about three.
MAX_STEPS_PER_BYTE, MAX_STEPS = 16, 100_000_000

# numpy, tch and ndarray-npy write the keys in this order, and arrays of Fortran's order are not written.
_NPY_HEADER = re.compile(
    rb"\{'descr': ?'([<|](?:f[248]|[iu][1248]))', ?'fortran_order': ?False, ?'shape': ?"
    rb"\((\d{1,15}(?:, ?\d{1,15}){0,2}),?\),? ?\}\s*"
)

# Gives rows start to stop.
Slice = Callable[[int, int], Array]
_Json = TypeVar("_Json", dict[str, Any], list[Any])


@dataclass(frozen=True)
class Folder:
    """A folder of the index, and the only place from which its files may come."""

    path: Path
    root: Path

    def find(self, name: str) -> Path | None:
        """A file of the folder; None if there is none.

        Raises:
            IndexDamagedError: if it is a link that leads to nothing.
            IndexStoreError: if it is a link to a file outside the index, or not a regular file.
        """
        path = self.path / name
        try:
            if not path.is_symlink() and not path.exists():
                return None
            real = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # links in a circle, or to nothing
            raise IndexDamagedError(path, f"cannot be opened: {said(error)}.") from error
        # The Hugging Face cache is made of links from snapshots/<revision>/ to blobs/.
        blobs = [parent.parent / "blobs" for parent in self.root.parents if parent.name == "snapshots"]
        if not any(real.is_relative_to(place) for place in [self.root, *blobs]):
            raise IndexStoreError(
                path, "is a link to a file outside the index. Refused. Copy the file there."
            )
        if not real.is_file():
            raise IndexStoreError(path, "is not a regular file. Refused.")
        return real

    def need(self, name: str) -> Path:
        """A file of the folder.

        Raises:
            IndexDamagedError: if it is missing.
            IndexStoreError: if it is a link to a file outside the index, or not a regular file.
        """
        path = self.find(name)
        if path is None:
            raise IndexDamagedError(self.path / name, "is missing. Copy the whole index folder again.")
        return path


@dataclass(frozen=True)
class NpyArray:
    """An array in an .npy file. numpy's own reader would evaluate the header, so it is not used."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def open(cls, path: Path) -> NpyArray:
        """The array of a file.

        Raises:
            IndexDamagedError: if it is not an .npy file of numbers, or has fewer values than its header says.
        """
        with path.open("rb") as file:
            start = file.read(8)
            count = 2 if start[6:7] == b"\1" else 4
            length = int.from_bytes(file.read(count), "little")
            header = _NPY_HEADER.fullmatch(file.read(min(length, 4096)))
            offset, size = file.tell(), file.seek(0, 2)
        if start[:6] != b"\x93NUMPY" or header is None:
            raise IndexDamagedError(path, "is not an .npy file of plain numbers.")
        dtype = np.dtype(header[1].decode())
        shape = tuple(int(n) for n in header[2].split(b","))
        if offset + prod(shape) * dtype.itemsize > size:
            raise IndexDamagedError(path, f"has {size} bytes, too few for {shape} of {dtype}. Copy it again.")
        return cls(path, dtype, shape, offset)

    def slices(self, first: int) -> Slice:
        """A function that returns rows start to stop, counted from row `first`."""
        return lambda start, stop: self._rows(first + start, stop - start)

    def read_all(self) -> Array:
        """The whole array."""
        return self._rows(0, self.shape[0])

    def _rows(self, start: int, count: int) -> Array:
        n_columns = prod(self.shape[1:])
        offset = self.offset + start * n_columns * self.dtype.itemsize
        values = np.fromfile(self.path, self.dtype, count=count * n_columns, offset=offset)
        if values.size != count * n_columns:
            raise IndexDamagedError(self.path, "became shorter while it was read.")
        return values.reshape(count, *self.shape[1:])


@contextmanager
def index_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the readers of pickles into errors about an index.

    Raises:
        IndexStoreError: if the block refuses the file.
        IndexDamagedError: if the block cannot read the file.
    """
    try:
        yield
    except IndexStoreError:
        raise
    except UnsafeCheckpointError as error:
        raise IndexStoreError(path, " ".join(error.problems)) from error
    except CheckpointError as error:
        raise IndexDamagedError(path, " ".join(error.problems)) from error
    except (ValueError, LookupError, EOFError, OverflowError, struct.error) as error:
        raise IndexDamagedError(path, f"cannot be read: {said(error)}.") from error


def read_tensors(path: Path, count: int) -> list[Array]:
    """The tensors of a file in which torch saved one tensor, or a tuple of them.

    Raises:
        IndexDamagedError: if the file cannot be read, or does not have `count` tensors.
        IndexStoreError: if the file is refused, because its pickle could run code.
    """
    with index_errors(path):
        arrays = list(read_torch_file(path, bare=True).values())
    if len(arrays) != count:
        raise IndexDamagedError(path, f"contains {counted(len(arrays), 'tensor')}, but must contain {count}.")
    return arrays


def tensor_shapes(path: Path) -> list[tuple[int, ...]]:
    """The shapes of the tensors of such a file. No tensor is read."""
    with index_errors(path):
        return [shape for _, shape in torch_file_shapes(path, bare=True).values()]


def check_tensor(path: Path, shape: tuple[int, ...], types: tuple[str, ...]) -> None:
    """Check that a file has one tensor, and its shape and type. Its values are not read.

    Args:
        path: the file.
        shape: the shape that the tensor must have.
        types: the types that it may have, by their names in safetensors.

    Raises:
        IndexDamagedError: if the tensor is another one, or the file is too short for it.
    """
    with index_errors(path):
        ((code, found),) = torch_file_shapes(path, bare=True).values()
    if found != shape or code not in types:
        raise IndexDamagedError(path, f"contains {code} {found}, but the document lengths need {shape}.")
    if path.stat().st_size < prod(shape) * NUMPY_TYPES[code].itemsize:
        raise IndexDamagedError(path, f"is too short for {code} {shape}. Copy it again.")


def read_index_json(path: Path, kind: type[_Json]) -> _Json:
    """The JSON object or list of a file. Its length may grow with the number of documents."""
    with index_errors(path):
        return read_json(path, kind=kind, max_bytes=None)


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """An SQLite file, opened without a write and without a lock.

    Raises:
        IndexStoreError: if the engine has not yet written all changes into the file.
        IndexDamagedError: if the block cannot read the file.
    """
    for suffix in ("-wal", "-journal"):
        log = path.with_name(path.name + suffix)
        if log.exists() and log.stat().st_size:
            raise IndexStoreError(
                log, "has changes that are not in the database yet. Let its engine close it."
            )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
            # A join without an index could go on for years.
            connection.set_progress_handler(_Countdown(path), _Countdown.STEPS)
            yield connection
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        raise IndexDamagedError(path, f"cannot be read: {said(error)!a}.") from error


class _Countdown:
    """Counter that stops SQLite after more steps than a real file needs."""

    STEPS = 100_000

    def __init__(self, path: Path) -> None:
        steps = MAX_STEPS + MAX_STEPS_PER_BYTE * path.stat().st_size
        self._left = steps // self.STEPS

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0


def bounded_rows(path: Path, connection: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, up to the memory that a real file of this size can need.

    Raises:
        IndexStoreError: if they take more.
    """
    room = max(MAX_ROWS_BYTES, MAX_ROWS_SHARE * path.stat().st_size)
    for row in connection.execute(query):
        # 100: the row's place in a dict, and in the list of documents.
        room -= 100 + sum(50 + getsizeof(value) for value in row if value is not None)
        if room < 0:
            reason = "its rows take far more memory than a file of this size should need. Refused"
            raise IndexStoreError(path, f"{reason}. Move the file away to read the index without it.")
        yield row


def stored_columns(path: Path, connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns that a table stores. A view or a computed column could run SQL of the file's author.

    Raises:
        IndexDamagedError: if there is no such table, or a name is not made of letters, digits and "_".
    """
    schema = "SELECT type, sql FROM sqlite_master WHERE name = ?"
    kinds = connection.execute(schema, (table,)).fetchall()
    if [kind for kind, _ in kinds] != ["table"] or not str(kinds[0][1]).startswith("CREATE TABLE"):
        raise IndexDamagedError(path, f"has no table {table}.")
    names = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
    # fast-plaid and next-plaid allow no others.
    if not all(re.fullmatch(r"\w+", name) for name in names):
        raise IndexDamagedError(path, f"{table} has a column with an odd name.")
    return names
