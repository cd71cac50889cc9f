"""HTML: headings, paragraphs, lists, tables and code of a page, without scripts, styles and navigation.

It takes any text, and it does not call itself for what is nested, so that no depth harms it.
"""

from __future__ import annotations

import re

from mlx_colbert.documents.blocks import Block, Cut, Heading, Parts
from mlx_colbert.documents.decoding import decode
from mlx_colbert.documents.kinds.html_tokens import Tag, tokens
from mlx_colbert.errors import InputError

__all__ = ["parts", "parts_of_text"]

_DROPPED = frozenset("script style nav template noscript svg math head select button iframe object".split())
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
# Tags that begin and end a block of text.
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption "
    "figure footer form header hgroup hr html legend li main ol p pre section summary table tbody td tfoot "
    "th thead tr ul".split()
)
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
# What the tag of an element that is left out may have.
_MAY_HIDE = re.compile("hidden|role|headerlink")
_SPACES = re.compile(r"[ \t\n\r\f\v]+")
_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""<\?xml[^>]+encoding\s*=\s*["']([A-Za-z0-9_:.-]+)["']""")
_HEAD_BYTES = 4096
# Deeper lists are not indented further.
_MAX_DEPTH = 8


def parts(data: bytes, name: str) -> Parts:
    r"""The headings and blocks of an HTML page.

    >>> page = b"<title>Tea</title><h2>Green</h2><p>Steep <b>it</b>.<ul><li>hot<li>cold</ul>"
    >>> [part.text for part in parts(page, "tea.html")]
    ['Tea', 'Green', 'Steep it.', '- hot\n- cold']
    """
    return parts_of_text(_decoded(data, name))


def parts_of_text(text: str) -> Parts:
    """The headings and blocks of the text of an HTML page."""
    reader = _Reader()
    line, counted = 1, 0
    for position, token in tokens(text):
        if isinstance(token, str):
            line += text.count("\n", counted, position)
            counted = position
            reader.read_text(token, line)
        elif token.is_end:
            reader.end(token.name)
        else:
            reader.begin(token)
    reader.end_block()
    if reader.title:
        yield Heading(reader.title, 0)
    yield from reader.parts


def _decoded(data: bytes, name: str) -> str:
    """The text of a page, in the encoding that it names, if it is not UTF-8."""
    try:
        return decode(data, name)
    except InputError:
        named = _CHARSET.search(data[:_HEAD_BYTES]) or _XML_ENCODING.match(data[:_HEAD_BYTES])
        if named is None or b"\0" in data:
            raise
        try:
            return data.decode(named[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            pass
        raise


class _Reader:
    """Collects headings and blocks.

    Attributes:
        title: the text of <title>.
        parts: headings and blocks so far.
    """

    def __init__(self) -> None:
        self.title = ""
        self.parts: list[Heading | Block] = []
        self._text: list[str] = []
        self._first_line = 0
        self._last_line = 0
        self._cut: Cut = "sentences"
        # The name of the dropped element that we are in, and how often it is open.
        self._dropped = ""
        self._n_dropped = 0
        self._in_title = False
        self._heading = 0
        self._n_pre = 0
        # Whether the text is a term, and its definition has not begun.
        self._in_term = False
        # The open lists: the number of the next item, or 0 for a list without numbers.
        self._lists: list[int] = []
        self._n_tables = 0
        self._row: list[str] | None = None
        self._rows: list[str] = []

    def begin(self, element: Tag) -> None:
        """Begin an element."""
        tag = element.name
        if self._dropped:
            self._n_dropped += tag == self._dropped
            if tag == "title" and self._dropped == "head" and not self.title:
                self._in_title = True
            elif self._dropped == "head" and (tag in _BLOCKS or tag in _HEADINGS) and tag != "hr":
                # A head without an end, or with a text.
                self._dropped = ""
            else:
                return
        if _is_hidden(element):
            self._dropped, self._n_dropped = tag, 1
        elif tag == "title":
            self._in_title = True
        elif tag in _HEADINGS and not self._n_tables:
            self.end_block()
            self._heading = _HEADINGS[tag]
        elif tag == "br":
            self._text.append("\n")
        elif tag == "img":
            self._text.append(element.attributes.get("alt", ""))
        elif tag in _BLOCKS:
            self._begin_block(tag)

    def _begin_block(self, tag: str) -> None:
        if tag == "table":
            self._n_tables += 1
            if self._n_tables == 1:
                self.end_block()
        elif self._n_tables:
            self._begin_in_table(tag)
        elif tag in ("ul", "ol"):
            if not self._lists:
                self.end_block()
            self._lists.append(1 if tag == "ol" else 0)
        elif tag == "li":
            self._begin_item()
        elif self._lists:
            # A paragraph in an item: it belongs to the list.
            self._text.append("\n")
            self._n_pre += tag == "pre"
        elif tag == "dt":
            self.end_block()
            self._in_term = True
        elif self._in_term and tag in ("dd", "p", "div"):
            # The definition of a term stays with it.
            self._text.append("\n")
            self._in_term = tag == "dd"
        elif tag == "pre":
            self.end_block()
            self._n_pre += 1
            self._cut = "lines"
        else:
            self.end_block()

    def _begin_in_table(self, tag: str) -> None:
        if tag == "tr":
            self._end_row()
            self._row = []
        elif tag in ("td", "th"):
            if "".join(self._text).strip():
                self._end_cell()  # the end tag of the cell before is missing
            self._text = []
            self._row = [] if self._row is None else self._row
        else:
            self._text.append(" ")

    def _begin_item(self) -> None:
        if not self._lists:
            self.end_block()
            self._lists.append(0)
        number = self._lists[-1]
        if number:
            self._lists[-1] += 1
        indent = "  " * min(len(self._lists) - 1, _MAX_DEPTH)
        self._cut = "items"
        # \x01 and \x02: what `_clean` must keep.
        self._text.append(f"\n\x01{indent}{f'{number}.' if number else '-'}\x02")

    def end(self, tag: str) -> None:
        """End an element."""
        if self._in_title and tag == "title":
            self._in_title = False
        elif self._dropped:
            self._n_dropped -= tag == self._dropped
            if not self._n_dropped:
                self._dropped = ""
        elif self._n_tables:
            self._end_in_table(tag)
        elif tag in ("ul", "ol"):
            if self._lists:
                self._lists.pop()
            if not self._lists:
                self.end_block()
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._end_block_tag(tag)

    def _end_in_table(self, tag: str) -> None:
        if tag == "table":
            self._n_tables -= 1
            if not self._n_tables:
                self._end_table()
        elif tag == "tr":
            self._end_row()
        elif tag in ("td", "th"):
            self._end_cell()

    def _end_block_tag(self, tag: str) -> None:
        if tag == "pre":
            self._n_pre = max(0, self._n_pre - 1)
        if self._lists:
            self._text.append("\n")
        elif tag not in ("dt", "li"):
            self.end_block()

    def read_text(self, text: str, line: int) -> None:
        """Take the text between two tags. `line` is the number of its first line."""
        if self._in_title:
            self.title = _SPACES.sub(" ", self.title + text).strip()
        elif text and not self._dropped:
            if text.strip():
                n_blank = text.count("\n", 0, len(text) - len(text.lstrip()))
                self._first_line = self._first_line or line + n_blank
                self._last_line = line + text.rstrip().count("\n")
            text = text.replace("\x01", " ").replace("\x02", " ")
            self._text.append(text if self._n_pre else _SPACES.sub(" ", text))

    def end_block(self) -> None:
        """End the block or the heading that is open."""
        if self._n_tables:
            return
        text, level = (
            _clean("".join(self._text), keep_spaces=self._n_pre > 0 or self._cut == "lines"),
            self._heading,
        )
        lines = [self._first_line, self._last_line]
        if level:
            text = " ".join(text.split())
        if text.strip():
            part = (
                Heading(text, level, text, {"lines": lines})
                if level
                else Block(text, {"lines": lines}, self._cut)
            )
            self.parts.append(part)
        self._reset()

    def _reset(self) -> None:
        self._text = []
        self._first_line = self._last_line = 0
        self._cut = "sentences"
        self._heading = 0
        self._in_term = False

    def _end_cell(self) -> None:
        if self._row is not None:
            cell = " ".join("".join(self._text).replace("\x01", " ").replace("\x02", " ").split())
            self._row.append(cell)
            self._text = []

    def _end_row(self) -> None:
        if self._row is None:
            # A caption.
            if caption := " ".join("".join(self._text).split()):
                self._rows.append(caption)
            self._text = []
            return
        if "".join(self._text).strip():
            self._end_cell()
        self._text = []
        if any(self._row):
            self._rows.append(" | ".join(self._row).strip())
        self._row = None

    def _end_table(self) -> None:
        self._end_row()
        rows, self._rows = self._rows, []
        lines = [self._first_line, self._last_line]
        if rows:
            head, body = (rows[0], rows[1:]) if len(rows) > 1 else ("", rows)
            self.parts.append(Block("\n".join(body), {"lines": lines}, "rows", head=head))
        self._reset()


def _is_hidden(element: Tag) -> bool:
    """Whether nothing in an element is shown, or it is there for navigation."""
    if element.name in _DROPPED:
        return True
    if element.name in _VOID or not _MAY_HIDE.search(element.text):
        return False
    attributes = element.attributes
    # Sphinx puts a link with a sign behind each heading.
    return (
        "hidden" in attributes
        or attributes.get("role") == "navigation"
        or attributes.get("class") == "headerlink"
    )


def _clean(text: str, *, keep_spaces: bool) -> str:
    """The text of a block without needless spaces and blank lines."""
    if keep_spaces:
        return text.strip("\n").rstrip()
    kept: list[tuple[str, str]] = []
    for raw in text.split("\n"):
        marker, _, line = raw.rpartition("\x02")
        line = " ".join(line.split())
        if marker:
            kept.append((marker.strip("\x01"), line))
        elif line and kept and kept[-1][0] and not kept[-1][1]:
            # The paragraph of an item begins after the marker of the item.
            kept[-1] = kept[-1][0], line
        elif line:
            kept.append(("", line))
    return "\n".join(f"{marker} {line}" if marker else line for marker, line in kept if line)
