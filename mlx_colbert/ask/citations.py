"""Citations in an answer: [1], [1, 3], [2-4], [source 2]. Those in code are not citations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = ["cited_numbers", "marked", "without_citations"]

_ITEM = r"[0-9]{1,3}(?:\s?[-–]\s?[0-9]{1,3})?"
# 【】 are the brackets of some models.
_CITATION = re.compile(
    rf"[\[【]\s?\^?(?:sources?\s|passages?\s)?({_ITEM}(?:\s?(?:,|;|and)\s?(?:sources?\s|passages?\s)?{_ITEM})*)\s?[\]】]",
    re.IGNORECASE,
)
_WITH_SPACE = re.compile(rf"[ \t]*(?:{_CITATION.pattern})", re.IGNORECASE)
# A run of backticks begins and ends code.
_TICKS = re.compile(r"(`+|\n)")
_RANGE = re.compile(_ITEM)
# Characters of the longest citation that is looked for in a stream.
_MAX_LENGTH = 400


def cited_numbers(answer: str) -> list[int]:
    """The numbers that an answer cites, each once, in the order cited.

    >>> cited_numbers("Green [2], as leaves are [1-3]; see `a[4]` and [9].")
    [2, 1, 3, 9]
    """
    numbers = [
        number
        for part, is_code in _parts(answer)
        if not is_code
        for found in _CITATION.finditer(part)
        for number in _numbers(found[1])
    ]
    return list(dict.fromkeys(numbers))


def without_citations(answer: str) -> str:
    """The answer without its citations.

    >>> without_citations("Leaves are green [1]. Snow is white [2, 3].")
    'Leaves are green. Snow is white.'
    """
    return "".join(part if is_code else _WITH_SPACE.sub("", part) for part, is_code in _parts(answer))


def marked(pieces: Iterable[str], n_sources: int) -> Iterator[str]:
    """The pieces of an answer, with a question mark at each citation of a source that was not given.

    A piece that may be the beginning of a citation waits for its end.

    >>> "".join(marked(["Green [", "7", "], as leaves [1, 9]."], 2))
    'Green [7?], as leaves [1, 9?].'
    """
    waiting = ""
    n_ticks = 0
    for piece in pieces:
        waiting += piece
        begun = max(waiting.rfind("["), waiting.rfind("【"))
        is_open = (
            begun >= 0 and not re.search("[]】]", waiting[begun:]) and len(waiting) - begun < _MAX_LENGTH
        )
        # A run of backticks may go on in the next piece.
        end = begun if is_open else len(waiting.rstrip("`"))
        ready, waiting = waiting[:end], waiting[end:]
        if ready:
            yield _marked(ready, n_sources, n_ticks)
            n_ticks = _ticks_after(ready, n_ticks)
    if waiting:
        yield _marked(waiting, n_sources, n_ticks)


def _marked(text: str, n_sources: int, n_ticks: int) -> str:
    return "".join(
        part if is_code else _CITATION.sub(lambda found: _with_marks(found, n_sources), part)
        for part, is_code in _parts(text, n_ticks)
    )


def _parts(text: str, n_ticks: int = 0) -> Iterator[tuple[str, bool]]:
    """The parts of a text, and for each whether it is code. Backticks are code.

    Args:
        text: the text.
        n_ticks: number of backticks that opened the code in which the text begins; 0: it begins in prose.
    """
    for part in _TICKS.split(text):
        n_after = _ticks_after(part, n_ticks)
        yield part, n_ticks > 0 or n_after > 0
        n_ticks = n_after


def _ticks_after(text: str, n_ticks: int) -> int:
    """The number of backticks that opened the code in which a text ends; 0: it ends in prose."""
    for part in _TICKS.split(text):
        if part.startswith("`"):
            n_ticks = len(part) if n_ticks == 0 else 0 if len(part) == n_ticks else n_ticks
        elif part == "\n" and n_ticks < 3:
            # Code between one or two backticks ends with its line.
            n_ticks = 0
    return n_ticks


def _with_marks(found: re.Match[str], n_sources: int) -> str:
    def mark(item: re.Match[str]) -> str:
        return item[0] if all(1 <= number <= n_sources for number in _numbers(item[0])) else f"{item[0]}?"

    return _RANGE.sub(mark, found[0])


def _numbers(items: str) -> Iterator[int]:
    for item in _RANGE.findall(items):
        first, *last = (int(number) for number in re.findall("[0-9]+", item))
        # A range that is too long or goes backwards is its two ends.
        if last and 0 <= last[0] - first <= 20:
            yield from range(first, last[0] + 1)
        else:
            yield from (first, *last)
