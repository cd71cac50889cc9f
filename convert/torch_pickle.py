"""PyTorch weight files (`pytorch_model.bin`), read without torch and without running anything in them.

A `.bin` file holds a pickle, and a pickle is a program that may call anything. Python's `pickle` is not used,
not even with a guarded `find_class`: a small file could still fill the memory (memo indices, lengths) or
overflow the C stack (nested tuples as keys). Instead `_Machine` interprets the thirty instructions that a
state dict is made of, over lists, dicts and the inert records below. Nothing it handles can be called,
imported or given attributes.

Two containers: a zip archive (torch >= 1.6), and the older sequence of pickles followed by raw storages.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np

from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from mlx_colbert.tensors import NUMPY_TYPES, bfloat16_to_float32
from mlx_colbert.types import Array

__all__ = ["read_torch_file", "torch_file_shapes"]

# The pickle of a 6-layer BERT has 3 thousand instructions in 12 kB.
MAX_INSTRUCTIONS = 1_000_000
MAX_PICKLE_BYTES = 16 << 20
MAX_DIRECTORY_BYTES = 4 << 20
MAX_ARGUMENTS = 8
MAX_DIMENSIONS = 8
MAX_NUMBER = 1 << 48
# Slices of one storage may overlap, bytes of a fused weight be named twice; more than this is an attack.
MAX_SHARING = 4

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

# Names as a pickle has them: module, space, name. Types as safetensors calls them.
_STORAGES = {
    "torch DoubleStorage": "F64",
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}
_CALLABLES = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
# These are seen as extras beside the tensors.
_DTYPES = {f"torch {name}" for name in ("float64", "float32", "float16", "bfloat16")}


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that the pickle asks for; it stands for itself."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    code: str
    n_elements: int

    @property
    def item_bytes(self) -> int:
        return NUMPY_TYPES[self.code].itemsize


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_Kind = TypeVar("_Kind")
_StorageReader = Callable[[_Storage], bytes]


def read_torch_file(path: Path) -> dict[str, Array]:
    """The tensors of a PyTorch state dict file.

    Memory stays within a few times the file's size, plus about 100 MB that a hostile pickle can cost.

    Args:
        path: `pytorch_model.bin` or the like.

    Returns:
        name -> C-contiguous array, possibly read-only. bfloat16 becomes float32. Tied tensors share an array.
        What is no tensor (step counts, `_metadata`) is left out.

    Raises:
        CheckpointNotFoundError: if there is no such file.
        UnsafeCheckpointError: if it asks for anything but weights, or for more memory than its size warrants.
        CheckpointError: if it is damaged or not a flat dict of tensors.
    """
    with _opened(path) as (tensors, read_storage):
        distinct = {tensor: name for name, tensor in tensors.items()}
        claimed = sum(_checked_bytes(path, name, tensor) for tensor, name in distinct.items())
        size = path.stat().st_size
        if claimed > MAX_SHARING * size:
            raise UnsafeCheckpointError(
                path, f"its tensors claim {claimed} bytes, the file has {size}. Refused."
            )
        raw = {storage: read_storage(storage) for storage in {tensor.storage for tensor in distinct}}
        arrays = {tensor: _view(tensor, raw[tensor.storage]) for tensor in distinct}
        return {name: arrays[tensor] for name, tensor in tensors.items()}


def torch_file_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type on disk and the shape of each tensor in a PyTorch file, without reading any.

    Returns:
        name -> (type as safetensors calls it: "F32", "BF16" …, shape).

    Raises:
        CheckpointError: as `read_torch_file`.
    """
    with _opened(path) as (tensors, _):
        return {name: (tensor.storage.code, tensor.shape) for name, tensor in tensors.items()}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, _Tensor], _StorageReader]]:
    """The tensors that a file describes, and a function that reads a storage while the file is open."""
    if not path.is_file():
        raise CheckpointNotFoundError(path, "there is no such file.")
    # What zipfile, pickletools and numpy raise for damaged input.
    damage = (ValueError, LookupError, OSError, EOFError, RuntimeError, OverflowError, struct.error)
    try:
        with path.open("rb") as file:
            container = _open_zip if file.read(4) == b"PK\x03\x04" else _open_legacy
            with container(path, file) as (root, read_storage):
                yield _state_dict(path, root), read_storage
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
        # Torch compresses nothing, so that honest entries cannot be larger than the file together.
        if compressed or len(entries) != len(infos) or sum(info.file_size for info in infos) > size:
            raise UnsafeCheckpointError(
                path, "its zip entries are compressed, doubled or overlapping. Refused."
            )
        roots = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it is a zip archive, but not one of PyTorch's")
        folder = roots[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise CheckpointError(path, "is big-endian. Save it again on a little-endian machine.")
        root = _Machine(path).run(BytesIO(archive.read(roots[0])))
        # Keys are looked up in the archive's own directory; none can lead to another file.
        yield root, lambda storage: archive.read(f"{folder}data/{storage.key}")


def _check_zip_directory(path: Path, file: IO[bytes]) -> int:
    """The file's size, once its zip directory is known to be small: zipfile makes an object of each entry."""
    size = file.seek(0, 2)
    file.seek(max(size - 98, 0))
    tail = file.read()
    end, locator, end64 = tail[-22:], tail[-42:-22], tail[-98:-42]
    if end[:4] != b"PK\x05\x06":
        raise ValueError("the zip directory is missing, as if the file was cut short")
    length = end64[40:48] if locator[:4] == b"PK\x06\x07" else end[12:16]
    if int.from_bytes(length, "little") > MAX_DIRECTORY_BYTES:
        raise UnsafeCheckpointError(path, f"its zip directory exceeds {MAX_DIRECTORY_BYTES} bytes. Refused.")
    return size


@contextmanager
def _open_legacy(path: Path, file: IO[bytes]) -> Iterator[tuple[Any, _StorageReader]]:
    # A map, since file.read(n) would allocate n bytes before finding that the file is shorter.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        magic = _Machine(path).run(mapping)
        if magic != _LEGACY_MAGIC or _Machine(path).run(mapping) != _LEGACY_PROTOCOL:
            raise ValueError("it does not begin as a PyTorch file does")
        system = _Machine(path).run(mapping)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(path, "is big-endian. Save it again on a little-endian machine.")
        machine = _Machine(path)
        root = machine.run(mapping)
        keys = _Machine(path).run(mapping)
        places: dict[str, slice] = {}
        for storage in [machine.storages[str(key)] for key in keys] if isinstance(keys, list) else ():
            if mapping.read(8) != storage.n_elements.to_bytes(8, "little"):
                raise ValueError(f"storage {storage.key!r} is not as long as announced")
            places[storage.key] = slice(
                mapping.tell(), mapping.tell() + storage.n_elements * storage.item_bytes
            )
            mapping.seek(places[storage.key].stop)
        yield root, lambda storage: mapping[places[storage.key]]


def _state_dict(path: Path, root: object) -> dict[str, _Tensor]:
    if not isinstance(root, dict):
        raise CheckpointError(path, f"holds a {type(root).__name__}, where a dict of tensors is needed.")
    # One look at each container, since a million names may share one of a million items.
    containers = {id(value): name for name, value in root.items()}
    nested = [name for name in containers.values() if _holds_tensors(root[name])]
    if nested:
        shown = ", ".join(map(repr, nested[:5]))
        raise CheckpointError(path, f"has tensors nested under {shown}. Save the weights as one flat dict.")
    tensors = {name: value for name, value in root.items() if isinstance(value, _Tensor)}
    if not tensors:
        raise CheckpointError(path, "holds no tensors.")
    return tensors


def _holds_tensors(value: object) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(item, _Tensor) for item in inner)


