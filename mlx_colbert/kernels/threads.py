"""Threads for independent pieces of numpy work, with one BLAS thread each.

A BLAS that splits one product among threads waits for the last of them, and holds the other cores meanwhile.
Where another process has one of these cores, a product of a tenth of a millisecond takes a time slice. Pieces
of a millisecond or more that nobody waits for one by one do not have this problem.

Threads live as long as one call: there is no pool that a fork could break or that an exit must end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, TypeVar

from mlx_colbert.errors import ConfigError

__all__ = ["THREADS_VARIABLE", "blas_threads", "mapped", "n_threads", "one_blas_thread"]

THREADS_VARIABLE = "MLX_COLBERT_THREADS"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _State:
    """What is lent at this moment. BLAS counts its threads for the whole process, so this does too."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # Calls that have set BLAS to one thread, and the numbers to give back.
        self.n_takers = 0
        self.blas_threads: list[int] = []
        # Threads that help in a call now.
        self.n_helpers = 0


_state = _State()


@cache
def _libraries() -> list[Any]:
    """The BLAS libraries that this process has loaded. Empty for Accelerate, which has its own ways."""
    from threadpoolctl import ThreadpoolController

    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def blas_threads() -> int:
    """How many threads BLAS takes outside this package's calls; 1 for a BLAS that is not known."""
    with _state.lock:
        counts = _state.blas_threads if _state.n_takers else [lib.get_num_threads() for lib in _libraries()]
    return max(counts, default=1)


def n_threads() -> int:
    """How many threads the numpy kernels take at most.

    The environment variable MLX_COLBERT_THREADS says it. Without it, as many as BLAS would take (which
    OPENBLAS_NUM_THREADS and OMP_NUM_THREADS set), but not more than the cores that this process may use.

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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(blas_threads(), cores)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within this block BLAS computes with one thread. The first to enter takes the others away.

    The last to leave gives them back. It costs some microseconds.
    """
    state = _state
    with state.lock:
        if not state.n_takers:
            state.blas_threads = [library.get_num_threads() for library in _libraries()]
            for library in _libraries():
                library.set_num_threads(1)
        state.n_takers += 1
    try:
        yield
    finally:
        # A child that was forked in the block has given them back already.
        if state is _state:
            with state.lock:
                state.n_takers -= 1
                if not state.n_takers:
                    _give_back(state)


def _give_back(state: _State) -> None:
    for library, n in zip(_libraries(), state.blas_threads, strict=True):
        library.set_num_threads(n)


def _start_anew() -> None:
    """In a forked process, where the threads that took BLAS's threads do not run."""
    global _state
    before, _state = _state, _State()
    if before.n_takers:
        _give_back(before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class _Work(Generic[_Item, _Result]):
    """Items that several threads take one after the other, and what became of them."""

    def __init__(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> None:
        self._function = function
        self._items = items
        self._next = 0
        self._condition = threading.Condition()
        self._results: dict[int, _Result] = {}
        self._errors: dict[int, BaseException] = {}

    def stop(self) -> None:
        """Leaves the items that no thread has taken yet."""
        with self._condition:
            self._next = len(self._items)

    def help(self) -> None:
        """Computes items until none is left, or one fails."""
        while (number := self._take()) is not None:
            try:
                self._keep(number, self._function(self._items[number]))
            except BaseException as error:
                with self._condition:
                    self._errors[number] = error
                    self._condition.notify_all()
                self.stop()

    def result(self, number: int) -> _Result:
        """The result of one item. This thread computes items meanwhile, and waits where none is left."""
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
    """The function of each item, in order, with one BLAS thread; other threads help where there are some.

    All calls of a process together have no more than `n_threads() - 1` helpers. May be closed early.

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
                # There are no new threads while the interpreter exits: this one computes alone.
                break
            started.append(helper)
        yield
    finally:
        # In a child that was forked meanwhile they do not run.
        if state is _state:
            work.stop()
            for helper in started:
                helper.join()
            with state.lock:
                state.n_helpers -= n_lent
