"""Whether the server lives, whether it would answer, and its numbers."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from mlx_colbert.server.problems import Problem
from mlx_colbert.server.routes.dependencies import engine_of, jobs_of, model_of, settings_of

__all__ = ["router"]

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The server lives, or is ready."""

    status: Literal["ok"] = "ok"


@router.get("/health")
async def health() -> Health:
    """Say that the server lives."""
    return Health()


@router.get("/ready")
async def ready(request: Request) -> Health:
    """Say whether a request would be answered now: the model is loaded, and there is a place."""
    if settings_of(request).preload and not model_of(request).is_loaded:
        raise Problem(503, "The model is not loaded yet.", headers={"retry-after": "1"})
    if engine_of(request).is_full:
        raise Problem(503, "There is no place for another request.", headers={"retry-after": "1"})
    return Health()


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Numbers about the server, as Prometheus reads them."""
    text = request.app.state.metrics.text(engine_of(request), jobs_of(request))
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
