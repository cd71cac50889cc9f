"""Small files of a user: how they are written, and how a text stands in them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["MAX_BYTES", "toml_text", "write_file"]

# A larger file is not one that a person wrote.
MAX_BYTES = 1 << 20


def write_file(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it. A reader sees the old or the new content, never a part.

    Only the user may read it.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        _write(path, data)
    except OSError as error:
        # That of a full disk has no name, and others have that of the temporary file.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, data: bytes) -> None:
    # Not above: its import takes longer than to read the small files at the start of a command.
    import tempfile

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
    # What JSON escapes, TOML escapes in the same way, and one character more.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
