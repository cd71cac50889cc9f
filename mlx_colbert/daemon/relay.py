"""Output of a command in the daemon: it goes to the client while the command runs."""

from __future__ import annotations

import io
import socket

from mlx_colbert.daemon.messages import send

__all__ = ["Relay"]


class Relay(io.TextIOBase):
    """A text stream that the client prints.

    Attributes:
        name: "stdout" or "stderr".
    """

    def __init__(self, name: str, connection: socket.socket, *, is_terminal: bool, encoding: str) -> None:
        self.name = name
        self._encoding = encoding
        self._connection = connection
        self._is_terminal = is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the client's stream. The client writes escapes for what it lacks."""
        return self._encoding

    def isatty(self) -> bool:
        """Whether the client's stream is a terminal."""
        return self._is_terminal

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Send a text to the client.

        Raises:
            BrokenPipeError: if the client has left, or reads no more.
        """
        if text:
            try:
                send(self._connection, {"kind": "text", "stream": self.name, "text": text})
            except OSError as error:
                raise BrokenPipeError(str(error)) from error
        return len(text)
