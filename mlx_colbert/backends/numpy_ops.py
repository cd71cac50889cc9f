"""The numpy kernels: float32, and the oracle that the MLX kernels are tested against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from mlx_colbert.backends import CodedDocuments, Params
from mlx_colbert.config import Activation
from mlx_colbert.types import Array, CodedRows, TokenEmbeddings

__all__ = [
    "activate",
    "asarray",
    "attention",
    "batch_tokens",
    "default_dtype",
    "device",
    "embedding",
    "layer_norm",
    "length_multiple",
    "linear",
    "load_params",
    "maxsim",
    "maxsim_rows",
    "name",
    "nearest",
    "normalize",
    "probe",
    "rope",
    "score_coded",
    "to_numpy",
]

name: Literal["numpy"] = "numpy"
length_multiple = 1
# The hidden states of a MiniLM batch of this size stay in a 32 MB last-level cache.
batch_tokens = 2048
# Wide enough for BLAS to be at full speed, and 4 MiB at D = 128, which a last-level cache holds.
maxsim_rows = 8192

# Elements of a block of elementwise work: 64 KiB of float32, so that its temporaries stay in the L2 cache.
_BLOCK = 16384

# erf(z) = z P(z^2) / Q(z^2) for |z| <= 3.92, a weighted least-squares fit against scipy.special.erf;
# meeting 1 at the end; beyond that erf is 1 in float32. Largest error of the resulting gelu: 1.2e-6.
_ERF_RANGE = 3.92
_ERF_P = (1.12837877, 0.206706924, 0.0514753241, 0.00399696863, 1.49465657e-4, -1.99359216e-6, 1.98615191e-8)
_ERF_Q = (1.0, 0.516517929, 0.117809068, 0.0149390827, 0.00102964098)
# The same with gelu's z = x / sqrt(2) and its factor 1/2 folded in.
_GELU_P = tuple(np.float32(0.5 * p / np.sqrt(2.0) ** (2 * k + 1)) for k, p in enumerate(_ERF_P))
_GELU_Q = tuple(np.float32(q / 2.0**k) for k, q in enumerate(_ERF_Q))
_GELU_RANGE = np.float32(_ERF_RANGE * np.sqrt(2.0))

# Similarities computed at once: 4 MiB of float32, so that the maximum finds them in a cache.
_MAXSIM_CELLS = 1 << 20
# Query rows of such a block at most.
_MAXSIM_QUERY_ROWS = 256
# Similarities of a query token and centroids of which the largest is looked at first.
_PROBE_BLOCK = 64
# Coded rows decoded at a time: 256 KiB at D = 128, which the L2 cache holds until they are multiplied.
_DECODED_ROWS = 512
# Rows whose similarities with a query are held at once: those with 32 tokens stay in a cache.
_SCORED_ROWS = 16384
# Moves the exponent of float16 (bias 15) to that of float32 (bias 127).
_REBIAS = np.float32(2.0**112)
# Sign, exponent and fraction of a float16 that was sign-extended to 32 bits and shifted left by 13.
_HALF_BITS = np.int32(0x8FFFE000 - (1 << 32))


def device() -> str:
    """The device's name, for people."""
    return "CPU (numpy)"


def default_dtype(stored: str) -> str:
    """float32, always."""
    return "float32"


def load_params(tensors: Mapping[str, Array], dtype: str) -> dict[str, Any]:
    """float32 arrays; `dtype` is ignored because numpy's half precision is emulated and slow."""
    return {key: np.ascontiguousarray(value, dtype=np.float32) for key, value in tensors.items()}


def asarray(values: Array) -> Array:
    """The array itself."""
    return values


def to_numpy(values: Array) -> Array:
    """The array itself."""
    return values


def embedding(params: Params, name: str, ids: Array, width: int) -> Array:
    """Rows `ids` (B, L) of a table with `width` columns: (B, L, H)."""
    rows: Array = params[f"{name}.weight"][ids]
    return rows


