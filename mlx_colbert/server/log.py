"""One line in the log for each request, without what was asked. And the ids of requests."""

from __future__ import annotations

import queue
import re
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_colbert.engine.jobs import Job
from mlx_colbert.errors import ColBERTError
from mlx_colbert.model.shared_encoder import CallerLeftError
from mlx_colbert.server.metrics import Metrics
from mlx_colbert.server.problems import answer, problem_of

__all__ = ["Lines", "Observed", "job_failures", "late_failure"]

# Lines that wait until the log takes them.
_MOST_LINES = 10_000

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Lines:
    """Writes lines in a thread, so that a log that takes none holds no request up. Then lines are lost.

    Args:
        write: writes a line. It may block.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write_now = write
        self._waiting: queue.Queue[str | None] = queue.Queue(_MOST_LINES)
        self._thread = threading.Thread(target=self._run, name="mlx-colbert-log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Write a line soon."""
        with suppress(queue.Full):
            self._waiting.put_nowait(line)

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, if the log takes it in time."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._write_now(line)


class Observed:
    """An application whose requests have ids, lines in the log, and numbers in the metrics.

    Args:
        app: the application.
        metrics: what counts the requests.
        write: writes a line. None: there is no log, and an error that nobody expected is raised again.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, write: Callable[[str], None] | None) -> None:
        self._app = app
        self._metrics = metrics
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        # A long or strange one could write lines of its own into the log.
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status, n_bytes = time.perf_counter(), 0, 0

        async def sent(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            n_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            if not status:
                await answer(problem_of(error), request_id)(scope, receive, sent)
            if self._write is None:
                raise
            self._write(f"{request_id} failed\n{_frames_of(error)}")
        finally:
            seconds = time.perf_counter() - begun
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", None) or "none"
            # Without a status, the client left before there was an answer.
            self._metrics.count(method, route, status or 499, seconds)
            if self._write is not None:
                self._write(
                    f"{method} {route} {status or 499} {1000 * seconds:.1f} ms {n_bytes} bytes {request_id}"
                )


def job_failures(write: Callable[[str], None]) -> Callable[[Job], None]:
    """What `Jobs` calls with a job that has failed. Errors of the library are told to the client alone.

    Args:
        write: writes a line of the log.
    """

    def told(job: Job) -> None:
        if job.error is not None and not isinstance(job.error, ColBERTError):
            write(f"job {job.id} failed\n{_frames_of(job.error)}")

    return told


def late_failure(request_id: str, error: BaseException | None) -> str | None:
    """The text for the log about work that nobody waits for any more. None: there is nothing to say.

    Args:
        request_id: the id of its request.
        error: what it has failed with. None: it has not.
    """
    if error is None or isinstance(error, CallerLeftError):
        return None
    return f"{request_id} failed after its client was answered or had left\n{_frames_of(error)}"


def _frames_of(error: BaseException) -> str:
    """The traceback of an error and its causes. Their messages are left out: they may quote a document."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(lines) < 200:
        lines += [*traceback.format_tb(cause.__traceback__), f"{type(cause).__name__}\n"]
        cause = cause.__cause__ or cause.__context__
    return "".join(lines)
