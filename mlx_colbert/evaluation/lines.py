"""The lines of the text files of a dataset, also of compressed ones, and the ids in them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_colbert.errors import InputError, said

__all__ = ["file_or_gz", "id_of_row", "is_id", "read_lines"]

# Characters of a line. A longer one is no passage.
_MAX_LINE = 256 << 20


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers. A name with .gz is decompressed.

    A mark of the byte order and the line ends of Windows are left out.

    Raises:
        InputError: if the file is not UTF-8, cannot be decompressed, or has a line that is too long.
        OSError: if it cannot be read.
    """
    path = Path(path)
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        # A reader decodes ahead. With surrogates in place of wrong bytes, the line of these is known.
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as file:
            while line := file.readline(_MAX_LINE):
                number += 1
                if len(line) == _MAX_LINE:
                    raise InputError(f"{path}:{number}: the line is longer than {_MAX_LINE >> 20} MB.")
                line.encode()
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeEncodeError as error:
        raise InputError(f"{path}:{number}: is not UTF-8. Save the file as UTF-8.") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: cannot be decompressed: {said(error)}. Get the file again.") from error


def file_or_gz(folder: Path, *names: str) -> Path | None:
    """The first file that is there, as it is named or with .gz."""
    every = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((path for path in every if path.exists()), None)


def id_of_row(value: Any) -> str:
    """The id that a row of JSON has: a text, or a whole number as text.

    Raises:
        TypeError: if it is something else, or empty.

    >>> id_of_row(7)
    '7'
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise TypeError("is not an id")
    return value


def is_id(text: str) -> bool:
    """Whether a text can be an id: it is not blank, and has no tab or line break."""
    # A mark of the byte order at the beginning of a file is not read.
    return bool(text.strip()) and text.splitlines() == [text] and not {"\t", "\ufeff"} & set(text)
