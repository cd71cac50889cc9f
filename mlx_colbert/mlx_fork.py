"""Refuses MLX in a forked process. Its threads do not run there, so a computation would wait for ever."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from typing import Any, NoReturn

from mlx_colbert.errors import BackendError

__all__ = ["check_readable", "refuse_after_fork"]

# These compute nothing, so they stay.
_HARMLESS = ("default_dtype", "device", "has_gpu")


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise BackendError(
        "backend mlx: MLX does not work in a process that was forked after MLX was loaded. Start "
        'processes with the "spawn" method of multiprocessing, or use backend="numpy".'
    )


_is_forked = False


def _notice() -> None:
    global _is_forked
    _is_forked = _is_forked or "mlx.core" in sys.modules


# A module of kernels may be imported for the first time in the forked process.
os.register_at_fork(after_in_child=_notice)


def check_readable(array: object) -> None:
    """Raise an error for an MLX array in a process that was forked after MLX was loaded.

    Raises:
        BackendError: to read the array would wait for ever.
    """
    if _is_forked and type(array).__module__.partition(".")[0] == "mlx":
        raise BackendError(
            "an MLX array cannot be read in a process that was forked after MLX was loaded. Start processes "
            'with the "spawn" method of multiprocessing, or make numpy arrays before the fork.'
        )


def refuse_after_fork(kernels: dict[str, Any], names: Collection[str]) -> None:
    """Make the kernels of a module raise an error in every process that is forked from one with MLX.

    Args:
        kernels: the globals of the module.
        names: the names that the module exports.
    """

    def replace() -> None:
        for name in names:
            if callable(kernels[name]) and name not in _HARMLESS:
                kernels[name] = _refuse

    os.register_at_fork(after_in_child=replace)
    if _is_forked:
        replace()
