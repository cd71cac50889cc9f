"""Lines for people: nothing in them steers the terminal, is endless, or is too wide for the terminal."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable

from mlx_colbert.cli.render import printable

__all__ = ["paragraphs"]

# A path may have 4,096 characters, and a message several paths.
_LONGEST_WORD = 160
_LONGEST_LINE = 1000
_LONG_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")
_LEAST_WIDTH = 40


def paragraphs(lines: Iterable[str], *, hang: int = 4, stream: str = "stdout") -> str:
    """Lines as text. A terminal gets them broken between words; a pipe gets each whole.

    A word or line without end, such as a path of 4 KB, loses its middle.

    Args:
        lines: the lines.
        hang: the indent of what follows the first line, in columns.
        stream: where the text goes: "stdout" or "stderr".
    """
    shown = [_shortened(_LONG_WORD.sub(_short_word, printable(line)), _LONGEST_LINE) for line in lines]
    if not getattr(sys, stream).isatty():
        return "\n".join(shown)
    width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH)
    return "\n".join(_broken(line, width, hang) for line in shown)


def _broken(line: str, width: int, hang: int) -> str:
    from mlx_colbert.cli.word_wrap import WordWrap

    wrap = WordWrap(width)
    first, *others = (wrap.add(line) + wrap.end()).split("\n")
    if not others:
        return first
    # The same again, with room for the indent. The first line is as wide as it can be.
    wrap = WordWrap(width - hang)
    rest = line[len(first) :].lstrip()
    return "\n".join([first, *(" " * hang + part for part in (wrap.add(rest) + wrap.end()).split("\n"))])


def _short_word(found: re.Match[str]) -> str:
    return _shortened(found[0], _LONGEST_WORD)


def _shortened(text: str, n_characters: int) -> str:
    """A text without its middle. Its end tells more than its beginning: the name of a file is there."""
    if len(text) <= n_characters:
        return text
    n_first = n_characters * 2 // 5
    return f"{text[:n_first]}…{text[n_first + 1 - n_characters :]}"
