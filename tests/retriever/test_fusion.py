"""Reciprocal rank fusion, by hand."""

from __future__ import annotations

from mlx_colbert.retriever.fusion import reciprocal_rank_fusion
from mlx_colbert.types import Hit


def ranking(*doc_ids):
    return [Hit(rank, 100.0 - rank, doc_id) for rank, doc_id in enumerate(doc_ids, start=1)]


def fused(*rankings, weights=None, k=10):
    hits = reciprocal_rank_fusion(rankings, weights or [1] * len(rankings), k)
    return [(hit.rank, hit.doc_id, hit.score) for hit in hits]


def test_documents_of_both_rankings_come_first():
    assert fused(ranking("a", "b", "c"), ranking("c", "d")) == [
        (1, "c", 1 / 63 + 1 / 61),
        (2, "a", 1 / 61),
        (3, "b", 1 / 62),
        (4, "d", 1 / 62),
    ]


def test_weights_multiply_and_k_cuts():
    assert fused(ranking("a"), ranking("b", "a"), weights=[1, 4], k=1) == [(1, "a", 1 / 61 + 4 / 62)]


def test_equal_sums_are_ordered_by_doc_id():
    assert [doc_id for _, doc_id, _ in fused(ranking("z", "a"), ranking("a", "z"))] == ["a", "z"]


def test_nothing_gives_nothing():
    assert fused([], []) == []
