"""Markdown, line by line: front matter, headings, lists, tables, fenced code, paragraphs.

The text of each block is the lines of the file, so nothing is lost and every line is known.
"""

from __future__ import annotations

import html
import re

from mlx_colbert.documents.blocks import Block, Heading, Parts
from mlx_colbert.documents.decoding import decode
from mlx_colbert.types import Position

__all__ = ["parts", "parts_of_lines"]

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})")
_ITEM = re.compile(r" {0,3}(?:[-*+]|[0-9]{1,9}[.)])(?:[ \t]+|$)")
# An item that may follow a paragraph without a blank line.
_INTERRUPTING = re.compile(r" {0,3}(?:[-*+]|1[.)])[ \t]+\S")
_DELIMITERS = re.compile(r" {0,3}(?=.*\|)\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_INDENTED = re.compile(r"(?: {4}|\t)[ \t]*\S")
_TITLE = re.compile(r"title[ \t]*[:=][ \t]*(.*)", re.IGNORECASE)
_FRONT = {"---": ("---", "..."), "+++": ("+++",)}
# Longer front matter is not front matter.
_FRONT_LINES = 500

# A longer heading is taken for a paragraph.
_HEADING_CHARACTERS = 1000

_IMAGE_OR_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_TAG_OR_ANCHOR = re.compile(r"</?[A-Za-z][^>]*>|\{#[^}]*\}")
_EMPHASIS = re.compile(r"(\*{1,3}|(?<!\w)_{1,3}(?=\S)|(?<=\S)_{1,3}(?!\w)|`+|~~)")


def parts(data: bytes, name: str) -> Parts:
    r"""The headings and blocks of a Markdown file.

    >>> [part.text for part in parts(b"# Tea\n\nSteep it.\n\n- green\n- black\n", "tea.md")]
    ['Tea', 'Steep it.', '- green\n- black']
    """
    return parts_of_lines(decode(data, name).split("\n"))


def parts_of_lines(lines: list[str]) -> Parts:
    """The headings and blocks of lines of Markdown."""
    number = 0
    if lines[0].rstrip() in _FRONT and (end := _front_matter_end(lines)):
        yield from _front_matter(lines, end)
        number = end + 1
    while number < len(lines):
        line = lines[number]
        if not line.strip() or _RULE.fullmatch(line):
            number += 1
        elif atx := _ATX.fullmatch(line):
            yield _heading(atx[2] or "", len(atx[1]), lines, number, number)
            number += 1
        elif _FENCE.match(line):
            end = _fence_end(lines, number)
            yield from _fenced(lines, number, end)
            number = end + 1
        elif _is_table(lines, number):
            end = _table_end(lines, number)
            yield from _table(lines, number, end)
            number = end
        elif _ITEM.match(line):
            end = _list_end(lines, number)
            yield Block(_text(lines, number, end), _position(number, end), "items", verbatim=True)
            number = end
        elif _INDENTED.match(line):
            end = _indented_end(lines, number)
            yield Block(_text(lines, number, end), _position(number, end), "lines", verbatim=True)
            number = end
        else:
            end = _paragraph_end(lines, number)
            setext = _SETEXT.fullmatch(lines[end]) if end < len(lines) else None
            if setext:
                text = " ".join(lines[number:end])
                yield _heading(text, 1 if "=" in setext[1] else 2, lines, number, end)
                number = end + 1
            else:
                yield Block(_text(lines, number, end), _position(number, end), verbatim=True)
                number = end


def _text(lines: list[str], start: int, end: int) -> str:
    return "\n".join(lines[start:end])


def _position(start: int, end: int) -> Position:
    """The position of lines[start:end]."""
    return {"lines": [start + 1, end]}


def _heading(text: str, level: int, lines: list[str], first: int, last: int) -> Heading:
    source = _text(lines, first, last + 1)
    plain = _plain(text[:_HEADING_CHARACTERS]) or " ".join(text.split())
    return Heading(plain, level, source, _position(first, last + 1), verbatim=True)


def _plain(text: str) -> str:
    """A heading without its markup."""
    text = _TAG_OR_ANCHOR.sub("", _IMAGE_OR_LINK.sub(r"\1", text))
    return " ".join(html.unescape(_EMPHASIS.sub("", text)).split())


def _front_matter_end(lines: list[str]) -> int | None:
    """The number of the line that ends the front matter. None: there is none."""
    ends = _FRONT[lines[0].rstrip()]
    found = (n for n in range(1, min(len(lines), _FRONT_LINES)) if lines[n].rstrip() in ends)
    return next(found, None)


def _front_matter(lines: list[str], end: int) -> Parts:
    for line in lines[1:end]:
        if title := _TITLE.fullmatch(line):
            yield Heading(_plain(title[1].strip(" \t\"'")), 0)
            break
    yield Block(_text(lines, 1, end), _position(1, end), "lines", verbatim=True)


def _fence_end(lines: list[str], start: int) -> int:
    """The number of the line that ends fenced code. Without one, it is the last line."""
    opening = _FENCE.match(lines[start])
    assert opening is not None
    fence = opening[1]
    closing = re.compile(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*")
    found = (n for n in range(start + 1, len(lines)) if closing.fullmatch(lines[n]))
    return next(found, len(lines) - 1)


def _fenced(lines: list[str], start: int, end: int) -> Parts:
    is_closed = end > start and lines[end].strip().strip("`~") == ""
    last = end if is_closed else end + 1
    if not _text(lines, start + 1, last).strip():
        yield Block(_text(lines, start, end + 1), _position(start, end + 1), verbatim=True)
        return
    yield Block(
        _text(lines, start + 1, last),
        _position(start + 1, last),
        "lines",
        verbatim=True,
        head=lines[start],
        tail=lines[end] if is_closed else "",
    )


def _is_table(lines: list[str], number: int) -> bool:
    return (
        "|" in lines[number]
        and number + 1 < len(lines)
        and _DELIMITERS.fullmatch(lines[number + 1]) is not None
    )


def _table_end(lines: list[str], start: int) -> int:
    end = start + 2
    while end < len(lines) and "|" in lines[end]:
        end += 1
    return end


def _table(lines: list[str], start: int, end: int) -> Parts:
    if end == start + 2:
        yield Block(_text(lines, start, end), _position(start, end), verbatim=True)
        return
    head = _text(lines, start, start + 2)
    yield Block(_text(lines, start + 2, end), _position(start + 2, end), "rows", verbatim=True, head=head)


def _list_end(lines: list[str], start: int) -> int:
    """The line after a list: items, what is indented below them, and lines that go on after them."""
    end = number = start
    after_blank = False
    while number < len(lines):
        line = lines[number]
        if not line.strip():
            after_blank = True
        elif _FENCE.match(line) and line[0] != " ":
            break
        elif line[0] in " \t" or (_ITEM.match(line) and not _RULE.fullmatch(line)):
            after_blank = False
            end = number + 1
        elif after_blank or _begins_something(lines, number):
            break
        else:
            end = number + 1
        number += 1
    return end


def _indented_end(lines: list[str], start: int) -> int:
    end = number = start
    while number < len(lines):
        if _INDENTED.match(lines[number]):
            end = number + 1
        elif lines[number].strip():
            break
        number += 1
    return end


def _paragraph_end(lines: list[str], start: int) -> int:
    """The line after a paragraph. If it underlines the paragraph, this is a heading."""
    for number in range(start + 1, len(lines)):
        line = lines[number]
        if not line.strip() or _SETEXT.fullmatch(line) or _begins_something(lines, number):
            return number
    return len(lines)


def _begins_something(lines: list[str], number: int) -> bool:
    """Whether a line begins a block that may follow a paragraph without a blank line."""
    line = lines[number]
    patterns = (_FENCE, _INTERRUPTING)
    return (
        _ATX.fullmatch(line) is not None
        or _RULE.fullmatch(line) is not None
        or any(pattern.match(line) for pattern in patterns)
        or _is_table(lines, number)
    )
