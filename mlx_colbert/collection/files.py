"""Small files of a user: how they are written, and how a text stands in them."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["MAX_BYTES", "toml_text", "write_file"]

# A larger file is not one that a person wrote.
MAX_BYTES = 1 << 20
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_SIGNS = re.compile(r'[\\"\x00-\x1f\x7f]')


def write_file(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it. A reader sees the old or the new content, never a part.

    Only the user may read it.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def toml_text(text: str) -> str:
    r"""A text as TOML.

    >>> print(toml_text('C:\\tea "green"'))
    "C:\\tea \"green\""
    """
    escaped = _SIGNS.sub(lambda sign: _ESCAPES.get(sign[0]) or f"\\u{ord(sign[0]):04x}", text)
    return f'"{escaped}"'
