"""The index of a collection: opened with the model of the settings, made, and exchanged for a new one."""

from __future__ import annotations

import shlex
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert.collection.place import Place
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.collection.state import STATE_NAME, State
from mlx_colbert.errors import (
    CollectionNotFoundError,
    IndexNotFoundError,
    IndexStoreError,
    ModelMismatchError,
)
from mlx_colbert.index import Index
from mlx_colbert.retriever.recorded_model import recorded_model
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.types import Source

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["OpenedIndex", "is_made_with"]


def is_made_with(index: Index, model: str) -> bool:
    """Whether an index records this model: a hub id, or the path of a model folder."""
    folder = Path(model)
    recorded = (index.model or {}).get("source")
    return recorded == (str(folder.resolve()) if folder.is_dir() else model)


class OpenedIndex:
    """The model and the index of a collection. At most one index is open.

    Attributes:
        path: the place of the index.
        new_path: the place of an index that is being made to replace it.
    """

    def __init__(self, place: Place, backend: Backend) -> None:
        self.path: Path = place.index_path
        self.new_path: Path = place.path / "index.new"
        self._old_path = place.path / "index.old"
        self._place = place
        self._backend = backend
        self._retriever: Retriever | None = None
        # A search and the look at the files, which run at the same time, open it once.
        self._lock = threading.Lock()

    def is_without_text(self) -> bool:
        """Whether there is no index because the last complete sync found no text."""
        return not self.path.exists() and State.read(self._place.path / STATE_NAME).synced_at is not None

    def close(self) -> None:
        """Close the index."""
        retriever, self._retriever = self._retriever, None
        if retriever is not None:
            retriever.close()

    def retriever(self, path: Path, settings: CollectionSettings, *, may_create: bool) -> Retriever:
        """The model and the index at a path. The model is loaded at its first use.

        Args:
            path: `path` or `new_path`.
            settings: the settings of the collection, which name the model.
            may_create: make the index if there is none. This loads the model.

        Raises:
            CollectionNotFoundError: if there is no index, and it may not be made.
            ModelMismatchError: if it was made with another model than that of the settings.
            IndexStoreError: if it cannot be used.
        """
        with self._lock:
            if self._retriever is not None and self._retriever.store.path != path.absolute():
                self.close()
            if self._retriever is None:
                try:
                    self._retriever = self._opened(path, settings)
                except IndexNotFoundError as error:
                    if not may_create:
                        name = self._place.name
                        if self.is_without_text():
                            reason = "has no files with text yet. When it has some, run"
                        else:
                            reason = "has no index yet. Run"
                        reason = f"{reason} mlx-colbert sync --name {shlex.quote(name)}."
                        raise CollectionNotFoundError(name, reason) from error
                    from mlx_colbert.model.colbert import ColBERT

                    model = ColBERT.load(settings.model, backend=self._backend)
                    self._retriever = Retriever.create(path, model, backend=self._backend)
            return self._retriever

    def sources(self, path: Path, settings: CollectionSettings, *, verify: bool = True) -> dict[str, Source]:
        """The sources of an index by their uris. There are none if there is no index.

        Args:
            path: `path` or `new_path`.
            settings: the settings of the collection.
            verify: as for `Index.sources`.
        """
        try:
            index = self.retriever(path, settings, may_create=False).index
        except CollectionNotFoundError:
            return {}
        return {source.uri: source for source in index.sources(verify=verify)}

    def commit(self, settings: CollectionSettings) -> object:
        """A value that is another one after a change to the index at `path`. None: there is no index."""
        try:
            return self.retriever(self.path, settings, may_create=False).index.commit
        except CollectionNotFoundError:
            return None

    def begin_new(self, settings: CollectionSettings) -> None:
        """Prepare for a new index. What an interrupted call has made with the same model is used."""
        try:
            _ = self.retriever(self.new_path, settings, may_create=False).model
        except CollectionNotFoundError:
            pass
        except IndexStoreError:
            self.close()
            shutil.rmtree(self.new_path)

    def exchange(self) -> None:
        """Put the new index in the place of the old one."""
        self.close()
        if self.new_path.exists():
            if self.path.exists():
                self.path.rename(self._old_path)
            self.new_path.rename(self.path)
        shutil.rmtree(self._old_path, ignore_errors=True)

    def finish_exchange(self) -> None:
        """Finish an exchange that was killed. Call this with the lock of the collection."""
        if self._old_path.exists():
            if self.new_path.exists() and not self.path.exists():
                self.new_path.rename(self.path)
            shutil.rmtree(self._old_path)

    def _opened(self, path: Path, settings: CollectionSettings) -> Retriever:
        store = Index.open(path, backend=self._backend)
        try:
            self._check_model(store, settings)
            # With the revision that the index records. A stranger's index may not choose one.
            model = None if self._place.is_trusted else settings.model
            return Retriever(recorded_model(store, model, self._backend), store)
        except BaseException:
            store.close()
            raise

    def _check_model(self, store: Index, settings: CollectionSettings) -> None:
        """Raise an error if the index records another model than that of the settings."""
        if is_made_with(store, settings.model):
            return
        recorded, place = (store.model or {}).get("source"), self._place
        if not place.is_trusted:
            raise ModelMismatchError(
                store.path,
                f"was made with the model {recorded!r}. You do not trust {place.settings_path}, so "
                f"{settings.model!r} is used. Read that file, then run mlx-colbert trust {place.beside}.",
            )
        raise ModelMismatchError(
            store.path,
            f"was made with the model {recorded!r}, but the settings of collection {place.name} have "
            f"{settings.model!r}. Run mlx-colbert sync --name {shlex.quote(place.name)} --rebuild, or change "
            f"{place.settings_path}.",
        )
