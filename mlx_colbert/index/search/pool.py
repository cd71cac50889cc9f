"""Searchers, one for each thread that searches at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index.search.searcher import Searcher
from mlx_colbert.index.settings import IndexSettings
from mlx_colbert.index.storage.codec_cache import CodecCache
from mlx_colbert.index.writing.writer import Writer
from mlx_colbert.kernels import SearchOps


class SearcherPool:
    """The searchers of an open index, of which idle ones are used again.

    Attributes:
        settings: of the index that was opened.
    """

    def __init__(self, root: Path, ops: SearchOps) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._closed = False
        self._codecs = CodecCache(root, ops)
        first = Searcher(root, self._codecs)
        self._idle = [first]
        self._identity = first.catalog.identity
        self.settings: IndexSettings = first.catalog.settings

    @contextmanager
    def searcher(self) -> Iterator[Searcher]:
        """A searcher that no other thread has.

        Raises:
            IndexStoreError: if the pool is closed, or another index has taken the place of this one.
        """
        # A search keeps its transaction while it scores, so each of several threads needs a connection.
        with self._lock:
            self.check_open()
            searcher = self._idle.pop() if self._idle else None
        if searcher is None:
            searcher = Searcher(self._root, self._codecs)
            self.check_identity(searcher)
        try:
            yield searcher
        finally:
            dropped = [searcher]
            with self._lock:
                if not self._closed:
                    # Those of an older commit would keep files mapped that a writer has removed.
                    dropped = [idle for idle in self._idle if idle.mapped - searcher.mapped]
                    self._idle = [idle for idle in self._idle if idle not in dropped]
                    self._idle.append(searcher)
            for searcher in dropped:
                searcher.close()

    def close(self) -> None:
        """Closes the idle searchers; the others are when they become idle."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for searcher in idle:
            searcher.close()

    def check_open(self) -> None:
        """Refuses to go on after `close`.

        Raises:
            IndexStoreError: if it is closed.
        """
        if self._closed:
            raise IndexStoreError(self._root, "is closed.")

    def check_identity(self, opened: Searcher | Writer) -> None:
        """Closes and refuses what was opened of another index at the same path.

        Raises:
            IndexStoreError: if it was.
        """
        if opened.catalog.identity != self._identity:
            opened.close()
            raise IndexStoreError(self._root, "was replaced by another since it was opened. Open it again.")