def _checked_bytes(path: Path, name: str, tensor: _Tensor) -> int:
    """Bytes of a tensor, once every element of it is known to lie in its storage."""
    n_elements, available = math.prod(tensor.shape), tensor.storage.n_elements
    steps = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if n_elements and tensor.offset + steps >= available:
        raise UnsafeCheckpointError(path, f"tensor {name!r} reaches outside its storage. Refused.")
    if n_elements > available:
        reason = f"tensor {name!r} repeats a storage of {available} elements up to {n_elements}"
        raise UnsafeCheckpointError(path, f"{reason}. Refused; save a contiguous copy of it.")
    return n_elements * tensor.storage.item_bytes


def _view(tensor: _Tensor, raw: bytes) -> Array:
    """The array of a checked tensor, C-contiguous; numpy checks the bounds once more."""
    storage, size = tensor.storage, tensor.storage.item_bytes
    if len(raw) != storage.n_elements * size:
        raise ValueError(f"storage {storage.key!r} is not as long as announced")
    dtype, strides = NUMPY_TYPES[storage.code], [stride * size for stride in tensor.strides]
    if 0 in tensor.shape:
        array: Array = np.empty(tensor.shape, dtype)
    else:
        array = np.ndarray(tensor.shape, dtype, raw, tensor.offset * size, strides)
    if storage.code == "BF16":
        return bfloat16_to_float32(array)
    if storage.code == "BOOL":  # a byte that is neither 0 nor 1 would break numpy's rules
        return np.asarray(array.view(np.uint8) != 0, order="C")
    return np.asarray(array, order="C")


