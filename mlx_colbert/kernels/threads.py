"""Threads for independent pieces of numpy work, with one BLAS thread each.

If BLAS splits one product among several threads, it waits for the slowest thread, and the other threads keep
their cores busy. If another process uses one of these cores, a product of a tenth of a millisecond then takes
a whole time slice. Here each thread has its own pieces of a millisecond or more, so it waits for no other
thread.

Threads end with the call. There is no pool that a fork could break, or that must end before an exit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, TypeVar

from mlx_colbert.errors import ConfigError
from mlx_colbert.kernels.cores import n_cores

__all__ = ["blas_threads", "mapped", "n_threads", "one_blas_thread"]

THREADS_VARIABLE = "MLX_COLBERT_THREADS"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _State:
    """The threads in use now, for the whole process: BLAS too has one number of threads for the process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # Calls that need BLAS with one thread, and the numbers of threads to restore afterwards.
        self.n_takers = 0
        self.blas_threads: list[int] = []
        # Helper threads that run now.
        self.n_helpers = 0


_state = _State()


@cache
def _libraries() -> list[Any]:
    """The BLAS libraries that this process has loaded. None for Accelerate, which sets its own threads."""
    from threadpoolctl import ThreadpoolController

    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def blas_threads() -> int:
    """The number of threads that BLAS uses outside this package. 1 for an unknown BLAS."""
    with _state.lock:
        counts = _state.blas_threads if _state.n_takers else [lib.get_num_threads() for lib in _libraries()]
    return max(counts, default=1)


def n_threads() -> int:
    """The most threads that the numpy kernels use.

    The environment variable MLX_COLBERT_THREADS sets it. Without it, this is the number of BLAS threads (set
    by OPENBLAS_NUM_THREADS and OMP_NUM_THREADS), but at most the number of cores that this process may use:
    a CPU limit of a container counts too.

    Raises:
        ConfigError: if the variable is not a number of 1 or more.
    """
    given = os.environ.get(THREADS_VARIABLE)
    if given:
        if not given.isascii() or not given.isdigit() or not int(given):
            raise ConfigError(
                f"environment variable {THREADS_VARIABLE}", [f"{given!r} is not a number of 1 or more"]
            )
        return int(given)
    return min(blas_threads(), n_cores())


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS compute with one thread within this block. It costs a few microseconds.

    The first block sets BLAS to one thread. The end of the last block restores the number of threads.
    """
    state = _state
    with state.lock:
        if not state.n_takers:
            state.blas_threads = [library.get_num_threads() for library in _libraries()]
            for library in _libraries():
                _set_threads(library, 1)
        state.n_takers += 1
    try:
        yield
    finally:
        # A process that was forked within the block has restored the number already.
        if state is _state:
            with state.lock:
                state.n_takers -= 1
                if not state.n_takers:
                    _give_back(state)


def _give_back(state: _State) -> None:
    for library, n in zip(_libraries(), state.blas_threads, strict=True):
        _set_threads(library, n)


def _set_threads(library: Any, n: int) -> None:
    # threadpoolctl 3.8 obeys only the thread that was first. Here the lock keeps the threads apart.
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)
    library.set_num_threads(n)


def _start_anew() -> None:
    """Reset the state in a forked process. The threads of its parent do not run there."""
    global _state
    before, _state = _state, _State()
    if before.n_takers:
        _give_back(before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class _Work(Generic[_Item, _Result]):
    """Items that several threads take one after the other, and their results or errors."""

    def __init__(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> None:
        self._function = function
        self._items = items
        self._next = 0
        self._condition = threading.Condition()
        self._results: dict[int, _Result] = {}
        self._errors: dict[int, BaseException] = {}

    def stop(self) -> None:
        """Drop the items that no thread has taken yet."""
        with self._condition:
            self._next = len(self._items)

    def help(self) -> None:
        """Compute items until none is left, or one fails."""
        while (number := self._take()) is not None:
            try:
                self._keep(number, self._function(self._items[number]))
            except BaseException as error:
                with self._condition:
                    self._errors[number] = error
                    self._condition.notify_all()
                self.stop()

    def result(self, number: int) -> _Result:
        """The result of one item. Until it is ready, this thread computes other items, or waits."""
        while number not in self._results:
            mine = self._take()
            if mine is not None:
                self._keep(mine, self._function(self._items[mine]))
                continue
            with self._condition:
                self._condition.wait_for(lambda: number in self._results or number in self._errors)
            if number in self._errors:
                raise self._errors[number]
        return self._results.pop(number)

    def _take(self) -> int | None:
        with self._condition:
            if self._next >= len(self._items):
                return None
            self._next += 1
            return self._next - 1

    def _keep(self, number: int, result: _Result) -> None:
        with self._condition:
            self._results[number] = result
            self._condition.notify_all()


def mapped(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Generator[_Result, None, None]:
    """The results of the function for each item, in order, with one BLAS thread for each thread.

    Helper threads compute items too. All calls of a process together have at most `n_threads() - 1` helpers.
    The generator may be closed early.

    >>> list(mapped(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    with one_blas_thread():
        if len(items) < 2 or (n := n_threads()) < 2:
            yield from map(function, items)
            return
        work = _Work(function, items)
        with _helped(work, min(len(items), n) - 1, n - 1):
            yield from map(work.result, range(len(items)))


@contextmanager
def _helped(work: _Work[Any, Any], n_wanted: int, n_most: int) -> Iterator[None]:
    state = _state
    with state.lock:
        n_lent = max(0, min(n_wanted, n_most - state.n_helpers))
        state.n_helpers += n_lent
    helpers = [threading.Thread(target=work.help, name="mlx-colbert") for _ in range(n_lent)]
    started = []
    try:
        for helper in helpers:
            try:
                helper.start()
            except RuntimeError:
                # Python starts no threads while it exits, so this thread computes alone.
                break
            started.append(helper)
        yield
    finally:
        # In a process that was forked within this block, the helpers do not run.
        if state is _state:
            work.stop()
            for helper in started:
                helper.join()
            with state.lock:
                state.n_helpers -= n_lent
