"""The engine: many callers, one set of models, one thread that encodes, and a bounded number of requests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from mlx_colbert.errors import BusyError
from mlx_colbert.model.kept import KeptModels, keeping
from mlx_colbert.model.shared_encoder import CallerLeftError, SharedEncoder, abandoned_if, sharing

__all__ = ["Engine"]

_T = TypeVar("_T")

# Seconds that a caller is asked to wait when there is no place, at least and at most.
_LEAST_WAIT_S, _MOST_WAIT_S = 1.0, 60.0


def _usual_workers() -> int:
    # Half of them compute scores or read while the others wait for the thread that encodes.
    return max(4, 2 * (os.cpu_count() or 1))


class Engine:
    """Runs the requests of many callers in one process.

    Inside a block of `running`, every model that this process loads stays loaded, and all of them encode in
    one thread. So each function of this package can be called as it is, from any thread.

    Args:
        n_workers: requests that are worked on at the same time. None: twice the cores, at least 4.
        n_waiting: requests that may wait for a worker.

    Attributes:
        models: the models that are loaded.
        encoder: the thread that encodes.
        n_workers: requests that are worked on at the same time.

    >>> engine = Engine()
    >>> with engine.running():
    ...     engine.submit(lambda: 6 * 7).result()
    42
    """

    def __init__(self, *, n_workers: int | None = None, n_waiting: int = 64) -> None:
        self.models = KeptModels()
        self.encoder = SharedEncoder()
        self.n_workers = n_workers or _usual_workers()
        self._n_waiting = n_waiting
        self._workers = ThreadPoolExecutor(self.n_workers, "mlx-colbert-worker")
        self._lock = threading.Lock()
        self._n_accepted = 0
        self._mean_s = 0.1

    @property
    def n_accepted(self) -> int:
        """Requests that run or wait."""
        return self._n_accepted

    @property
    def is_full(self) -> bool:
        """Whether there is no place for another request."""
        return self._n_accepted >= self.n_workers + self._n_waiting

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the models of this process are those of the engine. It ends what was accepted."""
        try:
            with keeping(self.models), sharing(self.encoder):
                try:
                    yield
                finally:
                    self._workers.shutdown(wait=True)
        finally:
            self.encoder.close()

    def submit(self, work: Callable[[], _T], has_left: Callable[[], bool] = lambda: False) -> Future[_T]:
        """Let a worker do something.

        Args:
            work: what to do.
            has_left: whether nobody waits for the result any more. It is called in other threads. Then the
                work is not begun, and its texts are not encoded.

        Returns:
            Its future. It has a `CallerLeftError` if nobody waited for the result. To cancel it gives the
            place back, if the work has not begun.

        Raises:
            BusyError: if too many requests wait.
        """
        with self._lock:
            if self.is_full:
                raise BusyError(self._n_waiting, self._wait_s())
            self._n_accepted += 1
        try:
            future = self._workers.submit(self._done, work, has_left)
        except BaseException:
            self._leave(None)
            raise
        future.add_done_callback(lambda done: self._leave(None) if done.cancelled() else None)
        return future

    def _done(self, work: Callable[[], _T], has_left: Callable[[], bool]) -> _T:
        begun = time.monotonic()
        try:
            if has_left():
                raise CallerLeftError("the caller left")
            with abandoned_if(has_left):
                return work()
        finally:
            self._leave(time.monotonic() - begun)

    def _leave(self, took_s: float | None) -> None:
        with self._lock:
            self._n_accepted -= 1
            if took_s is not None:
                self._mean_s = 0.9 * self._mean_s + 0.1 * took_s

    def _wait_s(self) -> float:
        """Seconds after which there should be a place."""
        seconds = self._n_accepted / self.n_workers * self._mean_s
        return min(max(seconds, _LEAST_WAIT_S), _MOST_WAIT_S)
