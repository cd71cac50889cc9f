"""A connection to the database of a catalog. It is opened again when the old one can no longer be trusted.

SQLite keeps its locks per process and file. A forked process inherits the connections of its parent but
none of their locks, and a connection that it opens to the same file takes no lock either, as SQLite counts
those of the parent. So every connection is closed before a fork and opened again when it is used, in both
processes. One that is in use at that moment stays with the parent; the child refuses the index.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlx_colbert.errors import (
    IndexDamagedError,
    IndexLockedError,
    IndexNotFoundError,
    IndexStoreError,
)
from mlx_colbert.index.storage.files import REBUILD

CATALOG_NAME = "catalog.db"
# It and its companions of SQLite.
CATALOG_FILES = tuple(f"{CATALOG_NAME}{suffix}" for suffix in ("", "-journal", "-wal", "-shm"))
LOCK_TIMEOUT_S = 10.0
# Of each connection: a commit is on the disk when it returns.
SETTINGS = ("synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON")

_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG}

Identity = tuple[int, int]


class Connection:
    """A connection to the database of a catalog, for one thread at a time.

    Attributes:
        identity: of the file, which another file at the same path does not have.
        n_opened: how often it was opened. What SQLite counts for one connection means nothing to the next.

    Raises:
        IndexStoreError: from every method, if SQLite cannot do it; the subclass says why.
    """

    def __init__(self, root: Path, check: Callable[[sqlite3.Connection], None]) -> None:
        """Opens it.

        Args:
            root: the index folder.
            check: is called with each new connection; raises if the database is not one of this package's.
        """
        self._root = root
        self._check = check
        self._turn = threading.RLock()
        self._raw: sqlite3.Connection | None = None
        self._closed = False
        self.n_opened = 0
        self.identity = file_identity(root)
        self._opened()

    def close(self) -> None:
        """Closes it for good."""
        with self._turn, _processes.lock:
            self._closed = True
            self._disconnect()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows of a statement."""
        with self._turn, self._errors():
            return self._opened().execute(sql, parameters).fetchall()

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs a statement with the parameters of each row."""
        with self._turn, self._errors():
            self._opened().executemany(sql, rows)

    @contextmanager
    def transaction(self, begin: str) -> Iterator[None]:
        """A transaction that is undone at the end of the block, unless the block committed it.

        Args:
            begin: the statement that begins it.

        Raises:
            IndexStoreError: if the file was removed or replaced since it was opened.
        """
        with self._turn:
            self.rows(begin)
            try:
                self.check_identity()
                yield
            finally:
                # SQLite has ended the transaction itself after some errors, a full disk for one.
                if self._raw is not None and self._raw.in_transaction:
                    self.rows("ROLLBACK")

    def check_identity(self, folder: int | None = None) -> None:
        """Refuses to go on with a file that is no longer in its folder: at the path, or by its descriptor.

        SQLite goes on with the file that it has open, but segments are found by their path.
        """
        check_identity(self._root, self.identity, folder)

    @contextmanager
    def folder(self) -> Iterator[int]:
        """A descriptor of the index folder. It stays the same folder, whatever becomes of the path."""
        self.check_identity()
        try:
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise IndexStoreError(self._root, f"cannot be read: {error.strerror}. Try again.") from error
        try:
            self.check_identity(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _opened(self) -> sqlite3.Connection:
        _processes.notice_fork()
        if self._raw is None:
            with _processes.lock:
                self._connect()
        assert self._raw is not None
        return self._raw

    def _connect(self) -> None:
        if self._closed:
            raise IndexStoreError(self._root, "was closed by another thread.")
        if self.identity in _processes.inherited:
            raise IndexStoreError(
                self._root,
                "was in use when this process was forked from another, so SQLite cannot lock it here. "
                'Start processes with multiprocessing\'s "spawn" method, or fork while no thread uses it.',
            )
        with self._errors():
            raw = _connect(self._root / CATALOG_NAME)
        try:
            with self._errors():
                for setting in SETTINGS:
                    raw.execute(f"PRAGMA {setting}")
                self._check(raw)
            # The log beside the file is found by its path.
            self.check_identity()
        except BaseException:
            raw.close()
            raise
        self._raw = raw
        self.n_opened += 1
        _processes.connections.add(self)

    def _disconnect(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()

    def close_before_fork(self) -> None:
        """Closes it, unless a thread is using it."""
        if self._turn.acquire(blocking=False):
            try:
                if self._raw is not None and not self._raw.in_transaction:
                    self._disconnect()
            finally:
                self._turn.release()

    def leave_to_parent(self) -> bool:
        """Whether it is a connection of the parent, which a forked process must neither use nor close."""
        self._turn = threading.RLock()
        raw, self._raw = self._raw, None
        if raw is None:
            return False
        # Whoever lets go of it closes it. SQLite would then act upon locks that this process does not have.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(raw))
        return True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with sqlite_errors(self._root):
            yield


class _Processes:
    """The open connections of this process, and what a fork must know of them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.inherited: set[Identity] = set()
        self._process = os.getpid()
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self.notice_fork
        )

    def notice_fork(self) -> None:
        """Leaves the connections of the parent to it, where this process is a fork.

        A program written in C may fork without a word to Python, so the process ids are compared as well.
        """
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self.lock = threading.RLock()
        for connection in list(self.connections):
            if connection.leave_to_parent():
                self.inherited.add(connection.identity)

    def _before_fork(self) -> None:
        # Held over the fork: no connection is opened meanwhile, and SQLite's own locks are free in the child.
        self.lock.acquire()
        for connection in list(self.connections):
            with suppress(sqlite3.Error):
                connection.close_before_fork()

    def _after_fork(self) -> None:
        self.lock.release()


_processes = _Processes()


@contextmanager
def no_fork() -> Iterator[None]:
    """Lets other threads wait before they fork this process."""
    with _processes.lock:
        yield


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
    """Refuses an index folder whose catalog is another file by now.

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
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=LOCK_TIMEOUT_S
    )


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _open(path, "mode=rw")
    except sqlite3.OperationalError as error:
        # Without a writable folder SQLite cannot make the files that write-ahead logging shares between
        # processes. Nobody can be writing then, unless commits still wait in the log.
        log = path.with_name(f"{path.name}-wal")
        waiting = log.exists() and log.stat().st_size
        if error.sqlite_errorcode & 0xFF not in _UNWRITABLE or os.access(path.parent, os.W_OK) or waiting:
            raise
        return _open(path, "immutable=1")


def _open(path: Path, mode: str) -> sqlite3.Connection:
    connection = connected(f"{path.absolute().as_uri()}?{mode}")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def sqlite_errors(root: Path) -> Iterator[None]:
    """Turns the errors of SQLite into this package's."""
    try:
        yield
    except sqlite3.Error as error:
        raise _store_error(root, error) from error


def _store_error(root: Path, error: sqlite3.Error) -> IndexStoreError:
    # The low byte is the kind of error; errors that the Python module raises itself carry none.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    path = root / CATALOG_NAME
    if isinstance(error, sqlite3.ProgrammingError):
        return IndexStoreError(root, "was closed by another thread.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexLockedError(
            root, f"another writer did not finish within {LOCK_TIMEOUT_S:g} s. Try again later."
        )
    if code in _UNWRITABLE:
        return IndexStoreError(
            path, f"cannot be opened or written: {error}. Check the permissions of the folder."
        )
    if code in _NO_ROOM or code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM):
        return IndexStoreError(path, f"{error}. Nothing was changed. Check the disk and its free space.")
    return IndexDamagedError(path, f"{error}. {REBUILD}")
