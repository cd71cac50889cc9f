"""What the terminal can show: width, styles and links. Nothing but plain text goes to pipes and files."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from typing import NamedTuple

__all__ = ["Terminal", "fitting", "width_of"]

_STYLES = {"bold": "\033[1m", "dim": "\033[2m"}
_RESET = "\033[0m"
_LEAST_WIDTH = 20


class Terminal(NamedTuple):
    """The place that text goes to.

    Attributes:
        width: number of columns.
        is_styled: whether it shows bold and dim text and links.
    """

    width: int = 80
    is_styled: bool = False

    @classmethod
    def of_stdout(cls) -> Terminal:
        """The standard output. It is plain if it is not a terminal, or NO_COLOR is set, or TERM is dumb."""
        is_styled = (
            sys.stdout.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM", "dumb") != "dumb"
        )
        return cls(max(shutil.get_terminal_size().columns, _LEAST_WIDTH), is_styled)

    def styled(self, text: str, style: str) -> str:
        """The text in a style: "bold" or "dim"."""
        return f"{_STYLES[style]}{text}{_RESET}" if self.is_styled and text else text

    def linked(self, text: str, url: str | None) -> str:
        """The text as a link (OSC 8)."""
        if not self.is_styled or url is None:
            return text
        return f"\033]8;;{url}\033\\{text}\033]8;;\033\\"


def width_of(text: str) -> int:
    """The number of columns that a text takes: 2 for a letter of Chinese, Japanese or Korean.

    >>> width_of("tea"), width_of("東京")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )


def fitting(text: str, width: int) -> str:
    """The beginning of a text that takes at most this number of columns.

    >>> fitting("東京 tea", 5), fitting("tea", 5)
    ('東京 ', 'tea')
    """
    if text.isascii():
        return text[: max(width, 0)]
    used = 0
    for place, sign in enumerate(text):
        used += width_of(sign)
        if used > width:
            return text[:place]
    return text
