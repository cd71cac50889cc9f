"""Plain text: paragraphs with blank lines between them."""

from __future__ import annotations

import re

from mlx_colbert.documents.blocks import Block, Parts
from mlx_colbert.documents.decoding import decode

__all__ = ["paragraphs", "parts"]

_BLANK = re.compile(r"\s*")


def parts(data: bytes, name: str) -> Parts:
    r"""The paragraphs of a text file.

    >>> [block.text for block in parts(b"One\nline.\n\nTwo.", "a.txt")]
    ['One\nline.', 'Two.']
    """
    return paragraphs(decode(data, name).split("\n"))


def paragraphs(lines: list[str], first_line: int = 1) -> Parts:
    """The paragraphs of lines.

    Args:
        lines: lines without their ends.
        first_line: the number of the first of them.
    """
    start = 0
    for number in range(len(lines) + 1):
        if number == len(lines) or _BLANK.fullmatch(lines[number]):
            if start < number:
                text = "\n".join(lines[start:number])
                yield Block(text, {"lines": [first_line + start, first_line + number - 1]}, verbatim=True)
            start = number + 1
