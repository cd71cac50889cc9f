"""The MLX kernels of a search: Metal on a Mac, CUDA or the CPU on Linux."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.kernels.mlx_encoder import asarray, mapped, name
from mlx_colbert.kernels.protocols import CompressedDocuments
from mlx_colbert.mlx_fork import refuse_after_fork
from mlx_colbert.types import Array, TokenEmbeddings

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


# Rows on the device at once: 128 MiB of float32 at D = 128.
maxsim_rows = 262144

# Similarities computed at once: 64 MiB of float32, and another 64 MiB while they are padded.
_MAXSIM_CELLS = 1 << 24
# Lengths of documents are padded to a multiple of this, so that MLX compiles few shapes.
_LENGTH_MULTIPLE = 32
# Most query rows of such a block.
_MAXSIM_QUERY_ROWS = 512


def _length_buckets(lengths: Array) -> list[Array]:
    """The positions of the documents of each length bucket."""
    widths = -(-lengths // _LENGTH_MULTIPLE)
    return [np.flatnonzero(widths == width) for width in np.unique(widths)]


def _bucket_best(similarities: mx.array, starts: Array, lengths: Array) -> mx.array:
    """Largest similarity of each document of one length bucket to every query row: (n, R)."""
    width = int(-(-lengths.max() // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE)
    # Padding repeats the last row of the document, so the maximum does not change.
    index = starts[:, None] + np.minimum(np.arange(width), lengths[:, None] - 1)
    return similarities[mx.array(index.astype(np.uint32))].max(axis=1)


def maxsim(queries: TokenEmbeddings, documents: TokenEmbeddings) -> Array:
    """MaxSim of every query with every document: (n_queries, N) float32.

    MLX has no segment maximum, so the similarities of documents of similar length are padded together. A
    block waits for the device once.

    Source: Khattab & Zaharia 2020, eq. 3.
    """
    rows = mx.array(np.ascontiguousarray(queries.vectors, dtype=np.float32))
    best = np.empty((len(documents), len(queries.vectors)), np.float32)
    offsets = documents.offsets
    step = min(len(queries.vectors), _MAXSIM_QUERY_ROWS)
    n_rows = min(_MAXSIM_CELLS // step, maxsim_rows)
    for part in blocks(offsets, n_rows):
        block = np.ascontiguousarray(documents.vectors[offsets[part.start] : offsets[part.stop]])
        vectors = mx.array(block).astype(mx.float32)
        lengths, starts = documents.lengths[part], offsets[part] - offsets[part.start]
        members = _length_buckets(lengths)
        order = part.start + np.concatenate(members)
        for low in range(0, len(queries.vectors), step):
            similarities = vectors @ rows[low : low + step].T
            parts = [_bucket_best(similarities, starts[chosen], lengths[chosen]) for chosen in members]
            best[order, low : low + step] = np.array(mx.concatenate(parts))
    totals: Array = np.add.reduceat(best, queries.offsets[:-1], axis=1).T
    return np.ascontiguousarray(totals)


def nearest(vectors: Array, centroids: Array, bias: Array) -> Array:
    """The centroid of the largest v·c + bias for each vector: (n,) int64."""
    found = np.empty(len(vectors), np.int64)
    n_rows = max(_MAXSIM_CELLS // len(centroids), 64)
    transposed, added = mx.array(centroids).T, mx.array(bias)
    for start in range(0, len(vectors), n_rows):
        block = mx.array(np.asarray(vectors[start : start + n_rows], np.float32))
        found[start : start + n_rows] = np.array(mx.argmax(mx.addmm(added, block, transposed), axis=1))
    return found


def probe(queries: Array, centroids: mx.array, weights: Array, n_probe: int) -> tuple[mx.array, Array, Array]:
    """The similarities (Q, K), the best centroids of each token, and their similarities times weights."""
    similarities = mx.array(queries) @ centroids.T
    weighted = similarities * mx.array(weights)
    best = mx.argpartition(-weighted, n_probe - 1, axis=1)[:, :n_probe]
    top = mx.take_along_axis(weighted, best, axis=1)
    mx.eval(best, top)
    return similarities, np.array(best).astype(np.int64), np.array(top)


def score_compressed(
    queries: Array,
    similarities: mx.array,
    codebook: Array,
    rows: CompressedDocuments,
    n_candidates: int,
    near: tuple[Array, Array],
) -> Array:
    """MaxSim of one query with n compressed documents: (n,) float32.

    All rows of all documents are scored. On a GPU this takes less time than to choose candidates first.
    """
    del n_candidates, near
    lengths = rows.lengths
    offsets = np.append(0, np.cumsum(lengths))
    words, columns, by_centroid = mx.array(codebook), mx.array(queries).T, similarities.T
    scores = np.empty(len(lengths), np.float32)
    for part in blocks(offsets, maxsim_rows):
        first, last = offsets[[part.start, part.stop]].tolist()
        found = rows.rows(np.arange(first, last))
        products = words[mx.array(found.residuals)].reshape(last - first, -1) @ columns
        products = products * mx.array(found.scales)[:, None]
        products = products + by_centroid[mx.array(found.codes.astype(np.uint32))]
        products = products * mx.array(found.gains)[:, None]
        members, starts = _length_buckets(lengths[part]), offsets[part] - first
        maxima = [_bucket_best(products, starts[chosen], lengths[part][chosen]) for chosen in members]
        scores[part.start + np.concatenate(members)] = np.array(mx.concatenate(maxima).sum(axis=1))
    return scores


refuse_after_fork(globals(), __all__)
