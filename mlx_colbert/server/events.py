"""Streams of events (server-sent events), which a client reads while something goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse

__all__ = ["ALIVE", "KEEP_ALIVE_S", "Channel", "event", "stream"]

# A comment. Readers of events pass over it.
ALIVE = ": alive\n\n"
# Seconds after which a comment says that the connection lives. Proxies close silent ones.
KEEP_ALIVE_S = 15.0


def event(name: str | None, data: Any) -> str:
    r"""An event.

    >>> event("text", {"text": "a\nb"})
    'event: text\ndata: {"text": "a\\nb"}\n\n'
    """
    head = "" if name is None else f"event: {name}\n"
    # JSON has no line ends of its own, and every reader of lines agrees about ASCII.
    return f"{head}data: {json.dumps(data)}\n\n"


def stream(texts: AsyncIterator[str]) -> StreamingResponse:
    """The response with a stream of events. No proxy should keep parts of it back."""
    return StreamingResponse(
        texts,
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no", "cache-control": "no-store"},
    )


class Channel:
    """Passes what a worker sends to the event loop. The worker is told when nobody reads any more."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._left = threading.Event()

    def has_left(self) -> bool:
        """Whether nobody reads any more."""
        return self._left.is_set()

    def leave(self) -> None:
        """Read no more."""
        self._left.set()

    def send(self, name: str, data: Any) -> None:
        """Send an event. A worker calls this."""
        # The loop is closed if the server has ended meanwhile.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (name, data))

    def end(self, error: BaseException | None) -> None:
        """Send nothing more. A worker calls this."""
        self.send("", error)

    async def read(self) -> AsyncIterator[tuple[str, Any] | None]:
        """The events, as name and data; and None where nothing is sent for long.

        Raises:
            BaseException: the error that it has ended with.
        """
        try:
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        name, data = await self._queue.get()
                except TimeoutError:
                    yield None
                    continue
                if not name:
                    if data is not None:
                        raise data
                    return
                yield name, data
        finally:
            self.leave()
