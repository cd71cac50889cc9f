"""Opens regular files. What can block, has no end or leads elsewhere is refused: pipes, devices, links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["open_regular", "read_regular"]


def open_regular(path: str | Path, flags: int = os.O_RDONLY, *, follow_links: bool = False) -> int:
    """A descriptor of a regular file. A file that this makes belongs to the user alone.

    Args:
        path: the file.
        flags: as for `os.open`.
        follow_links: whether the file may be a link. None of the folders above it is checked.

    Raises:
        OSError: if it cannot be opened, is not a regular file, or is a link.
    """
    # O_NONBLOCK: the opening of a pipe could wait for ever.
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_links:
            raise OSError(errno.ELOOP, "Is a link. Put a file in its place", str(path)) from error
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def read_regular(path: str | Path, n_bytes: int, *, follow_links: bool = False) -> bytes:
    """The beginning of a regular file: at most this number of bytes.

    Raises:
        OSError: if it cannot be read, is not a regular file, or is a link.
    """
    with os.fdopen(open_regular(path, follow_links=follow_links), "rb") as stream:
        return stream.read(n_bytes)


def _not_regular(path: str | Path) -> OSError:
    return OSError(errno.EINVAL, "Is not a regular file. Put one in its place", str(path))
