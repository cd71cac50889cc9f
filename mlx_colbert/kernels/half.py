"""float16 to float32 in numpy. Several times as fast as astype, which converts one element at a time."""

from __future__ import annotations

import numpy as np

from mlx_colbert.types import Array

__all__ = ["widen"]

# Changes the exponent from the bias of float16 (15) to the bias of float32 (127).
_REBIAS = np.float32(2.0**112)
# Sign, exponent and fraction of a float16 that was sign-extended to 32 bits and shifted left by 13.
_HALF_BITS = np.int32(0x8FFFE000 - (1 << 32))


def widen(half: Array, out: Array) -> Array:
    """The float32 values of finite float16 rows (n, D), in the first rows of `out`.

    The values are exact, also those of subnormals.
    """
    wide = out[: len(half)]
    bits = wide.view(np.int32)
    np.copyto(bits, half.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _HALF_BITS, out=bits)
    return np.multiply(wide, _REBIAS, out=wide)
