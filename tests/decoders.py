"""The test checkpoints whose backbone is a decoder, which numpy lacks."""

from __future__ import annotations

import pytest

from mlx_colbert.errors import BackendError
from mlx_colbert.model.backbones.decoder import DecoderConfig

DECODERS = ["native-lfm2", "native-qwen3", "pylate-lfm2", "pylate-pplx-qwen3"]


# The smallest settings. What a decoder needs does not depend on its sizes.
SIZES = {
    "vocab_size": 8,
    "hidden_size": 8,
    "n_layers": 2,
    "n_heads": 2,
    "n_kv_heads": 1,
    "head_size": 4,
    "intermediate_size": 8,
    "max_length": 16,
    "norm_eps": 1e-5,
    "rope_theta": 1e4,
}


def _problem() -> str:
    try:
        DecoderConfig(family="qwen3", **SIZES).ops("mlx")
    except BackendError as error:
        return str(error)
    return ""


needs_mlx_lm = pytest.mark.skipif(bool(_problem()), reason=_problem())


def skip_decoder(name: str, backend: str) -> None:
    """Skips a test of one checkpoint where the backend, or this machine, cannot compute it."""
    if name in DECODERS and (backend == "numpy" or _problem()):
        pytest.skip(_problem() or "numpy has no decoders")
