"""Reduces the token embeddings of a document: hierarchical clustering, one mean per cluster."""

from __future__ import annotations

import numpy as np

from mlx_colbert.checks import check_whole
from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.kernels.threads import one_blas_thread
from mlx_colbert.types import Array, TokenEmbeddings, is_real, pack_arrays

__all__ = ["pool", "ward_labels"]

# Most rows that are clustered together. Their distances and the rest of the clustering take 350 MB.
_MAX_ROWS = 4096


def pool(embeddings: TokenEmbeddings, pool_factor: int, *, protected_tokens: int = 1) -> TokenEmbeddings:
    """Token embeddings with about 1 / `pool_factor` of the rows: means of similar rows of one text.

    The first `protected_tokens` rows of a text stay as they are. The n rows after them become at most
    max(n // pool_factor, 1) clusters, by Ward linkage on 1 - dot product. There are fewer if merges tie. The
    row of a cluster is the mean of its rows. It is not scaled to unit length. A text that would not get
    shorter keeps its rows.

    Memory and time grow with the square of the rows that are clustered together. So more than 4,096 rows are
    cut into equal parts, and each part is clustered alone. Similar rows of two parts are not joined.

    Source: Clavié, Chaffin & Adams 2024, "Reducing the footprint of multi-vector retrieval with minimal
    performance impact via token pooling"; `pool_embeddings_hierarchical` of PyLate 1.6.0, which gives the
    same rows in the same order.

    Args:
        embeddings: N texts of (n_tokens, D) unit rows. Rows of other lengths are clustered by their dot
            products.
        pool_factor: at least 1; 1 returns `embeddings` itself.
        protected_tokens: at least 0; 1 keeps the row of [CLS].

    Returns:
        N texts, float32: first the protected rows, then the pooled rows in the order of the cluster tree. Of
        two children, the child of the earlier merge comes first. A single row comes after its sibling.

    Raises:
        InputError: if `pool_factor` or `protected_tokens` is out of range, or a dot product is not finite.
        ShapeError: if the rows are not real numbers.

    >>> rows = np.array([[1, 0], [0, 1], [0.8, 0.6], [0, 1], [0.8, 0.6]], np.float32)
    >>> pool(TokenEmbeddings.pack([rows]), 2)[0]
    array([[1. , 0. ],
           [0. , 1. ],
           [0.8, 0.6]], dtype=float32)
    """
    pool_factor = check_whole(pool_factor, "pool_factor", at_least=1)
    protected_tokens = check_whole(protected_tokens, "protected_tokens", at_least=0)
    if not is_real(embeddings.vectors):
        raise ShapeError(f"embeddings are {embeddings.vectors.dtype}, not real numbers.")
    if pool_factor == 1:
        return embeddings
    parts = []
    for position, text in enumerate(embeddings):
        rows = text.astype(np.float32, copy=False)
        inner = rows[protected_tokens:]
        n_clusters = max(len(inner) // pool_factor, 1)
        if n_clusters < len(inner):
            pieces = np.array_split(inner, -(-len(inner) // _MAX_ROWS))
            means = (_pooled(piece, pool_factor, position) for piece in pieces)
            rows = np.concatenate([rows[:protected_tokens], *means])
        parts.append(rows)
    return pack_arrays(parts, dim=embeddings.dim)


def _pooled(rows: Array, pool_factor: int, position: int) -> Array:
    """The means of clusters of similar rows (n, D)."""
    return _means(rows, ward_labels(_distances(rows, position), max(len(rows) // pool_factor, 1)))


def _distances(rows: Array, position: int) -> Array:
    """1 - dot product of every two rows: (n, n) float32, at least 0.

    Rounding, or rows longer than 1, could make a value negative. Ward linkage would then take the root of a
    negative number.
    """
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
        similarities = rows @ rows.T
    if not np.isfinite(similarities).all():
        raise InputError(
            f"text {position} has rows whose dot product is not finite: NaN, infinite or too large values."
        )
    return np.maximum(np.float32(1) - similarities, np.float32(0))


def _means(rows: Array, labels: Array) -> Array:
    """Mean of the rows of each label, in the order of the labels: (max label + 1, D)."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    sums = np.add.reduceat(rows[order], np.cumsum(counts) - counts)
    means: Array = sums / counts[:, None].astype(np.float32)
    return means


def ward_labels(distances: Array, n_clusters: int) -> Array:
    """Cluster of each of n points: Ward linkage, cut into at most `n_clusters` clusters.

    If merges tie at the cut, all of them are made, so there may be fewer clusters. Of equally near clusters,
    the first is merged.

    Source: `linkage(method="ward")` and `fcluster(criterion="maxclust")` of scipy give the same labels.

    Args:
        distances: (n, n), finite and at least 0; only those above the diagonal are read. n is at least 1.
        n_clusters: at least 1.

    Returns:
        (n,) int64, numbers from 0, in the order of the cluster tree.

    >>> points = np.array([0.0, 5.0, 0.1, 5.2])
    >>> ward_labels(np.abs(points[:, None] - points), 2)
    array([0, 1, 0, 1])
    """
    n = len(distances)
    if n_clusters >= n:
        return np.arange(n)
    merges = _chain(distances)
    n_merges = n - n_clusters
    # A merge of the same height as the last needed merge is made too: nothing distinguishes the two.
    while n_merges < len(merges) and merges[n_merges][0] == merges[n_merges - 1][0]:
        n_merges += 1
    return _cut(_tree(merges), n_merges)


def _chain(distances: Array) -> list[tuple[float, int, int]]:
    """The n - 1 merges of Ward linkage by rising height: (height, a point of each side).

    Source: Müllner 2011, "Modern hierarchical, agglomerative clustering algorithms": the nearest-neighbour
    chain, O(n²), and the formula of Lance & Williams. Its terms are in the order of scipy, because the last
    bit decides ties.
    """
    n = len(distances)
    # The matrix is symmetric to the last bit, or the chain would not end. A cluster has the row and the
    # column of one of its points. All other values are infinite.
    near = np.triu(distances.astype(np.float64), 1)
    near += near.T
    np.fill_diagonal(near, np.inf)
    sizes = np.ones(n)
    first = 0
    chain: list[int] = []
    merges: list[tuple[float, int, int]] = []
    while len(merges) < n - 1:
        if not chain:
            while not sizes[first]:
                first += 1
            chain.append(first)
        row = near[chain[-1]]
        nearest = int(row.argmin())
        # The previous link wins a tie, or the chain would not end.
        if len(chain) == 1 or row[chain[-2]] > row[nearest]:
            # By rounding, a merge may be nearer to a link than the next link is. Then the chain starts again
            # here.
            if nearest in chain:
                chain.clear()
            chain.append(nearest)
            continue
        gone, kept = sorted(chain[-2:])
        del chain[-2:]
        height = float(near[gone, kept])
        merges.append((height, gone, kept))
        near[kept] = near[:, kept] = _merged(near, sizes, gone, kept)
        near[kept, kept] = near[:, gone] = np.inf
        sizes[kept] += sizes[gone]
        sizes[gone] = 0.0
    merges.sort(key=lambda merge: merge[0])
    return merges


def _merged(near: Array, sizes: Array, one: int, other: int) -> Array:
    """Distance from every cluster to the union of two: (n,)."""
    # Arrays of shape (), because numpy turns scalars into arrays first. This takes a sixth of the time.
    size_one, size_other, height = sizes[one, ...], sizes[other, ...], near[one, other, ...]
    squares, term = sizes + size_one, sizes + size_other
    share = squares + size_other
    np.reciprocal(share, out=share)
    squares *= share
    squares *= near[one]
    squares *= near[one]
    term *= share
    term *= near[other]
    term *= near[other]
    squares += term
    share *= sizes
    share *= height
    share *= height
    squares -= share
    distances: Array = np.sqrt(squares, out=squares)
    return distances


def _tree(merges: list[tuple[float, int, int]]) -> list[tuple[int, int]]:
    """The two children of each merge, the lower number first: that of a point, or n + that of a merge."""
    n = len(merges) + 1
    parents = list(range(2 * n - 1))

    def root(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    children = []
    for number, (_, one, other) in enumerate(merges):
        low, high = sorted((root(one), root(other)))
        parents[low] = parents[high] = n + number
        children.append((low, high))
    return children


def _cut(children: list[tuple[int, int]], n_merges: int) -> Array:
    """Label of each point when the first `n_merges` merges are made, in scipy's order."""
    n = len(children) + 1
    labels = [-1] * (2 * n - 1)
    n_labels = 0
    stack = [2 * n - 2]
    while stack:
        node = stack.pop()
        if node < n + n_merges:
            labels[node] = n_labels
            n_labels += 1
            continue
        low, high = children[node - n]
        # A point is labelled after its sibling.
        stack += [low, high] if low < n <= high else [high, low]
    for number in reversed(range(n_merges)):
        for child in children[number]:
            labels[child] = labels[n + number]
    return np.array(labels[:n], dtype=np.int64)
