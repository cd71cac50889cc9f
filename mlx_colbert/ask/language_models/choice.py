"""Chooses and opens a language model."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_colbert.ask.language_models.language_model import LanguageModel
from mlx_colbert.errors import BackendError, InputError
from mlx_colbert.model.kept import files_stamp, loaded_once

__all__ = ["DEFAULTS", "KEY_VARIABLE", "open_language_model"]

# The key for an endpoint. Its own name, so that no other key goes to a server by accident.
KEY_VARIABLE = "MLX_COLBERT_API_KEY"
# Memory in GB from which a model is the default, and the model. The weights take a seventh of it at most.
DEFAULTS = (
    (30, "mlx-community/Qwen3-8B-4bit"),
    (15, "mlx-community/Qwen3-4B-4bit"),
    (0, "mlx-community/Qwen3-1.7B-4bit"),
)


def default_name() -> str:
    """The hub id of the model for the memory of this machine."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return next(name for least, name in DEFAULTS if memory_gb >= least)


def open_language_model(
    llm: str | None = None,
    *,
    endpoint: str | None = None,
    window: int | None = None,
    key: str | None = None,
) -> LanguageModel:
    """A language model, loaded or connected.

    Args:
        llm: a folder or hub id for mlx-lm, or "auto" for a server on this machine. With an endpoint, the name
            of its model. None: a model for the memory of this machine; with an endpoint, its first model.
        endpoint: the URL of a server with the interface of OpenAI. On this machine "localhost:1234" is
            enough.
        window: how many tokens the model can read and write in all. None: what the model or the server says.
        key: the key of the endpoint. None: that of the environment, MLX_COLBERT_API_KEY.

    Raises:
        BackendError: if mlx-lm is not installed.
        InputError: if an argument cannot be used.
        LanguageModelError: if the model cannot be loaded or reached.
    """
    if endpoint is not None:
        from mlx_colbert.ask.language_models.endpoint import Endpoint

        if llm == "auto":
            raise InputError('"auto" looks for an endpoint. Give one of the two.')
        return Endpoint.connect(endpoint, llm, window=window, key=key or os.environ.get(KEY_VARIABLE) or None)
    if llm == "auto":
        from mlx_colbert.ask.language_models.local_servers import find_local

        return find_local(window=window)
    try:
        from mlx_colbert.ask.language_models.mlx_lm import InProcess
    except ImportError as error:
        raise BackendError(
            f"a language model in this process needs mlx-lm ({error}). Install it with: pip install "
            "'mlx-colbert[rag]' (on Linux [rag,cpu] or [rag,cuda]). Or use a server: --endpoint URL."
        ) from error
    name = llm or default_name()
    stamp = files_stamp(Path(name)) if Path(name).is_dir() else None
    kept_as = ("language model", name, window, stamp)
    model: InProcess = loaded_once(name, kept_as, lambda: InProcess(name, window=window))
    return model
