"""Reads PyTorch files (`pytorch_model.bin`, `centroids.pt`) without torch. Nothing in them is run.

There are two formats: a zip archive (torch >= 1.6), and an older sequence of pickles before raw storages.
`pickle_machine.py` interprets the pickles.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from mlx_colbert.convert.pickle_machine import MAX_PICKLE_BYTES, PickleMachine, StorageRecord, TensorRecord
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from mlx_colbert.model.safetensors_file import NUMPY_TYPES, bfloat16_to_float32
from mlx_colbert.types import Array
from mlx_colbert.untrusted import reading, shown

__all__ = ["read_torch_file", "torch_file_shapes"]

MAX_DIRECTORY_BYTES = 4 << 20
# Factor: slices of one storage may overlap, and a fused weight may be named twice. A larger one is an attack.
MAX_SHARING = 4

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Bytes of a file that are read at once.
_BLOCK = 1 << 20
_StorageReader = Callable[[StorageRecord], memoryview]


def read_torch_file(
    path: Path, *, bare: bool = False, names: Collection[str] | None = None
) -> dict[str, Array]:
    """The tensors of a PyTorch state dict file.

    The arrays are views of the mapped file where they can be, so only the bytes that a tensor needs are in
    memory. A hostile pickle can need about 100 MB. The file must not be shortened while an array exists.

    Args:
        path: `pytorch_model.bin` or the like.
        bare: whether the file has one tensor or a tuple of tensors. Their names are then "0", "1" …
        names: the tensors to read. None: all.

    Returns:
        name -> C-contiguous array, possibly read-only. bfloat16 becomes float32. Tied tensors share an array.
        Other values (step counts, `_metadata`) are left out.

    Raises:
        CheckpointNotFoundError: if there is no such file.
        UnsafeCheckpointError: if the file asks for more than weights, or needs much more memory than its
            size.
        CheckpointError: if the file is damaged, or is not a flat dict of tensors.
    """
    with _opened(path, bare) as (tensors, read_storage):
        if names is not None:
            tensors = {name: tensors[name] for name in names}
        distinct = {tensor: name for name, tensor in tensors.items()}
        claimed = sum(_checked_bytes(path, name, tensor) for tensor, name in distinct.items())
        size = path.stat().st_size
        if claimed > MAX_SHARING * size:
            raise UnsafeCheckpointError(
                path, f"its tensors need {claimed} bytes, but the file has {size}. Refused."
            )
        raw = {storage: read_storage(storage) for storage in {tensor.storage for tensor in distinct}}
        arrays = {tensor: _view(tensor, raw[tensor.storage]) for tensor in distinct}
        return {name: arrays[tensor] for name, tensor in tensors.items()}


def torch_file_shapes(path: Path, *, bare: bool = False) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type on disk and the shape of each tensor in a PyTorch file. No tensor is read.

    Args:
        path: `pytorch_model.bin` or the like.
        bare: as in `read_torch_file`.

    Returns:
        name -> (safetensors' name of the type: "F32", "BF16" …, shape).

    Raises:
        CheckpointError: as `read_torch_file`.
    """
    with _opened(path, bare) as (tensors, _):
        return {name: (tensor.storage.code, tensor.shape) for name, tensor in tensors.items()}


@contextmanager
def _opened(path: Path, bare: bool) -> Iterator[tuple[dict[str, TensorRecord], _StorageReader]]:
    """The tensors that a file describes, and a function that reads a storage while the file is open."""
    if not path.is_file():
        raise CheckpointNotFoundError(path, "there is no such file.")
    # What zipfile, pickletools and numpy raise for damaged input.
    damage = (ValueError, LookupError, EOFError, RuntimeError, OverflowError, struct.error)
    try:
        with reading(path), path.open("rb") as file:
            container = _open_zip if file.read(4) == b"PK\x03\x04" else _open_legacy
            with container(path, file) as (root, read_storage):
                yield _bare_tensors(path, root) if bare else _state_dict(path, root), read_storage
    except CheckpointError:
        raise
    except (*damage, zipfile.BadZipFile) as error:
        reason = str(error)[:200] or type(error).__name__
        advice = "The file is damaged or is not PyTorch's."
        raise CheckpointError(path, f"cannot be read: {reason}. {advice}") from error


@contextmanager
def _open_zip(path: Path, file: IO[bytes]) -> Iterator[tuple[Any, _StorageReader]]:
    size = _check_zip_directory(path, file)
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        entries = {info.filename: info for info in infos}
        compressed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
        # Torch does not compress, so the entries together cannot be larger than the file.
        if compressed or len(entries) != len(infos) or sum(info.file_size for info in infos) > size:
            raise UnsafeCheckpointError(
                path, "its zip entries are compressed, or two have the same name, or they overlap. Refused."
            )
        roots = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it is a zip archive, but not one of PyTorch's")
        folder = roots[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and _head(archive, f"{folder}byteorder", 8) != b"little":
            raise CheckpointError(path, "is big-endian. Save it again on a little-endian machine.")
        root = PickleMachine(path).run(BytesIO(_head(archive, roots[0], MAX_PICKLE_BYTES + 1)))
        mapping = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        # Keys are names in the directory of the archive, so none can lead to another file.
        yield root, lambda storage: _stored(archive, f"{folder}data/{storage.key}", mapping)


def _stored(archive: zipfile.ZipFile, name: str, mapping: memoryview) -> memoryview:
    """The bytes of an entry that is not compressed, after a check of its checksum. They are not copied."""
    with archive.open(name) as entry:
        while entry.read(_BLOCK):
            pass
    info = archive.getinfo(name)
    # The local header has 30 bytes, a name and extra bytes; their lengths are at its end.
    header = mapping[info.header_offset : info.header_offset + 30]
    start = info.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26))
    return mapping[start : start + info.file_size]


