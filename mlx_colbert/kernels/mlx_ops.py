"""The MLX kernels: Metal on a Mac, CUDA or the CPU on Linux."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar

import mlx.core as mx
import numpy as np

from mlx_colbert.errors import BackendError
from mlx_colbert.kernels import CodedDocuments, Params
from mlx_colbert.types import Activation, Array, TokenEmbeddings

__all__ = [
    "activate",
    "asarray",
    "attention",
    "batch_tokens",
    "default_dtype",
    "device",
    "embedding",
    "has_gpu",
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

name: Literal["mlx"] = "mlx"
# MLX's allocator reuses buffers by size: few distinct lengths keep its cache small.
length_multiple = 32
batch_tokens = 16384
# What is on the device at once: 128 MiB of float32 at D = 128.
maxsim_rows = 262144

# Similarities computed at once: 64 MiB of float32, and as much again while they are padded.
_MAXSIM_CELLS = 1 << 24
# Query rows of such a block at most.
_MAXSIM_QUERY_ROWS = 512
# Attention scores of one kernel call: 512 MiB of float32 where the kernel is not fused, as with heads of 32.
_SCORE_CELLS = 1 << 27
# Local attention goes by blocks in a text of more windows than this; else a mask of all pairs costs less.
_WINDOWS = 8
# The allocator's cache is bounded: its default limit is the memory limit, and varying shapes never reuse it.
_CACHE_BYTES = 1 << 30

_DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}


def has_gpu() -> bool:
    """Whether MLX computes on a GPU (Metal or CUDA)."""
    return bool(mx.is_available(mx.gpu))


def _on_gpu() -> bool:
    return has_gpu() and mx.default_device().type == mx.gpu


def device() -> str:
    """The device's name, for people."""
    if not _on_gpu():
        return "CPU (MLX)"
    return f"GPU (MLX {'Metal' if mx.metal.is_available() else 'CUDA'})"


def default_dtype(stored: str) -> str:
    """Half precision on a GPU, as stored or float16; float32 on the CPU, which has no half arithmetic."""
    if not _on_gpu():
        return "float32"
    return "float16" if stored == "float32" else stored


def load_params(tensors: Mapping[str, Array], dtype: str) -> dict[str, Any]:
    """MLX arrays, all evaluated: a lazy array fails when another thread uses it first."""
    mx.set_cache_limit(_CACHE_BYTES)
    params = {}
    for key, value in tensors.items():
        array = mx.array(value)
        params[key] = array if value.dtype.kind == "u" else array.astype(_DTYPES[dtype])
    mx.eval(params)
    return params


def map_batches(
    function: Callable[[_Batch], _Result], batches: Sequence[_Batch]
) -> Generator[_Result, None, None]:
    """The function of each batch, one after the other: each fills the device."""
    yield from map(function, batches)


def asarray(values: Array) -> mx.array:
    """The MLX array of a numpy array."""
    return mx.array(values)


def to_numpy(values: mx.array) -> Array:
    """A float32 numpy array; the one host synchronisation of a batch."""
    return np.array(values.astype(mx.float32))


def _quantization(params: Params, name: str, width: int) -> tuple[int, int]:
    """group_size and bits of a quantised matrix with `width` columns, read off its shapes."""
    packed, scales = params[f"{name}.weight"], params[f"{name}.scales"]
    return width // scales.shape[-1], packed.shape[-1] * 32 // width


def embedding(params: Params, name: str, ids: mx.array, width: int) -> mx.array:
    """Rows `ids` (B, L) of a table with `width` columns: (B, L, H)."""
    rows: mx.array = params[f"{name}.weight"][ids]
    if f"{name}.scales" not in params:
        return rows
    scales, biases = params[f"{name}.scales"][ids], params[f"{name}.biases"][ids]
    group_size, bits = _quantization(params, name, width)
    return mx.dequantize(rows, scales, biases, group_size=group_size, bits=bits)


def linear(params: Params, name: str, x: mx.array) -> mx.array:
    """`x` (..., I) times W^T (I, O), plus bias: (..., O)."""
    weight, bias = params[f"{name}.weight"], params.get(f"{name}.bias")
    if f"{name}.scales" in params:
        scales, biases = params[f"{name}.scales"], params[f"{name}.biases"]
        group_size, bits = _quantization(params, name, x.shape[-1])
        out = mx.quantized_matmul(x, weight, scales, biases, transpose=True, group_size=group_size, bits=bits)
        return out if bias is None else out + bias
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


def layer_norm(params: Params, name: str, x: mx.array, eps: float) -> mx.array:
    """Rows of `x` (..., H) normalised, scaled and shifted; the sums are in float32."""
    return mx.fast.layer_norm(x, params[f"{name}.weight"], params.get(f"{name}.bias"), eps)


