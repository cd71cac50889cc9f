"""Keeps the collections in step with their files while a server runs."""

from __future__ import annotations

import threading
import time

from mlx_colbert.collection.watch import Watcher
from mlx_colbert.errors import ColBERTError
from mlx_colbert.mcp.served import Served
from mlx_colbert.model.kept import KeptModels

__all__ = ["Watching"]

# Seconds after which it is tried again, if another process watches all collections, or there is none.
_RETRY_S = 30.0


class Watching:
    """Watches collections in a thread of its own, from the first call of `begin` until the process ends.

    Its models are those of the process, so a model is in memory once.
    """

    def __init__(self, served: Served, models: KeptModels) -> None:
        self._served, self._models = served, models
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin, if it has not begun."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mlx-colbert-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        served = self._served
        while True:
            watcher = Watcher(
                served.registry,
                served.names,
                near=served.near,
                backend=served.backend,
                models=self._models,
            )
            try:
                for _ in watcher.run():
                    pass
            except (ColBERTError, OSError):
                # Another process watches them, or a name is none of a collection now.
                pass
            time.sleep(_RETRY_S)
