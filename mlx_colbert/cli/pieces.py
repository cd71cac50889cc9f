"""The pieces of a text: words, and letters of a script without spaces."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from mlx_colbert.cli.terminal import width_of

__all__ = ["CJK", "Piece", "Place", "Span", "line_places", "margin_of", "pieces", "width"]

# A letter of a script without spaces is a piece, and so is a word of another script.
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_PIECE = re.compile(f"[{CJK}]|[^\\s{CJK}]+")
_SENTENCE_END = re.compile(r"[.!?。！？:—][\"'”’)\]]*$")

# The first character in the text, and the one after the last.
Place: TypeAlias = tuple[int, int]


class Span(NamedTuple):
    """A word of a passage that answers a word of the query.

    Attributes:
        start: its first character in the text of the passage.
        end: the character after its last one.
        similarity: how similar it is to the word of the query.
        query_word: the number of the word of the query.
    """

    start: int
    end: int
    similarity: float
    query_word: int


class Piece(NamedTuple):
    """A piece of a text that is not broken if it fits on a line.

    Attributes:
        text: what is shown.
        start: its first character in the text. -1: it is not in the text.
        gap: the spaces before it, if it is not the first on its line.
        answers: the match that it is a part of, if any.
        ends_sentence: whether a sentence ends with it.
    """

    text: str
    start: int
    gap: int = 1
    answers: Span | None = None
    ends_sentence: bool = False


def line_places(text: str) -> Iterator[Place]:
    """The place of each line of a text. Space at its end is none."""
    start = 0
    for line in text.rstrip().split("\n"):
        yield start, start + len(line)
        start += len(line) + 1


def margin_of(line: str) -> int:
    """The number of characters before the first one that is shown."""
    return len(line) - len(line.lstrip())


def pieces(
    text: str, matches: Sequence[Span], first: int, last: int, *, keeps_gaps: bool = False
) -> list[Piece]:
    """The pieces of a part of a text.

    Args:
        text: the text.
        matches: as for `parts`.
        first: the first character of the part.
        last: the character after its last one.
        keeps_gaps: whether there are as many spaces between two pieces as in the text, or one.
    """
    found: list[Piece] = []
    number = bisect_right(matches, first, key=lambda match: match.end)
    end = first
    for piece in _PIECE.finditer(text, first, last):
        while number < len(matches) and matches[number].end <= piece.start():
            number += 1
        answers = None
        if number < len(matches) and matches[number].start < piece.end():
            answers = matches[number]
        gap = width_of(text[end : piece.start()].expandtabs(4)) if keeps_gaps else int(end < piece.start())
        ends_sentence = _SENTENCE_END.search(piece[0]) is not None
        found.append(Piece(piece[0], piece.start(), gap if found else 1, answers, ends_sentence))
        end = piece.end()
    return found


def width(found: Sequence[Piece]) -> int:
    """The columns of pieces on one line."""
    return sum((piece.gap if number else 0) + width_of(piece.text) for number, piece in enumerate(found))
