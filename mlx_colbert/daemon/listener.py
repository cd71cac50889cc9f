"""The thread of the daemon that accepts requests, and answers those that need no computation."""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mlx_colbert.daemon import identity
from mlx_colbert.daemon.log import Log
from mlx_colbert.daemon.messages import LONGEST_REQUEST, Message, ProtocolError, receive, send
from mlx_colbert.daemon.place import peer_id

__all__ = ["Listener", "Request"]

# Seconds for a client to send its request, and to take the answer of this thread.
_TIMEOUT_S = 2.0
# More requests than this are refused: each client would wait for longer than it takes to do it itself.
_MOST_WAITING = 64
# Seconds to wait after an error of the system.
_PAUSE_S = 0.5


@dataclass(frozen=True, eq=False)
class Request:
    """A command line of a client.

    Attributes:
        connection: the way to the client.
        argv: the words after `mlx-colbert`.
        cwd: its folder.
        environment: its variables that matter.
        terminals: which of "stdout" and "stderr" are terminals there.
        encoding: that of its "stdout".
    """

    connection: socket.socket
    argv: Sequence[str]
    cwd: str
    environment: Mapping[str, str]
    terminals: Collection[str]
    encoding: str

    @classmethod
    def read(cls, connection: socket.socket, message: Message) -> Request:
        """The request in a message.

        Raises:
            ProtocolError: if something of it is missing, or of another type.
        """
        argv, cwd, terminals = message.get("argv"), message.get("cwd"), message.get("terminals")
        variables, encoding = message.get("environment"), message.get("encoding", "utf-8")
        if (
            isinstance(cwd, str)
            and isinstance(argv, list)
            and isinstance(terminals, list)
            and isinstance(variables, dict)
            and isinstance(encoding, str)
            and all(isinstance(text, str) for text in (*argv, *terminals, *variables.values()))
        ):
            return cls(connection, argv, cwd, variables, terminals, encoding)
        raise ProtocolError("a request without argv, cwd, terminals, environment or encoding")

    def has_left(self) -> bool:
        """Whether the client has closed the connection. A client sends nothing after its request."""
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


class Listener:
    """Accepts connections in a thread."""

    def __init__(
        self,
        listening: socket.socket,
        waiting: queue.SimpleQueue[Request | None],
        status: Callable[[], Message],
        stop: Callable[[], None],
        log: Log,
    ) -> None:
        self._listening = listening
        self._waiting = waiting
        self._status = status
        self._stop = stop
        self._log = log
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="mlx-colbert-listener", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finish(self) -> None:
        """Read the requests of the clients that are connected, and end. It may be called again."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
            self._thread.join()
            os.close(self._woken)
            self._listening.close()

    def _run(self) -> None:
        self._listening.setblocking(False)
        is_last = False
        while not is_last:
            ready = select.select([self._listening.fileno(), self._woken], [], [])[0]
            is_last = self._woken in ready
            while True:
                try:
                    connection = self._listening.accept()[0]
                except BlockingIOError:
                    break
                except OSError as error:
                    # There are no more file descriptors, for example.
                    self._log.write(f"cannot accept a client: {error}")
                    time.sleep(_PAUSE_S)
                    break
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        """Answer a client, or put its request into the queue."""
        is_queued = False
        try:
            if peer_id(connection) != os.getuid():
                return
            message = receive(connection, LONGEST_REQUEST, timeout_s=_TIMEOUT_S)
            connection.settimeout(_TIMEOUT_S)
            answer = self._answer(connection, message)
            if isinstance(answer, Request):
                send(connection, {"kind": "queued"})
                self._waiting.put(answer)
                is_queued = True
            else:
                send(connection, answer)
                if message.get("do") == "stop":
                    self._stop()
        # No client may end this thread, whatever it sends.
        except Exception as error:
            self._log.write(f"a client sent no request: {error!r}")
        finally:
            if not is_queued:
                with suppress(OSError):
                    connection.close()

    def _answer(self, connection: socket.socket, message: Message) -> Message | Request:
        what = message.get("do")
        if what in ("status", "stop"):
            return self._status()
        refused: Message = {"kind": "refused", "identity": identity.identity()}
        if what != "run":
            return refused | {"reason": "it does not know this request"}
        if message.get("identity") != identity.identity():
            return refused | {"is_other_program": True, "reason": "it runs another version of mlx-colbert"}
        request = Request.read(connection, message)
        if names := identity.differing(request.environment):
            return refused | {"reason": f"it was started with other values of {', '.join(names)}"}
        if self._waiting.qsize() >= _MOST_WAITING:
            return refused | {"reason": "too many requests wait"}
        return request
