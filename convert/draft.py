"""Makes a folder that appears only when it is complete, on the disk too. An error leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["in_place_at_once", "remove_folder", "remove_stale_drafts"]


@contextmanager
def in_place_at_once(target: Path) -> Iterator[Path]:
    """A new folder to fill, beside `target`. At the end it is renamed to `target`; an error removes it.

    Its files, the folder and its new name are on the disk before this returns. Drafts of the same target from
    killed processes are removed.
    """
    made = [folder for folder in target.parents if not folder.exists()]
    draft, lock = None, -1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_drafts(target.parent, re.escape(target.name))
        draft, lock = _new_draft(target)
        yield draft
        for path in [*draft.rglob("*"), draft]:
            _sync(path)
        draft.rename(target)
        draft = None
        parents, made = [target.parent, *(folder.parent for folder in made)], []
        for path in parents:
            _sync(path)
    except OSError as error:
        # The error of a full disk names no file.
        if error.filename is None and error.errno is not None:
            error.filename = str(target)
        raise
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
        for folder in made:
            with suppress(OSError):  # another process uses it
                folder.rmdir()


def remove_folder(folder: Path) -> None:
    """Rename a folder, then remove it: so no other process finds half of it."""
    aside = folder.parent / _draft_name(folder)
    with suppress(FileNotFoundError):  # another process was faster
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _draft_name(target: Path) -> str:
    return f".{target.name}.{uuid.uuid4().hex[:8]}"


def _new_draft(target: Path) -> tuple[Path, int]:
    """A new folder, and the file descriptor of its lock. The lock says that this process fills the folder."""
    while True:
        draft = target.parent / _draft_name(target)
        draft.mkdir()
        try:
            lock = _locked(draft)
        except (BlockingIOError, FileNotFoundError):
            # Before the lock, another process took it for stale, and removes it.
            continue
        except OSError:  # the file system has no locks
            return draft, -1
        if draft.exists():
            return draft, lock
        os.close(lock)


def _locked(folder: Path) -> int:
    """The file descriptor of a folder that is now locked.

    Raises:
        BlockingIOError: if another process holds the lock.
        OSError: if it cannot be locked.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def remove_stale_drafts(folder: Path, names: str) -> None:
    """Remove the drafts in a folder that no process is filling: the system has released their locks.

    Args:
        folder: where the drafts are.
        names: a pattern of the names of their targets.
    """
    pattern = re.compile(rf"\.{names}\.[0-9a-f]{{8}}")
    for path in folder.iterdir():
        if pattern.fullmatch(path.name) and not path.is_symlink() and path.is_dir():
            with suppress(OSError):  # a process is filling it
                lock = _locked(path)
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _sync(path: Path) -> None:
    """Write a file or a folder from the memory of the system to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(fcntl, "F_FULLFSYNC"):  # on a Mac, fsync leaves data in the disk's own cache
            with suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    finally:
        os.close(descriptor)
