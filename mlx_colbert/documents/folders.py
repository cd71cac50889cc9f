"""Which parts of a folder are never read: what programs made, and links to what the folder does not show."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["LINK_AWAY", "PROGRAM_FOLDERS", "open_in", "real_path_in"]

# Folders with files that programs made.
PROGRAM_FOLDERS = frozenset({"node_modules", "bower_components", "__pycache__", "site-packages"})
# What a link is, for people, if `real_path_in` gives no path for it.
LINK_AWAY = "link to a hidden file or out of the folder"


def real_path_in(folder: str | Path, path: str | Path) -> str | None:
    """The path of a file behind its links. None: it is out of a folder, or hidden in it."""
    root, real = f"{os.path.realpath(folder).rstrip('/')}/", os.path.realpath(path)
    if not real.startswith(root) or any(part.startswith(".") for part in real[len(root) :].split("/")):
        return None
    return real


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
        # A folder that is a link is no folder.
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _away(path) from error
        raise
    finally:
        os.close(place)


def _away(path: str | Path) -> OSError:
    return OSError(errno.ELOOP, f"It is a {LINK_AWAY}", str(path))
