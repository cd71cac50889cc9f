"""Chat in the shape of OpenAI: the last message is a question about the collections."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_colbert.server import events
from mlx_colbert.server.answering import Question
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.routes.ask import Citation, Said, Source, begun, turns_of, whole
from mlx_colbert.server.routes.dependencies import answering_of
from mlx_colbert.server.routes.shapes import Texts
from mlx_colbert.server.routes.texts import Usage

__all__ = ["router"]

router = APIRouter(tags=["ask"])

_NO_SYSTEM = "System messages are not used: the server has its own, for answers with citations."


class Part(BaseModel):
    """A part of a message. Only texts are read."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: str = Field(max_length=100_000)


class ChatMessage(BaseModel):
    """A message."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=100_000)] | Annotated[list[Part], Field(max_length=100)]

    @property
    def text(self) -> str:
        """Its text."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream has."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What clients of OpenAI send. Settings that are not listed have no effect."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)]
    model: str = Field(description="the name of the language model of this server")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=8192)
    max_completion_tokens: int | None = Field(None, ge=1, le=8192)
    temperature: float | None = Field(None, ge=0, le=2)
    n: Literal[1] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="there are none")
    collections: Texts = Field([], description="names; none: all collections")
    k: int = Field(8, ge=1, le=100, description="passages to answer from")


class ChatAnswer(BaseModel):
    """A message of the assistant."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The answer."""

    index: int = 0
    message: ChatAnswer
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The answer, and what it cites."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    citations: list[Citation]
    sources: list[Source]
    searched: str
    notes: list[str]


def _question(body: ChatRequest) -> Question:
    *before, last = body.messages
    if last.role != "user" or not last.text.strip():
        raise Problem(422, "messages: the last one must be a question of the user.")
    said = [
        Said(role=message.role, content=message.text)
        for message in before
        if message.role in ("user", "assistant")
    ]
    return Question(
        last.text,
        turns_of(said),
        body.collections,
        body.k,
        body.max_completion_tokens or body.max_tokens or 512,
        body.temperature or 0.0,
    )


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer the last message from the collections, with citations such as [1]."""
    answering = answering_of(request)
    answering.model.check(body.model)
    has_system = any(message.role in ("system", "developer") for message in body.messages)
    notes = [_NO_SYSTEM] if has_system else []
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": answering.model.name}
    items = answering.answer(request, _question(body))
    if body.stream:
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        return events.stream(_chunks(await begun(items), head, notes, wants_usage=wants_usage))
    data, n_pieces = await whole(items)
    message = {"role": "assistant", "content": data["answer"]}
    choice = {"index": 0, "message": message, "finish_reason": data["finish"] or "stop"}
    found = {"choices": [choice], "usage": _usage(data, n_pieces), **_told(data, notes)}
    return JSONResponse({**head, "object": "chat.completion", **found})


async def _chunks(
    items: AsyncIterator[tuple[str, Any] | None], head: dict[str, Any], notes: list[str], *, wants_usage: bool
) -> AsyncIterator[str]:
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return events.event(None, {**head, "choices": choices, **more})

    n_pieces = 0
    async for item in items:
        if item is None:
            yield events.ALIVE
            continue
        name, data = item
        if name == "sources":
            yield chunk({"role": "assistant", "content": ""}, sources=data["sources"])
        elif name == "text":
            n_pieces += 1
            yield chunk({"content": data["text"]})
        elif name == "error":
            message = {"message": data["detail"], "type": "server_error", "code": data["status"]}
            yield events.event(None, {"error": message})
            return
        else:
            yield chunk({}, data["finish"] or "stop", **_told(data, notes))
            if wants_usage:
                yield events.event(None, {**head, "choices": [], "usage": _usage(data, n_pieces)})
    yield "data: [DONE]\n\n"


def _told(data: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    told = {name: data[name] for name in ("citations", "sources", "searched")}
    return {**told, "notes": [*notes, *data["notes"]]}


def _usage(data: dict[str, Any], n_pieces: int) -> dict[str, int]:
    # A piece is a token, or a little more.
    n_read = data["prompt_tokens"]
    return {"prompt_tokens": n_read, "completion_tokens": n_pieces, "total_tokens": n_read + n_pieces}
