"""The MLX kernels of the encoder: Metal on a Mac, CUDA or the CPU on Linux."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import mlx.core as mx
import numpy as np

from mlx_colbert.kernels.protocols import Params
from mlx_colbert.mlx_fork import refuse_after_fork
from mlx_colbert.types import Activation, Array

__all__ = [
    "activate",
    "asarray",
    "attention",
    "batch_tokens",
    "clear_cache",
    "default_dtype",
    "device",
    "embedding",
    "has_gpu",
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


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

name: Literal["mlx"] = "mlx"
# The allocator of MLX reuses buffers by size. With few different lengths, its cache stays small.
length_multiple = 32
batch_tokens = 16384
# Attention scores of one kernel call: 512 MiB of float32, if the kernel is not fused (with heads of 32, for
# example).
_SCORE_CELLS = 1 << 27
# A text of more windows than this is computed in blocks by local attention. For a shorter text, a mask of all
# pairs costs less.
_WINDOWS = 8
# Limit of the allocator's cache. The default is the memory limit, and different shapes do not reuse the
# cache.
_CACHE_BYTES = 1 << 30

_DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}


def has_gpu() -> bool:
    """Whether MLX computes on a GPU (Metal or CUDA)."""
    return bool(mx.is_available(mx.gpu))


def clear_cache() -> None:
    """Give the memory of arrays that do not exist any more back to the system."""
    mx.clear_cache()


def _on_gpu() -> bool:
    return has_gpu() and mx.default_device().type == mx.gpu


def device() -> str:
    """The name of the device, as text for people."""
    if not _on_gpu():
        return "CPU (MLX)"
    return f"GPU (MLX {'Metal' if mx.metal.is_available() else 'CUDA'})"


def default_dtype(stored: str) -> str:
    """On a GPU, the stored half-precision type, or float16. On a CPU, which has no such type, float32."""
    if not _on_gpu():
        return "float32"
    return "float16" if stored == "float32" else stored


def load_params(tensors: Mapping[str, Array], dtype: str) -> dict[str, Any]:
    """MLX arrays, already computed: a lazy array fails if another thread uses it first."""
    mx.set_cache_limit(_CACHE_BYTES)
    params = {}
    for key, value in tensors.items():
        array = mx.array(value)
        params[key] = array if value.dtype.kind == "u" else array.astype(_DTYPES[dtype])
    mx.eval(params)
    return params


def mapped(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Generator[_Result, None, None]:
    """The results of the function for each item, one after another. Each item uses the whole device."""
    yield from map(function, items)


def n_workers() -> int:
    """1, because each item uses the whole device."""
    return 1


def asarray(values: Array) -> mx.array:
    """The MLX array of a numpy array."""
    return mx.array(values)


def to_numpy(values: mx.array) -> Array:
    """A float32 numpy array. Only this call of a batch waits for the device."""
    return np.array(values.astype(mx.float32))


def _quantization(params: Params, name: str, width: int) -> tuple[int, int]:
    """group_size and bits of a quantised matrix with `width` columns, as its shapes tell."""
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
    """Rows of `x` (..., H) normalised, scaled and shifted. The sums are in float32."""
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
    """Softmax attention of (B, H, L, Dh). A large one is computed in blocks of query rows, to save memory.

    Masks are boolean. A mask that adds -1e9 would add -inf in float16, and a row without a key would be NaN.
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
                # A finite value: in a block of -inf only, a fused kernel would subtract -inf from -inf.
                bias = mx.where(mask, bias, mx.array(mx.finfo(q.dtype).min, q.dtype))
        out = mx.fast.scaled_dot_product_attention(rows, k, v, scale=width**-0.5, mask=bias)
        blocks.append(out if mask is None else _without_idle_rows(out, mask))
        if n_rows < length:
            # Computed now: otherwise the scores of many blocks would be in memory at once.
            mx.eval(blocks[-1])
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _windowed_attention(
    q: mx.array, k: mx.array, v: mx.array, keys: mx.array | None, window: int
) -> mx.array:
    """Attention within `window` tokens on each side. A block of `window` rows needs three blocks of keys.

    Memory grows with the length. With a mask of all pairs, it would grow with the square of the length.
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
    """The output of attention, with zeros in the rows that attend to no token."""
    return mx.where(mx.any(mask, axis=-1, keepdims=True), out, mx.zeros((), out.dtype))


def normalize(x: mx.array) -> mx.array:
    """Rows of `x` (..., D) with unit norm, in float32."""
    x = x.astype(mx.float32)
    return x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


refuse_after_fork(globals(), __all__)
