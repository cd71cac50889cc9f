"""The models of this server, in the shape of OpenAI."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from mlx_colbert.server.routes.dependencies import answering_of, model_of

__all__ = ["router"]

router = APIRouter(tags=["embeddings"])


class Model(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "mlx-colbert"
    query_prefix: str | None = Field(
        default=None, description="what it puts before queries; null: it is not known"
    )
    document_prefix: str | None = Field(default=None, description="what it puts before documents")


class Models(BaseModel):
    """The models."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/v1/models")
async def models(request: Request) -> Models:
    """List the models that a request may name. The language model is there if it can be used."""
    model, writer = model_of(request), answering_of(request).model
    query, document = model.prefixes or (None, None)
    found = [Model(id=model.name, query_prefix=query, document_prefix=document)]
    if writer.is_installed:
        found.append(Model(id=writer.name))
    return Models(data=found)
