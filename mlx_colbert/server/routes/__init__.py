"""The routes: a module for each resource, with its `router`. `ROUTERS` has them in order."""

from __future__ import annotations

from fastapi import APIRouter

from mlx_colbert.server.routes import embeddings, health, models, page, pooling, rerank

__all__ = ["ROUTERS"]

ROUTERS: list[APIRouter] = [
    health.router,
    rerank.router,
    embeddings.router,
    pooling.router,
    models.router,
    page.router,
]
