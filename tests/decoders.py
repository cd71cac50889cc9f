"""The test checkpoints whose backbone is a decoder, which numpy lacks."""

from __future__ import annotations

import pytest

from mlx_colbert.errors import BackendError
from mlx_colbert.model.backbones.decoder import decoder_ops

DECODERS = ["native-lfm2", "native-qwen3", "pylate-lfm2", "pylate-pplx-qwen3"]


def _problem() -> str:
    try:
        decoder_ops("mlx")
    except BackendError as error:
        return str(error)
    return ""


needs_mlx_lm = pytest.mark.skipif(bool(_problem()), reason=_problem())


def skip_decoder(name: str, backend: str) -> None:
    """Skips a test of one checkpoint where the backend, or this machine, cannot compute it."""
    if name in DECODERS and (backend == "numpy" or _problem()):
        pytest.skip(_problem() or "numpy has no decoders")
