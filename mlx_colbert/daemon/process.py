"""Starts the daemon as a process of its own, and stops it."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from mlx_colbert.daemon.client import told
from mlx_colbert.daemon.identity import identity
from mlx_colbert.daemon.messages import Message
from mlx_colbert.daemon.place import DaemonPlace
from mlx_colbert.daemon.spawning import spawned
from mlx_colbert.errors import DaemonError

__all__ = ["start", "stop"]

# Seconds. Python starts in a tenth of a second, but the machine may be busy.
_START_S = 60.0
_STOP_S = 60.0
_LOOK_S = 0.02


def start(place: DaemonPlace) -> tuple[Message, bool]:
    """The status of a daemon of this version at a place, and whether it had to be started.

    A daemon of another version is stopped first.

    Raises:
        DaemonError: if it does not start.
        OSError: if its folder cannot be made.
    """
    place.make()
    status = told("status", place)
    if status is not None and status.get("identity") == identity():
        return status, False
    if status is not None:
        if url := status.get("url"):
            reason = f"is that of `mlx-colbert serve` of another version, at {url}. Start it again."
            raise DaemonError(place.socket, reason)
        stop(place)
    # A large log is put aside, so that a daemon that fails at each start does not fill the disk.
    if _size(place.log) > 1 << 20:
        place.log.replace(place.log.with_name(f"{place.log.name}.1"))
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        began = os.fstat(log).st_size
        process = spawned("run", "--detached", stderr=log)
    finally:
        os.close(log)
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        status = told("status", place)
        code = process.poll()
        # If another daemon was faster, this one sees its lock and ends with code 0. Wait for that: after the
        # other one is stopped, it would run.
        if status is not None and (code is not None or status.get("pid") == process.pid):
            return status, status.get("pid") == process.pid
        if code:
            raise DaemonError(place.log, f"does not start. {_last_line(place.log, began)}")
        time.sleep(_LOOK_S)
    raise DaemonError(place.log, f"did not start within {_START_S:.0f} s. Try again.")


def stop(place: DaemonPlace) -> Message | None:
    """Stop the daemon, and wait until it has ended. Returns its last status; None if none runs.

    Raises:
        DaemonError: if it does not end in time.
    """
    status = told("stop", place)
    if status is None:
        return None
    deadline = time.monotonic() + _STOP_S
    while not _is_free(place.lock):
        if time.monotonic() > deadline:
            raise DaemonError(
                place.lock, f"process {status.get('pid')} still answers a request. It ends after that."
            )
        time.sleep(_LOOK_S)
    return status


def _is_free(lock: Path) -> bool:
    try:
        file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _last_line(log: Path, began: int) -> str:
    """The last line that was written after an offset."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(began, _size(log) - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1][:300]
    return ""
