"""Measures what this machine computes with and how fast, and says what slows it down."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from mlx_colbert._version import __version__
from mlx_colbert.errors import BackendError
from mlx_colbert.kernels import Backend, EncoderOps, get_encoder_ops
from mlx_colbert.kernels.threads import n_threads
from mlx_colbert.model.backbones.encoder import EncoderConfig
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.parameters import expected_shapes
from mlx_colbert.model.projection import project
from mlx_colbert.types import Array

__all__ = ["Diagnosis", "diagnose"]

_PACKAGES = ("numpy", "mlx", "mlx-lm", "tokenizers", "transformers", "safetensors", "huggingface-hub")
# numpy's names for the matrix libraries that use a whole machine.
_FAST_BLAS = ("openblas", "accelerate", "mkl", "blis", "armpl", "nvpl")
# The reference BLAS of MLX was 40 times slower than OpenBLAS in numpy. Noise does not make such a difference.
_SLOW = 4.0
# The sizes of all-MiniLM-L6-v2, with a smaller vocabulary. The vocabulary does not change the time.
_MINILM = EncoderConfig(
    vocab_size=1000,
    hidden_size=384,
    n_layers=6,
    n_heads=12,
    intermediate_size=1536,
    max_length=512,
    position="absolute",
    type_vocab_size=2,
)
_PASSAGE_TOKENS = 128
_PASSAGE = "Green tea is steeped for two minutes in water that has not quite boiled, black tea for four. " * 5
# Seconds. A measurement takes about this long.
_SECONDS = 0.8


@dataclass(frozen=True)
class Diagnosis:
    """The findings and measurements.

    Attributes:
        version: version of this package.
        python: version of Python, and the platform.
        packages: name -> version. None if the package is not installed.
        backend: "mlx" or "numpy".
        device: the name of the device that computes.
        gpu: "used", "not used", or "none found".
        dtype: the type in which a model with float16 weights computes.
        blas: the library of matrix products in numpy. None if numpy does not name it.
        threads: the most threads that the numpy kernels use. MLX_COLBERT_THREADS sets it.
        gflops: float32 matrix products on the backend, 1e9 operations per second.
        numpy_gflops: the same on numpy.
        model: the model that was measured.
        tokens_per_s: document tokens encoded per second. The time of a given model includes tokenisation.
        advice: sentences that say what slows this machine down, and what to do.
    """

    version: str
    python: str
    packages: dict[str, str | None]
    backend: str
    device: str
    gpu: str
    dtype: str
    blas: str | None
    threads: int
    gflops: float
    numpy_gflops: float
    model: str
    tokens_per_s: float
    advice: list[str]


def diagnose(model: str | Path | None = None, *, backend: Backend = "auto") -> Diagnosis:
    """What this machine computes with, and how fast. The measurements take a few seconds.

    Args:
        model: a folder or hub id to measure with. None: an encoder of the size of MiniLM with random weights.
        backend: "auto", "mlx" or "numpy".

    Raises:
        BackendError: if the backend is not installed.
        CheckpointError: if the model cannot be read.
    """
    colbert = None if model is None else ColBERT.load(model, backend=backend)
    # "auto" means MLX for a decoder, also without a GPU.
    ops = get_encoder_ops(backend) if colbert is None else get_encoder_ops(colbert.backend)
    on_gpu = ops.device().startswith("GPU")
    numpy_gflops = _gflops(get_encoder_ops("numpy"), 512)
    gflops = numpy_gflops if ops.name == "numpy" else _gflops(ops, 4096 if on_gpu else 512)
    blas = _numpy_blas()
    return Diagnosis(
        version=__version__,
        python=f"{platform.python_version()}, {platform.system()} {platform.machine()}",
        packages={name: _version_of(name) for name in _PACKAGES},
        backend=ops.name,
        device=ops.device(),
        gpu="used" if on_gpu else "not used" if _finds_gpu() else "none found",
        dtype=ops.default_dtype("float16"),
        blas=blas,
        threads=n_threads(),
        gflops=gflops,
        numpy_gflops=numpy_gflops,
        model="random weights, MiniLM's size" if model is None else str(model),
        tokens_per_s=_rate(_random_encoder(ops) if colbert is None else _encoder(colbert)),
        advice=[*_gpu_advice(ops, on_gpu), *_blas_advice(ops, on_gpu, blas, gflops, numpy_gflops)],
    )


def _rate(run: Callable[[int], int]) -> float:
    """Units per second of `run(times)`, which returns the number of its units: the best of several runs.

    The best, because other programs slow a run down. Runs become longer until one takes a good part of the
    time.
    """
    # The first run also loads and compiles, so it is not measured.
    run(1)
    times, best, end = 1, 0.0, time.perf_counter() + _SECONDS
    while True:
        started = time.perf_counter()
        units = run(times)
        stopped = time.perf_counter()
        best = max(best, units / max(stopped - started, 1e-9))
        if stopped >= end:
            return best
        if stopped - started < _SECONDS / 8:
            times *= 4


def _gflops(ops: EncoderOps, size: int) -> float:
    """Measured speed of float32 products of square matrices."""
    rng = np.random.default_rng(0)
    # Scaled, so that the values of a long chain of products become neither infinite nor 0.
    matrix = (rng.standard_normal((size, size)) / np.sqrt(size)).astype(np.float32)
    params = ops.load_params({"matrix.weight": matrix}, "float32")

    def products(times: int) -> int:
        x = ops.asarray(matrix)
        for _ in range(times):
            x = ops.linear(params, "matrix", x)
        ops.to_numpy(x[:1])
        return times * 2 * size**3

    return _rate(products) / 1e9


def _random_encoder(ops: EncoderOps) -> Callable[[int], int]:
    """A function that encodes that many passages and returns the number of their tokens."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape, np.float32) * np.float32(0.02)
        for name, shape in expected_shapes(_MINILM, ()).items()
    }
    params = ops.load_params(tensors, ops.default_dtype("float16"))
    at_once = max(1, ops.batch_tokens // _PASSAGE_TOKENS)
    ids = rng.integers(_MINILM.vocab_size, size=(at_once, _PASSAGE_TOKENS)).astype(np.int32)

    def encoded(batch: Array) -> Array:
        hidden = _MINILM.encode(ops, params, batch, np.ones(batch.shape, bool))
        return ops.to_numpy(project(ops, params, (), hidden))

    def passages(times: int) -> int:
        batches = [ids[: min(at_once, times - start)] for start in range(0, times, at_once)]
        for _ in ops.mapped(encoded, batches):
            pass
        return times * _PASSAGE_TOKENS

    return passages


def _encoder(colbert: ColBERT) -> Callable[[int], int]:
    """The same for a model. It tokenises the passages too."""
    n_tokens = len(colbert.token_ids(_PASSAGE, "document"))

    def passages(times: int) -> int:
        colbert.encode_document([_PASSAGE] * times, show_progress=False)
        return times * n_tokens

    return passages


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numpy_blas() -> str | None:
    config = np.show_config(mode="dicts") or {}
    found = config.get("Build Dependencies", {}).get("blas", {})
    name = found.get("name")
    return f"{name} {found.get('version', '')}".strip() if name else None


def _finds_gpu() -> bool:
    """Whether there is a GPU that MLX could use."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return Path("/proc/driver/nvidia/gpus").exists() or shutil.which("nvidia-smi") is not None


def _gpu_advice(ops: EncoderOps, on_gpu: bool) -> list[str]:
    if on_gpu or not _finds_gpu():
        return []
    try:
        device = get_encoder_ops("mlx").device()
    except BackendError as error:
        return [f"The GPU is not used. {error}"]
    if device.startswith("GPU"):
        return [f"The GPU is not used: backend {ops.name} was chosen. --backend mlx uses the GPU."]
    return ["The GPU is not used: this MLX was built for the CPU. Linux: pip install 'mlx-colbert[cuda]'."]


def _blas_advice(
    ops: EncoderOps, on_gpu: bool, blas: str | None, gflops: float, numpy_gflops: float
) -> list[str]:
    advice = []
    # The numpy of conda and of Debian names no library, but loads a fast one.
    loaded = ThreadpoolController().select(user_api="blas").lib_controllers
    if blas is not None and not loaded and not any(name in blas.lower() for name in _FAST_BLAS):
        advice.append(
            f"numpy computes its matrix products with {blas}, which is slow. The wheels of PyPI have "
            "OpenBLAS, or Accelerate on a Mac: pip install --force-reinstall numpy."
        )
    if ops.name == "mlx" and not on_gpu and numpy_gflops > _SLOW * gflops:
        advice.append(
            f"MLX on the CPU runs at {gflops:.0f} GFLOP/s, numpy at {numpy_gflops:.0f}: the Linux wheel of "
            "MLX has a slow BLAS. Use --backend numpy, or OpenBLAS of Debian: apt-get install "
            "libopenblas0-pthread, then export LD_PRELOAD=$(ls /usr/lib/*/openblas-pthread/libblas.so.3)."
        )
    if on_gpu and gflops < numpy_gflops:
        advice.append(f"The GPU runs at {gflops:.0f} GFLOP/s, numpy at {numpy_gflops:.0f}: is it busy?")
    return advice
