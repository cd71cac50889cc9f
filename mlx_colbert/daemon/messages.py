"""The messages between a client and the daemon: JSON objects with their length before them."""

from __future__ import annotations

import json
import struct
import time

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

__all__ = ["LONGEST_REPLY", "LONGEST_REQUEST", "Message", "ProtocolError", "receive", "send"]

Message = dict[str, "Any"]

# Bytes. The arguments of a process are not longer on any system that this runs on.
LONGEST_REQUEST = 4 << 20
LONGEST_REPLY = 1 << 30

_LENGTH = struct.Struct(">I")


class ProtocolError(Exception):
    """The other end sent something else than a message, or left."""


class Connection(Protocol):
    """What is used of a socket."""

    def sendall(self, data: bytes, /) -> None:
        """Send all bytes."""

    def recv(self, size: int, /) -> bytes:
        """Receive some bytes."""

    def settimeout(self, timeout: float | None, /) -> None:
        """Set the seconds that a call may take."""


def send(connection: Connection, message: Message) -> None:
    """Send a message.

    Raises:
        OSError: if the other end has left.
    """
    # ASCII: a name of a file may have bytes that are not text (PEP 383). JSON's escapes keep them.
    data = json.dumps(message).encode("ascii")
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: Connection, longest: int, *, timeout_s: float | None = None) -> Message:
    """The next message.

    Args:
        connection: a socket.
        longest: the most bytes that it may have.
        timeout_s: seconds for the whole message. None: any time.

    Raises:
        ProtocolError: if it is longer, is not a JSON object, or the other end leaves before its end.
        OSError: if the connection fails; TimeoutError if it takes too long.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    (n_bytes,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, deadline))
    if n_bytes > longest:
        raise ProtocolError(f"a message has {n_bytes:,} bytes, more than {longest:,}")
    try:
        message = json.loads(_exactly(connection, n_bytes, deadline))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("a message is not a JSON object")
    return message


def _exactly(connection: Connection, n_bytes: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < n_bytes:
        if deadline is not None:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            connection.settimeout(left)
        else:
            connection.settimeout(None)
        part = connection.recv(min(n_bytes - len(data), 1 << 20))
        if not part:
            raise ProtocolError("the other end left")
        data += part
    return bytes(data)
