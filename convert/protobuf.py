"""Reads protobuf messages of untrusted files: ONNX graphs and SentencePiece models.

Source: the wire format of protocol buffers. A message is a sequence of fields; each has a number and a type.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlx_colbert.errors import UnsafeCheckpointError

__all__ = ["ProtobufReader", "as_bytes"]


class ProtobufReader:
    """Reads the messages of one file. The number of fields is limited: each may become an object.

    Args:
        path: the file, for errors.
        max_fields: the most fields that are read.
    """

    def __init__(self, path: Path, max_fields: int) -> None:
        self.path = path
        self._max_fields = self._left = max_fields

    def fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """(field number, value) of each field: a number, or the bytes of anything longer.

        Raises:
            ValueError: if the message is damaged.
            LookupError: if a number does not end.
            UnsafeCheckpointError: if the file has too many fields.
        """
        at = 0
        while at < len(message):
            self._count()
            key, at = _varint(message, at)
            wire, number = key & 7, key >> 3
            if number == 0:
                raise ValueError("a field has the number 0")
            if wire == 0:
                value, at = _varint(message, at)
                yield number, value
                continue
            if wire == 2:
                size, at = _varint(message, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"protobuf has no wire type {wire}")
            if size > len(message) - at:
                raise ValueError(f"a field of {size} bytes does not end within the file")
            yield number, message[at : at + size]
            at += size

    def varints(self, packed: memoryview) -> list[int]:
        """The numbers of a packed field."""
        numbers, at = [], 0
        while at < len(packed):
            self._count()
            number, at = _varint(packed, at)
            numbers.append(number)
        return numbers

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnsafeCheckpointError(self.path, f"has more than {self._max_fields} fields. Refused.")


def as_bytes(value: int | memoryview) -> memoryview:
    """The bytes of a field.

    Raises:
        ValueError: if the field is a number.
    """
    if isinstance(value, int):
        raise ValueError("a field is a number, but must be bytes")
    return value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A protobuf number and where the next one starts."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ValueError("a number has more than 10 bytes")
