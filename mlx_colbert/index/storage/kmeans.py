"""K-means in two levels, and a search for the nearest centroid in two steps.

A brute-force search compares each vector with all K centroids, and K grows with the collection. Here a vector
is compared with about √K coarse centres, and then with the centroids around the nearest centre.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mlx_colbert.kernels import SearchOps
from mlx_colbert.kernels.threads import one_blas_thread
from mlx_colbert.progress import Part
from mlx_colbert.types import Array

# With fewer centroids than this, one comparison with all of them is as fast as two steps.
_BRUTE_FORCE = 1024
# The number of centroids to compare a vector with in the second step.
_NEIGHBOURS = 768
_ROUNDS = 4
# Vectors to assign at a time: 32 MiB of float32 at D = 128. Enough for a product per coarse centre.
_BLOCK_ROWS = 65536
# Training vectors per coarse centre in the first level.
_COARSE_POINTS = 128

# Called with the number of vectors that were assigned since the last call.
_Advance: TypeAlias = Callable[[int], object]


def _ignore(amount: float) -> None:
    """Report nothing."""


def train_centroids(
    ops: SearchOps, sample: Array, n_centroids: int, *, seed: int, told: Part = _ignore
) -> Array:
    """The centroids (K, D) float32 of a sample, K = min(n_centroids, S).

    This trains coarse clusters first, then runs k-means in each of them, then one round over all vectors. The
    same sample and seed give the same centroids.

    Source: Lloyd 1982; two levels as in Nistér & Stewénius 2006.

    Args:
        ops: the kernels.
        sample: (S, D) float, S >= 1, in any order.
        n_centroids: K, 1 or more.
        seed: the seed for the choice of starting points.
        told: called after each round over the vectors, in this thread.
    """
    rng = np.random.default_rng(seed)
    if n_centroids <= _BRUTE_FORCE or n_centroids >= len(sample):
        advance = _counted(told, _ROUNDS * len(sample))
        return _lloyd(ops, sample, min(n_centroids, len(sample)), rng, advance)
    n_coarse = round(n_centroids**0.5)
    chosen = np.sort(rng.choice(len(sample), min(len(sample), n_coarse * _COARSE_POINTS), replace=False))
    # All vectors once for the coarse centres, in each round within their groups, and once at the end.
    advance = _counted(told, _ROUNDS * len(chosen) + (1 + _ROUNDS + 1) * len(sample))
    coarse = _lloyd(ops, sample[chosen], n_coarse, rng, advance)
    members = _groups(nearest_centroid(ops, sample, coarse), n_coarse)
    advance(len(sample))
    shares = _shares([len(group) for group in members], n_centroids)
    # Chosen before the groups are trained in parallel, so that only the seed decides.
    starts = [_start(len(group), size, rng) for group, size in zip(members, shares, strict=True)]

    def trained(number: int) -> Array:
        return _rounds(ops, sample[members[number]], starts[number])

    numbers = [number for number, size in enumerate(shares) if size]
    parts = []
    for number, part in zip(numbers, ops.mapped(trained, numbers), strict=True):
        parts.append(part)
        advance(_ROUNDS * len(members[number]))
    centroids = np.concatenate(parts)
    return _means(sample, Assigner.build(ops, centroids).assign(ops, sample, advance), centroids)


def _counted(told: Part, total: int) -> _Advance:
    done = 0

    def advance(n_vectors: int) -> None:
        nonlocal done
        done += n_vectors
        told(done / total)

    return advance


@dataclass(frozen=True, eq=False)
class Assigner:
    """Finds the nearest centroid of a vector. In rare cases it finds another near one.

    Attributes:
        centroids: (K, D) float32.
        coarse: (G, D) float32, the coarse centres. G = 0 if vectors are compared with every centroid.
        neighbours: G arrays, the numbers of the centroids nearest to each coarse centre, ascending.
    """

    centroids: Array
    coarse: Array
    neighbours: list[Array]

    @classmethod
    @one_blas_thread()
    def build(cls, ops: SearchOps, centroids: Array) -> Assigner:
        """The assigner for centroids (K, D) float32."""
        if len(centroids) <= _BRUTE_FORCE:
            return cls(centroids, centroids[:0], [])
        coarse = _lloyd(ops, centroids, round(len(centroids) ** 0.5), np.random.default_rng(0))
        distances = (coarse * coarse).sum(axis=1)[:, None] - 2 * coarse @ centroids.T
        distances += (centroids * centroids).sum(axis=1)
        nearest = np.argpartition(distances, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        return cls(centroids, coarse, [np.sort(row) for row in nearest])

    def assign(self, ops: SearchOps, vectors: Array, advance: _Advance = _ignore) -> Array:
        """The number (n,) int64 of the nearest centroid of each vector (n, D)."""
        if not len(self.coarse):
            return nearest_centroid(ops, vectors, self.centroids)
        codes = np.empty(len(vectors), np.int64)
        for start in range(0, len(vectors), _BLOCK_ROWS):
            block = np.asarray(vectors[start : start + _BLOCK_ROWS], np.float32)
            codes[start : start + len(block)] = self._assign_block(ops, block)
            advance(len(block))
        return codes

    def _assign_block(self, ops: SearchOps, vectors: Array) -> Array:
        codes = np.empty(len(vectors), np.int64)
        members = _groups(nearest_centroid(ops, vectors, self.coarse), len(self.coarse))

        def assign(cell: int) -> None:
            rows, near = members[cell], self.neighbours[cell]
            codes[rows] = near[nearest_centroid(ops, vectors[rows], self.centroids[near])]

        for _ in ops.mapped(assign, [cell for cell, rows in enumerate(members) if len(rows)]):
            pass
        return codes


def nearest_centroid(ops: SearchOps, vectors: Array, centroids: Array) -> Array:
    """The number (n,) int64 of the centroid (K, D) with the least distance to each vector (n, D)."""
    return ops.nearest(vectors, centroids, -0.5 * (centroids * centroids).sum(axis=1))


def _lloyd(
    ops: SearchOps, points: Array, n_centroids: int, rng: np.random.Generator, advance: _Advance = _ignore
) -> Array:
    return _rounds(ops, points, _start(len(points), n_centroids, rng), advance)


def _start(n_points: int, n_centroids: int, rng: np.random.Generator) -> Array:
    """The numbers of random points to start from, ascending."""
    return np.sort(rng.choice(n_points, n_centroids, replace=False))


def _rounds(ops: SearchOps, points: Array, start: Array, advance: _Advance = _ignore) -> Array:
    """The centroids after some rounds of k-means that start at these points."""
    centroids = points[start].astype(np.float32)
    for _ in range(_ROUNDS if len(start) < len(points) else 0):
        centroids = _means(points, nearest_centroid(ops, points, centroids), centroids)
        advance(len(points))
    return centroids


def _means(points: Array, codes: Array, centroids: Array) -> Array:
    """The mean of the points of each code. A centroid without points does not change."""
    means = centroids.copy()
    members = [(code, rows) for code, rows in enumerate(_groups(codes, len(centroids))) if len(rows)]
    for code, rows in members:
        means[code] = points[rows].mean(axis=0, dtype=np.float32)
    return means


def _groups(codes: Array, n_groups: int) -> list[Array]:
    """The positions of each code 0 … n_groups - 1, ascending."""
    small = codes.astype(np.uint16) if n_groups <= 65536 else codes
    order = np.argsort(small, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes, minlength=n_groups))[:-1])


def _shares(sizes: list[int], n_centroids: int) -> list[int]:
    """The number of centroids for each group: in proportion to its size, at most its number of points."""
    exact = np.array(sizes) * (n_centroids / sum(sizes))
    shares = np.minimum(np.floor(exact).astype(np.int64), sizes)
    left = n_centroids - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:left]] += 1
    return [int(share) for share in np.minimum(shares, sizes)]
