"""A model that orders texts for a framework. It is loaded at its first use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlx_colbert.checks import check_k, check_text
from mlx_colbert.model.colbert import ColBERT

__all__ = ["RankedText", "Reranker", "model_name"]


class RankedText(NamedTuple):
    """A text of a list, with its score.

    Attributes:
        number: the position of the text in the list that was given, from 0.
        score: its score.
    """

    number: int
    score: float


class Reranker:
    """A model that is loaded at its first use. It can be pickled.

    Attributes:
        name: the folder or the hub id of the model.
    """

    def __init__(self, model: ColBERT | str | Path) -> None:
        """Take a loaded model, or an argument for `ColBERT.load`."""
        self._lock = threading.Lock()
        self._model = None if isinstance(model, str | Path) else model
        self.name = model_name(model)

    def __reduce__(self) -> tuple[Any, ...]:
        return Reranker, (self.name,)

    @property
    def model(self) -> ColBERT:
        """The model.

        Raises:
            CheckpointError: if it cannot be loaded.
        """
        with self._lock:
            if self._model is None:
                self._model = ColBERT.load(self.name)
            return self._model

    def order(self, query: str, texts: Sequence[str], k: int | None) -> list[RankedText]:
        """The k best texts, best first.

        Args:
            query: the query. It must not be blank.
            texts: the texts. There may be none.
            k: at least 1. None: all.

        Raises:
            InputError: if an argument cannot be used.
            CheckpointError: if the model cannot be loaded.
        """
        check_text(query, "the query")
        n_best = None if k is None else check_k(k)
        if not texts:
            return []
        return [RankedText(int(hit.doc_id), hit.score) for hit in self.model.rerank(query, texts, n_best)]


def model_name(model: ColBERT | str | Path) -> str:
    """The folder or the hub id of a model."""
    return str(model) if isinstance(model, str | Path) else model.source
