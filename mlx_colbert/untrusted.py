"""Reads and shows values of untrusted files. Their size and depth are limited.

No value of such a file becomes text before its type and its size are known. A pickle of 200 bytes can
describe a tuple whose `repr` never ends. A JSON file can contain a list that is too deep for `repr`.
"""

from __future__ import annotations

import errno
import json
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError, said
from mlx_colbert.json_values import is_nested_deeply

__all__ = ["MAX_FILE_BYTES", "MAX_INTEGER", "MAX_JSON_BYTES", "check_size", "read_json", "reading", "shown"]

# The largest known settings file, a tokenizer_config.json, has 1.2 MB. A byte of JSON can need 30 bytes of
# memory.
MAX_JSON_BYTES = 8 << 20
# A tokenizer.json of a 256,000-word vocabulary has about 35 MB.
MAX_FILE_BYTES = 64 << 20

# A larger number in a settings file is not a size. Below it, every number of a message is short.
MAX_INTEGER = (1 << 31) - 1

_Json = TypeVar("_Json", dict[str, Any], list[Any])


class _Shown(reprlib.Repr):
    """`repr` of a few hundred values at most, three levels deep."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 100, 100
        self.maxlist = self.maxtuple = self.maxdict = 4

    def repr_int(self, number: int, level: int) -> str:
        """An integer. Of a long one only the size: the time for its digits grows with their square."""
        bits = number.bit_length()
        return repr(number) if bits <= 64 else f"an integer of {bits} bits"

    def repr_instance(self, value: object, level: int) -> str:
        """The type of an object of another type: its own `repr` could have any length."""
        return repr(value) if isinstance(value, bool | float | None) else f"a {type(value).__name__}"


_SHOWN = _Shown()


def shown(value: object) -> str:
    """A value as text. Its length, and the time to make it, are limited.

    >>> shown({"type": "yarn"}), shown(["a"] * 1000)
    ("{'type': 'yarn'}", "['a', 'a', 'a', 'a', ...]")
    """
    return _SHOWN.repr(value)


@overload
def read_json(path: Path) -> dict[str, Any]: ...
@overload
def read_json(path: Path, *, kind: type[_Json], max_bytes: int | None = MAX_JSON_BYTES) -> _Json: ...
def read_json(path: Path, *, kind: type[Any] = dict, max_bytes: int | None = MAX_JSON_BYTES) -> Any:
    """The JSON object (or list) in an untrusted file.

    Args:
        path: the file.
        kind: dict or list.
        max_bytes: the largest size of the file. None: there is no limit.

    Raises:
        CheckpointNotFoundError: if there is no such file.
        UnsafeCheckpointError: if the file is too large.
        CheckpointError: if it is not UTF-8 or JSON, contains another kind, or is nested deeper than 64
            levels.
    """
    if not path.is_file():
        raise CheckpointNotFoundError(path.parent, f"{path.name} is missing.")
    if max_bytes is not None:
        check_size(path, max_bytes)
    with reading(path):
        content = path.read_bytes()
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise CheckpointError(path, "cannot be read: its JSON is nested too deeply.") from error
    except ValueError as error:
        raise CheckpointError(path, f"is not JSON: {said(error)}.") from error
    if not isinstance(values, kind):
        raise CheckpointError(path, f"contains a {type(values).__name__}; a {kind.__name__} is needed.")
    if is_nested_deeply(values):
        raise CheckpointError(path, "is nested too deeply: no settings file has more than 64 levels.")
    return values


def check_size(path: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Refuse a settings or tokenizer file that is larger than any real one. It is not read.

    Raises:
        UnsafeCheckpointError: if the file is larger.
    """
    size = path.stat().st_size
    if size > max_bytes:
        reason = f"has {size} bytes; no real file of this kind has more than {max_bytes}. Refused."
        raise UnsafeCheckpointError(path, reason)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Keep apart what the system cannot do now, and what is wrong with the content of a file.

    Raises:
        OSError: if the system could not read the file: a fault of the disk, no memory, too many open files.
            It has the name of the file.
        ValueError: if the file names a place that it does not have.
    """
    try:
        yield
    except MemoryError as error:  # the safetensors library says so, if it cannot map a file
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from error
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        if error.errno in (None, errno.EINVAL):
            raise ValueError(str(error)) from error
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
