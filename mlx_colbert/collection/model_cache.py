"""Keeps the model that was used last, so that it is not loaded again for each change."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from mlx_colbert.model.colbert import ColBERT

__all__ = ["ModelCache"]


class ModelCache:
    """Loads models, and keeps the last one. Only one is kept: several would need too much memory.

    >>> models = ModelCache()
    >>> model = models("tests/data/checkpoints/pylate-bert", backend="numpy")
    >>> models("tests/data/checkpoints/pylate-bert", backend="numpy") is model
    True
    >>> models.clear()
    >>> models("tests/data/checkpoints/pylate-bert", backend="numpy") is model
    False
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used_at = 0.0
        self._kept: tuple[tuple[Any, ...], ColBERT] | None = None

    def __call__(self, source: Any, **arguments: Any) -> ColBERT:
        """The model for the arguments of `ColBERT.load`.

        Raises:
            CheckpointError: if it cannot be loaded.
        """
        key = (str(source), *sorted(item for item in arguments.items() if item[1] is not None))
        if self._kept is None or self._kept[0] != key:
            self.clear()
            self._kept = (key, ColBERT.load(source, **arguments))
        self._used_at = self._clock()
        return self._kept[1]

    def clear(self) -> None:
        """Let the model go."""
        if self._kept is not None:
            self._kept = None
            # What used it may be a circle of objects, which only this frees at once.
            gc.collect()

    def clear_idle(self, idle_s: float) -> None:
        """Let the model go if it was not asked for in so many seconds."""
        if self._clock() - self._used_at >= idle_s:
            self.clear()
