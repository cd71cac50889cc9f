"""Digests of rows: what SQLite does not notice, a bit that changed within a value, they do."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["row_digest", "tables_digest"]

# All that is read when a commit is new to a reader: one digest covers these tables.
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

    Each value enters with its type and, if it is a text, its length, so that no two rows enter alike.

    >>> row_digest("a", 1, None) == zlib.crc32(b"1:a1;-")
    True

    Raises:
        TypeError: if a value is none that the catalog stores.
    """
    return zlib.crc32(b"".join(map(_encoded, values)))


def tables_digest(rows: Callable[[str], Iterable[Any]]) -> int:
    """The CRC-32 of settings, segments, codec and the names of their files.

    Args:
        rows: the rows of a query.

    Raises:
        TypeError: if a value is none that the catalog stores.
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
