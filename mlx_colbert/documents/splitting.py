"""Splits texts into passages that a model reads to their ends.

A model reads only the first `document_length` tokens of a text (180 to 300 for most checkpoints). So a text
is split at blank lines and sentences, until each passage is short enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

__all__ = ["split_passages"]

# Han, kana, Thai, Lao, Burmese and Khmer have no spaces between words: each character counts as a word. In
# other scripts, 16 characters without a space count as a word, so that a long link or a line of base64 is
# split too.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,16}}")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
# \u3002 \uff01 \uff1f: the full stop, exclamation and question mark of Chinese and Japanese.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")


def split_passages(
    text: str, *, max_words: int = 120, fits: Callable[[str], bool] | None = None
) -> list[str]:
    r"""Consecutive passages of a text: whole paragraphs if they fit, else sentences, else words.

    Args:
        text: paragraphs are separated by blank lines.
        max_words: the most words in a passage.
        fits: whether a model reads a passage to its end. A passage that does not fit is split again.

    >>> split_passages("# Tea\n\nSteep it. Drink it hot.\n\nEnjoy.", max_words=4)
    ['# Tea\n\nSteep it.', 'Drink it hot.\n\nEnjoy.']
    """
    passages: list[str] = []
    room = 0
    for separator, piece in _pieces(text, max_words):
        n_words = _count_words(piece)
        if passages and n_words <= room:
            passages[-1] += separator + piece
            room -= n_words
        else:
            passages.append(piece)
            room = max_words - n_words
    passages = [passage.rstrip() for passage in passages]
    if fits is None or max_words == 1:
        return passages
    parts: list[str] = []
    for passage in passages:
        parts += [passage] if fits(passage) else split_passages(passage, max_words=max_words // 2, fits=fits)
    return parts


def _pieces(text: str, max_words: int) -> Iterator[tuple[str, str]]:
    """(white space before it, piece) of each piece: a paragraph, a sentence, or at most max_words words."""
    for paragraph_gap, paragraph in _split_at(_BLANK_LINE, text.strip()):
        if _count_words(paragraph) <= max_words:
            yield paragraph_gap, paragraph
            continue
        for gap, sentence in _split_at(_SENTENCE_END, paragraph, gap=paragraph_gap):
            starts = [match.start() for match in _WORD.finditer(sentence)][::max_words]
            for start, end in zip(starts, [*starts[1:], len(sentence)], strict=True):
                run = sentence[start:end]
                piece = run.rstrip()
                yield gap, piece
                gap = run[len(piece) :]


def _split_at(pattern: re.Pattern[str], text: str, *, gap: str = "") -> Iterator[tuple[str, str]]:
    """(white space before it, part) of each part that is not empty. `gap` is before the first part."""
    start = 0
    for match in pattern.finditer(text):
        if match.start() > start:
            part = text[start : match.start()].rstrip()
            yield gap, part
            # With the white space at the end of the part, so that parts and gaps together are the text.
            gap = text[start + len(part) : match.end()]
        start = match.end()
    if start < len(text):
        yield gap, text[start:]


def _count_words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))
