"""The model of rerank and embeddings. Requests name it, and cannot choose another one."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.loading import LoadedParts, load_parts
from mlx_colbert.server.problems import Problem

__all__ = ["ServedModel"]

# Seconds between looks at the files of the model. A look also tells the engine that the model is in use.
_LOOK_S = 30.0


class ServedModel:
    """A model that is loaded when it is needed.

    Args:
        source: a folder or hub id.

    Attributes:
        source: the folder or hub id.
        name: what requests call it: the hub id, or the name of the folder.
        is_loaded: whether it was loaded once.
        prefixes: what the model puts before queries and before documents. None: it is not loaded yet.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.name: str = Path(source).name if Path(source).is_dir() else source
        self.is_loaded: bool = False
        self.prefixes: tuple[str, str] | None = None
        self._lock = threading.Lock()
        self._revision: str | None = None
        # Only the engine keeps the parts, so that it may let them go.
        self._parts: Callable[[], LoadedParts | None] = lambda: None
        self._looked = 0.0

    def load(self) -> ColBERT:
        """The model. An engine keeps its parts, so only the first call takes long.

        Raises:
            CheckpointError: if it cannot be loaded.
        """
        # One at a time: each of many first calls would look at the hub.
        with self._lock:
            now, parts = time.monotonic(), self._parts()
            if parts is None or now - self._looked > _LOOK_S:
                parts = self._loaded()
                self._parts, self._looked = weakref.ref(parts), now
            return ColBERT(parts)

    def _loaded(self) -> LoadedParts:
        # With the commit, later calls do not look at the hub.
        parts = load_parts(self.source, revision=self._revision)
        self._revision = parts.config.source.revision
        self.prefixes = parts.config.colbert.query_prefix, parts.config.colbert.document_prefix
        self.is_loaded = True
        return parts

    def check(self, name: str | None) -> None:
        """Refuse the name of another model.

        Raises:
            Problem: 404, if it is another one.
        """
        if name not in (None, self.name, self.source):
            raise Problem(404, f"Model {name!r:.200} is not served here. This server has {self.name!r}.")
