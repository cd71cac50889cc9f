"""Digests of rows. They detect a changed bit in a value, which SQLite does not."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["row_digest", "tables_digest"]

# A reader reads all of these tables after each new commit. One digest covers them.
_SMALL_TABLES = {
    "meta": "SELECT name, value FROM meta WHERE name != 'digest' ORDER BY name",
    "segments": "SELECT * FROM segments ORDER BY segment",
    "files": "SELECT * FROM files ORDER BY segment, name",
    "codecs": "SELECT * FROM codecs ORDER BY codec",
    "codec_files": "SELECT * FROM codec_files ORDER BY codec, name",
    "sqlite_sequence": "SELECT name, seq FROM sqlite_sequence ORDER BY name",
}


def row_digest(*values: str | float | None) -> int:
    """The CRC-32 of a row of values.

    Each value is encoded with its type, and a text with its length, so that different rows have different
    encodings.

    >>> row_digest("a", 1, None) == zlib.crc32(b"1:a1;-")
    True

    Raises:
        TypeError: if the catalog cannot store a value of this type.
    """
    return zlib.crc32(b"".join(map(_encoded, values)))


def tables_digest(rows: Callable[[str], Iterable[Any]]) -> int:
    """The CRC-32 of the settings, the segments, the codec and their file records.

    Args:
        rows: a function that returns the rows of a query.

    Raises:
        TypeError: if the catalog cannot store a value of this type.
    """
    digest = 0
    for name, query in _SMALL_TABLES.items():
        digest = zlib.crc32(_encoded(name), digest)
        for row in rows(query):
            digest = zlib.crc32(b"".join(map(_encoded, row)), digest)
    return digest


def _encoded(value: object) -> bytes:
    if value is None:
        return b"-"
    if type(value) is int:
        return b"%d;" % value
    if type(value) is float:
        return f"{value.hex()};".encode()
    if isinstance(value, str):
        data = value.encode()
        return b"%d:%b" % (len(data), data)
    raise TypeError(f"no digest of {type(value).__name__}")
