"""What an index records of the model that made it, and of how it wants its passages encoded."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, get_args

from mlx_colbert.checks import check_choice, check_whole
from mlx_colbert.errors import CheckpointNotFoundError, IndexDamagedError, IndexStoreError
from mlx_colbert.index import Index
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import OnOverflow

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["IndexingSettings", "load_recorded", "model_identity"]

# Settings of a model that an index records where `ColBERT.load` was given them.
_LENGTHS = ("query_length", "document_length")


@dataclass(frozen=True)
class IndexingSettings:
    """How an index wants its passages encoded; it records what differs from the defaults."""

    # Keep one token embedding of this many, see `mlx_colbert.model.pooling`.
    pool_factor: int = 1
    # What becomes of a passage that is too long for the model, see `ColBERT.encode_document`.
    on_overflow: OnOverflow = "truncate"

    def __post_init__(self) -> None:
        # An integer of numpy becomes one of Python: its text is recorded.
        object.__setattr__(self, "pool_factor", check_whole(self.pool_factor, "pool_factor", at_least=1))
        check_choice(self.on_overflow, "on_overflow", get_args(OnOverflow))

    def recorded(self) -> dict[str, str]:
        """What an index records of them."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: str(value) for name, (value, default) in values.items() if value != default}

    @classmethod
    def of(cls, index: Index) -> Self:
        """The settings that an index records.

        Raises:
            IndexDamagedError: if it records a value that is not understood.
        """
        recorded = index.model or {}
        factor, way = recorded.get("pool_factor", "1"), recorded.get("on_overflow", "truncate")
        try:
            return cls(int(factor), cast(OnOverflow, way))
        except ValueError as error:
            problem = f"says pool_factor {factor!r} and on_overflow {way!r}"
            raise IndexDamagedError(index.path, f"{problem}. Build the index again.") from error


def model_identity(model: ColBERT) -> dict[str, str]:
    """What an index records of a model; a folder is absolute, as the next caller may stand elsewhere."""
    folder = Path(model.source)
    identity = {"source": model.source, "fingerprint": model.fingerprint}
    if folder.is_dir():
        identity["source"] = str(folder.resolve())
    elif model.revision is not None:
        identity["revision"] = model.revision
    return identity | {name: str(length) for name, length in model.lengths.items()}


def load_recorded(path: str | Path, model: ColBERT | str | Path | None, backend: Backend) -> ColBERT:
    """The model that an index was made with, with the lengths that it records.

    Args:
        path: the index folder.
        model: where it is now, as `ColBERT.load` takes it, or itself. None: where the index says.
        backend: runs it.

    Raises:
        IndexStoreError: if there is no usable index, or it names no model.
        CheckpointError: if the model cannot be loaded.
    """
    if not (model is None or isinstance(model, str | Path)):
        return model
    with Index.open(path, backend="numpy") as index:
        recorded = index.model or {}
    given = {name: recorded[name] for name in _LENGTHS if name in recorded}
    if not all(text.isdecimal() and len(text) < 10 for text in given.values()):
        raise IndexDamagedError(path, f"says {reprlib.repr(given)} of its model. Build the index again.")
    lengths: dict[str, Any] = {name: int(text) for name, text in given.items()}
    if model is not None:
        return ColBERT.load(model, backend=backend, **lengths)
    if "source" not in recorded:
        raise IndexStoreError(
            path, "does not record its model. Give the model that made it: model=… or --model."
        )
    try:
        return ColBERT.load(recorded["source"], backend=backend, revision=recorded.get("revision"), **lengths)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            recorded["source"],
            f"the model of index {path} is not there. Give its new place: model=… or --model.",
        ) from error