def activate(activation: Activation, x: mx.array) -> mx.array:
    """The activation of each element."""
    if activation == "gelu":
        return x * (1 + mx.erf(x * 0.5**0.5)) * 0.5
    if activation == "gelu_tanh":
        return 0.5 * x * (1 + mx.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    if activation == "relu":
        return mx.maximum(x, 0)
    if activation == "silu":
        return x * mx.sigmoid(x)
    if activation == "tanh":
        return mx.tanh(x)
    if activation == "sigmoid":
        return mx.sigmoid(x)
    return x


def rope(x: mx.array, theta: float) -> mx.array:
    """Rotary positions 0..L-1 on `x` (B, H, L, Dh), halves paired."""
    return mx.fast.rope(x, x.shape[-1], traditional=False, base=theta, scale=1.0, offset=0)


def attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    keys: mx.array | None,
    window: int | None = None,
    slopes: Array | None = None,
) -> mx.array:
    """Softmax attention of (B, H, L, Dh), in blocks of query rows where one would take too much memory.

    Masks are boolean because an additive -1e9 is -inf in float16, which makes rows without a key NaN.
    """
    n_texts, n_heads, length, width = q.shape
    if window is not None and length > _WINDOWS * window:
        return _windowed_attention(q, k, v, keys, window)
    n_rows = max(_SCORE_CELLS // (n_texts * n_heads * length), length_multiple)
    positions = mx.arange(length, dtype=mx.float32)
    blocks = []
    for start in range(0, length, n_rows):
        rows = q[:, :, start : start + n_rows]
        mask = None if keys is None else keys[:, None, None, :]
        if window is not None or slopes is not None:
            distances = mx.abs(positions[start : start + n_rows, None] - positions)[None, None]
        if window is not None:
            near = distances <= window
            mask = near if mask is None else mask & near
        bias = mask
        if slopes is not None:
            bias = (distances * -mx.array(slopes)[:, None, None]).astype(q.dtype)
            if mask is not None:
                # Finite: a fused kernel that meets a block of -inf alone subtracts -inf from -inf.
                bias = mx.where(mask, bias, mx.array(mx.finfo(q.dtype).min, q.dtype))
        out = mx.fast.scaled_dot_product_attention(rows, k, v, scale=width**-0.5, mask=bias)
        blocks.append(out if mask is None else _without_idle_rows(out, mask))
        if n_rows < length:
            # Lazily, the scores of many blocks would be held at once.
            mx.eval(blocks[-1])
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _windowed_attention(
    q: mx.array, k: mx.array, v: mx.array, keys: mx.array | None, window: int
) -> mx.array:
    """Attention within `window` tokens on each side: each block of `window` rows sees three blocks of keys.

    Its memory is linear in the length; a mask of all pairs, and an unfused kernel's scores, are not.
    """
    n_texts, n_heads, length, width = q.shape
    n_blocks = -(-length // window)
    behind = n_blocks * window - length

    def blocks(x: mx.array) -> mx.array:
        return x.reshape(n_texts, n_heads, -1, window, width).transpose(0, 2, 1, 3, 4)

    def triples(x: mx.array, axis: int) -> mx.array:
        before, same, after = (x[:, start : start + n_blocks] for start in range(3))
        return mx.concatenate([before, same, after], axis=axis)

    around = [(0, 0), (0, 0), (window, window + behind), (0, 0)]
    near_k, near_v = (
        triples(blocks(mx.pad(x, around)), 3).reshape(-1, n_heads, 3 * window, width) for x in (k, v)
    )
    rows = blocks(mx.pad(q, [(0, 0), (0, 0), (0, behind), (0, 0)])).reshape(-1, n_heads, window, width)
    real = mx.ones((n_texts, length), mx.bool_) if keys is None else mx.broadcast_to(keys, (n_texts, length))
    real = mx.pad(real, [(0, 0), (window, window + behind)]).reshape(n_texts, -1, window)
    offsets = mx.arange(3 * window) - window - mx.arange(window)[:, None]
    mask = triples(real, 2).reshape(-1, 1, 1, 3 * window) & (mx.abs(offsets) <= window)
    out = mx.fast.scaled_dot_product_attention(rows, near_k, near_v, scale=width**-0.5, mask=mask)
    out = _without_idle_rows(out, mask).reshape(n_texts, n_blocks, n_heads, window, width)
    return out.transpose(0, 2, 1, 3, 4).reshape(n_texts, n_heads, -1, width)[:, :, :length]


def _without_idle_rows(out: mx.array, mask: mx.array) -> mx.array:
    """Attention's output with zero rows where nothing is attended to."""
    return mx.where(mx.any(mask, axis=-1, keepdims=True), out, mx.zeros((), out.dtype))


def normalize(x: mx.array) -> mx.array:
    """Rows of `x` (..., D) with unit norm, in float32."""
    x = x.astype(mx.float32)
    return x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _length_buckets(lengths: Array) -> list[Array]:
    """The positions of the documents of each length bucket."""
    widths = -(-lengths // length_multiple)
    return [np.flatnonzero(widths == width) for width in np.unique(widths)]


def _bucket_best(similarities: mx.array, starts: Array, lengths: Array) -> mx.array:
    """Largest similarity of each document of one length bucket to every query row: (n, R)."""
    width = int(-(-lengths.max() // length_multiple) * length_multiple)
    # A padding position repeats the document's last row, which leaves the maximum as it is.
    index = starts[:, None] + np.minimum(np.arange(width), lengths[:, None] - 1)
    return similarities[mx.array(index.astype(np.uint32))].max(axis=1)


def maxsim(queries: TokenEmbeddings, documents: TokenEmbeddings) -> Array:
    """MaxSim of every query with every document: (n_queries, N) float32.

    MLX has no segment maximum, so the similarities of documents of similar length are padded together; one
    host synchronisation per block.

    Source: Khattab & Zaharia 2020, eq. 3.
    """
    rows = mx.array(np.ascontiguousarray(queries.vectors, dtype=np.float32))
    best = np.empty((len(documents), len(queries.vectors)), np.float32)
    offsets = documents.offsets
    step = min(len(queries.vectors), _MAXSIM_QUERY_ROWS)
    n_rows = min(_MAXSIM_CELLS // step, maxsim_rows)
    start = 0
    while start < len(documents):
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + n_rows, side="right")) - 1)
        block = np.ascontiguousarray(documents.vectors[offsets[start] : offsets[stop]])
        vectors = mx.array(block).astype(mx.float32)
        lengths = documents.lengths[start:stop]
        starts = offsets[start:stop] - offsets[start]
        members = _length_buckets(lengths)
        order = start + np.concatenate(members)
        for low in range(0, len(queries.vectors), step):
            similarities = vectors @ rows[low : low + step].T
            parts = [_bucket_best(similarities, starts[chosen], lengths[chosen]) for chosen in members]
            best[order, low : low + step] = np.array(mx.concatenate(parts))
        start = stop
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
    """The similarities (Q, K) of tokens and centroids, the best centroids of each, their products."""
    similarities = mx.array(queries) @ centroids.T
    weighted = similarities * mx.array(weights)
    best = mx.argpartition(-weighted, n_probe - 1, axis=1)[:, :n_probe]
    top = mx.take_along_axis(weighted, best, axis=1)
    mx.eval(best, top)
    return similarities, np.array(best).astype(np.int64), np.array(top)


def score_coded(
    queries: Array,
    similarities: mx.array,
    codebook: Array,
    rows: CodedDocuments,
    n_candidates: int,
    near: tuple[Array, Array],
) -> Array:
    """MaxSim of one query with n coded documents: (n,) float32.

    All are scored by all of their rows: a GPU does that in less time than it takes to ask it which to choose.
    """
    del n_candidates, near
    lengths = rows.lengths
    ends = np.cumsum(lengths)
    words, columns, by_centroid = mx.array(codebook), mx.array(queries).T, similarities.T
    scores = np.empty(len(lengths), np.float32)
    start, first = 0, 0
    while start < len(lengths):
        stop = max(int(np.searchsorted(ends, first + maxsim_rows, side="right")), start + 1)
        last = int(ends[stop - 1])
        found = rows.rows(np.arange(first, last))
        products = words[mx.array(found.residuals)].reshape(last - first, -1) @ columns
        products = products * mx.array(found.scales)[:, None]
        products = products + by_centroid[mx.array(found.codes.astype(np.uint32))]
        products = products * mx.array(found.gains)[:, None]
        members, starts = _length_buckets(lengths[start:stop]), ends[start:stop] - lengths[start:stop] - first
        maxima = [_bucket_best(products, starts[part], lengths[start:stop][part]) for part in members]
        scores[start + np.concatenate(members)] = np.array(mx.concatenate(maxima).sum(axis=1))
        start, first = stop, last
    return scores


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise BackendError(
        "backend mlx: MLX does not compute in a process that was forked from one that had loaded it. Start "
        'processes with multiprocessing\'s "spawn" method, or take backend="numpy".'
    )


def _refuse_in_child() -> None:
    # The threads of MLX do not run in a forked process: a computation would wait for them for ever.
    for function in __all__:
        if callable(globals()[function]) and function not in ("default_dtype", "device", "has_gpu"):
            globals()[function] = _refuse


os.register_at_fork(after_in_child=_refuse_in_child)
