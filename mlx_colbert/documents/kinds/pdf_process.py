"""Asks the process that reads PDF files. It is started at the first file, and again after a crash."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from mlx_colbert.errors import InputError

__all__ = ["pdf_document"]

# The longest time for one file. A book of 1,000 pages takes about five seconds.
MAX_SECONDS = 120.0

_MODULE = "mlx_colbert.documents.kinds.pdf_pages"
_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


def pdf_document(data: bytes, name: str) -> dict[str, Any]:
    """The title, outline and lines of a PDF file, as `pdf_pages.document` gives them.

    Args:
        data: the bytes of the file.
        name: its name in an error message.

    Raises:
        InputError: if the file is encrypted or damaged, or takes too long.
    """
    with _lock:
        answer = _answer(data, name)
    if "error" in answer:
        raise InputError(f"{name}: {answer['error']}. It is not read.")
    return answer


def _answer(data: bytes, name: str) -> dict[str, Any]:
    process = _started()
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(MAX_SECONDS, end)
    timer.daemon = True
    timer.start()
    message = None
    assert process.stdin is not None and process.stdout is not None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(len(data).to_bytes(8, "big") + data)
            process.stdin.flush()
            length = process.stdout.read(8)
            n_bytes = int.from_bytes(length, "big")
            message = process.stdout.read(n_bytes) if len(length) == 8 else b""
            message = message if len(message) == n_bytes else None
    except BaseException:
        _stop(process)  # An answer that nobody waits for would be taken for the next one.
        raise
    finally:
        timer.cancel()
    if not message:
        _stop(process)
        if late.is_set():
            raise InputError(f"{name}: takes longer than {MAX_SECONDS:.0f} seconds to read. It is left out.")
        raise InputError(f"{name}: is damaged: the PDF reader ended while it read the file.")
    answer: dict[str, Any] = json.loads(message)
    return answer


def _started() -> subprocess.Popen[bytes]:
    global _process
    if _process is None or _process.poll() is not None:
        # It ends by itself when its standard input ends, so it never outlives this process.
        _process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    return _process


def _stop(process: subprocess.Popen[bytes]) -> None:
    global _process
    process.kill()
    process.communicate()
    _process = None
