"""MLX's affine quantisation in numpy: the values of a group share a scale and a bias.

w is stored as round((w - bias) / scale). A uint32 has `32 / bits` values, the first in the lowest bits.
"""

from __future__ import annotations

import numpy as np

from mlx_colbert.model.config import Dtype
from mlx_colbert.model.safetensors_file import bfloat16_to_float32, float32_to_bfloat16
from mlx_colbert.types import Array

__all__ = ["dequantize", "quantize"]


def quantize(
    weight: Array, *, bits: int, group_size: int, dtype: Dtype = "float32"
) -> tuple[Array, Array, Array]:
    """A matrix as packed integers, with one scale and one bias per group.

    Args:
        weight: (O, I) float, I a multiple of `group_size`.
        bits: 2, 4 or 8.
        group_size: values that share a scale.
        dtype: the type that scales and biases are stored in. The integers fit the rounded scales and biases.

    Returns:
        packed (O, I * bits / 32) uint32, scales (O, I / group_size) and biases of that shape, float32.

    >>> packed, scales, biases = quantize(np.arange(64, dtype=np.float32)[None], bits=8, group_size=64)
    >>> bool(np.allclose(dequantize(packed, scales, biases, width=64), np.arange(64), atol=0.13))
    True
    """
    rows, width = weight.shape
    groups = weight.astype(np.float32).reshape(rows, width // group_size, group_size)
    low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
    low, scales = _stored(low, dtype), _stored((high - low) / (2**bits - 1), dtype)
    # The scale of a constant group is 0, so any integer is right.
    steps = np.rint((groups - low) / np.where(scales == 0, np.float32(1), scales))
    values = np.clip(steps, 0, 2**bits - 1).astype(np.uint32).reshape(rows, -1, 32 // bits)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    packed = np.bitwise_or.reduce(values << shifts, axis=-1)
    return packed, scales[..., 0], low[..., 0]


def _stored(values: Array, dtype: Dtype) -> Array:
    """The float32 values, rounded to the type that they are stored in."""
    if dtype == "bfloat16":
        return bfloat16_to_float32(float32_to_bfloat16(values))
    return values.astype(dtype).astype(np.float32)


def dequantize(packed: Array, scales: Array, biases: Array, *, width: int) -> Array:
    """The matrix (O, width) float32 of packed integers. The shapes give the bits and the group size."""
    rows = len(packed)
    bits = packed.shape[1] * 32 // width
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    values = (packed[..., None] >> shifts) & np.uint32(2**bits - 1)
    groups = values.reshape(rows, scales.shape[1], -1).astype(np.float32)
    groups *= scales.astype(np.float32)[..., None]
    groups += biases.astype(np.float32)[..., None]
    return groups.reshape(rows, width)
