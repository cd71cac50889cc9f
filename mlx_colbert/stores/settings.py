"""The settings of a store in another engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mlx_colbert.errors import IndexDamagedError, IndexFormatError, IndexNotFoundError, InputError
from mlx_colbert.index.settings import EXACT_TOKENS, IndexSettings
from mlx_colbert.stores.rows import Engine

__all__ = ["SETTINGS", "Settings"]

_FORMAT = 2
# The name of the record.
SETTINGS = "settings"


class Settings:
    """The settings of a store, as its record has them.

    Attributes:
        dim: D.
        model: the model of the token embeddings, if it is recorded.
        indexing: the settings to encode passages.
        exact_tokens: with more token embeddings than this, the engine makes an index of the vectors.
        unfinished: a text by which the program that fills the store knows it again. None: it is complete.
    """

    def __init__(self, checked: IndexSettings, unfinished: str | None) -> None:
        self.unfinished = unfinished
        self.dim = checked.dim
        self.model = checked.model
        self.indexing = checked.indexing
        self.exact_tokens = checked.exact_tokens

    @classmethod
    def check(
        cls,
        dim: int,
        model: Mapping[str, str] | None = None,
        indexing: Mapping[str, str] | None = None,
        exact_tokens: int | None = EXACT_TOKENS,
        unfinished: str | None = None,
    ) -> Settings:
        """The checked settings.

        Raises:
            InputError: if one cannot be used.
        """
        # nbits is of no use here. 8 fits every dim.
        checked = IndexSettings.check(dim, nbits=8, exact_tokens=exact_tokens, model=model, indexing=indexing)
        return cls(checked, unfinished)

    def record(self) -> dict[str, str]:
        """The record of the settings."""
        return {SETTINGS: json.dumps({"format": _FORMAT, **vars(self)})}

    @classmethod
    def read(cls, path: str | Path, engine: Engine) -> Settings:
        """The settings of a store.

        Raises:
            IndexNotFoundError: if there are none.
            IndexFormatError: if a newer or a much older version wrote them.
            IndexDamagedError: if they cannot be read.
        """
        text = engine.records([SETTINGS]).get(SETTINGS)
        if text is None:
            raise IndexNotFoundError(path, "is not a store of mlx-colbert. Give another location.")
        try:
            values = json.loads(text)
            if (stored := values["format"]) > _FORMAT:
                raise IndexFormatError(path, f"format {stored} is too new. Upgrade mlx-colbert.")
            if stored < _FORMAT:
                raise IndexFormatError(path, f"format {stored} is too old. Make the store again.")
            names = ("dim", "model", "indexing", "exact_tokens", "unfinished")
            return cls.check(**{name: values[name] for name in names})
        except (KeyError, TypeError, ValueError, InputError) as error:
            if isinstance(error, IndexFormatError):
                raise
            raise IndexDamagedError(path, "has settings that cannot be read.") from error
