"""Which vectors an index can store."""

from __future__ import annotations

import numpy as np

from mlx_colbert.types import Array

_FLOAT16_MAX = float(np.finfo(np.float16).max)
UNUSABLE = f"a vector is not finite, or out of the range of float16 (±{_FLOAT16_MAX:g})."


def unusable_rows(vectors: Array) -> Array:
    """The numbers of the vectors that float16 cannot store: not finite, or out of range.

    Args:
        vectors: (n, D) real.

    >>> unusable_rows(np.array([[1.0], [float("nan")], [70000.0]]))
    array([1, 2])
    """
    # Both comparisons are false for a NaN.
    if vectors.max() <= _FLOAT16_MAX and vectors.min() >= -_FLOAT16_MAX:
        return np.zeros(0, np.int64)
    return np.flatnonzero(~((vectors <= _FLOAT16_MAX) & (vectors >= -_FLOAT16_MAX)).all(axis=1))
