"""The threads of numpy's BLAS, lent to batches that are computed side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["BLAS_THREADS"]


class _BlasThreads:
    """Takes BLAS's threads from it while batches have them: BLAS counts them for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_takers = 0
        self._n_threads = 1
        self._limit: Any = None

    def count(self) -> int:
        """How many there are; 1 for a BLAS that is not known, such as Accelerate, which has its own ways."""
        with self._lock:
            if not self._n_takers:
                libraries = self._blas().lib_controllers
                self._n_threads = max((library.num_threads for library in libraries), default=1)
            return self._n_threads

    @contextmanager
    def taken(self) -> Iterator[None]:
        """BLAS computes with one thread: the first to come takes the others, the last to go returns them."""
        with self._lock:
            if not self._n_takers:
                self._limit = self._blas().limit(limits=1)
            self._n_takers += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_takers -= 1
                if not self._n_takers:
                    self._limit.restore_original_limits()

    def return_in_child(self) -> None:
        """Gives them back in a forked process, in which the threads that took them do not run."""
        self._lock = threading.Lock()
        if self._n_takers:
            self._n_takers = 0
            self._limit.restore_original_limits()

    def _blas(self) -> Any:
        # Not needed where there is but one batch, as for a query.
        from threadpoolctl import ThreadpoolController

        return ThreadpoolController().select(user_api="blas")


BLAS_THREADS = _BlasThreads()
os.register_at_fork(after_in_child=BLAS_THREADS.return_in_child)
