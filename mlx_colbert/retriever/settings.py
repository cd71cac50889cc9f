"""The settings to encode the passages of an index."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self, cast, get_args

from mlx_colbert.checks import check_choice, check_whole
from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.store import Store
from mlx_colbert.types import OnOverflow

__all__ = ["IndexingSettings"]


@dataclass(frozen=True)
class IndexingSettings:
    """The settings to encode the passages of an index. An index records those that are not the default."""

    # Pool this many token embeddings to one (`mlx_colbert.model.pooling`).
    pool_factor: int = 1
    # What to do with a passage that is too long for the model (`ColBERT.encode_document`).
    on_overflow: OnOverflow = "truncate"

    def __post_init__(self) -> None:
        # A numpy integer becomes a Python integer, because its text is recorded.
        object.__setattr__(self, "pool_factor", check_whole(self.pool_factor, "pool_factor", at_least=1))
        check_choice(self.on_overflow, "on_overflow", get_args(OnOverflow))

    def recorded(self) -> dict[str, str]:
        """The texts that an index records for them."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: str(value) for name, (value, default) in values.items() if value != default}

    @classmethod
    def of(cls, store: Store) -> Self:
        """The settings that an index records.

        Raises:
            IndexDamagedError: if a recorded value is not valid.
        """
        recorded = store.indexing
        factor, way = recorded.get("pool_factor", "1"), recorded.get("on_overflow", "truncate")
        try:
            return cls(int(factor), cast(OnOverflow, way))
        except ValueError as error:
            problem = f"records an invalid setting: pool_factor {factor!r}, on_overflow {way!r}"
            raise IndexDamagedError(store.path, f"{problem}. Build the index again.") from error
