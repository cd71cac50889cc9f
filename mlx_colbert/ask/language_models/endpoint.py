"""A language model on a server with the interface of OpenAI: LM Studio, Ollama, mlx_lm.server, llama.cpp."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Sequence
from typing import Any

from mlx_colbert.ask.language_models.connection import (
    Address,
    ask_json,
    opened,
    parse_address,
    parsed_object,
    told_reason,
)
from mlx_colbert.ask.language_models.events import Patience, events
from mlx_colbert.ask.language_models.language_model import Finish, Message, quoted
from mlx_colbert.ask.language_models.thinking import without_thinking
from mlx_colbert.errors import InputError, LanguageModelError

__all__ = ["Endpoint"]

# Tokens. Ollama's servers have no more, if they are not told otherwise.
DEFAULT_WINDOW = 4096
# Seconds to wait for the first token, in which a server may load the model and reads the prompt, and for each
# token after it.
FIRST_TOKEN_S = 600.0
NEXT_TOKEN_S = 120.0
# Names under which servers tell the window of a model: vLLM, LM Studio, others.
_WINDOW_KEYS = ("max_model_len", "loaded_context_length", "context_length", "context_window")
# Tokens that a chat template adds to each message, with room to spare.
_MESSAGE_TOKENS = 16
# Part of an estimate that is added to it.
_MARGIN = 0.1
_PARTS = re.compile(r"[A-Za-z]+|[^\W\d_]|\d|[^\S\n]+|\n+|[^\w\s]|_")


class Endpoint:
    """A language model behind an endpoint.

    Attributes:
        name: the name of the model on the server.
        address: the server.
        window: how many tokens the model can read and write in all.
    """

    def __init__(self, address: Address, name: str, *, window: int, key: str | None = None) -> None:
        self.name = name
        self.address = address
        self.window = window
        self._key = key
        self._counts_tokens = True

    @classmethod
    def connect(
        cls,
        url: str,
        name: str | None = None,
        *,
        window: int | None = None,
        key: str | None = None,
        limit_s: float = 10.0,
    ) -> Endpoint:
        """The model of an endpoint.

        Args:
            url: the URL, up to "/v1". On this machine "localhost:1234" is enough.
            name: the name of the model. None: the first one that the server lists.
            window: how many tokens it can read and write in all. None: what the server says, else 4,096.
            key: the key that the server asks for.
            limit_s: seconds to wait for the server.

        Raises:
            InputError: if the URL cannot be used, or the key would be sent to another machine unencrypted.
            LanguageModelError: if the server cannot be reached, or has no model.
        """
        address = parse_address(url)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InputError("the key of the endpoint has a character that is not printable ASCII.")
        if key is not None and address.scheme == "http" and not address.is_loopback:
            raise InputError(f"endpoint {address}: the key would go there unencrypted. Use https.")
        rows = listed_models(address, key=key, limit_s=limit_s)
        if name is None and not rows:
            raise LanguageModelError(str(address), "it lists no model. Load one, or name one with --llm.")
        chosen: str = rows[0]["id"] if name is None else name
        row: dict[str, Any] = next((row for row in rows if row["id"] == chosen), {})
        told = next((row[key] for key in _WINDOW_KEYS if _is_count(row.get(key))), DEFAULT_WINDOW)
        return cls(address, chosen, window=window or told, key=key)

    def count(self, messages: Sequence[Message]) -> int:
        """The number of tokens of the messages, or an estimate that is mostly too large.

        llama.cpp and vLLM count tokens; others do not.

        Raises:
            LanguageModelError: if the server cannot be reached.
        """
        texts = [quoted(message["content"]) for message in messages]
        overhead = _MESSAGE_TOKENS * (len(messages) + 1)
        counted = self._counted("\n".join(texts)) if self._counts_tokens else None
        return (counted if counted is not None else sum(map(estimated_tokens, texts))) + overhead

    def _counted(self, text: str) -> int | None:
        path = f"{self.address.path.removesuffix('/v1')}/tokenize"
        # "content" is the key of llama.cpp, "prompt" that of vLLM.
        body = {"model": self.name, "content": text, "prompt": text}
        try:
            tokens = ask_json(self.address, "POST", path, body, key=self._key).get("tokens")
        except LanguageModelError:
            tokens = None
        if not isinstance(tokens, list):
            self._counts_tokens = False
            return None
        return len(tokens)

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> Generator[str, None, Finish]:
        """The pieces of the answer, while the server sends them.

        Raises:
            LanguageModelError: if the server fails, ends too early, is silent for 2 minutes, or sends
                something else. The connection ends with the generator, so the server can stop.
        """
        return without_thinking(self._pieces(messages, max_tokens, temperature))

    def _pieces(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> Generator[str, None, Finish]:
        body = {
            "model": self.name,
            "messages": [{**message, "content": quoted(message["content"])} for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": True,
        }
        path = f"{self.address.path}/chat/completions"
        finish: Finish | None = None
        half = ""
        patience = Patience(FIRST_TOKEN_S, NEXT_TOKEN_S)
        with opened(self.address, "POST", path, body, key=self._key, answer_s=FIRST_TOKEN_S) as (
            answer,
            reader,
        ):
            if not (answer.getheader("Content-Type") or "").lower().startswith("text/event-stream"):
                raise ValueError("it is not a stream of events")
            for data in events(reader.read_some, patience):
                if data.strip() == "[DONE]":
                    break
                text, is_token, ended = _read_event(data)
                finish = ended or finish
                if is_token:
                    patience.renew()
                # JSON may have the two halves of a character in two events.
                text = half + text
                half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
                text = _whole_characters(text.removesuffix(half) if half else text)
                if text:
                    yield text
            if finish is None:
                raise ConnectionError("no finish_reason")
        return finish


def listed_models(address: Address, *, key: str | None, limit_s: float) -> list[dict[str, Any]]:
    """What a server says about its language models, each with an "id". Models that embed texts are left out.

    Raises:
        LanguageModelError: if the server cannot be reached, or answers something else.
    """
    path = f"{address.path}/models"
    with opened(address, "GET", path, key=key, connect_s=limit_s, answer_s=limit_s) as (answer, reader):
        found = parsed_object(reader.read_all(time.monotonic() + limit_s)) or {}
        if (answer.getheader("Server") or "").startswith("BaseHTTP"):
            # mlx_lm.server. It lists what was downloaded, or fails, and calls what it was started with so.
            return [{"id": "default_model"}]
    # Ollama without a model has null.
    rows = (found.get("data") or []) if "data" in found else None
    if not isinstance(rows, list):
        raise LanguageModelError(str(address), "it does not list models as an OpenAI endpoint does.")
    named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"]]
    return [row for row in named if "embed" not in row["id"].lower()]


def estimated_tokens(text: str) -> int:
    """An estimate of the number of tokens of a text, which is mostly too large.

    Words of Latin letters count one token for each four letters. A letter of another alphabet, a digit and a
    sign count one each, a Chinese or Japanese character two, an emoji four.

    >>> estimated_tokens("Bees dance in the dark.")
    8
    """
    n_tokens = 0
    for part in _PARTS.findall(text):
        if part[0].isascii() and part[0].isalpha():
            n_tokens += -(-len(part) // 4)
        elif part[0] == " ":
            n_tokens += len(part) > 1
        else:
            # A tokenizer that lacks the sign takes up to a token for each byte.
            n_tokens += 1 if ord(part[0]) < 0x2000 else 2 if ord(part[0]) < 0x10000 else 4
    return int(n_tokens * (1 + _MARGIN)) + 1


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _read_event(data: str) -> tuple[str, bool, Finish | None]:
    """The text of an event, whether it has a token (also of reasoning), and why the answer ended.

    Raises:
        ValueError: if the event is not a part of an answer.
    """
    event = parsed_object(data)
    if event is None:
        raise ValueError("an event is not a JSON object")
    if "error" in event:
        raise ValueError(told_reason(event) or "the server reports an error")
    choices = event.get("choices")
    if not isinstance(choices, list):
        raise ValueError("an event has no choices")
    if not choices:  # the counts of tokens
        return "", False, None
    choice = choices[0]
    delta = choice.get("delta") if isinstance(choice, dict) else None
    if not isinstance(delta, dict):
        raise ValueError("an event has no delta")
    text = delta.get("content")
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise ValueError("the content of an event is not text")
    reason = choice.get("finish_reason")
    ended: Finish | None = None if not reason else "length" if reason == "length" else "stop"
    thought = delta.get("reasoning_content") or delta.get("reasoning")
    return text, bool(text or thought), ended


def _whole_characters(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
