"""A connection of HTTP that a slow or wrong client cannot keep."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlx_colbert.server.problems import Problem, answer
from mlx_colbert.server.settings import Limits

__all__ = ["guarded"]


def guarded(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol for uvicorn, with limits for the time of headers and of answers, and for connections."""

    class Guarded(_GuardedProtocol):
        LIMITS = limits

    return Guarded


class _GuardedProtocol(H11Protocol):
    """Ends a connection that brings no whole request in time, or whose client does not read the answer.

    uvicorn has a limit for the time between two requests only.
    """

    LIMITS: Limits
    _head_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.LIMITS.n_connections:
            self._end_with(Problem(503, "Too many clients are connected.", headers={"retry-after": "1"}))
            return
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._start_head_timer()
        else:
            self._stop_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        # The next request has its own time. If its first bytes are here already, the timer of uvicorn runs.
        self._stop_head_timer()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._send_timer is None:
            # To close would wait until the client has read all.
            self._send_timer = self.loop.call_later(self.LIMITS.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_send_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        if self.cycle is not None and not self.cycle.response_complete:
            # Its body is wrong. The application sees that the client has left.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._end_with(Problem(400, f"{msg} The connection is closed."))

    def _end_with(self, problem: Problem) -> None:
        """Answer with a problem, if nothing of another answer was sent, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            found = answer(problem)
            headers = [*found.raw_headers, (b"connection", b"close")]
            events: list[Any] = [
                h11.Response(status_code=problem.status, headers=headers),
                h11.Data(data=bytes(found.body)),
                h11.EndOfMessage(),
            ]
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _start_head_timer(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.LIMITS.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._end_with(Problem(408, f"The headers did not arrive within {self.LIMITS.head_s:.0f} s."))

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
