"""The lock of a collection: one process at a time changes it. A process that ends or crashes releases it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_colbert.errors import CollectionBusyError

__all__ = ["locked"]

LOCK_NAME = "lock"


@contextmanager
def locked(folder: Path, name: str, *, on_wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """A block that has the lock of a collection.

    Args:
        folder: the folder of the collection.
        name: the name of the collection.
        on_wait: called once with a sentence that says who has the lock, before this waits for it. None: do
            not wait.

    Raises:
        CollectionBusyError: without `on_wait`, if another process has the lock.
        OSError: if the lock cannot be written.
    """
    while True:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(descriptor)
                if on_wait is None:
                    raise CollectionBusyError(name, f"{holder} is changing it. Try again later.") from None
                on_wait(f"Collection {name}: {holder} is changing it. Waiting.")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_current(folder, descriptor):
                # The collection was renamed or removed while this waited.
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": int(time.time())}).encode(), 0)
            yield
            return
        finally:
            os.close(descriptor)


def _is_current(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK_NAME).stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """Who has the lock, as the beginning of a sentence."""
    try:
        held = json.loads(os.pread(descriptor, 1000, 0))
        since = time.strftime("%H:%M:%S", time.localtime(held["since"]))
        return f"process {int(held['pid'])} (since {since})"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        # The holder has not written its name yet.
        return "another process"
