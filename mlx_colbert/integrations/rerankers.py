"""A ranker of the package rerankers that computes with this package.

Importing this module registers it: `Reranker(model, model_type="mlx-colbert")` makes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_colbert.errors import InputError, MissingExtraError
from mlx_colbert.model.colbert import ColBERT

try:
    from rerankers.documents import Document
    from rerankers.models import AVAILABLE_RANKERS
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
except ModuleNotFoundError as error:
    raise MissingExtraError("rerankers", "rerankers") from error

__all__ = ["ColBERTRanker"]


class ColBERTRanker(BaseRanker):
    """Ranks documents by MaxSim. The scores are those of `ColBERT.rerank`.

    Attributes:
        model: the model.

    >>> ranker = ColBERTRanker("tests/data/checkpoints/pylate-bert")
    >>> results = ranker.rank("how to make tea", ["Tea is steeped.", "Snow is white."])
    >>> len(results.results), results.has_scores
    (2, True)
    """

    def __init__(self, model_name_or_path: str | Path | ColBERT, verbose: int = 1, **options: Any) -> None:
        """Load a model.

        Args:
            model_name_or_path: a loaded model, or an argument for `ColBERT.load`.
            verbose: has no effect.
            options: more arguments of `ColBERT.load`.

        Raises:
            CheckpointError: if the model cannot be loaded.
        """
        if isinstance(model_name_or_path, ColBERT):
            self.model = model_name_or_path
        else:
            self.model = ColBERT.load(model_name_or_path, **options)

    def score(self, query: str, doc: str) -> float:
        """MaxSim of a query and a document."""
        return self.model.rerank(query, [doc])[0].score

    def rank(
        self,
        query: str,
        docs: str | Document | Sequence[str | Document],
        doc_ids: Sequence[str | int] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """The documents in the order of their scores, best first.

        Args:
            query: the query.
            docs: N texts, or documents of rerankers.
            doc_ids: N ids. None: those of the documents, or else their positions.
            metadata: N dicts. None: those of the documents.

        Raises:
            InputError: if a document is not a text, or there are not as many ids or metadata as documents.
        """
        listed = [docs] if isinstance(docs, str | Document) else list(docs)
        for name, values in (("doc_ids", doc_ids), ("metadata", metadata)):
            if values is not None and len(values) != len(listed):
                raise InputError(f"{len(listed)} docs, but {len(values)} {name}. Give one per document.")
        documents = []
        for place, item in enumerate(listed):
            known = item if isinstance(item, Document) else Document(item)
            doc_id = place if known.doc_id is None else known.doc_id
            documents.append(
                Document(
                    known.text,
                    doc_id if doc_ids is None else doc_ids[place],
                    known.metadata if metadata is None else metadata[place],
                )
            )
        # Positions, because documents may have the same id.
        hits = self.model.rerank(query, [document.text for document in documents])
        results = [Result(documents[int(hit.doc_id)], hit.score, hit.rank) for hit in hits]
        return RankedResults(results, query, has_scores=True)


AVAILABLE_RANKERS["mlx-colbert"] = ColBERTRanker
