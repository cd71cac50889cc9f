"""Scales and gains in one byte each, where a byte is precise enough."""

from __future__ import annotations

import numpy as np

from mlx_colbert.types import Array


def packed(values: Array, step_limit: float) -> tuple[Array, tuple[float, float]]:
    """Values (n,) float32 as bytes if that is precise enough, else unchanged; low value and step."""
    low, high = float(values.min()), float(values.max())
    step = (high - low) / 255
    if step > step_limit * float(values.mean()):
        return values.astype(np.float32), (0.0, 1.0)
    if step == 0:
        return np.zeros(len(values), np.uint8), (low, 0.0)
    return np.rint((values - low) / step).astype(np.uint8), (low, step)


def unpacked(values: Array, low_and_step: Array) -> Array:
    """The values (n,) of bytes, or of a file whose values are not in bytes."""
    if values.dtype != np.uint8:
        return values
    low, step = low_and_step
    return np.asarray(values * step + low)
