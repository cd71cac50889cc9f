"""Cuts texts that are too long for a passage: between paragraphs, sentences, items or lines, then words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlx_colbert.documents.blocks import Cut

__all__ = ["count_words", "cut_spans"]

# Han, kana, Thai, Lao, Burmese and Khmer have no spaces between words: each character counts as a word. In
# other scripts, 16 characters without a space count as a word, so that a long link or a line of base64 is
# cut too.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,16}}")

# What is between two parts. A part keeps the spaces at its beginning where they have a meaning.
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_BLANK_LINE_OF_CODE = re.compile(r"\n(?:[^\S\n]*\n)+")
# \u3002 \uff01 \uff1f: the full stop, exclamation and question mark of Chinese and Japanese.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")
_ITEM_END = re.compile(r"\n\s*(?=(?:[-*+•]|[0-9]{1,9}[.)])[^\S\n])")
_LINE_END = re.compile(r"\n+")
_LEVELS: dict[Cut, tuple[re.Pattern[str], ...]] = {
    "sentences": (_BLANK_LINE, _SENTENCE_END),
    "items": (_ITEM_END, _BLANK_LINE, _SENTENCE_END),
    "lines": (_BLANK_LINE_OF_CODE, _LINE_END),
    "rows": (_LINE_END,),
}

_Span = tuple[int, int]


def count_words(text: str) -> int:
    """The number of words of a text, for all scripts.

    >>> count_words("tea is hot"), count_words("茶是热的"), count_words("x" * 100)
    (3, 4, 7)
    """
    return len(_WORD.findall(text))


def cut_spans(text: str, cut: Cut, max_words: int) -> list[_Span]:
    """(start, end) of consecutive parts of a text, each with at most `max_words` words.

    Only white space is between the parts.

    >>> text = "Steep it. Drink it hot. Enjoy."
    >>> [text[start:end] for start, end in cut_spans(text, "sentences", 5)]
    ['Steep it. Drink it hot.', 'Enjoy.']
    """
    spans: list[_Span] = []
    room = 0
    for start, end in _pieces(text, (0, len(text)), _LEVELS[cut], max_words):
        n_words = count_words(text[start:end])
        if spans and n_words <= room:
            spans[-1] = spans[-1][0], end
            room -= n_words
        else:
            spans.append((start, end))
            room = max_words - n_words
    return spans


def _pieces(text: str, span: _Span, levels: tuple[re.Pattern[str], ...], max_words: int) -> Iterator[_Span]:
    """The largest parts of a span that have at most `max_words` words each."""
    start, end = span
    if not text[start:end].strip():
        return
    words = [match.start() for match in _WORD.finditer(text, start, end)]
    if len(words) <= max_words:
        yield start, start + len(text[start:end].rstrip())
    elif levels:
        for part in _parts(text, span, levels[0]):
            yield from _pieces(text, part, levels[1:], max_words)
    else:
        starts = [start, *words[max_words::max_words]]
        for first, last in zip(starts, [*starts[1:], end], strict=True):
            yield first, first + len(text[first:last].rstrip())


def _parts(text: str, span: _Span, separator: re.Pattern[str]) -> Iterator[_Span]:
    start, end = span
    for match in separator.finditer(text, start, end):
        if match.start() > start:
            yield start, match.start()
            start = match.end()
    if start < end:
        yield start, end
