"""The versions of what figures depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]

_LIBRARIES = ("mlx-colbert", "numpy", "mlx", "tokenizers", "bm25s", "ir-measures", "pytrec-eval-terrier")


def versions() -> dict[str, str]:
    """Name → version of Python and of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
