"""The daemon: one thread accepts requests, the main thread answers one after the other.

Only the main thread computes, changes the folder and the environment of the process, and prints. So a command
runs as it does in a process of its own.
"""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_colbert.daemon import identity
from mlx_colbert.daemon.listener import Listener, Request
from mlx_colbert.daemon.log import Log
from mlx_colbert.daemon.messages import Message, send
from mlx_colbert.daemon.place import DaemonPlace
from mlx_colbert.daemon.relay import Relay
from mlx_colbert.model.kept import KeptModels

__all__ = ["Ending", "IdleTimes", "serve"]

# Why a daemon ends: it was told to, nobody used it, its socket was removed, or another one has the place.
Ending = Literal["stopped", "idle", "unreachable", "taken"]

# Seconds that a client may take to read. One that was stopped with Ctrl-Z must not stop the others.
_READ_S = 10.0
# Seconds between looks at the clock and at the socket.
_LOOK_S = 30.0


@dataclass(frozen=True)
class IdleTimes:
    """When an idle daemon gives memory back, in seconds. None: never.

    Attributes:
        model_s: a model that nobody used for this long is let go.
        daemon_s: a daemon that got no request for this long ends.
    """

    model_s: float | None = 600.0
    daemon_s: float | None = 8 * 3600.0


def serve(
    answer: Callable[[Sequence[str]], Message],
    place: DaemonPlace,
    idle: IdleTimes,
    models: KeptModels,
    *,
    is_detached: bool,
    url: str | None = None,
) -> Ending:
    """Answer requests until SIGTERM, a request to stop, or a long idle time. Call it in the main thread.

    Args:
        answer: the reply to a command line, or {"kind": "refused", "reason"}. It may print.
        place: the folder of the daemon.
        idle: when it gives memory back.
        models: those that stay loaded. The caller is in a block of `keeping` with them.
        is_detached: the standard error is the log. Else the log is printed.
        url: where this process is served over HTTP too. None: nowhere.

    Returns:
        Why it ended.

    Raises:
        DaemonError: if another user could enter the folder.
        OSError: if the socket cannot be made.
    """
    place.make()
    with _locked(place.lock) as is_ours:
        if not is_ours:
            return "taken"
        # A disk that is the current folder of a process cannot be removed.
        os.chdir("/")
        log = Log(place.log if is_detached else None)
        listener = _listening(place)
        server = _Server(answer, place, idle, models, listener, log, {"url": url})
        before = {n: signal.signal(n, lambda *_: server.stop()) for n in (signal.SIGTERM, signal.SIGINT)}
        log.write(f"started, process {os.getpid()}, mlx-colbert {identity.identity()['version']}")
        try:
            return server.run()
        finally:
            listener.close()
            for number, handler in before.items():
                signal.signal(number, handler)
            log.write("ended")


