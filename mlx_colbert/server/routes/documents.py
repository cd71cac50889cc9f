"""Documents of a collection that come from no file."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mlx_colbert.collection.documents import (
    Document,
    delete_documents,
    get_document,
    list_documents,
    put_documents,
)
from mlx_colbert.server.routes.collections import Name
from mlx_colbert.server.routes.dependencies import WorkRoute, settings_of
from mlx_colbert.server.routes.opened import answered, one
from mlx_colbert.server.routes.texts import check_texts

__all__ = ["router"]

router = APIRouter(tags=["documents"], route_class=WorkRoute)

_LONGEST_ID = 1000
DocumentId = Annotated[str, Path(max_length=_LONGEST_ID)]


class DocumentContent(BaseModel):
    """What a document says."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1)
    metadata: dict[str, Any] | None = None


class NewDocument(DocumentContent):
    """A document."""

    id: str | None = Field(None, min_length=1, max_length=_LONGEST_ID, description="none: a random one")


class NewDocuments(BaseModel):
    """Documents to add, or to replace where the id exists."""

    model_config = ConfigDict(extra="forbid")

    documents: Annotated[list[NewDocument], Field(min_length=1)]


class DocumentBody(BaseModel):
    """A document."""

    id: str
    text: str
    metadata: dict[str, Any] | None


class DocumentsAnswer(BaseModel):
    """Documents in the order of their ids."""

    documents: list[DocumentBody]
    next: str | None = Field(description="give it as `after` for those that follow; null: there are none")


class WrittenAnswer(BaseModel):
    """What was written. It is durable."""

    ids: list[str]
    added: int
    updated: int
    truncated: int = Field(description="documents that are too long: the model read only their beginning")


class DeletedAnswer(BaseModel):
    """What was deleted."""

    deleted: int


async def _written(request: Request, name: str, documents: list[Document]) -> Response:
    check_texts([document.text for document in documents], settings_of(request).limits, "documents")

    def write() -> dict[str, Any]:
        with one(request, name) as collection:
            return dict(vars(put_documents(collection, documents)))

    return await answered(request, write)


@router.post("/collections/{name}/documents", response_model=WrittenAnswer)
async def add(request: Request, name: Name, body: NewDocuments) -> Response:
    """Add documents, and replace those whose ids exist. The answer comes when they are durable."""
    documents = [Document(item.id or uuid.uuid4().hex, item.text, item.metadata) for item in body.documents]
    return await _written(request, name, documents)


@router.get("/collections/{name}/documents", response_model=DocumentsAnswer)
async def listed(
    request: Request,
    name: Name,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=_LONGEST_ID, description="the `next` of a list")] = None,
) -> Response:
    """List documents in the order of their ids."""

    def read() -> dict[str, Any]:
        with one(request, name) as collection:
            documents, following = list_documents(collection, limit=limit, after=after)
            return {"documents": [document.to_dict() for document in documents], "next": following}

    return await answered(request, read)


@router.get("/collections/{name}/documents/{doc_id:path}", response_model=DocumentBody)
async def read(request: Request, name: Name, doc_id: DocumentId) -> Response:
    """Read a document."""

    def found() -> dict[str, Any]:
        with one(request, name) as collection:
            return get_document(collection, doc_id).to_dict()

    return await answered(request, found)


@router.put("/collections/{name}/documents/{doc_id:path}", response_model=WrittenAnswer)
async def put(request: Request, name: Name, doc_id: DocumentId, body: DocumentContent) -> Response:
    """Add a document, or replace it. The answer comes when it is durable."""
    return await _written(request, name, [Document(doc_id, body.text, body.metadata)])


@router.delete("/collections/{name}/documents/{doc_id:path}", response_model=DeletedAnswer)
async def delete(request: Request, name: Name, doc_id: DocumentId) -> Response:
    """Delete a document."""

    def deleted() -> dict[str, Any]:
        with one(request, name) as collection:
            return {"deleted": delete_documents(collection, [doc_id])}

    return await answered(request, deleted)
