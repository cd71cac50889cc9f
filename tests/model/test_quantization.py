from __future__ import annotations

import numpy as np
import pytest

from mlx_colbert.model.quantization import dequantize, quantize

WEIGHT = np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_error_is_at_most_half_a_step(bits, group_size):
    packed, scales, biases = quantize(WEIGHT, bits=bits, group_size=group_size)
    restored = dequantize(packed, scales, biases, width=256)
    steps = np.repeat(scales, group_size, axis=1)
    assert (np.abs(restored - WEIGHT) <= steps * 0.501 + 1e-6).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_mlx_reads_the_packing_alike(bits, group_size):
    mx = pytest.importorskip("mlx.core")
    packed, scales, biases = quantize(WEIGHT, bits=bits, group_size=group_size)
    by_mlx = mx.dequantize(
        mx.array(packed), mx.array(scales), mx.array(biases), group_size=group_size, bits=bits
    )
    np.testing.assert_allclose(np.array(by_mlx), dequantize(packed, scales, biases, width=256), atol=1e-6)


def test_constant_group_is_exact():
    packed, scales, biases = quantize(np.full((1, 64), 3.5, np.float32), bits=4, group_size=64)
    np.testing.assert_allclose(dequantize(packed, scales, biases, width=64), 3.5, atol=1e-6)