def _listening(place: DaemonPlace) -> socket.socket:
    """The socket of the daemon. A file that a crashed daemon left is removed: this process has the lock."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A client that sees the socket can connect: it gets its name when this listens. The draft's name is
        # short, as the path of a socket must be.
        draft = place.socket.with_name("new.sock")
        draft.unlink(missing_ok=True)
        # Nobody else may enter the folder, so nobody connects before the mode is set.
        listening.bind(os.fsencode(draft))
        draft.chmod(0o600)
        listening.listen(64)
        draft.replace(place.socket)
    except BaseException:
        listening.close()
        raise
    return listening


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process has the lock in the block. The system gives it back when the process ends."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield True
        os.ftruncate(file, 0)
    finally:
        os.close(file)


class _Server:
    def __init__(
        self,
        answer: Callable[[Sequence[str]], Message],
        place: DaemonPlace,
        idle: IdleTimes,
        models: KeptModels,
        listening: socket.socket,
        log: Log,
        facts: Mapping[str, Any],
    ) -> None:
        self._answer = answer
        self._place = place
        self._idle = idle
        self._log = log
        self._models = models
        self._facts = facts
        # The handler of a signal may put into this queue while the same thread takes from it.
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._began = time.time()
        self._last_use = time.monotonic()
        self._n_answered = 0
        self._ending: Ending | None = None
        self._file = place.socket.stat()
        self._listener = Listener(listening, self._waiting, self._status, self.stop, log)

    def stop(self) -> None:
        """Take no more requests, and end when the accepted ones are answered."""
        self._ending = "stopped"
        self._waiting.put(None)

    def run(self) -> Ending:
        """Answer requests, and return why it ended."""
        self._listener.start()
        try:
            while (request := self._next()) is not None:
                self._serve(request)
            self._unlink()
            # Clients that are connected already are answered too.
            self._listener.finish()
            while not self._waiting.empty():
                if (request := self._waiting.get()) is not None:
                    self._serve(request)
            return self._ending or "stopped"
        finally:
            self._unlink()
            self._listener.finish()

    def _next(self) -> Request | None:
        """The next request. None: it is time to end."""
        while self._ending is None:
            with suppress(queue.Empty):
                return self._waiting.get(timeout=self._pause())
            idle = time.monotonic() - self._last_use
            if self._idle.model_s is not None:
                self._models.drop_idle(self._idle.model_s)
            if self._idle.daemon_s is not None and idle >= self._idle.daemon_s:
                self._log.write(f"idle for {idle:.0f} s")
                self._ending = "idle"
            elif not self._is_reachable():
                self._log.write("the socket was removed")
                self._ending = "unreachable"
        return None

    def _pause(self) -> float:
        """Seconds until something may have to be done without a request."""
        limits = [limit for limit in (self._idle.model_s, self._idle.daemon_s) if limit is not None]
        return min([_LOOK_S, *(max(limit / 4, 0.05) for limit in limits)])

    def _is_reachable(self) -> bool:
        try:
            found = self._place.socket.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self._file.st_dev, self._file.st_ino)

    def _unlink(self) -> None:
        """Remove the socket if it is still the one of this process."""
        if self._is_reachable():
            self._place.socket.unlink(missing_ok=True)

    def _status(self) -> Message:
        return {
            "kind": "status",
            "pid": os.getpid(),
            "identity": identity.identity(),
            "began": self._began,
            "answered": self._n_answered,
            "waiting": self._waiting.qsize(),
            "models": self._models.names(),
            "idle_s": round(time.monotonic() - self._last_use, 1),
            "model_idle_s": self._idle.model_s,
            "daemon_idle_s": self._idle.daemon_s,
            **self._facts,
        }

    def _serve(self, request: Request) -> None:
        """Answer one request. No error of it ends the daemon."""
        try:
            if not request.has_left():
                request.connection.settimeout(_READ_S)
                send(request.connection, {"kind": "started"})
                reply = self._reply(request)
                self._n_answered += reply["kind"] == "reply"
                send(request.connection, reply)
        except OSError:
            # The client left, or reads no more.
            pass
        finally:
            request.connection.close()
            self._last_use = time.monotonic()

    def _reply(self, request: Request) -> Message:
        try:
            with _as_client(request):
                return {"kind": "reply", **self._answer(request.argv)}
        except BrokenPipeError:
            raise
        except BaseException:
            # The client does it itself, and shows its own error.
            self._log.write(traceback.format_exc())
            return {"kind": "refused", "reason": f"it failed; the reason is in {self._place.log}"}


@contextmanager
def _as_client(request: Request) -> Iterator[None]:
    """A block in the folder and with the environment of a client. What it prints goes to the client."""
    streams = sys.stdout, sys.stderr
    before = identity.environment()
    sys.stdout, sys.stderr = (
        Relay(name, request.connection, is_terminal=name in request.terminals, encoding=request.encoding)
        for name in ("stdout", "stderr")
    )
    try:
        identity.apply(request.environment)
        os.chdir(request.cwd)
        yield
    finally:
        sys.stdout, sys.stderr = streams
        identity.apply(before)
        # The folder of a client may be on a disk that is to be removed.
        os.chdir("/")
