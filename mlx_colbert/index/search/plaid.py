"""Search in compressed segments. Each stage looks at fewer passages than the one before, and more closely.

1. probe: similarities of query tokens and centroids (Q, K); for each token the n_probe nearest by direction.
2. estimate: a score for the passages at those centroids, from posting lists only.
3. approximate: MaxSim over the tokens at those centroids only, for the n_approximate best estimates.
4. score: MaxSim over all tokens, for the n_candidates best of those.

On MLX the third stage scores over all tokens, so it does not need the fourth.

Source: PLAID (Santhanam et al. 2022) for the stages; WARP (Scheerer et al. 2025) for the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_colbert.index.search.params import ResolvedParams, SearchParams
from mlx_colbert.index.storage.codec import Codec
from mlx_colbert.index.storage.postings import estimate
from mlx_colbert.index.storage.segment import CompressedSegment, LiveSegment, rows_of
from mlx_colbert.kernels import SearchOps
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.types import Array, CompressedRows, TokenEmbeddings

# The most similarities of query tokens and centroids in memory: 64 MiB of float32.
_PROBE_CELLS = 1 << 24


@dataclass(frozen=True, eq=False)
class PlaidSearch:
    """Searches the segments of one codec.

    Attributes:
        ops: the kernels.
        codec: the codec of all segments.
        centroids: (K, D), the backend's array.
        segments: the segments, with the passages that may be found.
    """

    ops: SearchOps
    codec: Codec
    centroids: Any
    segments: Sequence[LiveSegment[CompressedSegment]]

    def search(self, queries: TokenEmbeddings, k: int, params: SearchParams) -> Iterator[tuple[Array, Array]]:
        """For each query, passages (n,) int64, numbered across all segments, and their scores (n,) float32.

        They are at least the best k, or all if there are fewer.
        """
        rotated = self.codec.rotated(queries.vectors)
        resolved = params.resolved(k)
        n_tokens = max(1, _PROBE_CELLS // self.codec.n_centroids)
        for part in blocks(queries.offsets, n_tokens):
            first, last = queries.offsets[[part.start, part.stop]]
            yield from self._search_block(rotated[first:last], queries.offsets[part] - first, resolved)

    def _search_block(
        self, queries: Array, starts: Array, params: ResolvedParams
    ) -> Iterator[tuple[Array, Array]]:
        """The results for some queries: their vectors (n, D), and the first row of each query."""
        n_probe = min(params.n_probe, self.codec.n_centroids)
        probed = self.ops.probe(queries, self.centroids, self.codec.probe_weights, n_probe)

        def search(rows: slice) -> tuple[Array, Array]:
            similarities, centroids, best = (values[rows] for values in probed)
            return self._search_one(queries[rows], similarities, centroids, best, params)

        yield from self.ops.mapped(search, list(map(slice, starts.tolist(), [*starts[1:], len(queries)])))

    def _search_one(
        self, query: Array, similarities: Any, probed: Array, best: Array, params: ResolvedParams
    ) -> tuple[Array, Array]:
        is_near = np.zeros(self.codec.n_centroids, np.bool_)
        is_near[probed] = True
        near = np.flatnonzero(is_near), best.min(axis=1)
        n_live = sum(part.n_live for part in self.segments)
        passages = None
        if not params.exact and n_live > params.n_approximate:
            passages, estimates = estimate(
                [part.segment.postings for part in self.segments],
                [None if part.n_live == len(part.live) else part.live for part in self.segments],
                probed=probed,
                scores=best,
            )
            passages = passages[_best(estimates, params.n_approximate)]
        if passages is None or len(passages) < params.n_candidates:
            # Too few of the selected passages have a token at these centroids: score all selected ones.
            passages = np.flatnonzero(np.concatenate([part.live for part in self.segments]))
        few = len(passages) <= params.n_approximate and not params.exact
        n_candidates = params.n_candidates if few else len(passages)
        found = _PassageRows.of(self.segments, passages)
        scores = self.ops.score_compressed(
            query, similarities, self.codec.codebook, found, n_candidates, near
        )
        return passages, scores


@dataclass(frozen=True, eq=False)
class _PassageRows:
    """The rows of passages from several segments, one passage after the other.

    Attributes:
        lengths: (n,) int64, the number of rows of each passage.
        parts: the segments, each with positions (m,) of its rows.
        ends: the end of the rows of each part.
    """

    lengths: Array
    parts: list[tuple[CompressedSegment, Array]]
    ends: Array

    @classmethod
    def of(cls, segments: Sequence[LiveSegment[CompressedSegment]], passages: Array) -> _PassageRows:
        """The rows of passages (n,), which are ascending numbers across all segments."""
        lengths, parts = [], []
        base = 0
        for part in segments:
            first, last = np.searchsorted(passages, (base, base + len(part.live)))
            if first < last:
                ordinals = passages[first:last] - base
                lengths.append(part.segment.lengths[ordinals])
                parts.append((part.segment, rows_of(part.segment, ordinals)))
            base += len(part.live)
        ends = np.cumsum([len(rows) for _, rows in parts])
        return cls(np.concatenate(lengths), parts, ends)

    def codes(self) -> Array:
        """The codes (T,) of all rows."""
        return np.concatenate([segment.codes(rows) for segment, rows in self.parts])

    def rows(self, positions: Array) -> CompressedRows:
        """The rows at some positions (m,), ascending."""
        found: list[CompressedRows] = []
        for (segment, rows), end in zip(self.parts, self.ends, strict=True):
            first, last = np.searchsorted(positions, (end - len(rows), end))
            if first < last:
                found.append(segment.rows(rows[positions[first:last] - (end - len(rows))]))
        if len(found) == 1:
            return found[0]
        return CompressedRows(
            np.concatenate([part.codes for part in found]),
            np.concatenate([part.residuals for part in found]),
            np.concatenate([part.scales for part in found]),
            np.concatenate([part.gains for part in found]),
        )


def _best(estimates: Array, n: int) -> Array:
    """The positions of the n largest, ascending. Of equal values the first ones are taken."""
    if len(estimates) <= n:
        return np.arange(len(estimates))
    bound = np.partition(estimates, len(estimates) - n)[len(estimates) - n]
    above, equal = np.flatnonzero(estimates > bound), np.flatnonzero(estimates == bound)
    return np.sort(np.concatenate([above, equal[: n - len(above)]]))
