"""Server-sent events: the texts of a stream, within limits.

Source: the section "Server-sent events" of the HTML standard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

__all__ = ["MAX_LINE_BYTES", "MAX_STREAM_BYTES", "Patience", "events"]

MAX_LINE_BYTES = 1 << 20
MAX_STREAM_BYTES = 64 << 20


class Patience:
    """How long to wait for the next token.

    Attributes:
        deadline: the time of `time.monotonic` at which to give up.
    """

    def __init__(self, first_s: float, next_s: float) -> None:
        self._next_s = next_s
        self.deadline: float = time.monotonic() + first_s

    def renew(self) -> None:
        """Wait again, because a token has come."""
        self.deadline = time.monotonic() + self._next_s


def events(read_some: Callable[[float], bytes], patience: Patience) -> Iterator[str]:
    """The data of each event of a stream. Comments, and an event without its end, are left out.

    Args:
        read_some: returns the next bytes before a deadline. Empty: the stream has ended.
        patience: gives the deadline. Its owner renews it: comments alone do not.

    Raises:
        ValueError: if a line or the stream is too long, or a line is not UTF-8.
        TimeoutError: from `read_some`.
    """
    data: list[str] = []
    n_characters = 0
    for line in _lines(read_some, patience):
        if not line:
            if data:
                yield "\n".join(data)
            data, n_characters = [], 0
            continue
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
            n_characters += len(line)
            if n_characters > MAX_LINE_BYTES:
                raise ValueError(f"an event is longer than {MAX_LINE_BYTES:,} characters")


def _lines(read_some: Callable[[float], bytes], patience: Patience) -> Iterator[str]:
    """The lines of a stream, which end with CR LF, LF or CR."""
    waiting, n_bytes, is_first = bytearray(), 0, True
    piece = b"\n"
    while piece:
        piece = read_some(patience.deadline)
        n_bytes += len(piece)
        if n_bytes > MAX_STREAM_BYTES:
            raise ValueError(f"the stream is longer than {MAX_STREAM_BYTES:,} bytes")
        has_end = waiting.endswith(b"\r") or b"\n" in piece or b"\r" in piece
        waiting += piece
        lines: list[bytes] = []
        if has_end:
            # A CR at the end may be half of a CR LF.
            held = b"\r" if piece and waiting.endswith(b"\r") else b""
            *lines, rest = _split(bytes(waiting[: len(waiting) - len(held)]))
            waiting = bytearray(rest + held)
        for line in lines:
            _check_length(line)
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise ValueError("a line is not UTF-8") from None
            yield text.removeprefix("\ufeff") if is_first else text
            is_first = False
        _check_length(waiting)


def _check_length(line: bytes | bytearray) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a line is longer than {MAX_LINE_BYTES:,} bytes")


def _split(data: bytes) -> list[bytes]:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
