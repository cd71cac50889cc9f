"""Finds a language model server on this machine."""

from __future__ import annotations

from contextlib import suppress

from mlx_colbert.ask.language_models.endpoint import Endpoint
from mlx_colbert.errors import LanguageModelError

__all__ = ["find_local"]

# The usual ports.
SERVERS = {1234: "LM Studio", 11434: "Ollama", 8080: "mlx_lm.server or llama.cpp"}
# Seconds to wait for each.
LIMIT_S = 1.0


def find_local(*, window: int | None = None) -> Endpoint:
    """The first model of the first server that answers on a usual port of this machine. No key is sent.

    Raises:
        LanguageModelError: if no server has a model.
    """
    for port in SERVERS:
        with suppress(LanguageModelError):
            return Endpoint.connect(f"http://127.0.0.1:{port}", window=window, limit_s=LIMIT_S)
    places = ", ".join(f"{name} at port {port}" for port, name in SERVERS.items())
    raise LanguageModelError(
        "auto", f"no server with a model was found ({places}). Start one, or name a model."
    )
