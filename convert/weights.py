"""Reads the weights of a checkpoint folder: safetensors, PyTorch files (single or sharded), or ONNX."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from mlx_colbert.convert.onnx_file import onnx_file_shapes, read_onnx_file
from mlx_colbert.convert.torch_pickle import read_torch_file, torch_file_shapes
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from mlx_colbert.model.config import Dtype
from mlx_colbert.model.folder import sha256_of
from mlx_colbert.model.hub import ONNX_WEIGHTS, WEIGHTS
from mlx_colbert.model.safetensors_file import NUMPY_TYPES, read_safetensors, safetensors_shapes
from mlx_colbert.types import Array
from mlx_colbert.untrusted import read_json, reading, shown

__all__ = ["Weights", "read_weights", "widest"]

# In order of preference.
WEIGHT_FILES = (*(name + suffix for name in WEIGHTS for suffix in ("", ".index.json")), *ONNX_WEIGHTS)

_FLOAT_TYPES: dict[str, Dtype] = {
    "F64": "float32",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}

# A checkpoint may have at most this many times the bytes that are used, plus a gigabyte. An X-MOD model has
# adapters for 81 languages, and only one of them is read.
MAX_WASTE, MAX_WASTED_BYTES = 16, 1 << 30
# Values checked in one step.
BLOCK = 1 << 22

_POINTER = b"version https://git-lfs"


class Weights:
    """The weights of a checkpoint folder. The shapes are known before a tensor is read.

    Attributes:
        folder: the folder with the files.
        shapes: name of each tensor -> (safetensors' name of the type, shape).
        dtypes: the floating-point types on disk. float64 counts as float32.
        bits: 8 if matrices are 8-bit integers on disk. None: all are floats.
    """

    def __init__(self, folder: Path, found: str, shards: list[str]) -> None:
        self.folder = folder
        self._files = sorted({found, *shards})
        # Name of a tensor -> the shard, and its name there.
        self._places: dict[str, tuple[str, str]] = {}
        self.shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        for shard in shards:
            for stored, shape in _shapes(folder / shard).items():
                name = _unwrapped(stored)
                if name in self._places:
                    twice = f"{shown(self._places[name][1])} and {shown(stored)}"
                    raise CheckpointError(folder, f"{twice} are two tensors with the same name. Remove one.")
                self._places[name], self.shapes[name] = (shard, stored), shape
        codes = {code for code, _ in self.shapes.values()}
        self.dtypes: frozenset[Dtype] = frozenset(_FLOAT_TYPES[code] for code in codes & _FLOAT_TYPES.keys())
        if not self.dtypes:
            raise CheckpointError(folder, f"{found} has no floating-point weights.")
        is_quantized = found.endswith(".onnx") and not codes.isdisjoint(("I8", "U8"))
        self.bits = 8 if is_quantized else None

    def read(self, names: Collection[str]) -> dict[str, Array]:
        """The tensors with these names, possibly read-only. bfloat16 becomes float32.

        Raises:
            UnsafeCheckpointError: if a file asks for more than weights, or is far larger than the used
                weights.
            CheckpointError: if a file is damaged, or a weight is not finite.
        """
        wanted: dict[str, list[str]] = {shard: [] for shard, _ in self._places.values()}
        needed = size = 0
        for name in names:
            wanted[self._places[name][0]].append(name)
            code, shape = self.shapes[name]
            needed += prod(shape) * (NUMPY_TYPES[code].itemsize if code in NUMPY_TYPES else 1)
        for shard in wanted:
            size += (self.folder / shard).stat().st_size
        # The SHA-256 of the whole file takes time, also if only a small part is used.
        if size > MAX_WASTE * needed + MAX_WASTED_BYTES:
            reason = f"the weights have {size:,} bytes, but the model uses only {needed:,} of them"
            raise UnsafeCheckpointError(
                self.folder, f"{reason}. Refused. Save only the weights of the model."
            )
        tensors: dict[str, Array] = {}
        for shard, chosen in wanted.items():
            read = _reader(shard)(self.folder / shard, names=[self._places[name][1] for name in chosen])
            tensors |= {name: read[self._places[name][1]] for name in chosen}
        _check_finite(self.folder, tensors)
        return tensors

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """All tensors, as `read` returns them."""
        return self.read(self.shapes)

    @cached_property
    def files(self) -> dict[str, str]:
        """Name of each file -> SHA-256, in hexadecimal."""
        return {name: sha256_of(self.folder / name) for name in self._files}


def _unwrapped(name: str) -> str:
    """The name of a tensor without the prefixes of torch.compile and DataParallel."""
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def widest(dtypes: Iterable[Dtype]) -> Dtype:
    """The smallest type that can hold the values of all types. Two half-precision types need float32."""
    distinct = set(dtypes)
    return distinct.pop() if len(distinct) == 1 else "float32"


def read_weights(folder: Path) -> Weights:
    """The weights in a folder. safetensors are preferred to PyTorch files, and PyTorch files to ONNX.

    Only headers are read here.

    Args:
        folder: a checkpoint, or the folder of a module in it (`1_Dense`).

    Raises:
        CheckpointNotFoundError: if the folder has none of the known files.
        UnsafeCheckpointError: if a file asks for more than weights.
        CheckpointError: if a file is damaged, or shards differ from their index.
    """
    found = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointNotFoundError(folder, f"has no weights. It needs one of {', '.join(WEIGHT_FILES)}.")
    _refuse_pointer(folder / found)
    shards = [found]
    if found.endswith(".index.json"):
        weight_map = _read_index(folder / found)
        shards = sorted(set(weight_map.values()))
        _check_shards(folder / found, weight_map)
    return Weights(folder, found, shards)


def _reader(name: str) -> Callable[..., dict[str, Array]]:
    if name.endswith(".onnx"):
        return read_onnx_file
    return read_safetensors if name.endswith(".safetensors") else read_torch_file


def _shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    if path.name.endswith(".onnx"):
        return onnx_file_shapes(path)
    return safetensors_shapes(path) if path.name.endswith(".safetensors") else torch_file_shapes(path)


def _read_index(path: Path) -> dict[str, str]:
    """The `weight_map` of an index: tensor name -> name of a file beside the index."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(path, "has no weight_map of tensor names to file names.")
    # The files may be symbolic links, as in the Hugging Face cache. The names must be in this folder.
    unsafe = {shown(name) for name in weight_map.values() if not _is_plain(name, like=path)}
    if unsafe:
        named = ", ".join(sorted(unsafe)[:5])
        raise UnsafeCheckpointError(
            path, f"names {named}. These are not weight files in its folder. Refused."
        )
    return weight_map


def _is_plain(name: object, *, like: Path) -> bool:
    suffix = r"\.safetensors" if ".safetensors." in like.name else r"\.bin"
    return isinstance(name, str) and re.fullmatch(rf"\w[\w.-]*{suffix}", name, re.ASCII) is not None


def _check_shards(path: Path, weight_map: dict[str, str]) -> None:
    """Check that each file of an index exists, and has exactly the tensors that the index says."""
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
        problems += [
            f"{shard} has {shown(name)}, but the index says another file." for name in sorted(held - names)
        ]
    if problems:
        raise CheckpointError(path, problems)


def _check_finite(folder: Path, tensors: dict[str, Array]) -> None:
    damaged = [name for name, array in tensors.items() if array.dtype.kind == "f" and not _is_finite(array)]
    if damaged:
        raise CheckpointError(folder, [f"tensor {shown(name)} has NaN or infinity." for name in damaged])


def _is_finite(array: Array) -> bool:
    """Whether no value is NaN or infinite. Blocks keep the memory for the bools small."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[start : start + BLOCK]).all() for start in range(0, flat.size, BLOCK))


def _refuse_pointer(path: Path) -> None:
    with reading(path), path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                path, "is a git-lfs pointer, not the weights. Fetch them with: git lfs pull."
            )
