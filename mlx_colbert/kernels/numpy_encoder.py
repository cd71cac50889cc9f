"""The numpy kernels of the encoder, in float32. The tests compare the kernels of MLX with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from mlx_colbert.kernels.protocols import Params
from mlx_colbert.kernels.threads import mapped, n_threads
from mlx_colbert.types import Activation, Array

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
    "mapped",
    "n_workers",
    "name",
    "normalize",
    "rope",
    "to_numpy",
]


name: Literal["numpy"] = "numpy"
length_multiple = 1
# Enough tokens for full speed of BLAS, but few enough for the caches and for a batch on every core.
batch_tokens = 512

# Elements of a block for elementwise functions: 128 KiB of float32, so that temporary arrays stay in the L2
# cache.
_BLOCK = 32768

# gelu(x) = x / (1 + exp(-x P(x^2))). x P(x^2) is the logit of the normal distribution. P is a minimax fit on
# |x| <= 6, weighted by the effect of an error on gelu. Largest error in float32: 6e-7. For x > 6, x P(x^2) is
# above 15.
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
# If no score can be larger than this, the maximum need not be subtracted before exp: float32 can hold e^60,
# e^-60 and their sums over any text.
_SAFE_SCORE = 60.0
# Attention scores computed at once: 2 MiB of float32, so that most of them stay in the L2 cache.
_SCORE_CELLS = 1 << 19
# Fewest rows of such a block: with fewer rows, the products are slow.
_SCORE_ROWS = 64

_TABLES = ("embeddings.token.weight", "embeddings.position.weight", "embeddings.type.weight")


def device() -> str:
    """The name of the device, as text for people."""
    return "CPU (numpy)"


def default_dtype(stored: str) -> str:
    """float32, always."""
    return "float32"


def load_params(tensors: Mapping[str, Array], dtype: str) -> dict[str, Any]:
    """float32 arrays. `dtype` is ignored, because half precision is slow in numpy.

    Matrices are stored in column order: BLAS then multiplies a few rows a third faster.
    """

    def param(key: str) -> Array:
        value = tensors[key]
        return np.asarray(value, np.float32, order="C" if key in _TABLES or value.ndim < 2 else "F")

    return dict(zip(tensors, mapped(param, list(tensors)), strict=True))


def n_workers() -> int:
    """The number of threads: one for each core, or as many as MLX_COLBERT_THREADS says."""
    return n_threads()


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
    # One product of two matrices is one sgemm. For a stack of matrices, numpy would loop.
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
    """Replace x by x Phi(x), block by block."""
    flat = x.reshape(-1)
    buffers = np.empty((2, min(_BLOCK, flat.size)), np.float32)
    # For large negative x, exp is inf, and x / inf is 0.
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
    """The activation of each element. This overwrites `x`."""
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

    Source: Su et al. 2021, eq. 34, with pairs across the two halves of a head, as in GPT-NeoX.
    """
    half = x.shape[-1] // 2
    length = x.shape[-2]
    # The length is rounded up, so that a few tables are enough for all texts.
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
    """Softmax attention of (B, H, L, Dh), in blocks of query rows, so that the scores stay in a cache."""
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
    """Subtract from the scores (H, R, C) the penalty for the distance of two tokens."""
    if window is None and slopes is None:
        return
    positions = np.arange(max(rows.stop, columns.stop), dtype=np.float32)
    distances = np.abs(positions[rows, None] - positions[columns])
    if window is not None:
        np.copyto(scores, -np.inf, where=distances > window)
    for head, slope in zip(scores, () if slopes is None else slopes, strict=slopes is not None):
        head -= slope * distances


def _exponentials(scores: Array, largest: Array) -> None:
    """Replace the scores (H, R, C) by their exponentials, times a factor for each row.

    `largest` (H,) is an upper bound of the scores of each head.
    """
    for head in np.flatnonzero(~(largest <= _SAFE_SCORE)):
        top = scores[head].max(axis=-1, keepdims=True)
        # The maximum of a row that attends to no token is -inf. With 0 instead, its exponentials are all 0.
        scores[head] -= np.where(np.isneginf(top), np.float32(0.0), top)
    with np.errstate(under="ignore"):
        np.exp(scores, out=scores)


def normalize(x: Array) -> Array:
    """Rows of `x` (..., D) with unit norm. A zero row stays zero, as in normalize of torch."""
    norms = np.sqrt(np.einsum("...d,...d->...", x, x))
    out: Array = x / np.maximum(norms, np.float32(1e-12))[..., None]
    return out
