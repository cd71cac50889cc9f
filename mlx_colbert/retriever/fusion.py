"""The fusion of several rankings to one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mlx_colbert.types import Hit

__all__ = ["fusion_depth", "reciprocal_rank_fusion"]

# From the paper. Its authors found that the results change little with other values near it.
_RANK_CONSTANT = 60
# The least number of hits to read from each ranking.
_MIN_DEPTH = 50


def fusion_depth(k: int) -> int:
    """The number of hits to read from each ranking for a fusion of k hits."""
    return max(_MIN_DEPTH, 2 * k)


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Hit]], weights: Sequence[float], k: int) -> list[Hit]:
    """The k passages with the largest sum of weight / (60 + rank) over the rankings that they are in.

    Equal sums are ordered by doc_id. The score of a hit is this sum. The scores in the rankings are not used.

    Source: Cormack, Clarke & Buettcher 2009.

    Args:
        rankings: hits, best first, each with its rank.
        weights: one per ranking. A ranking with weight 0 is left out.
        k: the most passages to return.

    >>> first, second = [Hit(1, 9.0, "a"), Hit(2, 8.0, "b")], [Hit(1, 0.7, "b")]
    >>> [(hit.rank, hit.doc_id) for hit in reciprocal_rank_fusion([first, second], [1, 1], 2)]
    [(1, 'b'), (2, 'a')]
    """
    sums: dict[str, float] = {}
    found: dict[str, Hit] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for hit in ranking if weight else ():
            found.setdefault(hit.doc_id, hit)
            sums[hit.doc_id] = sums.get(hit.doc_id, 0.0) + weight / (_RANK_CONSTANT + hit.rank)
    best = sorted(sums, key=lambda doc_id: (-sums[doc_id], doc_id))[:k]
    return [
        dataclasses.replace(found[doc_id], rank=rank, score=sums[doc_id])
        for rank, doc_id in enumerate(best, start=1)
    ]