class _Machine:
    """Interprets one pickle.

    Attributes:
        storages: key -> storage that the pickle refers to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storages: dict[str, _Storage] = {}
        self.stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: IO[bytes] | mmap.mmap) -> Any:
        """The object that the pickle at the file's position describes; the position moves behind it."""
        start = file.tell()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", file))):
            if count >= MAX_INSTRUCTIONS or file.tell() - start > MAX_PICKLE_BYTES:
                raise UnsafeCheckpointError(self.path, "its pickle is too long for a state dict. Refused.")
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](self, argument)
            elif opcode.name not in _IGNORED:
                raise self._refused(f"uses the pickle instruction {opcode.name} {_shown(argument)}".rstrip())
        return self.pop(object)

    def pop(self, kind: type[_Kind]) -> _Kind:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"the pickle lacks a {kind.__name__} where one is needed")
        return cast("_Kind", self.stack.pop())

    def top(self, kind: type[_Kind]) -> _Kind:
        value = self.pop(kind)
        self.stack.append(value)
        return value

    def mark(self) -> None:
        self._marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marks.pop()
        return items

    def last(self, count: int) -> list[Any]:
        return [self.pop(object) for _ in range(count)][::-1]

    def push_tuple(self, items: list[Any]) -> None:
        self.stack.append(tuple(items))

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def update(self, items: list[Any]) -> None:
        # A tuple as a key could take for ever to hash; no name is one.
        if len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise ValueError("a dict has a key that is not text, so this is no state dict")
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    def put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.top(object)

    def get(self, index: int) -> None:
        self.stack.append(self._memo[index])

    def name(self, asked: str) -> None:
        if asked not in _STORAGES.keys() | _CALLABLES | _DTYPES:
            raise self._refused(f"asks for {_shown(asked)}")
        self.stack.append(_Name(asked))

    def storage(self) -> None:
        match self.pop(tuple):
            # The sixth part, in legacy files, is None since torch 0.4.
            case ("storage", _Name(kind), str(key), str(), n) | (
                "storage",
                _Name(kind),
                str(key),
                str(),
                n,
                None,
            ):
                storage = _Storage(key, _STORAGES[kind], *_checked_numbers((n,)))
            case _:
                raise ValueError("a storage is described in an unknown way")
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key!r} is described twice, differently")
        self.stack.append(storage)

    def call(self) -> None:
        arguments, name = self.pop(tuple), self.pop(_Name).name
        result: object
        match name, arguments if len(arguments) <= MAX_ARGUMENTS else None:
            case "collections OrderedDict", ():
                result = {}
            case "torch Size", (tuple(result),):
                pass
            case "torch._utils _rebuild_parameter", (_Tensor() as result, _, _):
                pass
            # The rest: requires_grad, hooks; then marks of a negative or conjugate view, which no weight has.
            case (
                "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2",
                (_Storage() as storage, offset, tuple(shape), tuple(strides), *rest),
            ) if len(shape) == len(strides) <= MAX_DIMENSIONS and not any(rest[2:]):
                (start,) = _checked_numbers((offset,))
                result = _Tensor(storage, start, _checked_numbers(shape), _checked_numbers(strides))
            case _:
                raise self._refused(f"calls {_shown(name)} in an unknown way")
        self.stack.append(result)

    def drop_state(self) -> None:
        """Drops what would become attributes of a dict: an OrderedDict's `_metadata`."""
        self.pop(object)
        self.top(dict)

    def _refused(self, problem: str) -> UnsafeCheckpointError:
        advice = "which is not needed to read weights. Refused; nothing was run."
        return UnsafeCheckpointError(self.path, f"{problem}, {advice}")


def _checked_numbers(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    """The numbers, once known to be counts; neither a bool nor a number of a million digits is one."""
    if any(type(number) is not int or not 0 <= number < MAX_NUMBER for number in numbers):
        raise ValueError("a shape, stride, offset or length is not a possible count")
    return numbers


def _shown(asked: object) -> str:
    """Text from the file as a dotted name, unable to control a terminal."""
    return "" if asked is None else ascii(str(asked)[:100].replace(" ", "."))[1:-1]


_IGNORED = {"PROTO", "FRAME", "STOP"}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING"),
}
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "MARK": lambda machine, _: machine.mark(),
    "TUPLE": lambda machine, _: machine.push_tuple(machine.since_mark()),
    "TUPLE1": lambda machine, _: machine.push_tuple(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push_tuple(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push_tuple(machine.last(3)),
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.put(None),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "GLOBAL": lambda machine, asked: machine.name(asked),
    "STACK_GLOBAL": lambda machine, _: machine.name(" ".join(map(str, machine.last(2)))),
    "BINPERSID": lambda machine, _: machine.storage(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.drop_state(),
}
