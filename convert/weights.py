"""The weights of a PyTorch checkpoint folder, whichever of four layouts they are in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_colbert.convert.torch_pickle import read_torch_file, torch_file_shapes
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from mlx_colbert.model.config import Dtype
from mlx_colbert.model.folder import sha256_of
from mlx_colbert.model.hub import WEIGHTS
from mlx_colbert.model.safetensors_file import read_safetensors, safetensors_shapes
from mlx_colbert.types import Array
from mlx_colbert.untrusted import read_json, shown

__all__ = ["Weights", "read_weights", "widest"]

# In order of preference.
WEIGHT_FILES = tuple(name + suffix for name in WEIGHTS for suffix in ("", ".index.json"))

_FLOAT_TYPES: dict[str, Dtype] = {
    "F64": "float32",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}

_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint folder.

    Attributes:
        tensors: name -> array, possibly read-only; bfloat16 is float32 here.
        dtypes: the floating types on disk; float64 counts as float32.
        files: name of each file read -> SHA-256, in hexadecimal.
    """

    tensors: dict[str, Array]
    dtypes: frozenset[Dtype]
    files: dict[str, str]


def widest(dtypes: Iterable[Dtype]) -> Dtype:
    """The one type that holds the values of all: two different half-precision types need float32."""
    distinct = set(dtypes)
    return distinct.pop() if len(distinct) == 1 else "float32"


def read_weights(folder: Path) -> Weights:
    """The weights in a folder: one file or several with an index, safetensors before PyTorch's.

    Args:
        folder: a checkpoint, or a module's folder within one (`1_Dense`).

    Raises:
        CheckpointNotFoundError: if the folder holds none of the known files.
        UnsafeCheckpointError: if a file asks for more than weights need.
        CheckpointError: if a file is damaged, shards differ from their index, or a weight is not finite.
    """
    found = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointNotFoundError(folder, f"no weights here; looked for {', '.join(WEIGHT_FILES)}.")
    _refuse_pointer(folder / found)
    shards = [found]
    if found.endswith(".index.json"):
        weight_map = _read_index(folder / found)
        shards = sorted(set(weight_map.values()))
        _check_shards(folder / found, weight_map)
    tensors: dict[str, Array] = {}
    dtypes: set[Dtype] = set()
    for shard in shards:
        tensors |= _reader(shard)(folder / shard)
        codes = {code for code, _ in _shapes(folder / shard).values()}
        dtypes |= {_FLOAT_TYPES[code] for code in codes & _FLOAT_TYPES.keys()}
    if not dtypes:
        raise CheckpointError(folder, f"{found} holds no floating-point weights.")
    _check_finite(folder, tensors)
    files = {name: sha256_of(folder / name) for name in sorted({found, *shards})}
    return Weights(tensors, frozenset(dtypes), files)


def _reader(name: str) -> Callable[[Path], dict[str, Array]]:
    return read_safetensors if name.endswith(".safetensors") else read_torch_file


def _shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    return safetensors_shapes(path) if path.name.endswith(".safetensors") else torch_file_shapes(path)


def _read_index(path: Path) -> dict[str, str]:
    """The `weight_map` of an index: tensor name -> name of a file beside the index."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(path, "has no weight_map of tensor names to file names.")
    # The files may be symlinks, as in the Hugging Face cache; the names may not lead elsewhere.
    unsafe = {shown(name) for name in weight_map.values() if not _is_plain(name, like=path)}
    if unsafe:
        named = ", ".join(sorted(unsafe)[:5])
        raise UnsafeCheckpointError(path, f"names {named}, not weight files of its own folder. Refused.")
    return weight_map


def _is_plain(name: object, *, like: Path) -> bool:
    suffix = r"\.safetensors" if ".safetensors." in like.name else r"\.bin"
    return isinstance(name, str) and re.fullmatch(rf"\w[\w.-]*{suffix}", name, re.ASCII) is not None


def _check_shards(path: Path, weight_map: dict[str, str]) -> None:
    """Checks that each file of an index exists and holds just the tensors that the index places there."""
    planned: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        planned.setdefault(shard, set()).add(tensor)
    problems = []
    for shard, names in sorted(planned.items()):
        if not (path.parent / shard).is_file():
            problems.append(f"{shard} is missing.")
            continue
        _refuse_pointer(path.parent / shard)
        held = _shapes(path.parent / shard).keys()
        problems += [f"{shard} lacks {shown(name)}." for name in sorted(names - held)]
        problems += [f"{shard} holds {shown(name)}, unlike the index." for name in sorted(held - names)]
    if problems:
        raise CheckpointError(path, problems)


def _check_finite(folder: Path, tensors: dict[str, Array]) -> None:
    damaged = [
        name for name, array in tensors.items() if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if damaged:
        raise CheckpointError(folder, [f"tensor {shown(name)} holds NaN or infinity." for name in damaged])


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                path, "is a git-lfs pointer, not the weights. Fetch them with: git lfs pull."
            )
