"""The routes: a module for each resource, with its `router`. `ROUTERS` has them in order."""

from __future__ import annotations

from fastapi import APIRouter

from mlx_colbert.server.routes import health, page

__all__ = ["ROUTERS"]

ROUTERS: list[APIRouter] = [
    health.router,
    page.router,
]
