"""A file of settings that other programs and people write too. It is changed in one step, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mlx_colbert.errors import AssistantError

__all__ = ["Content", "SettingsFile"]

# Claude Code keeps a history in the file of its settings: some have more than 10 MB.
_MOST_BYTES = 64 << 20
# How often a change is made again because another program has changed the file meanwhile.
_TRIES = 5


class Content(NamedTuple):
    """What files are to have.

    Attributes:
        data: the file. None: it is not to exist.
        backup: the backup. None: it stays as it is.
    """

    data: bytes | None
    backup: bytes | None = None


class SettingsFile:
    """A file of settings. A link leads to the file that is changed, and stays a link.

    Attributes:
        path: the file as its program knows it.
        backup_path: beside it, the file as it was without our entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.backup_path: Path = path.with_name(f"{path.name}.before-mlx-colbert")

    def read(self) -> bytes | None:
        """What the file has. None: it does not exist.

        Raises:
            AssistantError: if it is not a file, or too large.
            OSError: if it cannot be read.
        """
        return _read(self.path)

    def read_backup(self) -> bytes | None:
        """What the backup has. None: it does not exist.

        Raises:
            AssistantError: if it is not a file, or too large.
            OSError: if it cannot be read.
        """
        return _read(self.backup_path)

    def change(self, changed: Callable[[bytes | None], Content]) -> bool:
        """Change the file, and return whether it was changed.

        Args:
            changed: the new content for that of now (None: there is no file). It may be called several times.

        Raises:
            AssistantError: if the file cannot be used, or another program keeps changing it.
            OSError: if it cannot be read or written.
        """
        # No folder is made for nothing.
        if self.read() is None and changed(None).data is None:
            return False
        target = Path(os.path.realpath(self.path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            for _ in range(_TRIES):
                before = self.read()
                after = changed(before)
                if after.data == before:
                    return False
                if self._replace(target, before, after):
                    return True
        reason = "another program keeps changing it. End that program, then try again."
        raise AssistantError(self.path, reason)

    def _replace(self, target: Path, before: bytes | None, after: Content) -> bool:
        """Replace the file if it is still as it was; returns whether it was."""
        like = None if before is None else target.stat()
        if like is not None and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        with _written(target, after.data or b"", like) as new:
            if after.backup is not None:
                with _written(self.backup_path, after.backup, like) as new_backup:
                    new_backup.replace(self.backup_path)
            if self.read() != before:
                return False
            if after.data is None:
                target.unlink()
            else:
                new.replace(target)
        return True


def _read(path: Path) -> bytes | None:
    try:
        # A FIFO does not let this wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AssistantError(path, "is a link that leads to itself. Remove it.") from None
        raise
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise AssistantError(path, "is not a file.")
        if info.st_size > _MOST_BYTES:
            raise AssistantError(
                path, f"has more than {_MOST_BYTES >> 20} MB. No file of settings is so large."
            )
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(descriptor)


@contextmanager
def _written(path: Path, data: bytes, like: os.stat_result | None) -> Iterator[Path]:
    """A block in which the new content of a file is beside it, with the mode and the owner of a file."""
    # One name for all tries: what a killed process left is replaced.
    new = path.with_name(f".{path.name}.mlx-colbert-new")
    try:
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        # Programs keep keys in their settings, so a new file is the user's alone.
        descriptor = os.open(new, flags, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            if like is not None:
                if os.geteuid() == 0:
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        yield new
    finally:
        with suppress(OSError):
            new.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A block that no other process of this package is in for the same folder. It leaves no file behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network drives have no locks of folders. Then `_replace` still sees what another process wrote.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
