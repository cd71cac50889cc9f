"""Answers to questions about collections, with citations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_colbert.ask.prompt import Turn
from mlx_colbert.errors import ColBERTError
from mlx_colbert.model.shared_encoder import CallerLeftError
from mlx_colbert.server import events
from mlx_colbert.server.answering import Question
from mlx_colbert.server.problems import Problem, problem_of
from mlx_colbert.server.routes.dependencies import answering_of
from mlx_colbert.server.routes.shapes import Text, Texts

__all__ = ["Citation", "Said", "Source", "begun", "router", "turns_of", "whole"]

router = APIRouter(tags=["ask"])

_LONGEST = 10_000


class Said(BaseModel):
    """Something that was said before."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: str = Field(max_length=100_000)


class AskRequest(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=_LONGEST)
    k: int = Field(8, ge=1, le=100, description="passages to answer from")
    collections: Texts = Field([], description="names; none: all collections")
    llm: Text | None = Field(None, description="the name of the language model of this server")
    messages: Annotated[list[Said], Field(max_length=100)] = Field([], description="what was said before")
    max_tokens: int = Field(512, ge=1, le=8192)
    temperature: float = Field(0.0, ge=0, le=2)
    stream: bool = True


class Source(BaseModel):
    """A passage that the language model read, or several that follow each other."""

    number: int
    collection: str
    doc_id: str
    doc_ids: list[str]
    source: str | None
    path: str | None
    link: str | None
    lines: tuple[int, int] | None
    place: str
    text: str


class Citation(BaseModel):
    """A number in the answer. An invented one has no source."""

    number: int
    invented: bool
    collection: str | None = None
    doc_id: str | None
    doc_ids: list[str] | None
    source: str | None
    path: str | None = None
    link: str | None = None
    lines: tuple[int, int] | None
    place: str | None
    text: str | None


class AskAnswer(BaseModel):
    """The answer, and what it cites."""

    question: str
    searched: str = Field(description="the question that was searched for")
    answer: str
    found: bool = Field(description="false: nothing relevant was found, so no model was asked")
    finish: Literal["stop", "length"] | None
    citations: list[Citation]
    invented: list[int] = Field(description="cited numbers without a source")
    sources: list[Source]
    model: str
    prompt_tokens: int
    timings_ms: dict[str, float]
    notes: list[str]


def turns_of(said: list[Said]) -> list[Turn]:
    """Questions with their answers. A question without an answer is left out."""
    turns, question = [], None
    for part in said:
        if part.role == "user":
            question = part.content
        elif question is not None:
            turns.append(Turn(question, part.content))
            question = None
    return turns


async def begun(items: AsyncIterator[tuple[str, Any] | None]) -> AsyncIterator[tuple[str, Any] | None]:
    """The same events. An error before the first one is raised here: its status can be sent.

    A later error is an event "error", with the problem.
    """
    first = await anext(items)

    async def all_items() -> AsyncIterator[tuple[str, Any] | None]:
        yield first
        try:
            async for item in items:
                yield item
        except Exception as error:
            problem = problem_of(error)
            yield "error", {"status": problem.status, "detail": problem.detail}
            if not isinstance(error, ColBERTError | CallerLeftError):
                # For the log.
                raise

    return all_items()


async def whole(items: AsyncIterator[tuple[str, Any] | None]) -> tuple[dict[str, Any], int]:
    """The answer that events end with, and the number of its pieces."""
    n_pieces, answer = 0, {}
    async for item in items:
        if item is not None:
            n_pieces += item[0] == "text"
            answer = item[1]
    return answer, n_pieces


@router.post(
    "/ask",
    response_model=AskAnswer,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def ask(request: Request, body: AskRequest) -> Response:
    """Answer a question: `event: sources`, `event: text` for each piece, `event: end` with all of it.

    Without `stream`, one JSON object.
    """
    answering = answering_of(request)
    answering.model.check(body.llm)
    if not body.question.strip():
        raise Problem(422, "question: is blank.")
    question = Question(
        body.question, turns_of(body.messages), body.collections, body.k, body.max_tokens, body.temperature
    )
    items = answering.answer(request, question)
    if not body.stream:
        answer, _ = await whole(items)
        return JSONResponse(answer)
    texts = await begun(items)
    return events.stream(_formatted(texts))


async def _formatted(items: AsyncIterator[tuple[str, Any] | None]) -> AsyncIterator[str]:
    async for item in items:
        yield events.ALIVE if item is None else events.event(*item)
