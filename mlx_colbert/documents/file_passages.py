"""The passages of one file: its bytes, its kind, its headings and blocks, joined to passages."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlx_colbert.documents.folders import open_in
from mlx_colbert.documents.joining import joined
from mlx_colbert.documents.kinds import Kind
from mlx_colbert.documents.passage import FilePassage
from mlx_colbert.errors import InputError

__all__ = ["FileContent", "passages_of", "read_file", "too_large"]

# The flag of a file on macOS whose content is in the cloud alone. To read it would fetch it.
_SF_DATALESS = 0x40000000


@dataclass(frozen=True)
class FileContent:
    """What was in a file when it was read.

    Attributes:
        data: its bytes.
        status: its size and time of the last change.
    """

    data: bytes
    status: os.stat_result


def passages_of(
    data: bytes, name: str, *, kind: Kind, fits: Callable[[str], bool] | None = None
) -> Iterator[FilePassage]:
    """The passages of the bytes of a file, in the order of its text.

    Args:
        data: all bytes of the file.
        name: its name in an error message. Its suffix says the language of source code.
        kind: its kind.
        fits: whether a model reads a text to its end.

    Raises:
        InputError: if the bytes are not a file of this kind, or are too much when they are unpacked.
        MissingExtraError: if an extra of this package is not installed.

    >>> from mlx_colbert.documents.kinds import kind_of
    >>> [passage.text for passage in passages_of(b"Steep it.", "tea.txt", kind=kind_of("tea.txt"))]
    ['Steep it.']
    """
    return joined(kind.parts(data, name), kind.name, fits)


def read_file(path: Path, *, max_bytes: int, within: str | None = None) -> FileContent:
    """The bytes of a file.

    Args:
        path: the file.
        max_bytes: the size of the largest file that is read.
        within: the folder that it must be in, also behind its links. None: it may be anywhere.

    Raises:
        InputError: if it is not a regular file, has more than `max_bytes` bytes, or is in the cloud alone.
        OSError: if it cannot be read. ELOOP: it is not in the folder.
    """
    try:
        if within is None:
            # Without O_NONBLOCK, the opening of a pipe could wait for ever.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            descriptor = os.open(path, flags)
        else:
            descriptor = open_in(within, path)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: is not a regular file.")
            if getattr(status, "st_flags", 0) & _SF_DATALESS:
                raise InputError(f"{path}: is in the cloud and not on this machine. Download it first.")
            data = b"" if status.st_size > max_bytes else stream.read(max_bytes + 1)
    except OSError as error:
        # What macOS says about a file that cannot be fetched from the cloud now, or is locked.
        if error.errno in (errno.EAGAIN, errno.EDEADLK):
            raise InputError(
                f"{path}: is locked, or cannot be fetched from the cloud now. Try again later."
            ) from error
        raise
    if status.st_size > max_bytes or len(data) > max_bytes:
        raise too_large(path, max_bytes)
    return FileContent(data, status)


def too_large(path: Path, max_bytes: int) -> InputError:
    """The error for a file with more bytes than the limit."""
    return InputError(f"{path}: is longer than {max_bytes:,} bytes. Raise the limit, or split the file.")
