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
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_RANGE = re.compile(_ITEM)
# Characters of the longest citation that is looked for in a stream.
_MAX_LENGTH = 120


def cited_numbers(answer: str) -> list[int]:
    """The numbers that an answer cites, each once, in the order cited.

    >>> cited_numbers("Green [2], as leaves are [1-3]; see `a[4]` and [9].")
    [2, 1, 3, 9]
    """
    prose = _CODE.sub(lambda code: " " * len(code[0]), answer)
    numbers = [number for found in _CITATION.finditer(prose) for number in _numbers(found[1])]
    return list(dict.fromkeys(numbers))


def without_citations(answer: str) -> str:
    """The answer without its citations.

    >>> without_citations("Leaves are green [1]. Snow is white [2, 3].")
    'Leaves are green. Snow is white.'
    """
    return re.sub(rf"[ \t]*(?:{_CITATION.pattern})", "", answer, flags=re.IGNORECASE)


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
            text, n_ticks = _marked(ready, n_sources, n_ticks)
            yield text
    if waiting:
        yield _marked(waiting, n_sources, n_ticks)[0]


def _marked(text: str, n_sources: int, n_ticks: int) -> tuple[str, int]:
    """A part of an answer with its marks.

    Args:
        text: the part.
        n_sources: how many sources there are.
        n_ticks: number of backticks that opened the code in which the part begins; 0: it begins in prose.

    Returns:
        The text, and `n_ticks` at its end.
    """
    parts = []
    for part in re.split(r"(`+|\n)", text):
        if part.startswith("`"):
            n_ticks = len(part) if n_ticks == 0 else 0 if len(part) == n_ticks else n_ticks
        elif part == "\n":
            # Code between single backticks ends with its line.
            n_ticks = n_ticks if n_ticks >= 3 else 0
        elif n_ticks == 0:
            part = _CITATION.sub(lambda found: _with_marks(found, n_sources), part)
        parts.append(part)
    return "".join(parts), n_ticks


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
