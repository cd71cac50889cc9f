"""Models that stay loaded between the calls of `ColBERT.load`, in a process that answers many requests."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_colbert.kernels import clear_mlx_cache

__all__ = ["KeptModels", "files_stamp", "keeping", "loaded_once"]


@dataclass
class _Kept:
    name: str
    parts: Any
    used: float


@dataclass
class _Turn:
    """One at a time loads a model, while others may want it too.

    Attributes:
        lock: that one has it.
        n_callers: those that load it or wait.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    n_callers: int = 0


class KeptModels:
    """The parts of models that were loaded. Any number of threads may use them: nothing in them changes."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep nothing yet. `clock` is the time in seconds, which never goes back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Hashable, _Kept] = {}
        self._turns: dict[Hashable, _Turn] = {}

    def get(self, name: str, key: Hashable, load: Callable[[], Any]) -> Any:
        """The parts with a key. They are loaded if they are not kept yet.

        Args:
            name: what people call the model.
            key: everything that the parts depend on.
            load: loads them.
        """
        # Those who want another model do not wait: a language model may take a minute.
        with self._turn(key):
            with self._lock:
                found = self._kept.get(key)
            if found is None:
                found = _Kept(name, load(), 0.0)
            with self._lock:
                found.used = self._clock()
                self._kept[key] = found
            return found.parts

    def drop_idle(self, idle_s: float) -> int:
        """Let go of the models that nobody used for some seconds; returns how many."""
        with self._lock:
            least = self._clock() - idle_s
            idle = [key for key, kept in self._kept.items() if kept.used <= least]
            for key in idle:
                del self._kept[key]
        if idle:
            gc.collect()
            clear_mlx_cache()
        return len(idle)

    def names(self) -> list[str]:
        """The names of the models, the one that was used last first."""
        kept = sorted(list(self._kept.values()), key=lambda item: -item.used)
        return [item.name for item in kept]

    @contextmanager
    def _turn(self, key: Hashable) -> Iterator[None]:
        """A block that one thread at a time is in, for each key."""
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
            turn.n_callers += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.n_callers -= 1
                if not turn.n_callers:
                    del self._turns[key]


_keeper: KeptModels | None = None


@contextmanager
def keeping(models: KeptModels | None = None) -> Iterator[None]:
    """A block in which this process keeps the models that it loads.

    Args:
        models: keeps them, also after the block. None: that of the block around it, or one for this block.
    """
    global _keeper
    before, _keeper = _keeper, models or _keeper or KeptModels()
    try:
        yield
    finally:
        _keeper = before


def loaded_once(name: str, key: Hashable, load: Callable[[], Any]) -> Any:
    """What `load` returns. Inside a block of `keeping`, what it returned before for the same key."""
    return load() if _keeper is None else _keeper.get(name, key, load)


def files_stamp(folder: Path) -> Hashable:
    """A value that changes when a file of a folder is changed or exchanged."""
    found = []
    for path in sorted(folder.iterdir()):
        status = path.stat()
        found.append((path.name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return str(folder), tuple(found)
