"""The parts of a passage, each of which begins on a line of its own: running text, items, rows, lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise, zip_longest
from typing import Literal, NamedTuple

from mlx_colbert.cli.pieces import Piece, Place, Span, line_places, margin_of, pieces, width
from mlx_colbert.cli.terminal import width_of

__all__ = ["Part", "parts"]

_HEADING = re.compile(r"#{1,6}[ \t]+(?=\S)")
# The line below a heading in Markdown, reStructuredText and AsciiDoc.
_UNDERLINE = re.compile(r"""([=\-~^*+#"'`.:_])\1{2,}[ \t]*""")
_FENCE = re.compile(r"[ \t]*(`{3,}(?=[^`\n]*$)|~{3,})", re.MULTILINE)
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|([0-9]{1,9})[.)])[ \t]+(?=\S)|[ \t]*(?:>[ \t]?)+(?=\S)")
# The border of a table that is drawn with signs.
_DRAWN = re.compile(r"[ \t]*\+[-=+]+")
_DELIMITERS = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)+")
# The sign between two cells, or beside the first or the last one.
_BORDER = re.compile(r"(?<!\\)\|")
_STOP = tuple(".!?。！？")
# Kinds of files whose lines are not those of the author.
_LAID_OUT = ("pdf",)
# Nobody breaks running text into narrower lines.
_LEAST_WRAPPED = 40
# A line of running text is at least so full, by the widest one of its paragraph.
_FILLED = 0.8
# Lines that are indented so far are code.
_CODE_INDENT = 4
# What stands before code in a text.
_CODE_MARGIN = "  "


class Part(NamedTuple):
    """A part of a passage.

    Attributes:
        pieces: its text.
        kind: "prose" is running text, "line" one line of the text or an item of a list, "code" a line that is
            cut where the terminal ends.
        first: what stands before its first line, such as the sign of an item.
        hang: what stands before its other lines.
    """

    pieces: list[Piece]
    kind: Literal["prose", "line", "code"]
    first: str = ""
    hang: str = ""


def parts(text: str, matches: Sequence[Span], kind: str | None, room: int) -> list[Part]:
    """The parts of a passage, in their order. Neighbouring paragraphs are one part.

    The signs of headings, of fenced code and of the borders of Markdown are left out.

    Args:
        text: the passage.
        matches: the words that answer the query, in their order.
        kind: the kind of its file.
        room: the columns for a line. A table that fits is aligned.
    """
    reader = _Reader(text, matches, kind, room)
    if kind == "code":
        reader.add_code(reader.lines)
    elif kind == "rows":
        reader.add_lines(reader.lines)
    else:
        reader.read()
    return reader.parts


