"""What a call does, with what, and how long its stages take: for `-v`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stages", "explained", "fact", "listened", "stage", "took"]


class Stages:
    """What was done.

    Attributes:
        facts: what was used: "backend", "model".
        times: for each stage the number of times, and all their milliseconds. A stage may contain another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.facts: dict[str, str] = {}
        self.times: dict[str, tuple[int, float]] = {}

    def add(self, name: str, ms: float) -> None:
        """Add the time of a stage."""
        with self._lock:
            n, total = self.times.get(name, (0, 0.0))
            self.times[name] = n + 1, total + ms


_listener: Stages | None = None


@contextmanager
def listened() -> Iterator[Stages]:
    """A block in which this process notes what it does."""
    global _listener
    before, _listener = _listener, Stages()
    try:
        yield _listener
    finally:
        _listener = before


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A block, or with @ a function, whose time is noted. It costs a microsecond if nobody listens."""
    listener = _listener
    if listener is None:
        yield
        return
    begun = time.perf_counter()
    try:
        yield
    finally:
        listener.add(name, 1000 * (time.perf_counter() - begun))


def took(name: str, ms: float) -> None:
    """Note the time of a stage that the caller has measured."""
    if _listener is not None:
        _listener.add(name, ms)


def fact(name: str, text: str) -> None:
    """Note what is used."""
    if _listener is not None:
        _listener.facts[name] = text


def explained(stages: Stages) -> list[str]:
    """A line for each fact and each stage.

    >>> stages = Stages()
    >>> stages.facts["backend"] = "numpy"
    >>> stages.add("search", 5.25)
    >>> stages.add("search", 5)
    >>> explained(stages)
    ['backend: numpy', 'search: 10.2 ms (2 times)']
    """
    lines = [f"{name}: {text}" for name, text in stages.facts.items()]
    for name, (n, ms) in stages.times.items():
        lines.append(f"{name}: {ms:,.1f} ms" + (f" ({n:,} times)" if n > 1 else ""))
    return lines
