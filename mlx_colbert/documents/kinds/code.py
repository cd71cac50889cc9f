"""Source code: by function and class, if the language has a grammar; else cut at blank lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from mlx_colbert.documents.blocks import Block, Heading, Parts
from mlx_colbert.documents.decoding import decode
from mlx_colbert.documents.joining import MAX_WORDS
from mlx_colbert.documents.splitting import count_words

if TYPE_CHECKING:
    from mlx_colbert.documents.kinds.syntax import Definition

__all__ = ["parts"]

# A larger file was made by a program. It is cut at blank lines.
_MAX_PARSED = 1 << 20


def parts(data: bytes, name: str) -> Parts:
    """The blocks of a source file, under the names of the classes and long functions that they are in."""
    text = decode(data, name)
    lines = text.split("\n")
    found = _definitions(text, PurePath(name).suffix.lower())
    if found:
        yield from _segments(lines, found, 0, len(lines), 1)
    else:
        yield from _chunks(lines, 0, len(lines))


def _definitions(text: str, suffix: str) -> Sequence[Definition]:
    if len(text) > _MAX_PARSED:
        return ()
    try:
        from mlx_colbert.documents.kinds.syntax import definitions
    except ModuleNotFoundError:
        return ()  # the extra "code" is not installed
    return definitions(text.encode(), suffix) or ()


def _segments(lines: list[str], found: Sequence[Definition], start: int, end: int, level: int) -> Parts:
    """All lines from `start` to `end`: each definition, and what is between."""
    for definition in found:
        first = max(definition.first, start)
        last = min(definition.end, end)
        if last <= first:
            continue  # on a line with the definition before
        yield from _chunks(lines, start, first)
        is_long = count_words("\n".join(lines[first:last])) > MAX_WORDS
        if is_long:
            yield Heading(definition.name, level)
        if is_long and definition.inner:
            yield from _segments(lines, definition.inner, first, last, level + 1)
        else:
            yield from _chunk(lines, first, last)
        if is_long:
            yield Heading("", level)
        start = last
    yield from _chunks(lines, start, end)


def _chunks(lines: list[str], start: int, end: int) -> Parts:
    """Lines, cut where a line that is not indented follows a blank one."""
    for number in range(start + 1, end):
        if not lines[number - 1].strip() and lines[number][:1].strip():
            yield from _chunk(lines, start, number)
            start = number
    yield from _chunk(lines, start, end)


def _chunk(lines: list[str], start: int, end: int) -> Parts:
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    if start < end:
        yield Block("\n".join(lines[start:end]), {"lines": [start + 1, end]}, "lines", verbatim=True)
