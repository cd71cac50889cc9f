"""The kernels that models and searches compute with. Each backend has one module for each of the two.

Other folders get these modules from `get_encoder_ops` and `get_search_ops` only.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from typing import Literal, cast

from mlx_colbert.errors import BackendError, ConfigError

# It must know of each fork, also of one before the kernels of MLX are imported.
from mlx_colbert.kernels.protocols import CompressedDocuments, EncoderOps, Params, SearchOps

__all__ = [
    "Backend",
    "CompressedDocuments",
    "EncoderOps",
    "Params",
    "SearchOps",
    "clear_mlx_cache",
    "get_encoder_ops",
    "get_search_ops",
]

Backend = Literal["auto", "mlx", "numpy"]

_VARIABLE = "MLX_COLBERT_BACKEND"


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _mlx_problem() -> str | None:
    """Why MLX cannot be used, or None."""
    if not _installed("mlx"):
        if platform.system() == "Darwin":
            return "mlx is not installed. Install it with: pip install mlx"
        return "mlx is not installed. Install it with: pip install 'mlx-colbert[cpu]' (or [cuda])"
    try:
        importlib.import_module("mlx.core")
    except ImportError as error:
        # On Linux, `pip install mlx` does not install libmlx.so. It is in mlx[cpu] and mlx[cuda13].
        return f"mlx cannot be imported ({error}). On Linux: pip install 'mlx-colbert[cpu]' (or [cuda])"
    return None


def _mlx_has_gpu() -> bool:
    if _mlx_problem() is not None:
        return False
    return bool(importlib.import_module("mlx_colbert.kernels.mlx_encoder").has_gpu())


def _chosen(backend: Backend, without_gpu: Literal["mlx", "numpy"]) -> Literal["mlx", "numpy"]:
    """The backend that a name means on this machine. It is installed and works."""
    chosen, where = backend, "backend"
    if backend == "auto":
        chosen = cast(Backend, os.environ.get(_VARIABLE) or "auto")
        where = f"environment variable {_VARIABLE}"
    if chosen == "auto":
        chosen = "mlx" if _mlx_has_gpu() else without_gpu
    if chosen not in ("mlx", "numpy"):
        raise ConfigError(where, [f"{chosen!r} is not one of auto, mlx, numpy"])
    if chosen == "mlx":
        problem = _mlx_problem()
        if problem is not None:
            raise BackendError(f"backend mlx: {problem}")
    return chosen


def get_encoder_ops(
    backend: Backend = "auto", *, without_gpu: Literal["mlx", "numpy"] = "numpy"
) -> EncoderOps:
    """The kernels of a backend for a model.

    Args:
        backend: "auto" means MLX if it has a GPU (Metal or CUDA), else `without_gpu`. The environment
            variable MLX_COLBERT_BACKEND replaces "auto".
        without_gpu: by default numpy, because MLX is slower on a CPU under Linux.

    Raises:
        BackendError: if the backend is MLX, and MLX cannot be used.
        ConfigError: if there is no such backend.

    >>> get_encoder_ops("numpy").name
    'numpy'
    """
    module: EncoderOps = importlib.import_module(f"{__name__}.{_chosen(backend, without_gpu)}_encoder")
    return module


def get_search_ops(backend: Backend = "auto") -> SearchOps:
    """The kernels of a backend for a search.

    Args:
        backend: "auto" means MLX if it has a GPU (Metal or CUDA), else numpy. The environment variable
            MLX_COLBERT_BACKEND replaces "auto".

    Raises:
        BackendError: if the backend is MLX, and MLX cannot be used.
        ConfigError: if there is no such backend.

    >>> get_search_ops("numpy").name
    'numpy'
    """
    module: SearchOps = importlib.import_module(f"{__name__}.{_chosen(backend, 'numpy')}_search")
    return module


def clear_mlx_cache() -> None:
    """Give the memory that MLX keeps for later arrays back to the system. If MLX was not used, do nothing."""
    if "mlx.core" in sys.modules:
        importlib.import_module(f"{__name__}.mlx_encoder").clear_cache()