def linear(params: Params, name: str, x: Array) -> Array:
    """`x` (..., I) times W^T (I, O), plus bias: (..., O)."""
    weight = params[f"{name}.weight"]
    # A flat product runs as one sgemm; numpy loops over the leading axes of a stack.
    out = x.reshape(-1, x.shape[-1]) @ weight.T
    bias = params.get(f"{name}.bias")
    if bias is not None:
        out += bias
    rows: Array = out.reshape(*x.shape[:-1], weight.shape[0])
    return rows


def layer_norm(params: Params, name: str, x: Array, eps: float) -> Array:
    """Rows of `x` (..., H) normalised to mean 0 and variance 1, then scaled and shifted."""
    out: Array = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("...h,...h->...", out, out)[..., None] / np.float32(x.shape[-1])
    out *= np.float32(1.0) / np.sqrt(variance + np.float32(eps))
    out *= params[f"{name}.weight"]
    bias = params.get(f"{name}.bias")
    if bias is not None:
        out += bias
    return out


def _horner(coefficients: tuple[np.float32, ...], x: Array, out: Array) -> Array:
    """The polynomial sum_k c_k x^k, written into `out`."""
    np.multiply(x, coefficients[-1], out=out)
    for coefficient in coefficients[-2:0:-1]:
        out += coefficient
        out *= x
    out += coefficients[0]
    return out


def _gelu(x: Array) -> None:
    """Replaces x by x Phi(x), block by block."""
    flat = x.reshape(-1)
    buffers = np.empty((3, min(_BLOCK, flat.size)), np.float32)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        z, numerator, denominator = buffers[:, : block.size]
        np.clip(block, -_GELU_RANGE, _GELU_RANGE, out=z)
        np.multiply(z, z, out=denominator)
        _horner(_GELU_P, denominator, numerator)
        numerator *= z
        np.multiply(z, z, out=z)
        _horner(_GELU_Q, z, denominator)
        numerator /= denominator
        numerator += np.float32(0.5)
        block *= numerator


def activate(activation: Activation, x: Array) -> Array:
    """The activation of each element; overwrites `x`."""
    x = np.ascontiguousarray(x)
    if activation == "gelu":
        _gelu(x)
    elif activation == "gelu_tanh":
        x *= 0.5 * (1.0 + np.tanh(np.float32(np.sqrt(2.0 / np.pi)) * (x + np.float32(0.044715) * x * x * x)))
    elif activation == "relu":
        np.maximum(x, 0.0, out=x)
    elif activation == "silu":
        x *= _sigmoid(x)
    elif activation == "tanh":
        np.tanh(x, out=x)
    elif activation == "sigmoid":
        x = _sigmoid(x)
    return x


def _sigmoid(x: Array) -> Array:
    # exp(88) is the largest power that float32 holds.
    out: Array = np.float32(1.0) / (np.float32(1.0) + np.exp(-np.clip(x, -88.0, 88.0)))
    return out


@lru_cache(maxsize=64)
def _rope_tables(length: int, head_dim: int, theta: float) -> tuple[Array, Array]:
    """The cosines and sines of all angles, each (L, Dh / 2)."""
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
    return np.cos(angles), np.sin(angles)


def rope(x: Array, theta: float) -> Array:
    """Rotary positions 0..L-1 on `x` (B, H, L, Dh).

    Source: Su et al. 2021, eq. 34, with the halves paired as in GPT-NeoX.
    """
    half = x.shape[-1] // 2
    cos, sin = _rope_tables(x.shape[-2], x.shape[-1], theta)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """Softmax attention of (B, H, L, Dh), one text at a time so that the scores stay in cache."""
    out = np.empty(q.shape, np.float32)
    scale = np.float32(1.0 / np.sqrt(q.shape[-1]))
    for row in range(len(q)):
        scores = (q[row] * scale) @ k[row].swapaxes(-1, -2)
        if mask is not None:
            allowed = mask[row % len(mask)]
            np.copyto(scores, -np.inf, where=~allowed)
        # A row that attends to nothing has the maximum -inf; against 0 its exponentials are all 0.
        top = scores.max(axis=-1, keepdims=True)
        scores -= np.where(np.isneginf(top), np.float32(0.0), top)
        np.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        np.matmul(scores, v[row], out=out[row])
        out[row] /= np.maximum(total, np.float32(1e-30))
    return out


