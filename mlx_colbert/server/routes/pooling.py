"""Token embeddings of texts, in the shape of vLLM."""

from __future__ import annotations

import base64
import time
import uuid
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import Task
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.routes.dependencies import WorkRoute, model_of, settings_of, worked
from mlx_colbert.server.routes.texts import Usage, check_texts
from mlx_colbert.server.routes.vectors import TextInput, Vectors, check_dimensions, vectors_json

__all__ = ["router"]

router = APIRouter(tags=["embeddings"], route_class=WorkRoute)


class TextPart(TextInput):
    """A text of a message."""

    type: Literal["text"]


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: str
    content: str | list[TextPart]


class PoolingRequest(BaseModel):
    """What users of vLLM send."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="the name of the model of this server")
    input: str | Annotated[list[str], Field(min_length=1)] | None = Field(None, description="the texts")
    messages: Annotated[list[Message], Field(min_length=1)] | None = Field(
        None, description="instead of input: one text, cut into messages"
    )
    input_type: Literal["query", "document"] | None = Field(
        None,
        description="null: a text that begins with the model's query prefix is a query, any other a document",
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="float, or base64: the bytes of float32, little-endian, of all tokens of a text"
    )
    dimensions: int | None = Field(None, description="must be that of the model")
    task: Literal["token_embed"] | None = None
    normalize: Literal[True] | None = None
    user: str | None = None
    priority: int | None = Field(None, description="no effect")


class PooledText(BaseModel):
    """The token embeddings of a text."""

    index: int = Field(description="the position of the text in the request, from 0")
    object: Literal["pooling"] = "pooling"
    data: list[list[float]] | str = Field(description="one vector for each token")


class PoolingAnswer(BaseModel):
    """The token embeddings of all texts, in order."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[PooledText]
    usage: Usage


def _texts(body: PoolingRequest) -> list[str]:
    if (body.input is None) == (body.messages is None):
        raise Problem(422, "Give either input or messages.")
    if body.messages is None:
        return [body.input] if isinstance(body.input, str) else list(body.input or [])
    parts = [
        part if isinstance(part, str) else part.text
        for message in body.messages
        for part in ([message.content] if isinstance(message.content, str) else message.content)
    ]
    return ["\n".join(parts)]


def _as_written(model: ColBERT, text: str) -> tuple[str, Task]:
    """A text without the prefix that the model puts before it, and what the prefix says it is.

    vLLM encodes a text as it is, so its clients write the prefix.
    """
    settings = model.config.colbert
    if settings.query_prefix and text.startswith(settings.query_prefix):
        return text.removeprefix(settings.query_prefix), "query"
    return text.removeprefix(settings.document_prefix), "document"


@router.post("/pooling", response_model=PoolingAnswer)
async def pooling(request: Request, body: PoolingRequest) -> Response:
    """Encode texts: one vector for each token."""
    limits, model = settings_of(request).limits, model_of(request)
    model.check(body.model)
    texts = _texts(body)
    check_texts(texts, limits, "input")

    def work() -> bytes:
        loaded = model.load()
        check_dimensions(loaded, body.dimensions)
        if body.input_type is None:
            pairs = [_as_written(loaded, text) for text in texts]
        else:
            pairs = [(text, body.input_type) for text in texts]
        found = Vectors.of(loaded, [text for text, _ in pairs], [task for _, task in pairs], limits)
        items = (
            {"index": number, "object": "pooling", "data": _data(found, number, body.encoding_format)}
            for number in range(len(texts))
        )
        head = {
            "id": f"pool-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": model.name,
        }
        return vectors_json(head, items, usage=Usage.of(found.n_tokens))

    return Response(await worked(request, work), media_type="application/json")


def _data(found: Vectors, number: int, encoding: str) -> Any:
    if encoding == "base64":
        return base64.b64encode(np.ascontiguousarray(found.arrays[number], "<f4").tobytes()).decode()
    return found.rows(number, is_base64=False)
