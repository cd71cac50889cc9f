"""A process of this program that has no terminal, and outlives the one that starts it."""

from __future__ import annotations

import subprocess
import sys

__all__ = ["spawned", "start_in_background"]

# Python warns of a process that is forgotten before it ends.
_spawned: list[subprocess.Popen[bytes]] = []


def spawned(*words: str, stderr: int) -> subprocess.Popen[bytes]:
    """The process of `mlx-colbert daemon` with some words, in a session of its own.

    Args:
        words: the words after `daemon`.
        stderr: a file, or subprocess.DEVNULL. It gets no other file of this process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_colbert", "daemon", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        # A disk cannot be removed while a process is in it. And `-m` would import modules from this folder.
        cwd="/",
        start_new_session=True,
    )
    _spawned.append(process)
    return process


def start_in_background() -> None:
    """Let another process start a daemon of this version. This one does not wait."""
    spawned("start", stderr=subprocess.DEVNULL)
