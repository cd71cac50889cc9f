"""The file of a catalog: its identity, its changes, and how SQLite opens it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_colbert.errors import IndexNotFoundError, IndexStoreError
from mlx_colbert.index.catalog import database_errors
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME, UNWRITABLE

Identity = tuple[int, int]


def file_identity(root: Path) -> Identity:
    """The identity of the catalog file in a folder: its device and file number.

    Raises:
        IndexNotFoundError: if there is nothing at the path.
        IndexStoreError: if it is not an index, or cannot be read.
    """
    if not os.path.lexists(root):
        raise IndexNotFoundError(root, "does not exist. Make it with mlx-colbert index, or Index.create.")
    path = root / CATALOG_NAME
    try:
        is_index = path.is_file()
    except OSError as error:
        raise IndexStoreError(root, f"cannot be read: {error.strerror}.") from error
    identity = _identity_in(root) if is_index else None
    if identity is None:
        raise IndexStoreError(root, f"is not an index: it is not a folder with a {CATALOG_NAME}.")
    return identity


def check_identity(root: Path, identity: Identity, folder: int | None = None) -> None:
    """Raise an error if the catalog of an index folder is no longer the same file.

    Args:
        root: the index folder.
        identity: the identity of the file that was opened.
        folder: a descriptor of the folder to check instead of the path.
    """
    if _identity_in(root, folder) != identity:
        raise replaced(root)


def replaced(root: Path) -> IndexStoreError:
    """The error to raise for an index that was removed or replaced."""
    return IndexStoreError(root, "was removed or replaced since it was opened. Open it again.")


def _identity_in(root: Path, folder: int | None = None) -> Identity | None:
    try:
        status = os.stat(root / CATALOG_NAME if folder is None else CATALOG_NAME, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise IndexStoreError(root, f"cannot be read: {error.strerror}. Try again.") from error
    return status.st_dev, status.st_ino


def connected(uri: str) -> sqlite3.Connection:
    """A new SQLite connection to a database."""
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=database_errors.LOCK_TIMEOUT_S
    )


@dataclass(frozen=True)
class Stamp:
    """A value that changes when the files of a catalog change.

    Attributes:
        file: number, size and modification time of the catalog file.
        log_bytes: the size of its log, or None.
    """

    file: tuple[int, int, int] | None
    log_bytes: int | None

    @classmethod
    def of(cls, root: Path) -> Stamp:
        """The stamp of the index in a folder."""
        status, log = _status(root / CATALOG_NAME), _status(root / f"{CATALOG_NAME}-wal")
        file = None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns)
        return cls(file, None if log is None else log.st_size)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def torn(root: Path) -> IndexStoreError:
    """The error to raise for a file that changed while it was open as immutable."""
    return IndexStoreError(
        root,
        "changed during the read. This process cannot write to the folder, so it cannot lock it. Try again.",
    )


def open_database(root: Path) -> tuple[sqlite3.Connection, Stamp | None]:
    """A connection, and the stamp of the file if it is opened as immutable."""
    path, stamp = root / CATALOG_NAME, Stamp.of(root)
    try:
        return _open(path, "mode=rw"), None
    except sqlite3.OperationalError as error:
        # SQLite cannot create the shared files of the write-ahead log without write permission. If there is
        # no log, nobody is writing, and the file can be opened as immutable.
        if error.sqlite_errorcode & 0xFF not in UNWRITABLE or os.access(root, os.W_OK) or stamp.log_bytes:
            raise
        return _open(path, "immutable=1"), stamp


def _open(path: Path, mode: str) -> sqlite3.Connection:
    connection = connected(f"{path.absolute().as_uri()}?{mode}")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def is_sound(
    root: Path, prepare: Callable[[sqlite3.Connection], object], sql: str, parameters: Sequence[Any]
) -> bool:
    """Whether a new connection finds no damage in the database, and can run the query that failed.

    Args:
        root: the index folder.
        prepare: called with the new connection. It raises if the database is not a catalog.
        sql: the statement. It is run only if it is a SELECT.
        parameters: its values.
    """
    try:
        with closing(open_database(root)[0]) as connection:
            prepare(connection)
            if sql.lstrip().upper().startswith("SELECT"):
                connection.execute(sql, parameters).fetchall()
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except (sqlite3.Error, UnicodeDecodeError, IndexStoreError):
        return False
