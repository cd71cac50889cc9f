"""How another program starts this one later: with this Python, and with the folders of now."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from mlx_colbert.places import expanded

__all__ = ["VARIABLES", "kept_variables", "own_command"]

# What decides where collections, settings and models are, and how the hub is reached.
_FOLDERS = (
    "MLX_COLBERT_HOME",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
)
VARIABLES = (*_FOLDERS, "HF_HUB_OFFLINE", "HF_ENDPOINT")


def own_command(*words: str) -> list[str]:
    """The command line of `mlx-colbert` with this Python. It needs no PATH.

    Args:
        words: what follows `mlx-colbert`.
    """
    # -P: no module is taken from the folder that the process starts in.
    return [sys.executable, "-P", "-m", "mlx_colbert", *words]


def kept_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """What a process that starts later needs of this environment. Folders are absolute."""
    return {
        name: str(expanded(value).absolute()) if name in _FOLDERS else value
        for name in VARIABLES
        if (value := variables.get(name))
    }
