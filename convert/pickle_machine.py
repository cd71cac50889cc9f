"""An interpreter for the pickles of PyTorch's state dicts. It calls nothing that a pickle names.

Python's `pickle` is not used, not even with a guarded `find_class`: a small file could still fill the memory
(memo indices, lengths) or overflow the C stack (nested tuples as keys). `PickleMachine` interprets only the
thirty or so instructions that a state dict needs. It makes lists, dicts and the simple records below.
"""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from mlx_colbert.errors import UnsafeCheckpointError
from mlx_colbert.model.safetensors_file import NUMPY_TYPES
from mlx_colbert.untrusted import shown

__all__ = ["MAX_PICKLE_BYTES", "PickleMachine", "StorageRecord", "TensorRecord", "dotted"]

# The pickle of a 6-layer BERT has 3 thousand instructions in 12 kB.
MAX_INSTRUCTIONS = 1_000_000
MAX_PICKLE_BYTES = 16 << 20
MAX_ARGUMENTS = 8
MAX_DIMENSIONS = 8
MAX_NUMBER = 1 << 48
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
    """A name that the pickle asks for. It is only a name: nothing is imported."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageRecord:
    """A run of numbers in the file. `code` is their type."""

    key: str
    code: str
    n_elements: int

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return NUMPY_TYPES[self.code].itemsize


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A view of a storage; offset and strides count elements."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_Kind = TypeVar("_Kind")


class PickleMachine:
    """Interpreter of one pickle.

    Args:
        path: the file, for errors.
        max_instructions: `MAX_INSTRUCTIONS` if None.
        max_bytes: `MAX_PICKLE_BYTES` if None.

    Attributes:
        storages: key -> storage that the pickle refers to.
    """

    def __init__(
        self, path: Path, *, max_instructions: int | None = None, max_bytes: int | None = None
    ) -> None:
        self.path = path
        self.max_instructions: int = MAX_INSTRUCTIONS if max_instructions is None else max_instructions
        self.max_bytes: int = MAX_PICKLE_BYTES if max_bytes is None else max_bytes
        self.storages: dict[str, StorageRecord] = {}
        self.stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: IO[bytes] | mmap.mmap) -> Any:
        """The object that the pickle at the file's position describes; the position moves behind it.

        Raises:
            UnsafeCheckpointError: if the pickle is too long, or asks for more than plain values.
            ValueError: if the pickle is damaged.
        """
        start = file.tell()
        # The length is limited, because a name without a newline would otherwise read the whole file.
        program = BytesIO(file.read(self.max_bytes + 1))
        for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if count >= self.max_instructions or program.tell() > self.max_bytes:
                raise UnsafeCheckpointError(self.path, "its pickle is too long for its content. Refused.")
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](self, argument)
            elif opcode.name not in _IGNORED:
                asked = f" {dotted(argument)}" if isinstance(argument, str) else ""
                raise self._refused(f"uses the pickle instruction {opcode.name}{asked}")
        file.seek(start + program.tell())
        return self.pop(object)

    def pop(self, kind: type[_Kind]) -> _Kind:
        """The topmost value, taken off.

        Raises:
            ValueError: if there is none, or it is not a `kind`.
        """
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"the pickle lacks a {kind.__name__} where one is needed")
        return cast("_Kind", self.stack.pop())

    def top(self, kind: type[_Kind]) -> _Kind:
        """The topmost value; it must be a `kind`."""
        value = self.pop(kind)
        self.stack.append(value)
        return value

    def mark(self) -> None:
        """Set the stack aside and begins a new one."""
        self._marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """The stack since the last mark; the one set aside returns."""
        items, self.stack = self.stack, self._marks.pop()
        return items

    def last(self, count: int) -> list[Any]:
        """The topmost values, taken off, in the order of their arrival."""
        return [self.pop(object) for _ in range(count)][::-1]

    def push_tuple(self, items: list[Any]) -> None:
        """Push a tuple."""
        self.stack.append(tuple(items))

    def extend(self, items: list[Any]) -> None:
        """Append to the list on top."""
        self.top(list).extend(items)

    def update(self, items: list[Any]) -> None:
        """Set keys and values in the dict on top.

        Raises:
            ValueError: if a key is not text, or there is no dict on top.
        """
        # A tuple as a key could take for ever to hash; no name is one.
        if len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise ValueError("a dict has a key that is not text, so this is not a state dict")
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    def put(self, index: int | None) -> None:
        """Remember the value on top."""
        self._memo[len(self._memo) if index is None else index] = self.top(object)

    def get(self, index: int) -> None:
        """Push a remembered value."""
        self.stack.append(self._memo[index])

    def pop_name(self) -> str:
        """The name that the two topmost texts make, module and attribute, taken off."""
        attribute, module = self.pop(str), self.pop(str)
        return f"{module} {attribute}"

    def name(self, asked: str) -> None:
        """Push a name that a state dict may ask for, and refuses every other."""
        if asked not in _STORAGES.keys() | _CALLABLES | _DTYPES:
            raise self._refused(f"asks for {dotted(asked)}")
        self.stack.append(_Name(asked))

    def storage(self) -> None:
        """Replace the description of a storage by its record.

        Raises:
            ValueError: if the description is not understood, or differs from an earlier one of its key.
        """
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
                storage = StorageRecord(key, _STORAGES[kind], *_checked_numbers((n,)))
            case _:
                raise ValueError("the description of a storage is not understood")
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {shown(key)} is described twice, differently")
        self.stack.append(storage)

    def call(self) -> None:
        """Replace a name and its arguments by a record of what the call would make."""
        arguments, name = self.pop(tuple), self.pop(_Name).name
        result: object
        match name, arguments if len(arguments) <= MAX_ARGUMENTS else None:
            case "collections OrderedDict", ():
                result = {}
            case "torch Size", (tuple(result),):
                pass
            case "torch._utils _rebuild_parameter", (TensorRecord() as result, _, _):
                pass
            # The rest: requires_grad, hooks; then marks of a negative or conjugate view, which no weight has.
            case (
                "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2",
                (StorageRecord() as storage, offset, tuple(shape), tuple(strides), *rest),
            ) if len(shape) == len(strides) <= MAX_DIMENSIONS and not any(rest[2:]):
                (start,) = _checked_numbers((offset,))
                result = TensorRecord(storage, start, _checked_numbers(shape), _checked_numbers(strides))
            case _:
                raise self._refused(f"calls {dotted(name)} with unusual arguments")
        self.stack.append(result)

    def drop_state(self) -> None:
        """Drop what would become attributes of a dict: an OrderedDict's `_metadata`."""
        self.pop(object)
        self.top(dict)

    def _refused(self, problem: str) -> UnsafeCheckpointError:
        advice = "but weights do not need that. Refused. Nothing was run."
        return UnsafeCheckpointError(self.path, f"{problem}, {advice}")


def _checked_numbers(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    """The numbers, after a check that they are counts. A bool or a huge number is not a count."""
    if any(type(number) is not int or not 0 <= number < MAX_NUMBER for number in numbers):
        raise ValueError("a shape, stride, offset or length is not a possible number")
    return numbers


def dotted(asked: str) -> str:
    """A name from the file, with a dot in place of its space. It cannot control a terminal."""
    return ascii(asked[:100].replace(" ", "."))[1:-1]


_IGNORED = {"PROTO", "FRAME", "STOP"}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING"),
}
_INSTRUCTIONS: dict[str, Callable[[PickleMachine, Any], None]] = {
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
    "STACK_GLOBAL": lambda machine, _: machine.name(machine.pop_name()),
    "BINPERSID": lambda machine, _: machine.storage(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.drop_state(),
}
