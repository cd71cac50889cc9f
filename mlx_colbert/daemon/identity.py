"""Whose program a process runs, and which of its environment matters to the daemon."""

# pathlib takes longer to import than a client of the daemon works.
# ruff: noqa: PTH100, PTH120

from __future__ import annotations

import os
from collections.abc import Mapping

from mlx_colbert._version import __version__

__all__ = ["apply", "differing", "environment", "identity", "is_newer"]

# Variables that are read at each call, so that the daemon takes those of its client.
_PER_CALL = "MLX_COLBERT_"
# What the terminal of the client can show.
_PER_CALL_NAMES = ("COLUMNS", "NO_COLOR", "TERM")
# Variables that a process reads once. A client with other ones is not answered.
_READ_ONCE = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "OMP_", "OPENBLAS_", "MKL_", "VECLIB_")
_READ_ONCE_NAMES = ("HOME", "TZ", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")


def identity() -> dict[str, str]:
    """The version of this program, and where it is installed."""
    return {"version": __version__, "package": os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}


def is_newer(ours: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """Whether our program should replace theirs: its version is higher."""
    return _numbers(ours["version"]) > _numbers(theirs.get("version", ""))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def environment() -> dict[str, str]:
    """The variables of this process that matter."""
    return {
        name: value
        for name, value in os.environ.items()
        if _is_per_call(name) or name.startswith(_READ_ONCE) or name in _READ_ONCE_NAMES
    }


def differing(given: Mapping[str, str]) -> list[str]:
    """The names of the variables that this process has read, and that the client has with other values."""
    ours = environment()
    return sorted(
        name
        for name in ours.keys() | given.keys()
        if not _is_per_call(name) and ours.get(name) != given.get(name)
    )


def apply(given: Mapping[str, str]) -> None:
    """Take the variables of a client that are read at each call."""
    for name in [name for name in os.environ if _is_per_call(name) and name not in given]:
        del os.environ[name]
    os.environ.update({name: value for name, value in given.items() if _is_per_call(name)})


def _is_per_call(name: str) -> bool:
    return name.startswith(_PER_CALL) or name in _PER_CALL_NAMES
