"""Places for requests: a bounded number of them run or wait, and others are refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mlx_colbert.errors import BusyError, StoppingError
from mlx_colbert.model.shared_encoder import CallerLeftError, abandoned_if

__all__ = ["Places"]

_T = TypeVar("_T")

# Seconds that a caller is asked to wait when there is no place, at least and at most.
_LEAST_WAIT_S, _MOST_WAIT_S = 1.0, 60.0


class Places:
    """A number of workers, and places to wait for them.

    Args:
        name: the beginning of the names of the threads.
        n_workers: requests that are worked on at the same time.
        n_waiting: requests that may wait for a worker.

    Attributes:
        n_workers: requests that are worked on at the same time.

    >>> places = Places("example", n_workers=1, n_waiting=8)
    >>> places.submit(lambda: 6 * 7).result()
    42
    >>> places.finish()
    """

    def __init__(self, name: str, *, n_workers: int, n_waiting: int) -> None:
        self.n_workers = n_workers
        self._n_waiting = n_waiting
        self._workers = ThreadPoolExecutor(n_workers, name)
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

    def check(self) -> None:
        """Refuse a request if there is no place for it. `submit` does so too, but then it is read already.

        Raises:
            BusyError: if too many requests wait.
        """
        if self.is_full:
            raise BusyError(self._n_waiting, self._wait_s())

    def finish(self) -> None:
        """End what was accepted. Then nothing more is."""
        self._workers.shutdown(wait=True)

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
            StoppingError: after `finish`.
        """
        with self._lock:
            self.check()
            self._n_accepted += 1
        try:
            future = self._workers.submit(self._done, work, has_left)
        except RuntimeError as error:
            # It takes no more after `finish`, or the interpreter ends.
            self._leave(None)
            raise StoppingError("the request") from error
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
