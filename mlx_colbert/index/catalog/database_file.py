"""The file of a catalog: which one it is, whether it has changed, how SQLite opens it."""

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
    """What tells the file of a catalog from another one that takes its place.

    Raises:
        IndexNotFoundError: if there is nothing at the path.
        IndexStoreError: if it is not an index, or cannot be read.
    """
    if not os.path.lexists(root):
        raise IndexNotFoundError(root, "does not exist. Make it with Index.create (mlx-colbert index).")
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
    """Refuse an index folder whose catalog is another file by now.

    Args:
        root: the index folder.
        identity: of its catalog.
        folder: descriptor of the folder to look in, in place of the path.
    """
    if _identity_in(root, folder) != identity:
        raise replaced(root)


def replaced(root: Path) -> IndexStoreError:
    """The error of an index that is no longer the one that was opened."""
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
    """SQLite's connection to a database."""
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=database_errors.LOCK_TIMEOUT_S
    )


@dataclass(frozen=True)
class Stamp:
    """What changes on the disk when an index changes.

    Attributes:
        file: of the catalog: number, size and time of its last change.
        log_bytes: of the log beside it, if there is one.
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
    """The error of a file that changed while it was read as if it never changed."""
    return IndexStoreError(
        root,
        "was changed while it was read. This process cannot write to the folder, so it cannot lock it. Try "
        "again.",
    )


def open_database(root: Path) -> tuple[sqlite3.Connection, Stamp | None]:
    """A connection, and the stamp of the file where it is read as if it never changed."""
    path, stamp = root / CATALOG_NAME, Stamp.of(root)
    try:
        return _open(path, "mode=rw"), None
    except sqlite3.OperationalError as error:
        # Without a writable folder SQLite cannot make the files that write-ahead logging shares between
        # processes. Nobody is writing then, unless there is a log.
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
    """Whether a new connection finds no damage in a database, and can run a query that failed.

    Args:
        root: the index folder.
        prepare: is called with the new connection; raises if the database is not one of this package's.
        sql: the statement; one that writes is not run.
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
