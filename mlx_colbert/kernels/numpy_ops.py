"""The numpy kernels: float32, and the oracle that the MLX kernels are tested against."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np

from mlx_colbert.kernels import CodedDocuments, Params
from mlx_colbert.kernels.blas_threads import BLAS_THREADS
from mlx_colbert.types import Activation, Array, CodedRows, TokenEmbeddings

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
    "map_batches",
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

_Batch = TypeVar("_Batch")
_Result = TypeVar("_Result")

name: Literal["numpy"] = "numpy"
length_multiple = 1
# Enough for BLAS to be at full speed; few enough for all cores to have a batch, and for caches.
batch_tokens = 512
# Wide enough for BLAS to be at full speed, and 4 MiB at D = 128, which a last-level cache holds.
maxsim_rows = 8192

# Elements of a block of elementwise work: 128 KiB of float32, so that its temporaries stay in the L2 cache.
_BLOCK = 32768

# gelu(x) = x / (1 + exp(-x P(x^2))): x P(x^2) is the logit of the normal distribution, P a minimax fit on
# |x| <= 6 weighted by what an error of it does to gelu. Largest error in float32: 6e-7. Beyond 6, x P(x^2)
# stays above 15.
_GELU = tuple(
    np.float32(-c)
    for c in (
        1.59576843,
        0.0726685669,
        -6.62598554e-05,
        -1.10480356e-04,
        7.93822427e-06,
        -2.66893148e-07,
        3.61124015e-09,
    )
)
# Where no score can be larger than this, exp needs no maximum subtracted: e^60 and e^-60 are well inside
# float32, and so are their sums over any text.
_SAFE_SCORE = 60.0
# Attention scores computed at once: 2 MiB of float32, so that a second-level cache holds most of them.
_SCORE_CELLS = 1 << 19
# Rows of such a block at least: with fewer the products are slow.
_SCORE_ROWS = 64

_TABLES = ("embeddings.token.weight", "embeddings.position.weight", "embeddings.type.weight")

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
    """float32 arrays; `dtype` is ignored because numpy's half precision is emulated and slow.

    Matrices lie in the order of their transposes, by which BLAS multiplies few rows a third faster.
    """
    return {
        key: np.asarray(value, np.float32, order="C" if key in _TABLES or value.ndim < 2 else "F")
        for key, value in tensors.items()
    }


def map_batches(
    function: Callable[[_Batch], _Result], batches: Sequence[_Batch]
) -> Generator[_Result, None, None]:
    """The function of each batch, in order: a core for each batch does more than all of them for one."""
    # Fewer batches than threads would leave some without work.
    if len(batches) < 2 or len(batches) < (n_threads := BLAS_THREADS.count()) or n_threads < 2:
        yield from map(function, batches)
        return
    # Takes as long to import as a query to encode, which needs none of it.
    from concurrent.futures import ThreadPoolExecutor

    with BLAS_THREADS.taken(), ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(function, batches)


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
    out: Array = x - np.add.reduce(x, axis=-1, keepdims=True) / np.float32(x.shape[-1])
    variance = np.einsum("...h,...h->...", out, out)[..., None] / np.float32(x.shape[-1])
    out *= np.float32(1.0) / np.sqrt(variance + np.float32(eps))
    out *= params[f"{name}.weight"]
    bias = params.get(f"{name}.bias")
    if bias is not None:
        out += bias
    return out


def _gelu(x: Array) -> None:
    """Replaces x by x Phi(x), block by block."""
    flat = x.reshape(-1)
    buffers = np.empty((2, min(_BLOCK, flat.size)), np.float32)
    # exp overflows to inf for large negative x, which makes x / inf zero.
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            square, power = buffers[:, : block.size]
            np.multiply(block, block, out=square)
            np.multiply(square, _GELU[-1], out=power)
            for coefficient in _GELU[-2:0:-1]:
                power += coefficient
                power *= square
            power += _GELU[0]
            power *= block
            np.exp(power, out=power)
            power += np.float32(1.0)
            block /= power


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


@lru_cache(maxsize=16)
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
    length = x.shape[-2]
    # Of lengths rounded up: few tables serve all texts.
    cos, sin = (table[:length] for table in _rope_tables(-(-length // 256) * 256, x.shape[-1], theta))
    first, second = x[..., :half], x[..., half:]
    out = np.empty(x.shape, np.float32)
    np.multiply(first, cos, out=out[..., :half])
    out[..., :half] -= second * sin
    np.multiply(second, cos, out=out[..., half:])
    out[..., half:] += first * sin
    return out


def attention(
    q: Array, k: Array, v: Array, keys: Array | None, window: int | None = None, slopes: Array | None = None
) -> Array:
    """Softmax attention of (B, H, L, Dh), in blocks of query rows whose scores stay in a cache."""
    n_texts, n_heads, length, width = q.shape
    # In the order in which the heads are joined again.
    out = np.empty((n_texts, length, n_heads, width), np.float32).transpose(0, 2, 1, 3)
    scale = np.float32(1.0 / np.sqrt(width))
    for text in range(n_texts):
        allowed = None if keys is None or keys[text].all() else keys[text]
        scaled = q[text] * scale
        largest = np.sqrt(_largest_squares(scaled) * _largest_squares(k[text]))
        if slopes is not None:  # far tokens may be all that a row attends to
            largest[:] = np.inf
        for heads, rows, columns in _score_blocks(n_heads, length, window):
            scores = scaled[heads, rows] @ k[text, heads, columns].swapaxes(-1, -2)
            _bias(scores, rows, columns, window, None if slopes is None else slopes[heads])
            if allowed is not None:
                np.copyto(scores, -np.inf, where=~allowed[columns])
            _exponentials(scores, largest[heads])
            part = out[text, heads, rows]
            np.matmul(scores, v[text, heads, columns], out=part)
            # A row that attends to nothing is 0 / 0 otherwise.
            part /= np.maximum(np.einsum("hij->hi", scores)[..., None], np.float32(1e-30))
    return out


def _largest_squares(x: Array) -> Array:
    """The largest squared length of the rows (H, L, Dh) of each head: (H,)."""
    squares: Array = np.einsum("hld,hld->hl", x, x).max(axis=-1)
    return squares


def _score_blocks(n_heads: int, length: int, window: int | None) -> Iterator[tuple[slice, slice, slice]]:
    """Heads, query rows and key columns whose scores are computed together."""
    n_keys = length if window is None else min(length, _SCORE_ROWS + 2 * window)
    step = min(max(_SCORE_CELLS // (_SCORE_ROWS * n_keys), 1), n_heads)
    n_rows = max(_SCORE_CELLS // (step * n_keys), _SCORE_ROWS) if window is None else _SCORE_ROWS
    for head in range(0, n_heads, step):
        for row in range(0, length, n_rows):
            rows = slice(row, min(row + n_rows, length))
            if window is None:
                yield slice(head, head + step), rows, slice(0, length)
            else:
                columns = slice(max(row - window, 0), min(rows.stop + window, length))
                yield slice(head, head + step), rows, columns


def _bias(scores: Array, rows: slice, columns: slice, window: int | None, slopes: Array | None) -> None:
    """Takes from the scores (H, R, C) what the distance of two tokens asks for."""
    if window is None and slopes is None:
        return
    positions = np.arange(max(rows.stop, columns.stop), dtype=np.float32)
    distances = np.abs(positions[rows, None] - positions[columns])
    if window is not None:
        np.copyto(scores, -np.inf, where=distances > window)
    for head, slope in zip(scores, () if slopes is None else slopes, strict=slopes is not None):
        head -= slope * distances


def _exponentials(scores: Array, largest: Array) -> None:
    """Replaces the scores (H, R, C) by their exponentials, up to a factor for each row.

    `largest` (H,) bounds the scores of each head.
    """
    for head in np.flatnonzero(~(largest <= _SAFE_SCORE)):
        top = scores[head].max(axis=-1, keepdims=True)
        # A row that attends to nothing has the maximum -inf; against 0 its exponentials are all 0.
        scores[head] -= np.where(np.isneginf(top), np.float32(0.0), top)
    with np.errstate(under="ignore"):
        np.exp(scores, out=scores)


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
