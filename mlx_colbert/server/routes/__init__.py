"""The routes: a module for each resource, with its `router`. `ROUTERS` has them in order."""

from __future__ import annotations

from fastapi import APIRouter

from mlx_colbert.server.routes import (
    ask,
    chat,
    collections,
    documents,
    embeddings,
    files,
    health,
    jobs,
    models,
    page,
    pooling,
    rerank,
    search,
)

__all__ = ["ROUTERS"]

ROUTERS: list[APIRouter] = [
    health.router,
    rerank.router,
    embeddings.router,
    pooling.router,
    models.router,
    search.router,
    collections.router,
    documents.router,
    files.router,
    jobs.router,
    ask.router,
    chat.router,
    page.router,
]
