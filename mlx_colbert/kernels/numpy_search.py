"""The numpy kernels of a search, in float32. The tests compare the kernels of MLX with them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.kernels.half import widen
from mlx_colbert.kernels.numpy_encoder import asarray, name
from mlx_colbert.kernels.protocols import CompressedDocuments
from mlx_colbert.kernels.threads import mapped, one_blas_thread
from mlx_colbert.types import Array, CompressedRows, TokenEmbeddings

__all__ = [
    "asarray",
    "mapped",
    "maxsim",
    "maxsim_rows",
    "name",
    "nearest",
    "probe",
    "score_compressed",
]


# Enough rows for full speed of BLAS.
maxsim_rows = 8192

# Most components of such rows: 2 MiB of float32, so that they stay near the core.
_MAXSIM_COMPONENTS = 1 << 19
# Similarities computed at once: 4 MiB of float32, so that they are still in a cache when the maximum is
# taken.
_MAXSIM_CELLS = 1 << 20
# Most query rows of such a block.
_MAXSIM_QUERY_ROWS = 256
# With at most so many query rows, they are the columns of a product: OpenBLAS is up to twice as fast.
_FEW_QUERY_ROWS = 32
# Similarities of a query token in a block. The search for the best centroids reads the maximum of a block
# first.
_PROBE_BLOCK = 64
# Compressed rows decoded at a time: 256 KiB at D = 128, so that they are in the L2 cache when they are
# multiplied.
_DECODED_ROWS = 512
# Rows whose similarities with a query are in memory at once. With 32 query tokens they stay in a cache.
_SCORED_ROWS = 16384


def maxsim(queries: TokenEmbeddings, documents: TokenEmbeddings) -> Array:
    """MaxSim of every query with every document: (n_queries, N) float32.

    Source: Khattab & Zaharia 2020, eq. 3.
    """
    rows = np.ascontiguousarray(queries.vectors, dtype=np.float32)
    offsets = documents.offsets
    # The similarities of a document are computed at once, so a document of a million rows gets fewer query
    # rows.
    step = min(len(rows), _MAXSIM_QUERY_ROWS, max(1, 16 * _MAXSIM_CELLS // int(documents.lengths.max())))
    n_rows = min(_MAXSIM_CELLS // step, maxsim_rows, max(1, _MAXSIM_COMPONENTS // documents.dim))
    best = np.empty((len(rows), len(documents)), np.float32)
    longest = min(len(documents.vectors), max(n_rows, int(documents.lengths.max())))
    half = documents.vectors.dtype == np.float16
    buffers = _Buffers(similarities=(step * longest,), wide=(longest if half else 0, documents.dim))

    def score(part: slice) -> None:
        block = documents.vectors[offsets[part.start] : offsets[part.stop]]
        block = widen(block, buffers["wide"]) if half else np.asarray(block, dtype=np.float32)
        starts = offsets[part] - offsets[part.start]
        for low in range(0, len(rows), step):
            tokens = rows[low : low + step]
            products = buffers["similarities"][: len(tokens) * len(block)]
            if len(tokens) <= _FEW_QUERY_ROWS:
                products = products.reshape(len(block), len(tokens)).T
            else:
                products = products.reshape(len(tokens), len(block))
            np.matmul(tokens, block.T, out=products)
            np.maximum.reduceat(products, starts, axis=1, out=best[low : low + step, part])

    for _ in mapped(score, list(blocks(offsets, n_rows))):
        pass
    scores: Array = np.add.reduceat(best, queries.offsets[:-1], axis=0)
    return scores


class _Buffers(threading.local):
    """Arrays of float32 that a thread makes once and uses for every block.

    New memory for each block would cost as much time as the work on it.
    """

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self._arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]


def nearest(vectors: Array, centroids: Array, bias: Array) -> Array:
    """The centroid of the largest v·c + bias for each vector: (n,) int64."""
    found = np.empty(len(vectors), np.int64)
    n_rows = min(max(_MAXSIM_CELLS // len(centroids), 64), max(len(vectors), 1))
    # The bias is one more component. To add it afterwards would take another pass over all products.
    columns = np.vstack([centroids.T, bias])
    buffers = _Buffers(block=(n_rows, len(columns)), products=(n_rows, len(centroids)))

    def compare(start: int) -> None:
        part = buffers["block"][: len(vectors) - start]
        part[:, :-1] = vectors[start : start + n_rows]
        part[:, -1] = 1
        products = np.matmul(part, columns, out=buffers["products"][: len(part)])
        products.argmax(axis=1, out=found[start : start + n_rows])

    for _ in mapped(compare, range(0, len(vectors), n_rows)):
        pass
    return found


def probe(queries: Array, centroids: Array, weights: Array, n_probe: int) -> tuple[Array, Array, Array]:
    """The similarities (Q, K), the best centroids of each token, and their similarities times weights."""
    with one_blas_thread():
        similarities = queries @ centroids.T
    weighted = similarities * weights
    best = np.empty((len(queries), n_probe), np.int64)
    n_blocks = len(centroids) // _PROBE_BLOCK
    if n_blocks < n_probe:
        first = len(centroids) - n_probe
        best[:] = np.argpartition(weighted, first, axis=1)[:, first:] if first else np.arange(n_probe)
        return similarities, best, np.take_along_axis(weighted, best, axis=1)
    # The n_probe largest values are at least as large as the n_probe-th largest maximum of a block. Few other
    # values are as large. So one pass over all values replaces a partition.
    maxima = weighted[:, : n_blocks * _PROBE_BLOCK].reshape(len(queries), n_blocks, -1).max(axis=2)
    bounds = np.partition(maxima, n_blocks - n_probe, axis=1)[:, n_blocks - n_probe]
    for token, row in enumerate(weighted):
        found = np.flatnonzero(row >= bounds[token])
        best[token] = found[np.argpartition(-row[found], n_probe - 1)[:n_probe]]
    return similarities, best, np.take_along_axis(weighted, best, axis=1)


def score_compressed(
    queries: Array,
    similarities: Array,
    codebook: Array,
    rows: CompressedDocuments,
    n_candidates: int,
    near: tuple[Array, Array],
) -> Array:
    """MaxSim of one query with the best of n compressed documents: (n,) float32, -inf for the others."""
    lengths = rows.lengths
    by_centroid = np.ascontiguousarray(similarities.T)
    if n_candidates >= len(lengths):
        positions = np.arange(int(lengths.sum()))
        return _scores(queries, by_centroid, codebook, rows, positions, lengths, np.float32(-np.inf))
    centroids, floors = near
    is_near = np.zeros(len(by_centroid), np.bool_)
    is_near[centroids] = True
    positions = np.flatnonzero(is_near[rows.codes()])
    n_near = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[positions], minlength=len(lengths))
    first = np.full(len(lengths), floors.sum(), np.float32)
    first[n_near > 0] = _scores(queries, by_centroid, codebook, rows, positions, n_near[n_near > 0], floors)
    # A stable sort, so that the first of equal documents are chosen.
    chosen = np.argsort(-first, kind="stable")[:n_candidates]
    candidates = np.zeros(len(lengths), np.bool_)
    candidates[chosen] = True
    positions = np.flatnonzero(np.repeat(candidates, lengths))
    scores = np.full(len(lengths), -np.inf, np.float32)
    scores[candidates] = _scores(
        queries, by_centroid, codebook, rows, positions, lengths[candidates], np.float32(-np.inf)
    )
    return scores


def _scores(
    queries: Array,
    similarities: Array,
    codebook: Array,
    rows: CompressedDocuments,
    positions: Array,
    lengths: Array,
    floors: Any,
) -> Array:
    """MaxSim (n,) float32 of documents, from some of their rows only.

    Args:
        queries: (Q, D).
        similarities: (K, Q).
        codebook: (256, components per byte) float32.
        rows: all documents.
        positions: the rows to use, ascending.
        lengths: (n,) the number of these rows in each document, >= 1.
        floors: (Q,) or one number, the least similarity of each query token.
    """
    offsets = np.append(0, np.cumsum(lengths))
    scores = np.empty(len(lengths), np.float32)

    def score(part: slice) -> None:
        found = rows.rows(positions[offsets[part.start] : offsets[part.stop]])
        maxima = _row_maxima(queries, similarities, codebook, found, lengths[part])
        scores[part] = np.maximum(maxima, floors, out=maxima).sum(axis=1)

    for _ in mapped(score, list(blocks(offsets, _SCORED_ROWS))):
        pass
    return scores


def _row_maxima(
    queries: Array, similarities: Array, codebook: Array, rows: CompressedRows, lengths: Array
) -> Array:
    """The largest similarity of the rows of each document with each query token (Q, D): (n, Q) float32.

    `similarities` have the shape (K, Q).
    """
    # One item for each byte: numpy takes whole items several times as fast as their components.
    words = codebook.view(f"V{codebook.itemsize * codebook.shape[1]}").ravel()
    columns = np.ascontiguousarray(queries.T)
    products = np.empty((len(rows.codes), len(queries)), np.float32)
    buffer = np.empty((min(_DECODED_ROWS, len(rows.codes)), rows.residuals.shape[1]), words.dtype)
    for start in range(0, len(rows.codes), _DECODED_ROWS):
        residuals = rows.residuals[start : start + _DECODED_ROWS]
        # mode="clip" skips the range check, so numpy writes into the buffer directly. A byte is always in
        # range.
        decoded = words.take(residuals, out=buffer[: len(residuals)], mode="clip").view(np.float32)
        np.matmul(decoded, columns, out=products[start : start + _DECODED_ROWS])
    products *= rows.scales[:, None]
    products += similarities.take(rows.codes, axis=0)
    products *= rows.gains[:, None]
    maxima: Array = np.maximum.reduceat(products, np.cumsum(lengths) - lengths, axis=0)
    return maxima
