"""Questions and answers about passages: search, prompt, answer, citations."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlx_colbert.ask.citations import cited_numbers, without_citations
from mlx_colbert.ask.excerpts import Excerpt
from mlx_colbert.ask.language_models.language_model import LanguageModel, Message
from mlx_colbert.ask.prompt import Prompt, Turn, build_prompt, kept_turns
from mlx_colbert.checks import check_k, check_text, check_whole
from mlx_colbert.errors import InputError, LanguageModelError
from mlx_colbert.types import Hit

__all__ = ["NOTHING_FOUND", "Answer", "Citation", "Conversation", "Reply", "Search"]

# The passages for a question, the best first: (question, k) -> at most k hits.
Search = Callable[[str, int], Sequence[Hit]]

NOTHING_FOUND = "Nothing relevant was found, so there is no answer."
_REWRITE = (
    "Write the user's last question again, so that it can be understood without the conversation. Replace "
    "words such as it, they, there by what they mean. Do not answer it. Write the question alone."
)
_REWRITE_TOKENS = 100
_REWRITE_CHARACTERS = 400


@dataclass(frozen=True)
class Citation:
    """A number in an answer.

    Attributes:
        number: the number that the model wrote.
        excerpt: the source with that number. None: the model invented the number.
    """

    number: int
    excerpt: Excerpt | None

    @property
    def invented(self) -> bool:
        """Whether there is no source with that number."""
        return self.excerpt is None

    def to_dict(self) -> dict[str, Any]:
        """The citation as a JSON object."""
        nothing = dict.fromkeys(("doc_id", "doc_ids", "source", "lines", "place", "text"))
        told = nothing if self.excerpt is None else self.excerpt.to_dict()
        return {"number": self.number, **told, "invented": self.invented}


@dataclass(frozen=True)
class Answer:
    """What was said.

    Attributes:
        question: the question of the user.
        searched: the question that was searched for: the same, or a follow-up as a whole question.
        text: the answer, or what was said of it so far.
        excerpts: the sources that the model had. Source 1 is the first.
        found: whether anything relevant was found. If not, no model was asked.
        finish: why the text ends: "stop", "length" (it reached max_tokens), or None (it did not end).
        model: the name of the language model.
        timings: milliseconds: "search", and from then on "first_token" and "answer".
        prompt_tokens: how many tokens the model read.
    """

    question: str
    searched: str
    text: str
    excerpts: tuple[Excerpt, ...]
    found: bool
    finish: Literal["stop", "length"] | None
    model: str
    timings: dict[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0

    @property
    def citations(self) -> list[Citation]:
        """The citations of the text, each number once, in the order cited."""
        numbers = cited_numbers(self.text) if self.found else []
        return [
            Citation(number, self.excerpts[number - 1] if 1 <= number <= len(self.excerpts) else None)
            for number in numbers
        ]

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {
            "question": self.question,
            "searched": self.searched,
            "answer": self.text,
            "found": self.found,
            "finish": self.finish,
            "citations": [citation.to_dict() for citation in self.citations],
            "sources": [
                {"number": number, **excerpt.to_dict()}
                for number, excerpt in enumerate(self.excerpts, start=1)
            ],
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "timings_ms": {name: round(ms, 1) for name, ms in self.timings.items()},
        }


class Reply(Iterator[str]):
    """The pieces of an answer, while the model writes them.

    Attributes:
        answer: what was said so far.
    """

    def __init__(self, answer: Answer, write: Callable[[Reply], Generator[str, None, None]]) -> None:
        """Make a reply that is not read yet.

        Args:
            answer: the answer without a text.
            write: gives the pieces, and keeps `answer` true.
        """
        self.answer = answer
        self._pieces = write(self)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop the model."""
        self._pieces.close()


