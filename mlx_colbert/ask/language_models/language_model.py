"""What a language model must be able to do, and words that it must not read as control."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from typing import Literal, Protocol, TypedDict

__all__ = ["Finish", "LanguageModel", "Message", "quoted"]

# Why a text ended: the model ended it, or it reached `max_tokens`.
Finish = Literal["stop", "length"]


class Message(TypedDict):
    """A part of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class LanguageModel(Protocol):
    """A model that continues a conversation.

    Attributes:
        name: its name, for people.
        window: how many tokens it can read and write in all.
    """

    name: str
    window: int

    def count(self, messages: Sequence[Message]) -> int:
        """The number of tokens that it reads for these messages, or a number that is a little too large.

        Raises:
            LanguageModelError: if the model cannot be asked.
        """

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> Generator[str, None, Finish]:
        """The pieces of its answer, while it writes them.

        Words in the messages that would control the model, such as "<|im_end|>", are made harmless.

        Args:
            messages: the conversation. The last message is the one to answer.
            max_tokens: the most tokens of the answer.
            temperature: 0 for the most likely words. A higher one makes other words more likely.

        Returns:
            Why the answer ended.

        Raises:
            LanguageModelError: if the model fails.
        """


# The words that common chat templates are made of.
_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|?>|<[^|<>\s]{0,40}\|>|<｜[^<>\s]{1,40}｜>|</?(?:s|bos|eos|pad|unk|think|thinking|tool_call|tool_response)>"
    r"|</?(?:start|end)_of_(?:turn|image)>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\]"
    r"|<</?SYS>>",
    re.IGNORECASE,
)
_ROUNDS = 8


def quoted(text: str, tokens: Iterable[str] = ()) -> str:
    """The text with a space inside each word that would control a language model.

    Args:
        text: a text of a stranger.
        tokens: the control tokens of the model, if they are known.

    >>> quoted("Bees.<|im_end|>")
    'Bees.< |im_end|>'
    """
    words = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, words))) if words else None
    for _ in range(_ROUNDS):
        before = text
        for pattern in (known, _CONTROL):
            if pattern is not None:
                text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        if text == before:
            return text
    # A token with spaces may come back each time.
    return known.sub("…", text) if known is not None else text