def _head(archive: zipfile.ZipFile, name: str, n_bytes: int) -> bytes:
    """The first bytes of an entry. An entry of zeros can be far longer than the room that it takes."""
    with archive.open(name) as entry:
        return entry.read(n_bytes)


def _check_zip_directory(path: Path, file: IO[bytes]) -> int:
    """The size of the file, after a check of the size of its zip directory: each entry becomes an object."""
    size = file.seek(0, 2)
    file.seek(max(size - 98, 0))
    tail = file.read()
    end, locator, end64 = tail[-22:], tail[-42:-22], tail[-98:-42]
    if end[:4] != b"PK\x05\x06":
        raise ValueError("the zip directory is missing: the end of the file may be missing")
    length = end64[40:48] if locator[:4] == b"PK\x06\x07" else end[12:16]
    if int.from_bytes(length, "little") > MAX_DIRECTORY_BYTES:
        raise UnsafeCheckpointError(path, f"its zip directory exceeds {MAX_DIRECTORY_BYTES} bytes. Refused.")
    return size


@contextmanager
def _open_legacy(path: Path, file: IO[bytes]) -> Iterator[tuple[Any, _StorageReader]]:
    # A map, because file.read(n) allocates n bytes, also if the file is shorter. It is closed with the last
    # array that is a view of it.
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    magic = PickleMachine(path).run(mapping)
    if magic != _LEGACY_MAGIC or PickleMachine(path).run(mapping) != _LEGACY_PROTOCOL:
        raise ValueError("it does not begin as a PyTorch file does")
    system = PickleMachine(path).run(mapping)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(path, "is big-endian. Save it again on a little-endian machine.")
    machine = PickleMachine(path)
    root = machine.run(mapping)
    keys = PickleMachine(path).run(mapping)
    places: dict[str, slice] = {}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("the keys of its storages are not a list of strings")
    for storage in [machine.storages[key] for key in keys]:
        if mapping.read(8) != storage.n_elements.to_bytes(8, "little"):
            raise ValueError(f"storage {shown(storage.key)} does not have the length that the file says")
        places[storage.key] = slice(mapping.tell(), mapping.tell() + storage.n_elements * storage.item_bytes)
        mapping.seek(places[storage.key].stop)
    yield root, lambda storage: memoryview(mapping)[places[storage.key]]


def _state_dict(path: Path, root: object) -> dict[str, TensorRecord]:
    if not isinstance(root, dict):
        raise CheckpointError(path, f"contains a {type(root).__name__}. A dict of tensors is needed.")
    # Each container is checked once: a million names may share a container of a million items.
    containers = {id(value): name for name, value in root.items()}
    nested = [name for name in containers.values() if _holds_tensors(root[name])]
    if nested:
        named = ", ".join(map(shown, nested[:5]))
        raise CheckpointError(path, f"has tensors nested under {named}. Save the weights as one flat dict.")
    tensors = {name: value for name, value in root.items() if isinstance(value, TensorRecord)}
    if not tensors:
        raise CheckpointError(path, "contains no tensors.")
    return tensors


def _bare_tensors(path: Path, root: object) -> dict[str, TensorRecord]:
    items = root if isinstance(root, list | tuple) else [root]
    tensors = {str(i): item for i, item in enumerate(items) if isinstance(item, TensorRecord)}
    if not items or len(tensors) < len(items):
        raise CheckpointError(path, f"contains a {type(root).__name__}. One tensor or several are needed.")
    return tensors


def _holds_tensors(value: object) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(item, TensorRecord) for item in inner)


def _checked_bytes(path: Path, name: str, tensor: TensorRecord) -> int:
    """Bytes of a tensor, after a check that each element is in its storage."""
    n_elements, available = math.prod(tensor.shape), tensor.storage.n_elements
    steps = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if n_elements and tensor.offset + steps >= available:
        raise UnsafeCheckpointError(path, f"tensor {shown(name)} reaches outside its storage. Refused.")
    if n_elements > available:
        reason = f"tensor {shown(name)} reads {n_elements} elements from a storage of {available}"
        raise UnsafeCheckpointError(path, f"{reason}. Refused. Save a contiguous copy of it.")
    return n_elements * tensor.storage.item_bytes


def _view(tensor: TensorRecord, raw: memoryview) -> Array:
    """The array of a checked tensor, C-contiguous and aligned; numpy checks the bounds once more."""
    storage, size = tensor.storage, tensor.storage.item_bytes
    if len(raw) != storage.n_elements * size:
        raise ValueError(f"storage {shown(storage.key)} does not have the length that the file says")
    dtype, strides = NUMPY_TYPES[storage.code], [stride * size for stride in tensor.strides]
    if 0 in tensor.shape:
        array: Array = np.empty(tensor.shape, dtype)
    else:
        array = np.ndarray(tensor.shape, dtype, raw, tensor.offset * size, strides)
    if storage.code == "BF16":
        return bfloat16_to_float32(array)
    if storage.code == "BOOL":  # a byte that is neither 0 nor 1 would break numpy's rules
        return np.asarray(array.view(np.uint8) != 0, order="C")
    return np.require(array, requirements=["C", "A"])
