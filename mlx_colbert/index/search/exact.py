"""Exact search: MaxSim of every document of the float16 segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index.storage.segment import ExactSegment, LiveSegment
from mlx_colbert.kernels import SearchOps
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.types import Array, TokenEmbeddings

# Bounds the (query tokens, documents) float32 maxima that a kernel returns before they are summed: 128 MiB.
_MAX_SCORES = 1 << 25
# Where fewer than one document in this many may be found, only those are read.
_FEW = 4


@dataclass(frozen=True, eq=False)
class Candidates:
    """Documents that may be among the best k of one query.

    Attributes:
        scores: (n,) float32.
        segments: (n,) int64, number of the segment of each.
        ordinals: (n,) int64, position of each in its segment.
    """

    scores: Array
    segments: Array
    ordinals: Array

    @classmethod
    def best(cls, parts: Sequence[Candidates], k: int) -> Candidates:
        """The k best of several, and all tied with the last."""
        if not any(len(part.scores) for part in parts):
            return cls(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
        scores = np.concatenate([part.scores for part in parts])
        chosen = _at_least_kth(scores, min(k, len(scores)))
        segments = np.concatenate([part.segments for part in parts])
        ordinals = np.concatenate([part.ordinals for part in parts])
        return cls(scores[chosen], segments[chosen], ordinals[chosen])


def search_exactly(
    ops: SearchOps, queries: TokenEmbeddings, segments: Sequence[LiveSegment[ExactSegment]], *, k: int
) -> Iterator[Candidates]:
    """The candidates of each query: the k best, and all tied with the last.

    Raises:
        IndexDamagedError: if a vector is not finite.
    """
    largest = max((len(part.live) for part in segments), default=1)
    for block in blocks(queries.offsets, max(1, _MAX_SCORES // largest)):
        found: list[list[Candidates]] = [[] for _ in range(block.stop - block.start)]
        for part in segments:
            ordinals = np.flatnonzero(part.live)
            few = len(ordinals) * _FEW < len(part.live)
            embeddings = part.segment.embeddings
            scores = ops.maxsim(queries[block], _taken(embeddings, ordinals) if few else embeddings)
            if not np.isfinite(scores).all():
                raise IndexDamagedError(
                    part.segment.path, "holds a vector that is not finite. Build the index again."
                )
            number = part.segment.record.number
            for query, row in enumerate(scores if few else scores[:, ordinals]):
                chosen = _at_least_kth(row, min(k, part.n_live))
                found[query].append(Candidates(row[chosen], np.full(len(chosen), number), ordinals[chosen]))
        yield from (Candidates.best(parts, k) for parts in found)


def _taken(embeddings: TokenEmbeddings, ordinals: Array) -> TokenEmbeddings:
    """Some documents, copied."""
    chosen = np.zeros(len(embeddings), np.bool_)
    chosen[ordinals] = True
    return TokenEmbeddings(
        embeddings.vectors[np.repeat(chosen, embeddings.lengths)], embeddings.lengths[ordinals]
    )


def _at_least_kth(scores: Array, k: int) -> Array:
    """The positions (n,) of the scores that are not below the k-th best; n > k where there are ties."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= kth)