def normalize(x: Array) -> Array:
    """Rows of `x` (..., D) with unit norm; a zero row stays zero, as in torch's normalize."""
    norms = np.sqrt(np.einsum("...d,...d->...", x, x))
    out: Array = x / np.maximum(norms, np.float32(1e-12))[..., None]
    return out


def _widen(half: Array, out: Array) -> Array:
    """The float32 values of finite float16 rows (n, D), in the first rows of `out`.

    Exact, subnormals included; on bits, because astype converts one element at a time.
    """
    wide = out[: len(half)]
    bits = wide.view(np.int32)
    np.copyto(bits, half.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _HALF_BITS, out=bits)
    return np.multiply(wide, _REBIAS, out=wide)


def _document_blocks(offsets: Array, n_rows: int) -> Iterator[tuple[int, int]]:
    """Runs of documents with at most `n_rows` rows together, or one longer document."""
    start, n_documents = 0, len(offsets) - 1
    while start < n_documents:
        stop = int(np.searchsorted(offsets, offsets[start] + n_rows, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def maxsim(queries: TokenEmbeddings, documents: TokenEmbeddings) -> Array:
    """MaxSim of every query with every document: (n_queries, N) float32.

    Source: Khattab & Zaharia 2020, eq. 3.
    """
    rows = np.ascontiguousarray(queries.vectors, dtype=np.float32)
    offsets = documents.offsets
    step = min(len(rows), _MAXSIM_QUERY_ROWS)
    n_rows = min(_MAXSIM_CELLS // step, maxsim_rows)
    best = np.empty((len(rows), len(documents)), np.float32)
    # Used again by every block: fresh memory pages would cost as much as the work on them.
    longest = min(len(documents.vectors), max(n_rows, int(documents.lengths.max())))
    similarities = np.empty(step * longest, np.float32)
    half = documents.vectors.dtype == np.float16
    wide = np.empty((longest if half else 0, documents.dim), np.float32)
    for start, stop in _document_blocks(offsets, n_rows):
        block = documents.vectors[offsets[start] : offsets[stop]]
        block = _widen(block, wide) if half else np.asarray(block, dtype=np.float32)
        starts = offsets[start:stop] - offsets[start]
        for low in range(0, len(rows), step):
            part = rows[low : low + step]
            products = similarities[: len(part) * len(block)].reshape(len(part), len(block))
            np.matmul(part, block.T, out=products)
            np.maximum.reduceat(products, starts, axis=1, out=best[low : low + step, start:stop])
    scores: Array = np.add.reduceat(best, queries.offsets[:-1], axis=0)
    return scores


def nearest(vectors: Array, centroids: Array, bias: Array) -> Array:
    """The centroid of the largest v·c + bias for each vector: (n,) int64."""
    found = np.empty(len(vectors), np.int64)
    n_rows = min(max(_MAXSIM_CELLS // len(centroids), 64), max(len(vectors), 1))
    # The bias as one more component: to add it afterwards would be one more pass over all products.
    columns = np.vstack([centroids.T, bias])
    block = np.ones((n_rows, len(columns)), np.float32)
    products = np.empty((n_rows, len(centroids)), np.float32)
    for start in range(0, len(vectors), n_rows):
        part = block[: len(vectors) - start]
        part[:, :-1] = vectors[start : start + n_rows]
        np.matmul(part, columns, out=products[: len(part)]).argmax(axis=1, out=found[start : start + n_rows])
    return found


def probe(queries: Array, centroids: Array, weights: Array, n_probe: int) -> tuple[Array, Array, Array]:
    """The similarities (Q, K) of tokens and centroids, the best centroids of each, their products."""
    similarities = queries @ centroids.T
    weighted = similarities * weights
    best = np.empty((len(queries), n_probe), np.int64)
    n_blocks = len(centroids) // _PROBE_BLOCK
    if n_blocks < n_probe:
        first = len(centroids) - n_probe
        best[:] = np.argpartition(weighted, first, axis=1)[:, first:] if first else np.arange(n_probe)
        return similarities, best, np.take_along_axis(weighted, best, axis=1)
    # The n_probe largest values are not below the n_probe largest maxima of blocks, and few others are as
    # large: one pass over all values in place of a partition.
    maxima = weighted[:, : n_blocks * _PROBE_BLOCK].reshape(len(queries), n_blocks, -1).max(axis=2)
    bounds = np.partition(maxima, n_blocks - n_probe, axis=1)[:, n_blocks - n_probe]
    for token, row in enumerate(weighted):
        found = np.flatnonzero(row >= bounds[token])
        best[token] = found[np.argpartition(-row[found], n_probe - 1)[:n_probe]]
    return similarities, best, np.take_along_axis(weighted, best, axis=1)


def score_coded(
    queries: Array,
    similarities: Array,
    codebook: Array,
    rows: CodedDocuments,
    n_candidates: int,
    near: tuple[Array, Array],
) -> Array:
    """MaxSim of one query with the best of n coded documents: (n,) float32, -inf for the others."""
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
    # Stable: of equal documents the first ones are taken.
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
    rows: CodedDocuments,
    positions: Array,
    lengths: Array,
    floors: Any,
) -> Array:
    """MaxSim (n,) float32 of documents by some of their rows, each similarity at least its token's floor.

    Args:
        queries: (Q, D).
        similarities: (K, Q).
        codebook: as in `score_coded`.
        rows: the documents, or more.
        positions: which of the rows, ascending.
        lengths: (n,) how many of them each document has, >= 1.
        floors: (Q,) or one number.
    """
    ends = np.cumsum(lengths)
    scores = np.empty(len(lengths), np.float32)
    start, first = 0, 0
    while start < len(lengths):
        stop = max(int(np.searchsorted(ends, first + _SCORED_ROWS, side="right")), start + 1)
        last = int(ends[stop - 1])
        found = rows.rows(positions[first:last])
        maxima = _row_maxima(queries, similarities, codebook, found, lengths[start:stop])
        scores[start:stop] = np.maximum(maxima, floors, out=maxima).sum(axis=1)
        start, first = stop, last
    return scores


def _row_maxima(
    queries: Array, similarities: Array, codebook: Array, rows: CodedRows, lengths: Array
) -> Array:
    """The largest similarity of the rows of each document with each query token (Q, D): (n, Q) float32.

    `similarities` are (K, Q).
    """
    # One item per byte: taking whole codewords is several times as fast as taking their components.
    words = codebook.view(f"V{codebook.itemsize * codebook.shape[1]}").ravel()
    columns = np.ascontiguousarray(queries.T)
    products = np.empty((len(rows.codes), len(queries)), np.float32)
    buffer = np.empty((min(_DECODED_ROWS, len(rows.codes)), rows.residuals.shape[1]), words.dtype)
    for start in range(0, len(rows.codes), _DECODED_ROWS):
        residuals = rows.residuals[start : start + _DECODED_ROWS]
        # mode="clip": a byte is never out of range, and without checks numpy writes into the buffer directly.
        decoded = words.take(residuals, out=buffer[: len(residuals)], mode="clip").view(np.float32)
        np.matmul(decoded, columns, out=products[start : start + _DECODED_ROWS])
    products *= rows.scales[:, None]
    products += similarities.take(rows.codes, axis=0)
    products *= rows.gains[:, None]
    maxima: Array = np.maximum.reduceat(products, np.cumsum(lengths) - lengths, axis=0)
    return maxima
