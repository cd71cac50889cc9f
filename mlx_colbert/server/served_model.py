"""The model of rerank and embeddings. Requests name it, and cannot choose another one."""

from __future__ import annotations

import threading
from pathlib import Path

from mlx_colbert.errors import ColBERTError
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.server.problems import Problem

__all__ = ["ServedModel"]


class ServedModel:
    """A model that is loaded when it is needed.

    Args:
        source: a folder or hub id.

    Attributes:
        name: what requests call it: the hub id, or the name of the folder.
        is_loaded: whether it was loaded once.
        failure: why it could not be loaded. None: it was not tried, or it could.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.name = Path(source).name if Path(source).is_dir() else source
        self.is_loaded = False
        self.failure: str | None = None
        self._lock = threading.Lock()
        self._revision: str | None = None

    def load(self) -> ColBERT:
        """The model. An engine keeps its parts, so only the first call takes long.

        Raises:
            CheckpointError: if it cannot be loaded.
        """
        # The lock is for the first call: each of many would look at the hub.
        with self._lock:
            if not self.is_loaded:
                try:
                    # With the commit, later calls do not look at the hub.
                    self._revision = ColBERT.load(self._source).revision
                except ColBERTError as error:
                    self.failure = str(error)
                    raise
                self.is_loaded, self.failure = True, None
        return ColBERT.load(self._source, revision=self._revision)

    def check(self, name: str | None) -> None:
        """Refuse the name of another model.

        Raises:
            Problem: 404, if it is another one.
        """
        if name not in (None, self.name, self._source):
            raise Problem(404, f"Model {name!r:.200} is not served here. This server has {self.name!r}.")
