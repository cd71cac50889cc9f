"""The locks of a collection: one process changes it, one watches it. One that ends or crashes releases it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mlx_colbert.errors import CollectionBusyError

__all__ = ["locked"]

Deed = Literal["changing", "watching"]
# Seconds between looks at a lock.
_LOOK_S = 0.02
_FILES: dict[Deed, str] = {"changing": "lock", "watching": "watch.lock"}


@contextmanager
def locked(
    folder: Path,
    name: str,
    *,
    deed: Deed = "changing",
    on_wait: Callable[[str], object] | None = None,
    wait_s: float = 0.0,
) -> Iterator[None]:
    """A block that has a lock of a collection.

    Args:
        folder: the folder of the collection.
        name: the name of the collection.
        deed: what the lock is for. One process at a time may do it.
        on_wait: called once with a sentence that says who has the lock, before this waits for it. None: wait
            no longer than `wait_s`.
        wait_s: seconds to wait without `on_wait`.

    Raises:
        CollectionBusyError: without `on_wait`, if the lock is not free in time.
        OSError: if the lock cannot be written.
    """
    path = folder / _FILES[deed]
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(descriptor)
                if on_wait is None and time.monotonic() < deadline:
                    time.sleep(_LOOK_S)
                    continue
                if on_wait is None:
                    raise CollectionBusyError(name, f"{holder} is {deed} it. Try again later.") from None
                on_wait(f"Collection {name}: {holder} is {deed} it. Waiting.")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_current(path, descriptor):
                # The collection was renamed or removed while this waited.
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": int(time.time())}).encode(), 0)
            yield
            return
        finally:
            os.close(descriptor)


def _is_current(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
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
