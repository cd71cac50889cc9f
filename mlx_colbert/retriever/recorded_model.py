"""The model that an index records."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_colbert.errors import CheckpointNotFoundError, IndexDamagedError, IndexStoreError, TargetExistsError
from mlx_colbert.index import Index
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME
from mlx_colbert.retriever.settings import IndexingSettings
from mlx_colbert.store import Store

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend
    from mlx_colbert.model.colbert import ColBERT

__all__ = ["OTHERWISE", "begun_index", "model_identity", "recorded_lengths", "recorded_model"]

OTHERWISE = "Add to it (mlx-colbert add, Retriever.add_files), or choose another path."

# Settings of a model that an index records if `ColBERT.load` got them as arguments.
_LENGTHS = ("query_length", "document_length")


def model_identity(model: ColBERT) -> dict[str, str]:
    """The texts that an index records for a model. A folder is absolute, so that it is valid anywhere."""
    folder = Path(model.source)
    identity = {"source": model.source, "fingerprint": model.fingerprint}
    if folder.is_dir():
        identity["source"] = str(folder.resolve())
    elif model.revision is not None:
        identity["revision"] = model.revision
    return identity | {name: str(length) for name, length in model.lengths.items()}


def recorded_lengths(store: Store) -> dict[str, int]:
    """The lengths that `ColBERT.load` got for the model of a store, by their names.

    Raises:
        IndexDamagedError: if they are not valid.
    """
    recorded = store.model or {}
    given = {name: recorded[name] for name in _LENGTHS if name in recorded}
    if not all(text.isdecimal() and len(text) < 10 for text in given.values()):
        problem = f"records impossible lengths of its model: {reprlib.repr(given)}. Build the index again."
        raise IndexDamagedError(store.path, problem)
    return {name: int(text) for name, text in given.items()}


def recorded_model(
    store: Store, model: ColBERT | str | Path | None, backend: Backend
) -> Callable[[], ColBERT]:
    """A function that loads the model of a store, with the lengths that the store records.

    Args:
        store: the store. It records the model.
        model: the loaded model, or an argument for `ColBERT.load`. None for the recorded model.
        backend: the kernels for the model.

    Raises:
        IndexStoreError: if the store records no model, and none is given.
        IndexDamagedError: if the recorded lengths are not valid.
    """
    if not (model is None or isinstance(model, str | Path)):
        loaded = model
        return lambda: loaded
    recorded = store.model or {}
    lengths: dict[str, Any] = recorded_lengths(store)
    if model is not None:
        return partial(_loaded, model, backend=backend, **lengths)
    if "source" not in recorded:
        raise IndexStoreError(
            store.path, "does not record its model. Give the model that made it: model=… or --model."
        )

    def loaded_as_recorded() -> ColBERT:
        source, revision = recorded["source"], recorded.get("revision")
        try:
            return _loaded(source, backend=backend, revision=revision, **lengths)
        except CheckpointNotFoundError as error:
            reason = f"the model of index {store.path} is missing. Give its new path: model=… or --model."
            raise CheckpointNotFoundError(source, reason) from error

    return loaded_as_recorded


def _loaded(source: str | Path, **given: Any) -> ColBERT:
    """The model of `ColBERT.load`. A search by words does not need the modules of models."""
    from mlx_colbert.model.colbert import ColBERT

    return ColBERT.load(source, **given)


def begun_index(path: str | Path, model: ColBERT, settings: Mapping[str, Any], backend: Backend) -> Index:
    """Open the index at a path, which must have the same model and settings.

    Raises:
        TargetExistsError: if it has other settings, or is not an index.
        ModelMismatchError: if it has another model.
    """
    if not (Path(path) / CATALOG_NAME).is_file():
        raise TargetExistsError(path, advice="Choose a path that does not exist.")
    index = Index.open(path, model=model_identity(model), backend=backend)
    try:
        theirs = {**vars(index.info()), **vars(IndexingSettings.of(index))}
        differ = [
            f"{name} {theirs[name]}, not {ours}" for name, ours in settings.items() if theirs[name] != ours
        ]
        if "fingerprint" not in (index.model or {}):
            differ.append("no model")
        if differ:
            raise TargetExistsError(path, advice=f"It was created with {', '.join(differ)}. {OTHERWISE}")
        return index
    except BaseException:
        index.close()
        raise