class Conversation:
    """A language model that answers questions from what a search finds.

    >>> class Parrot:
    ...     name, window = "parrot", 1000
    ...     def count(self, messages):
    ...         return sum(len(message["content"].split()) for message in messages)
    ...     def generate(self, messages, *, max_tokens, temperature):
    ...         yield "Green [1]."
    ...         return "stop"
    >>> conversation = Conversation(lambda question, k: [Hit(1, 9.0, "leaf", "Leaves are green.")], Parrot())
    >>> reply = conversation.ask("What colour are leaves?")
    >>> "".join(reply), reply.answer.citations[0].excerpt.best.doc_id
    ('Green [1].', 'leaf')
    """

    def __init__(
        self,
        search: Search,
        model: LanguageModel,
        *,
        k: int = 8,
        max_tokens: int = 512,
        temperature: float = 0.0,
        is_relevant: Callable[[Hit], bool] | None = None,
        describe: Callable[[Hit], str | None] | None = None,
    ) -> None:
        """Make a conversation without questions.

        Args:
            search: returns the passages for a question, the best first: `lambda question, k:
                retriever.search(question, k)`.
            model: the language model; `open_language_model` opens one.
            k: how many passages to search for.
            max_tokens: how many tokens an answer may have.
            temperature: 0 gives the same answer each time; up to 2 gives more varied ones.
            is_relevant: whether a hit has to do with its question. Without a relevant hit no model is asked.
                None: every hit is relevant.
            describe: what the user has said about the place of a hit, such as "minutes of the co-op".

        Raises:
            InputError: if an argument cannot be used.
        """
        self._search = search
        self._model = model
        self._k = check_k(k)
        self._max_tokens = check_whole(max_tokens, "max_tokens", at_least=1)
        if not 0 <= temperature <= 2:
            raise InputError(f"temperature is {temperature}. Give a number of 0 to 2.")
        self._temperature = float(temperature)
        self._is_relevant = is_relevant
        self._describe = describe
        self.turns: list[Turn] = []

    def ask(self, question: str) -> Reply:
        """The answer to a question, which may refer to earlier ones.

        The search is done when this returns. The model writes while the reply is read.

        Raises:
            InputError: if the question is blank, or does not fit into the window of the model.
            LanguageModelError: if the model fails; while the reply is read too.
        """
        question = check_text(question, "question").strip()
        begun = time.perf_counter()
        searched = self._whole_question(question) if self.turns else question
        hits = list(self._search(searched, self._k))
        if self._is_relevant is not None:
            hits = [hit for hit in hits if self._is_relevant(hit)]
        timings = {"search": _ms_since(begun)}
        answer = Answer(question, searched, "", (), False, None, self._model.name, timings)
        begun = time.perf_counter()
        prompt = build_prompt(
            searched,
            hits,
            self._model,
            max_tokens=self._max_tokens,
            turns=self.turns,
            describe=self._describe,
        )
        if not prompt.excerpts:
            return Reply(answer, _nothing)
        found = replace(answer, excerpts=tuple(prompt.excerpts), found=True, prompt_tokens=prompt.n_tokens)
        return Reply(found, lambda reply: self._written(reply, prompt, begun))

    def _written(self, reply: Reply, prompt: Prompt, begun: float) -> Generator[str, None, None]:
        timings = reply.answer.timings
        pieces = self._model.generate(
            prompt.messages, max_tokens=prompt.max_tokens, temperature=self._temperature
        )
        try:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    reply.answer = replace(reply.answer, finish=end.value)
                    break
                if not reply.answer.text:
                    piece = piece.lstrip()
                if piece:
                    timings.setdefault("first_token", _ms_since(begun))
                    reply.answer = replace(reply.answer, text=reply.answer.text + piece)
                    yield piece
        finally:
            pieces.close()
            timings["answer"] = _ms_since(begun)
            if reply.answer.text.strip():
                self.turns.append(Turn(reply.answer.searched, reply.answer.text))
        if not reply.answer.text.strip():
            why = (
                "It may have used all its tokens to think: allow more."
                if reply.answer.finish == "length"
                else ""
            )
            raise LanguageModelError(self._model.name, f"it gave an empty answer. {why}".rstrip())

    def _whole_question(self, question: str) -> str:
        """A follow-up as a question that can be understood alone, or itself if the model fails at that."""
        turns = kept_turns(self.turns, self._model)
        said = "\n".join(f"User: {turn.question}\nAssistant: {turn.answer}" for turn in turns)
        messages = [
            Message(role="system", content=_REWRITE),
            Message(role="user", content=f"{said}\nUser: {question}\n\nThe last question, written again:"),
        ]
        if self._model.count(messages) + _REWRITE_TOKENS > self._model.window:
            return question
        written = "".join(self._model.generate(messages, max_tokens=_REWRITE_TOKENS, temperature=0.0)).strip()
        line = without_citations(written.splitlines()[0]).strip().strip("\"'“”") if written else ""
        return line if line and len(line) <= _REWRITE_CHARACTERS else question


def _nothing(reply: Reply) -> Generator[str, None, None]:
    reply.answer = replace(reply.answer, text=NOTHING_FOUND, finish="stop")
    yield NOTHING_FOUND


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
