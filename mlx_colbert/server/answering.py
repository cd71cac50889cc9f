"""Answers to questions: the language model of the server writes, and the event loop passes it on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from mlx_colbert.ask.collection_search import conversation_about
from mlx_colbert.ask.conversation import Answer
from mlx_colbert.ask.prompt import Turn
from mlx_colbert.collection.choosing import opened
from mlx_colbert.engine.places import Places
from mlx_colbert.errors import LanguageModelError
from mlx_colbert.model.shared_encoder import CallerLeftError
from mlx_colbert.server.events import Channel
from mlx_colbert.server.served_language_model import ServedLanguageModel
from mlx_colbert.server.settings import Settings

__all__ = ["Answering", "Question"]

# Questions that may wait for the language model. It writes one answer after the other.
_N_WAITING = 8


@dataclass(frozen=True)
class Question:
    """A question of a client.

    Attributes:
        text: the question.
        turns: what was said before.
        collections: the names of the collections that are searched. Empty: all.
        k: passages to answer from.
        max_tokens: tokens of the answer.
        temperature: 0 gives the same answer each time.
    """

    text: str
    turns: list[Turn] = field(default_factory=list)
    collections: Sequence[str] = ()
    k: int = 8
    max_tokens: int = 512
    temperature: float = 0.0


class Answering:
    """Answers the questions of clients, one after the other.

    Attributes:
        model: the language model.
    """

    def __init__(self, settings: Settings) -> None:
        self.model = ServedLanguageModel(settings.llm, settings.endpoint)
        self._settings = settings
        self._writer = Places("mlx-colbert-writer", n_workers=1, n_waiting=_N_WAITING)

    @property
    def n_accepted(self) -> int:
        """Questions that are answered or wait."""
        return self._writer.n_accepted

    def finish(self) -> None:
        """End what was accepted."""
        self._writer.finish()

    async def answer(self, request: Request, question: Question) -> AsyncIterator[tuple[str, Any] | None]:
        """The events of an answer: "sources", a "text" for each piece, "end"; and None where nothing is sent.

        If the client leaves, the model stops.

        Args:
            request: the request of the client. Its body has been read.
            question: the question.

        Raises:
            BusyError: if too many questions wait.
            CallerLeftError: if the client has left.
            Exception: any error of a search or a language model.
        """
        channel = Channel()
        future = self._writer.submit(lambda: self._write(question, channel), channel.has_left)
        future.add_done_callback(lambda done: channel.end(_error_of(done)))
        leaving = asyncio.ensure_future(_left(request, channel, future))
        try:
            async for item in channel.read():
                yield item
        finally:
            channel.leave()
            leaving.cancel()
            future.cancel()

    def _write(self, question: Question, channel: Channel) -> None:
        """Answer a question. This runs in the thread of the writer."""
        notes: list[str] = []
        settings = self._settings
        with opened(settings.registry, question.collections, on_left_out=notes.append) as collections:
            try:
                conversation = conversation_about(
                    collections,
                    self.model.open(),
                    k=question.k,
                    max_tokens=question.max_tokens,
                    temperature=question.temperature,
                    refresh_s=settings.refresh_s,
                    on_note=notes.append,
                )
                conversation.turns += question.turns
                reply = conversation.ask(question.text)
                begun = reply.answer.to_dict()
                channel.send("sources", {"sources": begun["sources"], "searched": begun["searched"]})
                try:
                    for piece in reply:
                        if channel.has_left():
                            raise CallerLeftError("the client left")
                        channel.send("text", {"text": piece})
                finally:
                    reply.close()
            except LanguageModelError:
                self.model.forget()
                raise
        channel.send("end", {**_ended(reply.answer), "model": self.model.name, "notes": notes})


def _ended(answer: Answer) -> dict[str, Any]:
    told = answer.to_dict()
    invented = [citation.number for citation in answer.citations if citation.invented]
    return {**told, "invented": invented}


def _error_of(done: Future[None]) -> BaseException | None:
    return CallerLeftError("the client left") if done.cancelled() else done.exception()


async def _left(request: Request, channel: Channel, future: Future[None]) -> None:
    """Tell a channel when the client has closed its connection, and do not begin to answer any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    channel.leave()
    future.cancel()
