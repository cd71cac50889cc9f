"""The page for people: `/`, and its files under `/web/`."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

__all__ = ["WEB", "router"]

WEB = Path(__file__).parents[1] / "web"

router = APIRouter()


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The page."""
    return FileResponse(WEB / "index.html")
