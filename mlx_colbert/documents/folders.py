"""Opens a file only if it is in a folder, whatever links there are, and whatever appears meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mlx_colbert.documents.walk import LINK_AWAY, real_path_in

__all__ = ["open_in"]


def open_in(folder: str | Path, path: str | Path) -> int:
    """A descriptor for reading a file behind its links, which is in a folder and not hidden in it.

    A link that is put in its way meanwhile is not followed.

    Raises:
        OSError: if it cannot be opened. ELOOP: a link leads out of the folder or to a hidden file.
    """
    real = real_path_in(folder, path)
    if real is None:
        raise _away(path)
    root = os.path.realpath(folder).rstrip("/")
    *folders, name = real[len(root) + 1 :].split("/")
    place = os.open(f"{root}/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
            os.close(place)
            place = inner
        # Without O_NONBLOCK, the opening of a pipe could wait for ever.
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    except OSError as error:
        # A link to a folder does not count as a folder.
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _away(path) from error
        raise
    finally:
        os.close(place)


def _away(path: str | Path) -> OSError:
    return OSError(errno.ELOOP, f"It is a {LINK_AWAY}", str(path))
