"""Reads and writes safetensors files. Only this file imports the safetensors library."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, said
from mlx_colbert.model.config import Dtype
from mlx_colbert.types import Array
from mlx_colbert.untrusted import reading

__all__ = [
    "NUMPY_TYPES",
    "bfloat16_to_float32",
    "float32_to_bfloat16",
    "read_safetensors",
    "safetensors_shapes",
    "write_safetensors",
]

# The header of a BERT has 20 kB. Each entry becomes an object in memory.
MAX_HEADER_BYTES = 4 << 20

# By the names of safetensors. numpy has no bfloat16: its 16 bits are read as an integer.
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("|i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("|u1"),
    "BOOL": np.dtype("|b1"),
}
_CODES = {dtype: code for code, dtype in NUMPY_TYPES.items() if code != "BF16"}
_FLOAT_CODES: dict[Dtype, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def bfloat16_to_float32(bits: Array) -> Array:
    """The float32 values of bfloat16 bits, exactly.

    Args:
        bits: (...) uint16.

    Returns:
        (...) float32, a new array.

    >>> bfloat16_to_float32(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    wide: Array = np.left_shift(bits, 16, dtype=np.uint32)
    return wide.view(np.float32)


def float32_to_bfloat16(values: Array) -> Array:
    """The bfloat16 bits nearest to float32 values. Ties go to even; NaN stays NaN.

    Args:
        values: (...) float32.

    Returns:
        (...) uint16.

    >>> [hex(bits) for bits in float32_to_bfloat16(np.array([1.0, -2.0], np.float32))]
    ['0x3f80', '0xc000']
    """
    bits = values.astype(np.float32, order="C", copy=False).view(np.uint32)
    top = bits >> 16
    rounded = (bits + np.uint32(0x7FFF) + (top & 1)) >> 16
    # Rounding could turn a NaN into a number, so the quiet bit of the NaN is set instead.
    result: Array = np.where(np.isnan(values), top | 0x40, rounded).astype(np.uint16)
    return result


def read_safetensors(path: Path, *, names: Collection[str] | None = None) -> dict[str, Array]:
    """The tensors of a safetensors file.

    Nothing is copied: the arrays are read-only views of the mapped file. The file stays mapped while one of
    them exists. In this time it is safe to replace the file by a rename, as `write_safetensors` does. It is
    not safe to shorten it. bfloat16 tensors become new float32 arrays, because numpy has no bfloat16.

    Args:
        path: the file.
        names: the tensors to read. None: all.

    Returns:
        name -> array, with its shape in the file.

    Raises:
        CheckpointNotFoundError: if there is no such file.
        CheckpointError: if the file is damaged, has no tensor of one of `names`, or a type that numpy lacks.
    """
    header, start = _read_header(path)
    wanted = list(header if names is None else names)
    problems = [f"has no tensor {name!r}." for name in wanted if name not in header]
    problems += [
        f"tensor {name!r} has the type {header[name][0]}, which numpy lacks. Convert it to F32, F16 or BF16."
        for name in wanted
        if name in header and header[name][0] not in NUMPY_TYPES
    ]
    if problems:
        raise CheckpointError(path, problems)
    try:
        with reading(path), path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # the file was changed under us
        raise CheckpointError(path, f"cannot be mapped: {said(error)}.") from error
    tensors = {}
    for name in wanted:
        code, shape, offset = header[name]
        try:
            array: Array = np.ndarray(shape, NUMPY_TYPES[code], buffer=mapping, offset=start + offset)
        except (TypeError, ValueError) as error:  # too many dimensions, or the file was changed under us
            raise CheckpointError(path, f"tensor {name!r} cannot be read: {said(error)}.") from error
        if code == "BF16":
            array = bfloat16_to_float32(array)
        # In a file, 4-byte numbers may follow an odd number of bytes. BLAS and MLX need aligned numbers.
        tensors[name] = array if array.flags.aligned else array.copy()
    return tensors


def safetensors_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and shape of each tensor in a safetensors file. No tensor is read.

    Returns:
        name -> (safetensors' name of the type: "F32", "BF16" …, shape).

    Raises:
        CheckpointNotFoundError: if there is no such file.
        CheckpointError: if the file is damaged.
    """
    header, _ = _read_header(path)
    return {name: (code, shape) for name, (code, shape, _) in header.items()}


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Array],
    *,
    dtype: Dtype = "float32",
) -> None:
    """Write tensors as one safetensors file. After an error there is no half-written file.

    The same tensors give the same bytes, because names and types alone decide the order. Tensors are
    converted one at a time.

    Args:
        path: the file. It is replaced if it exists.
        tensors: name -> array of any shape. Floats are stored as `dtype`, integers (quantised weights)
            unchanged.
        dtype: type of the floating-point tensors on disk.

    Raises:
        CheckpointError: if a finite value is too large for `dtype`, or safetensors lacks the type of a
            tensor.
    """
    codes = {name: _code_on_disk(path, name, array, dtype) for name, array in tensors.items()}
    # Wide types come first, as in the safetensors library, so every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-NUMPY_TYPES[codes[name]].itemsize, name))
    # mlx-lm and transformers look for this mark.
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].size * NUMPY_TYPES[codes[name]].itemsize
        header[name] = {
            "dtype": codes[name],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for name in names:
                file.write(_as_stored(path, name, tensors[name], codes[name]).data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_header(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], int]:
    """(type, shape, offset) of each tensor by name, and the position of the data in the file."""
    # Here, not at the top: `import mlx_colbert` loads no third party but numpy.
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointNotFoundError(path, "there is no such file.")
    try:
        with reading(path), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {size} bytes; no real one has more than {MAX_HEADER_BYTES}")
        # The library checks sizes, overlaps, holes and the file's length.
        with reading(path), safe_open(path, framework="numpy"), path.open("rb") as file:
            header = json.loads(file.read(8 + size)[8:].decode("utf-8"))
        header.pop("__metadata__", None)
        entries = {
            name: (str(entry["dtype"]), tuple(entry["shape"]), int(entry["data_offsets"][0]))
            for name, entry in header.items()
        }
    except (SafetensorError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        advice = "The file is damaged or is not safetensors. Fetch it again."
        raise CheckpointError(path, f"cannot be read: {said(error)}. {advice}") from error
    return entries, 8 + size


def _code_on_disk(path: Path, name: str, array: Array, dtype: Dtype) -> str:
    if array.dtype.kind == "f":
        return _FLOAT_CODES[dtype]
    if array.dtype not in _CODES:
        raise CheckpointError(path, f"tensor {name!r} has the type {array.dtype}, which safetensors lacks.")
    return _CODES[array.dtype]


def _as_stored(path: Path, name: str, array: Array, code: str) -> Array:
    """The array as it is stored, C-contiguous. A scalar gets the shape (1,)."""
    if array.dtype.kind != "f":
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        stored = array.astype(np.float32 if code == "BF16" else NUMPY_TYPES[code])
        if code == "BF16":
            stored = float32_to_bfloat16(stored)
    overflows = np.isinf(bfloat16_to_float32(stored) if code == "BF16" else stored) & np.isfinite(array)
    if overflows.any():
        value = float(array[overflows][0])
        raise CheckpointError(
            path, f"tensor {name!r} has the value {value}, too large for {code}. Use float32 or bfloat16."
        )
    return np.ascontiguousarray(stored)
