"""A language model whose tokens are words, for tests."""

from __future__ import annotations

import re


class WordCountModel:
    """Counts words and signs, remembers what it is asked, and says what it is told to say."""

    name = "words"

    def __init__(self, *answers, window=10_000, pieces=3):
        self.window = window
        self.answers = list(answers)
        self.asked = []
        self.limits = []
        self._pieces = pieces

    def count(self, messages):
        return sum(4 + len(re.findall(r"\w+|[^\w\s]", message["content"])) for message in messages)

    def generate(self, messages, *, max_tokens, temperature):
        self.asked.append(messages)
        self.limits.append((max_tokens, temperature))
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            yield "So far [1]"
            raise answer
        for at in range(0, len(answer), self._pieces):
            yield answer[at : at + self._pieces]
        return "stop"
