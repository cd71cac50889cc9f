"""A pool of searchers. Each thread uses one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index.catalog.database_file import check_identity, replaced
from mlx_colbert.index.search.searcher import Searcher
from mlx_colbert.index.settings import IndexSettings
from mlx_colbert.index.storage.codec_cache import CodecCache
from mlx_colbert.index.writing.writer import Writer
from mlx_colbert.kernels import SearchOps

# Each searcher has a connection, which needs two file descriptors, and macOS allows a process 256. More
# searchers would not be faster, because there are not more processors.
_MOST = 16

Opened = TypeVar("Opened", Searcher, Writer)


class SearcherPool:
    """The searchers of an open index. Idle ones are used again; if all are in use, threads wait.

    Attributes:
        settings: the settings of the index that was opened.
    """

    def __init__(self, root: Path, ops: SearchOps) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(_MOST)
        self._closed = False
        self._codecs = CodecCache(root, ops)
        first = Searcher(root, self._codecs)
        self._idle = [first]
        self._identity = first.catalog.identity
        self.settings: IndexSettings = first.catalog.settings

    @contextmanager
    def searcher(self) -> Iterator[Searcher]:
        """A searcher that no other thread uses during the block.

        Raises:
            IndexStoreError: if the pool is closed, or the index was removed or replaced.
        """
        # A search keeps its transaction while it scores, so each of several threads needs a connection.
        with self._turns:
            with self._lock:
                self.check_open()
                searcher = self._idle.pop() if self._idle else None
            if searcher is None:
                searcher = self.opened(lambda: Searcher(self._root, self._codecs))
            try:
                yield searcher
            except (IndexStoreError, OSError, MemoryError):
                # The same searcher may fail again, so the next search opens a new one.
                searcher.close()
                raise
            except BaseException:
                self._give_back(searcher)
                raise
            else:
                self._give_back(searcher)

    def _give_back(self, searcher: Searcher) -> None:
        dropped = [searcher]
        with self._lock:
            if not self._closed:
                # Searchers of an older commit would keep removed files mapped.
                dropped = [idle for idle in self._idle if idle.mapped - searcher.mapped]
                self._idle = [idle for idle in self._idle if idle not in dropped]
                self._idle.append(searcher)
        for searcher in dropped:
            searcher.close()

    def after_fork(self) -> None:
        """Make new locks in a forked process."""
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(_MOST)
        self._codecs.after_fork()

    def close(self) -> None:
        """Close the idle searchers. Each of the others closes when its search ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for searcher in idle:
            searcher.close()

    def check_open(self) -> None:
        """Raise an error if the pool is closed.

        Raises:
            IndexStoreError: if it is closed.
        """
        if self._closed:
            raise IndexStoreError(self._root, "is closed.")

    def check_identity(self) -> None:
        """Refuses to go on where the index at the path is not the one that was opened.

        Raises:
            IndexStoreError: if it is another one, or none.
        """
        check_identity(self._root, self._identity)

    def opened(self, kind: Callable[[], Opened]) -> Opened:
        """A new searcher or writer for the index that was opened.

        Raises:
            IndexStoreError: if another index is at the path now.
        """
        self.check_identity()
        found = kind()
        if found.catalog.identity != self._identity:
            found.close()
            raise replaced(self._root)
        return found
