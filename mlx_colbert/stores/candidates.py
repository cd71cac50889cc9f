"""The search of a store in another engine: its candidates, and their exact MaxSim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index import StoredPassage
from mlx_colbert.index.search.params import ResolvedParams
from mlx_colbert.stores.rows import Engine, Row, key_of, parts
from mlx_colbert.stores.selection import Selection
from mlx_colbert.types import Array, Hit

__all__ = ["Candidates"]

# Passages to read at a time: 64 of 300 tokens of 128 components are 5 MB.
_VECTORS_AT_ONCE = 64


class Candidates:
    """Finds passages for a query.

    Args:
        path: the location of the store, for messages.
        engine: where the rows are.
    """

    def __init__(self, path: str | Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine

    def best(self, query: Array, selection: Selection, k: int, params: ResolvedParams) -> list[Hit]:
        """The k passages with the highest MaxSim, by score, then by doc_id.

        Args:
            query: (Q, D) float32.
            selection: the passages to look at.
            k: how many.
            params: how many candidates.
        """
        keys = selection.few_keys(params.n_candidates)
        if keys is None:
            found = [
                doc_id
                for condition in selection.conditions()
                for doc_id in self._engine.nearest(query, params.n_candidates, condition, exact=params.exact)
            ]
            keys = list(map(key_of, found))
        return self._ranked(query, keys, k)

    def _ranked(self, query: Array, keys: Sequence[str], k: int) -> list[Hit]:
        """The best k of some passages, by their exact scores."""
        scored: list[tuple[float, Row]] = []
        for part in parts(keys, _VECTORS_AT_ONCE):
            for row in self._engine.rows(part, vectors=True):
                assert row.vectors is not None
                score = (query @ row.vectors.astype(np.float32).T).max(axis=1).sum()
                if not np.isfinite(score):
                    raise IndexDamagedError(
                        self._path, f"passage {row.doc_id!r} has a vector that is not finite."
                    )
                scored.append((float(score), replace(row, vectors=None)))
            scored = sorted(scored, key=lambda pair: (-pair[0], pair[1].doc_id))[:k]
        return [_hit(rank, score, row.passage()) for rank, (score, row) in enumerate(scored, start=1)]


def _hit(rank: int, score: float, passage: StoredPassage) -> Hit:
    place = passage.source, passage.position
    return Hit(rank, score, passage.doc_id, passage.text, passage.metadata, *place)
