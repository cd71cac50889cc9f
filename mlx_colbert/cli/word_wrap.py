"""Breaks a text between words while it comes."""

from __future__ import annotations

import re

from mlx_colbert.cli.pieces import CJK
from mlx_colbert.cli.terminal import width_of

__all__ = ["WordWrap"]

# The end of a line, other space, a letter of a script without spaces, or a part of a word.
_PARTS = re.compile(f"\n|[^\\S\n]+|[{CJK}]|[^\\s{CJK}]+")
_FENCE = "```"


class WordWrap:
    r"""Breaks a text that comes in pieces into lines. Fenced code keeps its lines.

    >>> wrap = WordWrap(12)
    >>> wrap.add("The dance te"), wrap.add("lls the way."), wrap.end()
    ('The dance', '\ntells the', '\nway.')
    """

    def __init__(self, width: int) -> None:
        """Break lines at a width in columns."""
        self._width = width
        self._used = 0
        self._space = ""
        self._word = ""
        self._is_code = False

    def add(self, piece: str) -> str:
        """What can be printed after a piece. A word waits until it has ended."""
        printed = []
        for part in _PARTS.findall(piece):
            if part == "\n":
                printed += [self.end(), part]
                self._used, self._space = 0, ""
            elif part.isspace():
                printed.append(self.end())
                self._space += part
            elif len(part) == 1 and re.match(f"[{CJK}]", part):
                printed.append(self.end())
                self._word = part
            else:
                self._word += part
        return "".join(printed)

    def end(self) -> str:
        """What waits: the last word."""
        word, space = self._word, self._space
        if not word:
            return ""
        if not self._used and word.startswith(_FENCE):
            self._is_code = not self._is_code
        needed = len(space) + width_of(word)
        is_broken = 0 < self._used and self._used + needed > self._width and not self._is_code
        self._used = width_of(word) if is_broken else self._used + needed
        self._space = self._word = ""
        return f"\n{word}" if is_broken else space + word
