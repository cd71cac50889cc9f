"""Queries as RAGatouille's callers give them, and results in the form that they read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_colbert.checks import check_text, check_texts
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.types import Array, Hit, TokenEmbeddings

__all__ = ["encoded_queries", "passage_results", "text_results"]

# The most tokens of a query.
_QUERY_TOKENS = 512


def encoded_queries(model: ColBERT, query: str | Iterable[str]) -> TokenEmbeddings:
    """Token embeddings of a query or of several. Unlike `ColBERT.encode_query`, this reads up to 512 tokens.

    Raises:
        InputError: if a query is blank or not a string, or there is none.
    """
    texts = [check_text(query, "the query")] if isinstance(query, str) else check_texts(query, "query")
    return TokenEmbeddings.pack([_encoded_query(model, text) for text in texts])


def _encoded_query(model: ColBERT, text: str) -> Array:
    most = min(_QUERY_TOKENS, model.config.encoder.max_length)
    n_tokens = len(model.with_lengths(document_length=most).token_ids(text, "document"))
    if n_tokens > model.config.colbert.query_length:
        model = model.with_lengths(query_length=n_tokens)
    return model.encode_query(text)


def passage_results(found: Sequence[Sequence[Hit]], divisors: Array, *, zero_index_ranks: bool) -> list[Any]:
    """The results of a search in an index.

    Args:
        found: the hits of each of Q queries.
        divisors: (Q,) float, what the scores of each query are divided by.
        zero_index_ranks: whether the first rank is 0. Otherwise it is 1.
    """
    results = [
        [
            {
                "content": hit.text,
                "score": hit.score / divisor,
                "rank": hit.rank - bool(zero_index_ranks),
                "document_id": hit.source or hit.doc_id,
                "passage_id": hit.doc_id,
                **_metadata(hit.metadata),
            }
            for hit in hits
        ]
        for hits, divisor in zip(found, divisors.tolist(), strict=True)
    ]
    return _flat(results)


def text_results(
    scores: Array,
    texts: Sequence[str],
    metadata: Sequence[Mapping[str, Any] | None],
    k: int,
    *,
    zero_index_ranks: bool = False,
) -> list[Any]:
    """The k best texts for each query.

    Args:
        scores: (Q, N) float, the scores of Q queries and N texts.
        texts: N texts.
        metadata: N JSON objects, or None for a text without metadata.
        k: the number of results of a query.
        zero_index_ranks: whether the first rank is 0. Otherwise it is 1.
    """
    results = [
        [
            {
                "content": texts[place],
                "score": float(row[place]),
                "rank": rank,
                "result_index": place,
                **_metadata(metadata[place]),
            }
            for rank, place in enumerate(
                np.argsort(-row, kind="stable")[:k].tolist(), start=0 if zero_index_ranks else 1
            )
        ]
        for row in scores
    ]
    return _flat(results)


def _flat(results: list[list[dict[str, Any]]]) -> list[Any]:
    """As in RAGatouille, the results of a single query are one flat list."""
    return results[0] if len(results) == 1 else results


def _metadata(value: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if value is None else {"document_metadata": dict(value)}