class _Reader:
    """Reads the lines of a passage one after the other.

    Attributes:
        lines: the places of the lines.
        parts: the parts so far.
    """

    def __init__(self, text: str, matches: Sequence[Span], kind: str | None, room: int) -> None:
        self.lines = list(line_places(text))
        self.parts: list[Part] = []
        self._text = text
        self._matches = matches
        self._kind = kind
        self._room = room
        # Whether the last part is a heading.
        self._below_heading = False
        # Whether the last paragraph is an item, or what belongs to one.
        self._in_list = False

    def read(self) -> None:
        """Read all lines."""
        number = 0
        while number < len(self.lines):
            line = self._line(number)
            if not line.strip():
                number += 1
            elif fence := _FENCE.match(line):
                number = self._read_fenced(number, fence[1])
            elif _DRAWN.match(line):
                end = number + 1
                while end < len(self.lines) and self._line(end).strip():
                    end += 1
                self.add_lines(self.lines[number:end])
                number = end
            elif (end := self._end_of_table(number)) > number + 1:
                self._add_table(self.lines[number:end])
                number = end
            elif self._is_item(number):
                number = self._read_item(number)
            elif heading := _HEADING.match(line):
                first, last = self.lines[number]
                self._add_heading((first + heading.end(), last))
                number += 1
            else:
                number = self._read_paragraph(number)

    def add_code(self, places: Sequence[Place], before: str = "", common: int | None = None) -> None:
        """Add lines of code.

        Args:
            places: the lines.
            before: what stands before each of them.
            common: the margin that is left out. None: that which all of them have.
        """
        lines = [self._text[first:last].expandtabs(4) for first, last in places]
        if common is None:
            common = min((margin_of(line) for line in lines if line.strip()), default=0)
        for place, line in zip(places, lines, strict=True):
            margin = before + " " * min(max(margin_of(line) - common, 0), self._room // 2)
            self._add(Part(self._pieces(place, keeps_gaps=True), "code", margin, f"{margin}  "))

    def add_lines(self, places: Sequence[Place]) -> None:
        """Add lines that stay lines."""
        for first, last in places:
            margin = " " * min(margin_of(self._text[first:last].expandtabs(4)), self._room // 2)
            self._add(Part(self._pieces((first, last), keeps_gaps=True), "line", margin, f"{margin}  "))

    def _line(self, number: int) -> str:
        first, last = self.lines[number]
        return self._text[first:last]

    def _pieces(self, place: Place, *, keeps_gaps: bool = False) -> list[Piece]:
        return pieces(self._text, self._matches, *place, keeps_gaps=keeps_gaps)

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        self._below_heading = False

    def _add_prose(self, found: list[Piece]) -> None:
        """Add running text. It goes on after running text before it, and after a dash below a heading."""
        if self.parts and self.parts[-1].kind == "prose":
            if self._below_heading:
                self.parts[-1].pieces.append(Piece("—", -1, ends_sentence=True))
            self.parts[-1].pieces.extend(found)
        else:
            self.parts.append(Part(found, "prose"))
        self._below_heading = self._in_list = False

    def _add_heading(self, place: Place) -> None:
        self._add_prose(self._pieces(place))
        self._below_heading = True

    def _read_fenced(self, number: int, fence: str) -> int:
        """Add fenced code; returns the number of the line after it."""
        end = number + 1
        while end < len(self.lines) and not _ends_code(self._line(end).strip(), fence):
            end += 1
        self.add_code(self.lines[number + 1 : end], _CODE_MARGIN)
        return end + 1

    def _end_of_table(self, number: int) -> int:
        """The number of the line after the rows that begin at a line."""
        while number < len(self.lines) and _is_row(self._line(number)):
            number += 1
        return number

    def _add_table(self, places: Sequence[Place]) -> None:
        """Add rows. They are aligned if they fit."""
        rows = [self._cells(place) for place in places if not _DELIMITERS.fullmatch(self._text, *place)]
        if not rows:
            self.add_lines(places)
            return
        columns = zip_longest(*rows, fillvalue=())
        widths = [max(map(width, column)) for column in columns]
        ends = list(accumulate(width + len(" | ") for width in widths))
        is_aligned = ends[-1] - len(" | ") <= self._room
        for row in rows:
            found: list[Piece] = []
            used = 0
            for cell, end in zip(row, ends, strict=False):
                found += cell
                used += width(cell)
                gap = end - len("| ") - used if is_aligned else 1
                found.append(Piece("|", -1, gap))
                used += gap + len("| ")
            self._add(Part(found[:-1], "line", hang="  "))

    def _cells(self, row: Place) -> list[list[Piece]]:
        """The cells of a row."""
        first, last = row
        inner = self._text[first:last].strip()
        first += margin_of(self._text[first:last])
        last = first + len(inner)
        borders = [first - 1, *(border.start() for border in _BORDER.finditer(self._text, first, last)), last]
        if inner[:1] == "|":
            del borders[0]
        if len(borders) > 2 and borders[-2] == last - 1:
            del borders[-1]
        return [self._pieces((left + 1, right)) for left, right in pairwise(borders)]

    def _is_item(self, number: int) -> bool:
        """Whether an item begins at a line. A number of running text may be the first on its line."""
        found = _ITEM.match(self._line(number))
        if found is None:
            return False
        is_first = number == 0 or not self._line(number - 1).strip()
        return found[1] is None or int(found[1]) == 1 or is_first or self._in_list

    def _begins_something(self, number: int) -> bool:
        """Whether a paragraph ends before a line."""
        line = self._line(number)
        return (
            not line.strip()
            or _FENCE.match(line) is not None
            or _HEADING.match(line) is not None
            or self._end_of_table(number) > number + 1
            or self._is_item(number)
        )

    def _end_of_paragraph(self, number: int) -> int:
        end = number + 1
        while end < len(self.lines) and not self._begins_something(end):
            end += 1
        return end

    def _read_item(self, number: int) -> int:
        """Add an item of a list; returns the number of the line after it."""
        self._in_list = True
        sign = _ITEM.match(self._line(number))
        assert sign is not None
        end = self._end_of_paragraph(number)
        first = self.lines[number][0] + sign.end()
        shown = sign[0].expandtabs(4)
        # At most a quarter of the line: a list may be deep.
        shown = f"{' ' * min(margin_of(shown), self._room // 4)}{shown.strip()} "
        if width_of(shown) > self._room // 2:
            first, shown = self.lines[number][0], ""
        found = self._pieces((first, self.lines[end - 1][1]))
        self._add(Part(found, "line", shown, " " * width_of(shown)))
        return end

    def _read_paragraph(self, number: int) -> int:
        """Add a paragraph, a heading with a line below it, or indented lines; returns the line after it."""
        margin = margin_of(self._line(number).expandtabs(4))
        end = self._end_of_paragraph(number)
        if self._kind not in _LAID_OUT:
            for below in range(number + 1, end):
                if _UNDERLINE.fullmatch(self._line(below)) and self._line(below - 1).strip():
                    end = below + 1
                    break
            if end > number + 1 and _UNDERLINE.fullmatch(self._line(end - 1)):
                if end > number + 2:
                    self._add_paragraph(number, end - 2, margin)
                self._add_heading(self.lines[end - 2])
                return end
        self._add_paragraph(number, end, margin)
        return end

    def _add_paragraph(self, number: int, end: int, margin: int) -> None:
        places = self.lines[number:end]
        if margin and self._in_list:
            indent = " " * min(margin, self._room // 4)
            self._add(Part(self._pieces((places[0][0], places[-1][1])), "line", indent, indent))
            return
        self._in_list = False
        if self._kind in _LAID_OUT:
            self._add_prose(self._pieces((places[0][0], places[-1][1])))
        elif margin >= _CODE_INDENT:
            self.add_code(places, _CODE_MARGIN, _CODE_INDENT)
        elif _is_wrapped([self._text[first:last] for first, last in places]):
            self._add_prose(self._pieces((places[0][0], places[-1][1])))
        else:
            self.add_lines(places)


def _ends_code(line: str, fence: str) -> bool:
    return line.startswith(fence) and not line.strip(fence[0])


def _is_row(line: str) -> bool:
    return " | " in line or line.lstrip().startswith("|")


def _is_wrapped(lines: Sequence[str]) -> bool:
    """Whether the author broke lines because they were full, or after a sentence: they are running text."""
    widths = [width_of(line.rstrip()) for line in lines]
    if len(lines) == 1:
        return True
    if max(widths) < _LEAST_WRAPPED:
        return False
    return all(
        n_columns + 1 + width_of(below.split(maxsplit=1)[0]) > _FILLED * max(widths)
        or line.rstrip().endswith(_STOP)
        for (line, below), n_columns in zip(pairwise(lines), widths, strict=False)
    )
