"""What routes need of the application: the engine, jobs and settings, and a way to let the engine work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from mlx_colbert.engine.engine import Engine
from mlx_colbert.engine.jobs import Jobs
from mlx_colbert.model.shared_encoder import CallerLeftError
from mlx_colbert.server.answering import Answering
from mlx_colbert.server.log import late_failure
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.served_model import ServedModel
from mlx_colbert.server.settings import Settings

__all__ = ["WorkRoute", "answering_of", "engine_of", "jobs_of", "model_of", "settings_of", "worked"]

_T = TypeVar("_T")


def engine_of(request: Request) -> Engine:
    """The engine of the application."""
    engine: Engine = request.app.state.engine
    return engine


def answering_of(request: Request) -> Answering:
    """What answers questions."""
    answering: Answering = request.app.state.answering
    return answering


def jobs_of(request: Request) -> Jobs:
    """The jobs of the application."""
    jobs: Jobs = request.app.state.jobs
    return jobs


def model_of(request: Request) -> ServedModel:
    """The model of rerank and embeddings."""
    model: ServedModel = request.app.state.model
    return model


def settings_of(request: Request) -> Settings:
    """The settings that the server was started with."""
    settings: Settings = request.app.state.settings
    return settings


class WorkRoute(APIRoute):
    """A route that takes a place of the engine. If there is none, the body is not even read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        answer = super().get_route_handler()

        async def answer_or_refuse(request: Request) -> Response:
            engine_of(request).check()
            return await answer(request)

        return answer_or_refuse


async def worked(request: Request, work: Callable[[], _T], *, is_read: bool = True) -> _T:
    """What a function returns that a worker of the engine calls, while the event loop goes on.

    If the client leaves, its place is given back, and its texts are not encoded.

    Args:
        request: the request of a client.
        work: any call of the library.
        is_read: whether its body has been read. If not, it is not known whether the client has left.

    Raises:
        BusyError: if too many requests wait.
        CallerLeftError: if the client has left.
        Problem: if it takes too long.
        Exception: what `work` raises.
    """
    has_left = threading.Event()
    accepted = engine_of(request).submit(work, has_left.is_set)
    future = asyncio.wrap_future(accepted)
    leaving = asyncio.ensure_future(_left(request)) if is_read else asyncio.Future[None]()
    limit_s = settings_of(request).limits.request_s
    try:
        waiting: set[asyncio.Future[Any]] = {future, leaving}
        await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if leaving.done():
            raise CallerLeftError("the client left")
        raise Problem(503, f"The request took longer than {limit_s:.0f} s.", headers={"retry-after": "10"})
    finally:
        has_left.set()
        leaving.cancel()
        if not future.done():
            future.cancel()
            accepted.add_done_callback(lambda done: _log_failure(request, done))


def _log_failure(request: Request, done: Future[Any]) -> None:
    """Write to the log how work has failed that nobody waits for."""
    write: Callable[[str], None] | None = request.app.state.write_log
    if write is not None and not done.cancelled():
        line = late_failure(request.state.request_id, done.exception())
        if line is not None:
            write(line)


async def _left(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
