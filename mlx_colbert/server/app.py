"""The application: routes, the page, and what guards them.

How to add to it:

- A resource is a module in `routes/` with `router = APIRouter(tags=[…])`, and a line of `ROUTERS` in
  `routes/__init__.py`. Request and answer are pydantic models with `extra="forbid"`, so OpenAPI is true.
- A route is `async def`, and never works itself: `return await worked(request, lambda: library_call(…))`
  (`routes/dependencies.py`). That gives it a place in the engine (else 429), a time limit (else 503), and an
  end when the client leaves. `engine_of`, `jobs_of` and `settings_of` have the rest.
- A route lets the errors of the library pass: `problems.py` makes `application/problem+json` of them, with
  the status of its table. `raise Problem(404, "What, with the value. What to do.")` for others.
- The page is `web/index.html` at `/`. All its other files are served from `web/` at `/web/…`, so it must ask
  for `/web/app.js`. Headers such as the CSP come from `security.py`.
- Another ASGI application, with its own lifespan, is mounted: `make_app(…, mounted={"/mcp": app})`.

`request.state.request_id` is the id of a request. No route writes a query or a text to the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from mlx_colbert._version import __version__
from mlx_colbert.engine.engine import Engine
from mlx_colbert.engine.jobs import Jobs
from mlx_colbert.server import problems
from mlx_colbert.server.answering import Answering
from mlx_colbert.server.limits import BodyLimits
from mlx_colbert.server.log import Observed, job_failures
from mlx_colbert.server.metrics import Metrics
from mlx_colbert.server.routes import ROUTERS
from mlx_colbert.server.routes.page import WEB
from mlx_colbert.server.security import Security
from mlx_colbert.server.served_model import ServedModel
from mlx_colbert.server.settings import Settings

__all__ = ["make_app"]


def make_app(
    engine: Engine,
    settings: Settings,
    *,
    jobs: Jobs | None = None,
    mounted: Mapping[str, Starlette] | None = None,
    write_log: Callable[[str], None] | None = None,
) -> FastAPI:
    """The application.

    Args:
        engine: it runs the requests. The caller is in a block of `engine.running()`.
        settings: what the server was started with.
        jobs: runs long work. They are finished at the end. None: its own.
        mounted: applications under a path.
        write_log: writes a line for each request. None: there is no log, and errors that nobody expected are
            raised.
    """
    mounted = mounted or {}
    jobs = jobs or Jobs(job_failures(write_log or (lambda line: None)))
    model, metrics = ServedModel(settings.model), Metrics()
    answering = Answering(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for other in mounted.values():
                await stack.enter_async_context(other.router.lifespan_context(other))
            yield
        await asyncio.to_thread(answering.finish)
        await asyncio.to_thread(jobs.finish)

    app = _Application(
        title="mlx-colbert",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=problems.PROBLEMS,
    )
    app.state.engine, app.state.settings, app.state.jobs = engine, settings, jobs
    app.state.write_log = write_log
    app.state.model, app.state.metrics, app.state.answering = model, metrics, answering
    problems.handle(app)
    for router in ROUTERS:
        app.include_router(router)
    for path, other in mounted.items():
        # A mount alone has its path with a slash at the end.
        app.router.routes.append(Route(path, other, include_in_schema=False))
        app.mount(path, other)
    app.mount("/web", StaticFiles(directory=WEB))
    # The last one sees a request first.
    app.add_middleware(BodyLimits, limits=settings.limits)
    app.add_middleware(Security, settings=settings)
    app.add_middleware(Observed, metrics=metrics, write=write_log)
    return app


class _Application(FastAPI):
    """FastAPI, whose OpenAPI document has the schema of problems, and how to send the key."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if self.openapi_schema is None:
            schema = super().openapi()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas["ProblemBody"] = problems.ProblemBody.model_json_schema()
            if self.state.settings.api_key is not None:
                schema["components"]["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                }
                schema["security"] = [{"bearer": []}, {"header": []}]
            self.openapi_schema = schema
        return self.openapi_schema
