"""The file of an encoder: its settings and arrays. numpy's format without pickle."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mlx_colbert.errors import InputError
from mlx_colbert.types import Array

__all__ = ["read_encoder", "write_encoder"]

_VERSION = 1
_HEADER = "header"

_Settings = TypeVar("_Settings")


def write_encoder(
    path: str | Path,
    kind: str,
    settings: Mapping[str, Any],
    fingerprint: str | None,
    arrays: Mapping[str, Array],
) -> None:
    """Write an encoder. A file at the path is replaced when the new one is complete.

    Args:
        path: the file.
        kind: the name of the class of encoders.
        settings: values for JSON.
        fingerprint: the fingerprint of the model of the token embeddings.
        arrays: the arrays by name.
    """
    header = {"kind": kind, "version": _VERSION, "settings": dict(settings), "fingerprint": fingerprint}
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_HEADER: np.array(json.dumps(header))}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_encoder(
    path: str | Path, kind: str, settings: Callable[..., _Settings], arrays: Mapping[str, int]
) -> tuple[_Settings, str | None, dict[str, Array]]:
    """The settings, the fingerprint and the arrays of an encoder.

    Args:
        path: the file.
        kind: the name of the class of encoders.
        settings: the class of its settings.
        arrays: the names of its arrays, each with the number of its axes.

    Raises:
        InputError: if it is not the file of such an encoder, or is damaged.
        OSError: if it cannot be read.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(str(file[_HEADER]))
            found_kind, version, fingerprint = (header[name] for name in ("kind", "version", "fingerprint"))
            if (found_kind, version) != (kind, _VERSION):
                what = f"is an encoder of the kind {found_kind!r}, version {version}"
                raise InputError(f"{path}: {what}, not {kind!r}, version {_VERSION}.")
            values = settings(**header["settings"])
            found = {name: file[name] for name in arrays}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is not the file of an encoder, or is damaged. Fit and save it again."
        ) from error
    for name, n_axes in arrays.items():
        array = found[name]
        if array.dtype != np.float32 or array.ndim != n_axes or not np.isfinite(array).all():
            raise InputError(f"{path}: {name} is damaged. Fit and save it again.")
    return values, fingerprint, found
