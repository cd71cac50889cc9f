"""Cuts HTML into tags and texts, in a time that grows with its length alone.

The parser of the standard library needs minutes for some broken pages of 50 KB: it looks for the end of a
tag again and again. Here no search that failed once is repeated.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Tag", "tokens"]

_NAME = re.compile(r"[A-Za-z][^\s/>]*")
_TEXT_END = re.compile(r"<(?=[A-Za-z/!?])")
# Elements whose content is not HTML.
_RAW = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style")}
_ATTRIBUTE = re.compile(r"""([A-Za-z-]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+))?""")
# Only a quote after "=" begins a value.
_OPENING = re.compile(r"=[ \t\n\r\f]{0,9}([\"'])")
# Attributes after this many characters of a tag are not read.
_ATTRIBUTE_CHARACTERS = 4096


@dataclass(frozen=True)
class Tag:
    """A tag.

    Attributes:
        name: its name in small letters.
        is_end: whether it ends an element.
        text: what stands between the name and the end of the tag.
    """

    name: str
    is_end: bool = False
    text: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes, with names in small letters. One without a value has an empty one."""
        found = _ATTRIBUTE.findall(self.text[:_ATTRIBUTE_CHARACTERS])
        return {name.lower(): unescaped(value.strip("\"'")) for name, value in found}


def unescaped(text: str) -> str:
    """The text with the characters that stand for &amp; and the like."""
    if "&" not in text:
        return text
    try:
        return html.unescape(text)
    except ValueError:  # a number of thousands of digits
        return text


def tokens(text: str) -> Iterator[tuple[int, Tag | str]]:
    """(position, tag or text) of each token. Comments and declarations are left out.

    >>> [token for _, token in tokens("<p>a &lt; b<!-- no --></p>")]
    [Tag(name='p', is_end=False, text=''), 'a < b', Tag(name='p', is_end=True, text='')]
    """
    position = 0
    ends = _Ends(text)
    while position < len(text):
        start = _TEXT_END.search(text, position)
        if start is None:
            yield position, unescaped(text[position:])
            return
        if start.start() > position:
            yield position, unescaped(text[position : start.start()])
        position = start.start()
        if text.startswith("<!--", position):
            position = ends.after("-->", position + 4) or ends.after(">", position) or len(text)
            continue
        if text.startswith("<![CDATA[", position) and (end := ends.after("]]>", position)):
            yield position, text[position + 9 : end - 3]
            position = end
            continue
        is_end = text.startswith("/", position + 1)
        name = _NAME.match(text, position + 1 + is_end)
        if name is None:  # a declaration, or </ without a name
            position = ends.after(">", position) or len(text)
            continue
        end = ends.of_tag(name.end())
        if end is None:
            return
        inside = text[name.end() : end - 1]
        tag = Tag(name[0].lower(), is_end, inside)
        yield position, tag
        position = end
        if not is_end and inside.endswith("/"):
            yield end, Tag(tag.name, True)
        elif not is_end and tag.name in _RAW:
            found = _RAW[tag.name].search(text, position)
            position = len(text) if found is None else found.start()


class _Ends:
    """Finds the ends of tags and comments. What is not found once is not searched again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._missing: set[str] = set()
        self._has_whole_quotes = True

    def after(self, sign: str, position: int) -> int | None:
        """The position after the next `sign`. None: there is none."""
        if sign in self._missing:
            return None
        found = self._text.find(sign, position)
        if found < 0:
            self._missing.add(sign)
            return None
        return found + len(sign)

    def of_tag(self, position: int) -> int | None:
        """The position after the end of a tag. A > in a quoted value does not end it."""
        start = position
        while self._has_whole_quotes:
            end = self.after(">", position)
            if end is None:
                break
            opening = _OPENING.search(self._text, position, end)
            if opening is None:
                return end
            closing = self.after(opening[1], opening.end())
            if closing is None:
                break
            position = closing
        self._has_whole_quotes = False
        return self.after(">", start)
