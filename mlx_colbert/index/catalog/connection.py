"""A connection to the database of a catalog. It is opened again when the old one can no longer be trusted.

SQLite keeps its locks per process and file. A forked process inherits the connections of its parent but
none of their locks, and a connection that it opens to the same file takes no lock either, as SQLite counts
those of the parent. So every connection is closed before a fork and opened again when it is used, in both
processes. One that is in use at that moment stays with the parent; the child refuses the index.

A reader that may not write to the folder reads the file as if it never changed, as long as no log is beside
it: SQLite cannot make the files that readers and writers share. The file is opened again when it has changed.
"""

from __future__ import annotations

import ctypes
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME, QUERY_TIMEOUT_S, sqlite_errors
from mlx_colbert.index.catalog.database_file import (
    Identity,
    Stamp,
    check_identity,
    file_identity,
    is_sound,
    open_database,
    torn,
)

# Of each connection: a commit is on the disk when it returns.
SETTINGS = ("synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON")


class Connection:
    """A connection to the database of a catalog, for one thread at a time.

    Attributes:
        format: of the database when it was opened.
        identity: of the file, which another file at the same path does not have.
        n_opened: how often it was opened. What SQLite counts for one connection means nothing to the next.

    Raises:
        IndexStoreError: from every method, if SQLite cannot do it; the subclass says why.
    """

    def __init__(self, root: Path, prepare: Callable[[sqlite3.Connection], int]) -> None:
        """Open it.

        Args:
            root: the index folder.
            prepare: is called with each new connection and returns the format of the database; raises if it
                is not one of this package's.
        """
        self._root = root
        self._prepare = prepare
        self._turn = threading.RLock()
        self._raw: sqlite3.Connection | None = None
        # Of a file that is read as if it never changed.
        self._stamp: Stamp | None = None
        self._deadline = _Deadline()
        self._failed = False
        self._closed = False
        self.n_opened = self.format = 0
        self.identity = file_identity(root)
        self._opened()

    def close(self) -> None:
        """Close it for good."""
        with self._turn, _processes.lock:
            self._closed = True
            self._disconnect()

    def rows(
        self, sql: str, parameters: Sequence[Any] = (), *, seconds: float = QUERY_TIMEOUT_S
    ) -> list[Any]:
        """The rows of a statement.

        Args:
            sql: the statement.
            parameters: its values.
            seconds: that it may take. A file of a stranger's may hold what keeps SQLite busy for ever.
        """
        with self._turn, self._errors(sql, parameters):
            raw = self._opened()
            with self._deadline.within(seconds):
                return raw.execute(sql, parameters).fetchall()

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement with the parameters of each row."""
        with self._turn, self._errors():
            self._opened().executemany(sql, rows)

    def reopen(self) -> None:
        """Open it again when it is used next. Call it outside of a transaction."""
        with self._turn, _processes.lock:
            self._disconnect()

    @contextmanager
    def transaction(self, *, for_writing: bool = False) -> Iterator[None]:
        """A transaction that is undone at the end of the block, unless the block committed it.

        Args:
            for_writing: keep others from writing meanwhile.

        Raises:
            IndexLockedError: if another writer does not finish in time.
            IndexStoreError: if the file was removed or replaced since it was opened.
        """
        with self._turn:
            self._begin(for_writing=for_writing)
            try:
                self.check_identity()
                yield
                if self._is_torn():
                    raise torn(self._root)
            finally:
                self._end()

    def _begin(self, *, for_writing: bool) -> None:
        if not for_writing:
            self.rows("BEGIN")
            return
        self.rows("BEGIN IMMEDIATE")
        try:
            # SQLite begins to write to a file that it may only read, and says so when it is asked to write.
            self.rows("DELETE FROM meta WHERE 0")
        except IndexStoreError as error:
            self._end()
            code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
            if code != sqlite3.SQLITE_READONLY or not os.access(self._root / CATALOG_NAME, os.W_OK):
                raise
            # It could not be opened for writing at that moment, and SQLite then opens it for reading only.
            self.rows("BEGIN IMMEDIATE")

    def _end(self) -> None:
        # SQLite has ended the transaction itself after some errors, a full disk for one.
        if self._raw is not None and self._raw.in_transaction:
            self.rows("ROLLBACK")

    def check_identity(self, folder: int | None = None) -> None:
        """Refuse to go on with a file that is no longer in its folder: at the path, or by its descriptor.

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
        if self._raw is not None and not self._raw.in_transaction:
            changed = self._stamp is not None and self._stamp != Stamp.of(self._root)
            if changed or self._failed:
                self._disconnect()
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
        self._failed = False
        with self._errors():
            raw, self._stamp = open_database(self._root)
        try:
            with self._errors():
                for setting in SETTINGS:
                    raw.execute(f"PRAGMA {setting}")
                raw.set_progress_handler(self._deadline.is_over, 100_000)
                self.format = self._prepare(raw)
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
        """Close it, unless a thread is using it."""
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
    def _errors(self, sql: str = "", parameters: Sequence[Any] = ()) -> Iterator[None]:
        try:
            with sqlite_errors(self._root):
                yield
        except IndexDamagedError as error:
            if self._is_torn():
                raise torn(self._root) from error
            # SQLite says of a disk that could not be read, too, that the database is malformed.
            is_of_sqlite = isinstance(error.__cause__, sqlite3.DatabaseError | UnicodeDecodeError)
            if is_of_sqlite and self._is_sound(sql, parameters):
                self._failed = True
                raise IndexStoreError(
                    self._root / CATALOG_NAME,
                    f"could not be read ({error.__cause__}), but a second look finds no damage. Try again. "
                    "If it fails again, use Index.verify (mlx-colbert verify-index).",
                ) from error
            raise
        except (IndexStoreError, MemoryError):
            # What failed once may go on failing: the next transaction has a new connection.
            self._failed = True
            raise

    def _is_sound(self, sql: str, parameters: Sequence[Any]) -> bool:
        with _processes.lock:
            return is_sound(self._root, self._prepare, sql, parameters)

    def _is_torn(self) -> bool:
        """Whether the file was changed while it was read as if it never changed."""
        return self._stamp is not None and self._stamp.file != Stamp.of(self._root).file


class _Deadline:
    """Until when a statement may run."""

    def __init__(self) -> None:
        self._end = math.inf

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Lets the statements of the block end after some time."""
        self._end = time.monotonic() + seconds
        try:
            yield
        finally:
            self._end = math.inf

    def is_over(self) -> bool:
        """Whether the time is over. SQLite asks this as it computes."""
        return time.monotonic() > self._end


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
        """Leave the connections of the parent to it, where this process is a fork.

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
