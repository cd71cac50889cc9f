"""The log of the daemon: its beginning and end, and what went wrong. It has no queries."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["Log"]

# Bytes of a log. There is one older log beside it.
_MOST_BYTES = 1 << 20


class Log:
    """A file that is the standard error too, so that it has the last words of a crash."""

    def __init__(self, path: Path | None) -> None:
        """Use a file. None: print."""
        self._path = path
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Write a text with the time. No error of the disk ends the daemon."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}\n"
        with self._lock, suppress(OSError):
            if self._path is None:
                sys.__stderr__ and sys.__stderr__.write(line)
                return
            self._begin_anew()
            os.write(2, line.encode(errors="backslashreplace"))

    def _begin_anew(self) -> None:
        """Put a large log aside."""
        assert self._path is not None
        if os.fstat(2).st_size < _MOST_BYTES:
            return
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(file, 2)
        os.close(file)
