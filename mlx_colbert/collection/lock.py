"""The locks of a collection: one process changes it, one watches it. One that ends or crashes releases it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from mlx_colbert.errors import CollectionBusyError
from mlx_colbert.regular_files import open_regular

__all__ = ["locked", "shared_lock"]

Deed = Literal["changing", "watching"]
# Seconds between looks at a lock.
_LOOK_S = 0.02
_FILES: dict[Deed, str] = {"changing": "lock", "watching": "watch.lock"}
# The lock of what all collections of a user share.
_SHARED_NAME = "registry.lock"


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
        OSError: if the lock cannot be opened.
    """
    path = folder / _FILES[deed]
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
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
            # Who has it is for people alone. A full disk must not stop what needs no room.
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": int(time.time())}).encode(), 0)
            yield
            return
        finally:
            os.close(descriptor)


@contextmanager
def shared_lock(home: Path) -> Iterator[None]:
    """A block that alone changes which collections there are, their settings, and which are trusted.

    This waits for another process: such a change is short.

    Args:
        home: the folder of all collections. It is made.

    Raises:
        OSError: if the lock cannot be written.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = open_regular(home / _SHARED_NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
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
