"""Token embeddings of texts, in the shape of Jina's multi-vector API."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mlx_colbert.server.problems import Problem
from mlx_colbert.server.routes.dependencies import WorkRoute, model_of, settings_of, worked
from mlx_colbert.server.routes.texts import Usage, check_texts
from mlx_colbert.server.routes.vectors import TextInput, Vectors, check_dimensions, vectors_json

__all__ = ["router"]

router = APIRouter(tags=["embeddings"], route_class=WorkRoute)


class EmbeddingsRequest(BaseModel):
    """What users of Jina's API send."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="the name of the model of this server")
    input: str | Annotated[list[str | TextInput], Field(min_length=1)]
    input_type: Literal["query", "document"] | None = Field(None, description="null: as `task` says")
    task: Literal["retrieval.query", "retrieval.passage"] | None = Field(
        None, description="another name of input_type; null: document"
    )
    embedding_type: Literal["float", "base64"] | None = Field(
        None, description="float, or base64: the bytes of float32, little-endian, of each token"
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="another name of embedding_type"
    )
    dimensions: int | None = Field(None, description="must be that of the model")
    return_multivector: Literal[True] | None = None
    normalized: Literal[True] | None = None
    truncate: bool | None = Field(None, description="no effect: long texts are always truncated")
    late_chunking: Literal[False] | None = None
    user: str | None = None


class EmbeddedText(BaseModel):
    """The token embeddings of a text."""

    object: Literal["embeddings"] = "embeddings"
    index: int = Field(description="the position of the text in the request, from 0")
    embeddings: list[list[float]] | list[str] = Field(description="one vector for each token")


class EmbeddingsAnswer(BaseModel):
    """The token embeddings of all texts, in order."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddedText]
    usage: Usage


@router.post("/v1/embeddings", response_model=EmbeddingsAnswer)
@router.post("/v1/multi-vector", response_model=EmbeddingsAnswer)
async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
    """Encode texts: one vector for each token."""
    limits, model = settings_of(request).limits, model_of(request)
    model.check(body.model)
    given = [body.input] if isinstance(body.input, str) else body.input
    texts = [text if isinstance(text, str) else text.text for text in given]
    check_texts(texts, limits, "input")
    is_query = "query" in (body.input_type or body.task or "")
    if body.input_type and body.task and (body.input_type == "query") != (body.task == "retrieval.query"):
        raise Problem(422, f"input_type {body.input_type!r} and task {body.task!r} differ. Give one of them.")
    is_base64 = "base64" in (body.embedding_type, body.encoding_format)

    def work() -> bytes:
        loaded = model.load()
        check_dimensions(loaded, body.dimensions)
        found = Vectors.of(loaded, texts, ["query" if is_query else "document"] * len(texts), limits)
        items = (
            {"object": "embeddings", "index": number, "embeddings": found.rows(number, is_base64=is_base64)}
            for number in range(len(texts))
        )
        return vectors_json({"object": "list", "model": model.name}, items, usage=Usage.of(found.n_tokens))

    return Response(await worked(request, work), media_type="application/json")
