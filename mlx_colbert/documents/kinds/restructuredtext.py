"""reStructuredText, line by line: headings, lists, tables, literal blocks, directives, paragraphs.

The text of each block is the lines of the file, so nothing is lost and every line is known.
"""

from __future__ import annotations

import re

from mlx_colbert.documents.blocks import Block, Cut, Heading, Parts
from mlx_colbert.documents.decoding import decode
from mlx_colbert.types import Position

__all__ = ["parts"]

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+[ \t]*")
_ITEM = re.compile(r"(?:[-*+•]|(?:[0-9]{1,9}|#|[A-Za-z])[.)]|\((?:[0-9]{1,9}|#)\))[ \t]+\S")
_DIRECTIVE = re.compile(r"\.\.(?:[ \t]|$)")
_GRID = re.compile(r"\+[-=+]+\+[ \t]*")
_SIMPLE_TABLE = re.compile(r"=+(?:[ \t]+=+)+[ \t]*")
_ROLE = re.compile(r":[\w:+.-]+:`")
_TARGET = re.compile(r"[ ]?<[^>]*>(?=`)")
_MARKUP = re.compile(r"\*{1,2}|`{1,2}_{0,2}|\|")


def parts(data: bytes, name: str) -> Parts:
    r"""The headings and blocks of a reStructuredText file.

    >>> [part.text for part in parts(b"Tea\n===\n\nSteep it::\n\n  tea --hot\n", "tea.rst")]
    ['Tea', 'Steep it::\n\n  tea --hot']
    """
    lines = decode(data, name).split("\n")
    # The styles of the headings, the highest level first.
    styles: list[str] = []
    number = 0
    while number < len(lines):
        if not lines[number].strip():
            number += 1
        elif found := _heading_at(lines, number):
            text, style, end = found
            if style not in styles:
                styles.append(style)
            source = "\n".join(lines[number:end])
            yield Heading(
                _plain(text), styles.index(style) + 1, source, _position(number, end), verbatim=True
            )
            number = end
        else:
            end, cut = _block_end(lines, number)
            text = "\n".join(lines[number:end])
            # A line of punctuation between paragraphs is not text.
            if not _ADORNMENT.fullmatch(text):
                yield Block(text, _position(number, end), cut, verbatim=True)
            number = end


def _position(start: int, end: int) -> Position:
    """The position of lines[start:end]."""
    return {"lines": [start + 1, end]}


def _heading_at(lines: list[str], number: int) -> tuple[str, str, int] | None:
    """(text, style, line after it) of a heading. None: there is none."""
    line = lines[number].rstrip()
    following = [other.rstrip() for other in lines[number + 1 : number + 3]] + ["", ""]
    if _ADORNMENT.fullmatch(line) and len(line) >= 2:
        title, under = following[:2]
        is_heading = title.strip() and under == line and not _ADORNMENT.fullmatch(title)
        return (title.strip(), line[0] * 2, number + 3) if is_heading else None
    under = following[0]
    # docutils takes an underline that is a bit short, with a warning.
    is_long_enough = len(under) >= min(len(line), 4) and len(under) >= 2
    if line[0] not in " \t" and _ADORNMENT.fullmatch(under) and is_long_enough:
        return line.strip(), under[0], number + 2
    return None


def _plain(text: str) -> str:
    """A heading without its markup."""
    return " ".join(_MARKUP.sub("", _TARGET.sub("", _ROLE.sub("`", text))).split())


def _block_end(lines: list[str], start: int) -> tuple[int, Cut]:
    """The line after a block, and where it may be cut."""
    first = lines[start].lstrip()
    indent = len(lines[start]) - len(first)
    if _GRID.fullmatch(first):
        return _paragraph_end(lines, start), "rows"
    if _SIMPLE_TABLE.fullmatch(first):
        return _simple_table_end(lines, start), "rows"
    if _DIRECTIVE.match(first):
        return _indented_end(lines, start + 1, indent), "lines"
    if _ITEM.match(first):
        return _list_end(lines, start, indent), "items"
    end = _paragraph_end(lines, start)
    if lines[end - 1].rstrip().endswith("::"):
        return _indented_end(lines, end, indent), "lines"
    return end, "sentences"


def _paragraph_end(lines: list[str], start: int) -> int:
    for number in range(start + 1, len(lines)):
        if not lines[number].strip() or _heading_at(lines, number):
            return number
    return len(lines)


def _indented_end(lines: list[str], start: int, indent: int) -> int:
    """The line after all lines that are indented deeper."""
    end = start
    for number in range(start, len(lines)):
        line = lines[number]
        if line.strip():
            if len(line) - len(line.lstrip()) <= indent:
                break
            end = number + 1
    return end


def _simple_table_end(lines: list[str], start: int) -> int:
    """The line after a table whose borders are lines of "=": there are two or three of them."""
    borders = 0
    for number in range(start, len(lines)):
        if _SIMPLE_TABLE.fullmatch(lines[number].lstrip()):
            borders += 1
            is_last = number + 1 == len(lines) or not lines[number + 1].strip()
            if borders > 1 and is_last:
                return number + 1
    return _paragraph_end(lines, start)


def _list_end(lines: list[str], start: int, indent: int) -> int:
    end = start + 1
    for number in range(start + 1, len(lines)):
        line = lines[number]
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        is_more = depth > indent or (depth == indent and _ITEM.match(line.lstrip()))
        if not is_more and (lines[number - 1].strip() == "" or depth < indent):
            break
        end = number + 1
    return end
