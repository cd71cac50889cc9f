"""Exact search: MaxSim of every passage in the exact segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index.storage.segment import ExactSegment, LiveSegment
from mlx_colbert.kernels import SearchOps
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.types import Array, TokenEmbeddings

# The most float32 maxima (query tokens, passages) that a kernel may make before it sums them: 128 MiB.
_MAX_SCORES = 1 << 25
# If fewer than one passage in this many is selected, only the selected ones are read.
_FEW = 4
# The rounding error of a kernel is less than this part of the query's size: about 2^-20 at D = 128.
_ROUNDING = np.float32(2.0**-18)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Passages that may be among the best k for one query.

    Attributes:
        scores: (n,) float32.
        segments: (n,) int64, the number of each passage's segment.
        ordinals: (n,) int64, the position of each passage in its segment.
    """

    scores: Array
    segments: Array
    ordinals: Array

    @classmethod
    def best(cls, parts: Sequence[Candidates], k: int, query_size: float = 0.0) -> Candidates:
        """The k best candidates, and all that may be tied with the k-th.

        Args:
            parts: candidates for one query.
            k: how many.
            query_size: from `query_sizes`, if the scores are rounded; 0 if they are final.
        """
        if not any(len(part.scores) for part in parts):
            return cls(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
        scores = np.concatenate([part.scores for part in parts])
        chosen = _at_least_kth(scores, min(k, len(scores)), query_size)
        segments = np.concatenate([part.segments for part in parts])
        ordinals = np.concatenate([part.ordinals for part in parts])
        return cls(scores[chosen], segments[chosen], ordinals[chosen])


def search_exactly(
    ops: SearchOps, queries: TokenEmbeddings, segments: Sequence[LiveSegment[ExactSegment]], *, k: int
) -> Iterator[Candidates]:
    """The candidates for each query: the k best, and all that may be tied with the k-th.

    Raises:
        IndexDamagedError: if a vector is not finite.
    """
    largest = max((len(part.live) for part in segments), default=1)
    sizes = query_sizes(queries)
    for block in blocks(queries.offsets, max(1, _MAX_SCORES // largest)):
        found: list[list[Candidates]] = [[] for _ in range(block.stop - block.start)]
        for part in segments:
            ordinals = np.flatnonzero(part.live)
            few = len(ordinals) * _FEW < len(part.live)
            embeddings = part.segment.embeddings
            scores = ops.maxsim(queries[block], _taken(embeddings, ordinals) if few else embeddings)
            if not np.isfinite(scores).all():
                raise IndexDamagedError(
                    part.segment.path, "has a vector that is not finite. Build the index again."
                )
            number = part.segment.record.number
            for query, row in enumerate(scores if few else scores[:, ordinals]):
                chosen = _at_least_kth(row, min(k, part.n_live), sizes[block][query])
                found[query].append(Candidates(row[chosen], np.full(len(chosen), number), ordinals[chosen]))
        for parts, size in zip(found, sizes[block], strict=True):
            yield Candidates.best(parts, k, size)


def _taken(embeddings: TokenEmbeddings, ordinals: Array) -> TokenEmbeddings:
    """A copy of some of the passages."""
    chosen = np.zeros(len(embeddings), np.bool_)
    chosen[ordinals] = True
    return TokenEmbeddings(
        embeddings.vectors[np.repeat(chosen, embeddings.lengths)], embeddings.lengths[ordinals]
    )


def query_sizes(queries: TokenEmbeddings) -> Array:
    """The sum of the vector lengths of each query (n,) float32. No MaxSim with unit vectors is larger."""
    norms = np.linalg.norm(queries.vectors.astype(np.float32), axis=1)
    sizes: Array = np.add.reduceat(norms, queries.offsets[:-1]) if len(queries) else norms
    return sizes


def _at_least_kth(scores: Array, k: int, query_size: float) -> Array:
    """The positions (n,) of the scores that are not clearly below the k-th best. With ties, n > k."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    slack = _ROUNDING * max(query_size, abs(kth)) if query_size else 0
    return np.flatnonzero(scores >= kth - slack)
