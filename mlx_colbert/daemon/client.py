"""The client of the daemon. What it cannot get from there, the caller does itself."""

from __future__ import annotations

# The module `socket` takes longer to import than a search takes.
import _socket as socket
import os
import sys
from collections import namedtuple
from collections.abc import Callable, Sequence
from contextlib import closing

from mlx_colbert.daemon.identity import environment, identity, is_newer
from mlx_colbert.daemon.messages import LONGEST_REPLY, Message, ProtocolError, receive, send
from mlx_colbert.daemon.place import DaemonPlace, peer_id
from mlx_colbert.errors import ColBERTError, DaemonError

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Declined", "Exchange", "begin", "told"]

# Seconds. A daemon accepts at once: a thread of it does nothing else.
_ACCEPTED_S = 1.0
# Seconds to wait for the requests of others. To do it here takes about as long.
_TURN_S = 2.0


class Declined(namedtuple("Declined", ["reason"])):
    """The daemon did not answer.

    Attributes:
        reason: why, for people.
    """

    reason: str
    __slots__ = ()

    def close(self) -> None:
        """Nothing is open."""

    def reply(self, on_text: Callable[[str, str], object]) -> Declined:
        """This."""
        return self


class Exchange:
    """A request that was sent to the daemon."""

    def __init__(self, connection: Any, place: DaemonPlace) -> None:
        self._connection = connection
        self._place = place

    def close(self) -> None:
        """Close the connection. A request that has not begun is then not run."""
        self._connection.close()

    def reply(self, on_text: Callable[[str, str], object]) -> Message | Declined:
        """The reply.

        Args:
            on_text: called with "stdout" or "stderr" and a text that the command prints while it runs.

        Raises:
            DaemonError: if the daemon ended after it had printed a part of the output.
        """
        n_printed = 0
        try:
            timeout: float | None = _ACCEPTED_S
            while True:
                message = receive(self._connection, LONGEST_REPLY, timeout_s=timeout)
                kind = message.get("kind")
                if kind == "queued":
                    timeout = _TURN_S
                elif kind == "started":
                    timeout = None
                elif kind == "text":
                    n_printed += message["stream"] == "stdout"
                    on_text(message["stream"], message["text"])
                elif kind == "reply":
                    return message
                else:
                    return _declined(message)
        except TimeoutError:
            return Declined("it is busy")
        except (OSError, ProtocolError, KeyError) as error:
            if n_printed:
                raise DaemonError(
                    self._place.socket, "ended while it answered. Run the command again."
                ) from error
            return Declined(f"it ended: {error}")
        finally:
            self.close()


def begin(argv: Sequence[str], place: DaemonPlace | None = None) -> Exchange | Declined:
    """Send a command line to the daemon.

    Args:
        argv: the words after `mlx-colbert`.
        place: where the daemon is. None: the place of this user.
    """
    place = place or DaemonPlace()
    connection = _connected(place)
    if isinstance(connection, Declined):
        return connection
    request = {
        "do": "run",
        "identity": identity(),
        "argv": list(argv),
        "cwd": _folder(),
        "environment": {**_width(), **environment()},
        "encoding": getattr(sys.stdout, "encoding", None) or "utf-8",
        "terminals": [name for name in ("stdout", "stderr") if _is_terminal(name)],
    }
    try:
        send(connection, request)
    except OSError as error:
        connection.close()
        return Declined(f"it ended: {error}")
    return Exchange(connection, place)


def told(what: str, place: DaemonPlace, *, timeout_s: float = _TURN_S) -> Message | None:
    """The answer of the daemon to "status" or "stop". None: no daemon runs there.

    Raises:
        DaemonError: if it does not answer in time.
    """
    connection = _connected(place)
    if isinstance(connection, Declined):
        return None
    with closing(connection):
        try:
            send(connection, {"do": what})
            return receive(connection, LONGEST_REPLY, timeout_s=timeout_s)
        except TimeoutError as error:
            reason = f"does not answer. Its process id is in {place.lock}."
            raise DaemonError(place.socket, reason) from error
        except (OSError, ProtocolError):
            return None


def _connected(place: DaemonPlace) -> Any:
    """A connection to the daemon of this user, or Declined."""
    if not place.is_up():
        return Declined("it does not run")
    try:
        place.check()
    except (ColBERTError, OSError) as error:
        return Declined(str(error))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_ACCEPTED_S)
        connection.connect(os.fsencode(place.address))
        if peer_id(connection) == os.getuid():
            return connection
        reason = "another user listens at its socket"
    except OSError as error:
        # A daemon that crashed leaves its socket.
        reason = f"it does not run: {error.strerror or error}"
    connection.close()
    return Declined(reason)


def _declined(message: Message) -> Declined:
    theirs = message.get("identity") or {}
    if message.get("is_other_program") and is_newer(identity(), theirs):
        from mlx_colbert.daemon.spawning import start_in_background

        # It stops the old daemon. This command does not wait.
        start_in_background()
    return Declined(str(message.get("reason", "")))


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - no path is made of it here
    except FileNotFoundError:
        return ""


def _width() -> dict[str, str]:
    """The columns of the terminal, for what the daemon prints. Nothing if there is no terminal."""
    if not _is_terminal("stdout"):
        return {}
    try:
        return {"COLUMNS": str(os.get_terminal_size(sys.stdout.fileno()).columns)}
    except (OSError, ValueError):
        return {}


def _is_terminal(name: str) -> bool:
    stream = getattr(sys, name)
    return stream is not None and stream.isatty()
