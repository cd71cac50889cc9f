"""A connection to the database of a catalog. It reopens the database when the old connection is unsafe.

SQLite keeps its locks per process and file. A forked process inherits the connections of its parent but not
their locks. A new connection to the same file takes no lock either, because SQLite still counts the locks of
the parent. So every connection is closed before a fork, and both processes reopen it when they use it. A
connection that is in use during the fork stays with the parent, and the child refuses the index.

A reader without write permission cannot create the files that SQLite shares between readers and writers. If
there is no log, it opens the database as immutable. It reopens the database when the file has changed.
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

from mlx_colbert.errors import IndexDamagedError, IndexLockedError, IndexStoreError
from mlx_colbert.index.catalog import database_errors
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

# Set for each connection. With them a commit is on the disk when it returns.
SETTINGS = ("synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON")


class Connection:
    """A connection to the database of a catalog, for one thread at a time.

    Attributes:
        format: the format of the database when it was opened.
        identity: the identity of the file. A new file at the same path has another identity.
        n_opened: how often the database was opened. SQLite's counters start again with each connection.

    Raises:
        IndexStoreError: from every method, if SQLite reports an error. The subclass says which.
    """

    def __init__(self, root: Path, prepare: Callable[[sqlite3.Connection], int]) -> None:
        """Open the database.

        Args:
            root: the index folder.
            prepare: called with each new connection. It returns the format of the database, and raises if
                the database is not a catalog.
        """
        self._root = root
        self._prepare = prepare
        self._turn = threading.RLock()
        self._raw: sqlite3.Connection | None = None
        # The stamp of a file that is opened as immutable.
        self._stamp: Stamp | None = None
        self._deadline = _Deadline()
        self._failed = False
        self._closed = False
        self.n_opened: int = 0
        self.format: int = 0
        self.identity: Identity = file_identity(root)
        self._opened()

    def close(self) -> None:
        """Close the connection permanently."""
        with self._turn, _processes.lock:
            self._closed = True
            self._disconnect()

    def rows(
        self, sql: str, parameters: Sequence[Any] = (), *, seconds: float = QUERY_TIMEOUT_S
    ) -> list[Any]:
        """The rows of an SQL statement.

        Args:
            sql: the statement.
            parameters: its values.
            seconds: the time limit. An untrusted file may contain data that keeps SQLite busy forever.
        """
        with self._turn, self._errors(sql, parameters):
            raw = self._opened()
            with self._deadline.within(seconds):
                return raw.execute(sql, parameters).fetchall()

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run an SQL statement once for each row of parameters."""
        with self._turn, self._errors():
            self._opened().executemany(sql, rows)

    def reopen(self) -> None:
        """Close the connection; the next use opens it again. Call this outside a transaction."""
        with self._turn, _processes.lock:
            self._disconnect()

    @contextmanager
    def transaction(self, *, for_writing: bool = False, patience_s: float = 0.0) -> Iterator[None]:
        """A transaction. It is undone at the end of the block unless the block commits it.

        Args:
            for_writing: take the write lock.
            patience_s: wait so much longer than usual for another writer.

        Raises:
            IndexLockedError: if another writer does not finish in time.
            IndexStoreError: if the file was removed or replaced since it was opened.
        """
        with self._turn:
            if for_writing:
                self._begin_writing(patience_s)
            else:
                self.rows("BEGIN")
            try:
                self.check_identity()
                yield
                if self._is_torn():
                    raise torn(self._root)
            finally:
                self._end()

    def _begin_writing(self, patience_s: float) -> None:
        self._lock(patience_s)
        try:
            # SQLite starts a write transaction even on a read-only file. It reports this at the first write.
            self.rows("DELETE FROM meta WHERE 0")
        except IndexStoreError as error:
            self._end()
            code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
            if code != sqlite3.SQLITE_READONLY or not os.access(self._root / CATALOG_NAME, os.W_OK):
                raise
            # SQLite opened the file as read-only because it could not open it for writing at that moment.
            self.rows("BEGIN IMMEDIATE")

    def _lock(self, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        while True:
            try:
                self.rows("BEGIN IMMEDIATE")
                return
            except IndexLockedError as error:
                if time.monotonic() < end:
                    continue
                if not patience_s:
                    raise
                total_s = database_errors.LOCK_TIMEOUT_S + patience_s
                raise IndexLockedError(
                    self._root,
                    f"another writer did not finish within {total_s:,.0f} s. It may be upgrading the index "
                    "to this version. Try again later.",
                ) from error

    def _end(self) -> None:
        # After some errors, such as a full disk, SQLite ends the transaction itself.
        if self._raw is not None and self._raw.in_transaction:
            self.rows("ROLLBACK")

    def check_identity(self, folder: int | None = None) -> None:
        """Raise an error if the catalog file at the path, or in the given folder, is not the open one.

        SQLite continues with the open file, but segments are found by their path.
        """
        check_identity(self._root, self.identity, folder)

    @contextmanager
    def folder(self) -> Iterator[int]:
        """A descriptor of the index folder. It names the same folder even if the path changes.

        Raises:
            IndexStoreError: if the folder cannot be opened, or is not the folder that was opened before.
        """
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
                "was in use when this process was forked, so SQLite cannot lock it here. Start processes "
                'with multiprocessing\'s "spawn" method, or fork when no thread uses the index.',
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
            # SQLite finds the log by its path, so check the path again.
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
        """Close the connection, unless a thread is using it."""
        if self._turn.acquire(blocking=False):
            try:
                if self._raw is not None and not self._raw.in_transaction:
                    self._disconnect()
            finally:
                self._turn.release()

    def leave_to_parent(self) -> bool:
        """Give the open connection up in a forked process; returns whether there was one.

        It belongs to the parent: the child must not use it and must not close it.
        """
        self._turn = threading.RLock()
        raw, self._raw = self._raw, None
        if raw is None:
            return False
        # Keep it alive: Python would close it, and SQLite would act on locks that this process does not have.
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
            # SQLite also reports a malformed database when the disk cannot be read.
            is_of_sqlite = isinstance(error.__cause__, sqlite3.DatabaseError | UnicodeDecodeError)
            if is_of_sqlite and self._is_sound(sql, parameters):
                self._failed = True
                raise IndexStoreError(
                    self._root / CATALOG_NAME,
                    f"could not be read ({error.__cause__}), but a second check found no damage. Try again. "
                    "If it fails again, use Index.verify (mlx-colbert verify-index).",
                ) from error
            raise
        except (IndexStoreError, MemoryError):
            # The same connection may fail again, so the next transaction opens a new one.
            self._failed = True
            raise

    def _is_sound(self, sql: str, parameters: Sequence[Any]) -> bool:
        with _processes.lock:
            return is_sound(self._root, self._prepare, sql, parameters)

    def _is_torn(self) -> bool:
        """Whether a file that is opened as immutable has changed."""
        return self._stamp is not None and self._stamp.file != Stamp.of(self._root).file


class _Deadline:
    """The time limit of a statement."""

    def __init__(self) -> None:
        self._end = math.inf

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Stop a statement of this block that runs longer than `seconds`."""
        self._end = time.monotonic() + seconds
        try:
            yield
        finally:
            self._end = math.inf

    def is_over(self) -> bool:
        """Whether the time is over. SQLite calls this while a statement runs."""
        return time.monotonic() > self._end


class _Processes:
    """The open connections of this process, and the steps before and after a fork."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.inherited: set[Identity] = set()
        self._process = os.getpid()
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self.notice_fork
        )

    def notice_fork(self) -> None:
        """Give up the connections of the parent if this process is a fork.

        C code may fork without telling Python, so this also compares the process ids.
        """
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self.lock = threading.RLock()
        for connection in list(self.connections):
            if connection.leave_to_parent():
                self.inherited.add(connection.identity)

    def _before_fork(self) -> None:
        # Kept during the fork: no connection opens meanwhile, and SQLite's own locks are free in the child.
        self.lock.acquire()
        for connection in list(self.connections):
            with suppress(sqlite3.Error):
                connection.close_before_fork()

    def _after_fork(self) -> None:
        self.lock.release()


_processes = _Processes()


@contextmanager
def no_fork() -> Iterator[None]:
    """A block during which other threads cannot fork this process."""
    with _processes.lock:
        yield
