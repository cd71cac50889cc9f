"""The rows of a store in another engine, by the ids of their passages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mlx_colbert.errors import UnknownIdError
from mlx_colbert.index import StoredPassage
from mlx_colbert.stores.rows import Engine, Row, key_of, parts
from mlx_colbert.types import Array

__all__ = ["StoredRows"]

# Passages to read at a time.
_PASSAGES_AT_ONCE = 256


class StoredRows:
    """Reads rows by ids.

    Args:
        path: the location of the store, for messages.
        engine: where the rows are.
    """

    def __init__(self, path: str | Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine

    def stored(self, doc_ids: Sequence[str]) -> dict[str, Row]:
        """The rows of those of these passages that the store has, without vectors."""
        return {row.doc_id: row for row in self._engine.rows(list(map(key_of, doc_ids)))}

    def known(self, doc_ids: Sequence[str]) -> dict[str, Row]:
        """The rows of these passages, without vectors.

        Raises:
            UnknownIdError: if the store does not have one.
        """
        found = self.stored(doc_ids)
        if unknown := [doc_id for doc_id in doc_ids if doc_id not in found]:
            raise UnknownIdError(unknown, where=self._path)
        return found

    def passages(self, doc_ids: Sequence[str]) -> Iterator[StoredPassage]:
        """Those of these passages that the store has. Only a few at a time are in memory."""
        for part in parts(doc_ids, _PASSAGES_AT_ONCE):
            found = self.stored(part)
            yield from (found[doc_id].passage() for doc_id in part if doc_id in found)

    def vectors(self, doc_ids: Sequence[str]) -> list[Array]:
        """The token embeddings of these passages, each (n_tokens, D) float32.

        Raises:
            UnknownIdError: if the store does not have one.
        """
        found = {
            row.doc_id: row.vectors for row in self._engine.rows(list(map(key_of, doc_ids)), vectors=True)
        }
        if unknown := [doc_id for doc_id in dict.fromkeys(doc_ids) if doc_id not in found]:
            raise UnknownIdError(unknown, where=self._path)
        return [_widened(found[doc_id]) for doc_id in doc_ids]


def _widened(vectors: Array | None) -> Array:
    assert vectors is not None
    return vectors.astype(np.float32)
