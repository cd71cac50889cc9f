"""What an open index has: its searchers, its writer, and their locks. It goes on in a forked process."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index.search.pool import SearcherPool
from mlx_colbert.index.search.searcher import Searcher
from mlx_colbert.index.writing.writer import Writer
from mlx_colbert.kernels import SearchOps

_OPEN: weakref.WeakSet[OpenIndex] = weakref.WeakSet()


def _renew_locks() -> None:
    for index in list(_OPEN):
        index.after_fork()


os.register_at_fork(after_in_child=_renew_locks)


class OpenIndex:
    """The searchers and the writer of an open index. Any number of threads may use it.

    Attributes:
        pool: its searchers.
    """

    def __init__(self, path: Path, ops: SearchOps) -> None:
        self._path = path
        self._ops = ops
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self.pool: SearcherPool = SearcherPool(path, ops)
        _OPEN.add(self)

    @contextmanager
    def snapshot(self) -> Iterator[Searcher]:
        """A searcher of one commit, with its segments."""
        with self.pool.searcher() as searcher, searcher.snapshot():
            yield searcher

    @contextmanager
    def reading(self) -> Iterator[Searcher]:
        """A searcher whose catalog answers from one commit. It does not map the segments."""
        with self.pool.searcher() as searcher, searcher.catalog.read():
            yield searcher

    def writer(self) -> Writer:
        """The writer. The first call opens it.

        Raises:
            IndexStoreError: if the index is closed, or another index is at the path now.
        """
        with self._lock:
            self.pool.check_open()
            if self._writer is None:
                self._writer = self.pool.opened(lambda: Writer(self._path, self._ops))
            return self._writer

    def close(self) -> None:
        """Close all. Searches that are running in other threads finish."""
        self.pool.close()
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def discard_if_empty(self, *, keep_folder: bool) -> None:
        """Close all, and remove the index if it has no passages, and no other writer has the lock."""
        with suppress(IndexStoreError):
            self.writer().remove_if_empty(keep_folder=keep_folder)
        self.close()

    def after_fork(self) -> None:
        """Make new locks in a forked process: the threads that had the old ones do not exist in it."""
        self._lock = threading.Lock()
        self.pool.after_fork()
        if self._writer is not None:
            self._writer.after_fork()
