"""The part of a passage that is shown: the best part, as lines, with the words that answer in bold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from mlx_colbert.cli.render import printable
from mlx_colbert.cli.terminal import Terminal, fitting, width_of

__all__ = ["CJK", "excerpt", "first_line", "whole", "wrapped"]

# Lines of a passage that are shown.
N_LINES = 4
N_CODE_LINES = 8
# A letter of a script without spaces is a piece, and so is a word of another script.
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_PIECE = re.compile(f"[{CJK}]|[^\\s{CJK}]+")
_HEADING = re.compile(r"#{1,6}[ \t]+(?=\S)")
# The line below a heading in Markdown, reStructuredText and AsciiDoc.
_UNDERLINE = re.compile(r"""([=\-~^*+#"'`.:_])\1{2,}[ \t]*""")
_SENTENCE_END = re.compile(r"[.!?。！？:—][\"'”’)\]]*$")
# Kinds of files whose lines mean something.
_LINE_KINDS = frozenset(("code", "rows"))

# The worth of a match of a word of the query that has a match already.
_REPEATED = 0.05
# Start, end, similarity, and number of the word of the query.
Span = Sequence[float]


class _Piece(NamedTuple):
    """A piece of a text that is never broken.

    Attributes:
        text: what is shown.
        start: its first character in the text.
        is_apart: whether there is a space before it.
        answers: the match that it is a part of, if any.
        ends_sentence: whether a sentence ends with it.
    """

    text: str
    start: int
    is_apart: bool = True
    answers: Span | None = None
    ends_sentence: bool = False


def excerpt(
    text: str, matches: Sequence[Span], kind: str | None, terminal: Terminal, indent: str
) -> list[str]:
    """The lines with the best part of a passage.

    Args:
        text: the passage.
        matches: the words that answer the query.
        kind: the kind of its file.
        terminal: where it is shown.
        indent: stands before each line.
    """
    room = terminal.width - len(indent)
    if kind in _LINE_KINDS:
        lines = _best_lines(text, matches)
        shown = (_clipped(text, start, end, matches, room, terminal) for start, end in lines)
        return [(indent + line).rstrip() for line in shown]
    pieces = list(_pieces(text, matches))
    start, end = _best_pieces(pieces, room * N_LINES - 4)
    chosen = pieces[start:end]
    if start and chosen:
        chosen = [_Piece("…", -1), *chosen]
    if end < len(pieces):
        chosen = [*chosen, _Piece("…", -1)]
    return [indent + line for line in _filled(chosen, matches, room, terminal)]


def whole(text: str, matches: Sequence[Span], kind: str | None, terminal: Terminal, indent: str) -> list[str]:
    """All lines of a passage, wrapped."""
    room = terminal.width - len(indent)
    lines = []
    for start, end in _line_spans(text):
        margin = len(text[start:end]) - len(text[start:end].lstrip())
        inner = text[start : start + min(margin, room // 2)].replace("\t", "    ")
        pieces = list(_pieces(text, matches, start + margin, end, keep_headings=True))
        filled = _filled(pieces, matches, room - len(inner), terminal) or [""]
        lines += [f"{indent}{inner}{line}".rstrip() for line in filled]
    return lines


def wrapped(text: str, terminal: Terminal, indent: str, hang: str) -> list[str]:
    """A sentence as lines. The first begins with `indent`, the others with `hang`."""
    lines = _filled(list(_pieces(text, [], keep_headings=True)), [], terminal.width - len(hang), terminal)
    return [(hang if number else indent) + line for number, line in enumerate(lines)]


def first_line(text: str, matches: Sequence[Span], lines: Sequence[int] | None) -> int | None:
    """The line of the file that has the best match. The first line of the passage, if that is not known."""
    if lines is None:
        return None
    best = max(matches, key=lambda match: match[2], default=None)
    if best is None or text.count("\n") != lines[1] - lines[0]:
        return lines[0]
    return lines[0] + text.count("\n", 0, int(best[0]))


def _line_spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for line in text.rstrip().split("\n"):
        yield start, start + len(line)
        start += len(line) + 1


def _best_lines(text: str, matches: Sequence[Span]) -> list[tuple[int, int]]:
    """The neighbouring lines with the most worth."""
    lines = list(_line_spans(text))
    n_shown = min(N_CODE_LINES, len(lines))

    def worth(first: int) -> float:
        start, end = lines[first][0], lines[first + n_shown - 1][1]
        return _worth([match for match in matches if start <= match[0] < end])

    # Of equal ones the last: it begins at a match.
    best = max(range(len(lines) - n_shown + 1), key=lambda first: (worth(first), bool(matches) * first))
    return lines[best : best + n_shown]


def _pieces(
    text: str, matches: Sequence[Span], start: int = 0, end: int | None = None, *, keep_headings: bool = False
) -> Iterator[_Piece]:
    """The pieces of a text. A dash follows each heading, in the place of a line below it."""
    end = len(text) if end is None else end
    place = 0
    is_below_text = False
    for first, last in _line_spans(text):
        if last < start or first > end:
            continue
        first, last = max(first, start), min(last, end)
        if is_below_text and not keep_headings and _UNDERLINE.fullmatch(text, first, last):
            if text[last:end].strip():
                yield _Piece("—", -1, ends_sentence=True)
            is_below_text = False
            continue
        heading = None if keep_headings else _HEADING.match(text, first, last)
        found = list(_PIECE.finditer(text, heading.end() if heading else first, last))
        for number, match in enumerate(found):
            answers: Span | None = None
            while place < len(matches) and matches[place][1] <= match.start():
                place += 1
            if place < len(matches) and matches[place][0] < match.end():
                answers = matches[place]
            is_apart = number == 0 or found[number - 1].end() < match.start()
            ends = bool(_SENTENCE_END.search(match[0]))
            yield _Piece(match[0], match.start(), is_apart, answers, ends)
        is_below_text = bool(found)
        if heading and found and text[last:end].strip():
            yield _Piece("—", -1, ends_sentence=True)


def _worth(matches: Sequence[Span]) -> float:
    """How much of a query some matches answer."""
    best: dict[float, float] = {}
    for match in matches:
        best[match[3]] = max(best.get(match[3], 0.0), match[2])
    return sum(best.values()) + _REPEATED * len(matches)


def _best_pieces(pieces: Sequence[_Piece], room: int) -> tuple[int, int]:
    """The neighbouring pieces with the most worth that fit: the first, and the one after the last.

    A word of the query counts once, and a little for each other match. A beginning at a sentence is better.
    """
    widths = [width_of(piece.text) + piece.is_apart for piece in pieces]
    if sum(widths) <= room:
        return 0, len(pieces)
    best, best_worth = (0, 0), -1.0
    for start in range(len(pieces)):
        if start and not pieces[start - 1].ends_sentence and pieces[start].answers is None:
            continue
        used, end = 0, start
        answered: list[Span] = []
        while end < len(pieces) and used + widths[end] <= room:
            used += widths[end]
            if (match := pieces[end].answers) is not None:
                answered.append(match)
            end += 1
        at_sentence = start == 0 or pieces[start - 1].ends_sentence
        worth = _worth(answered) + (0.5 if at_sentence else 0.0)
        if worth > best_worth:
            best, best_worth = (start, end), worth
        if end == len(pieces):
            break
    return best


def _filled(pieces: Sequence[_Piece], matches: Sequence[Span], room: int, terminal: Terminal) -> list[str]:
    """The pieces as lines of a width."""
    lines: list[str] = []
    line, used = "", 0
    for piece in chain.from_iterable(_broken(whole_piece, room) for whole_piece in pieces):
        width = width_of(piece.text)
        space = 1 if piece.is_apart and used else 0
        if used and used + space + width > room:
            lines.append(line)
            line, used, space = "", 0, 0
        line += " " * space + _styled(piece.text, piece.start, matches, terminal)
        used += space + width
    return [*lines, line] if line else lines


def _broken(piece: _Piece, room: int) -> Iterator[_Piece]:
    """The piece, or its parts if it is wider than a line."""
    if width_of(piece.text) <= room:
        yield piece
        return
    begin, width = 0, 0
    for place, sign in enumerate(piece.text):
        if width + width_of(sign) > room:
            yield piece._replace(text=piece.text[begin:place], start=_shifted(piece.start, begin))
            begin, width = place, 0
        width += width_of(sign)
    yield piece._replace(text=piece.text[begin:], start=_shifted(piece.start, begin))


def _shifted(start: int, n: int) -> int:
    return start + n if start >= 0 else start


def _clipped(text: str, start: int, end: int, matches: Sequence[Span], room: int, terminal: Terminal) -> str:
    """A line of code, cut where the terminal ends."""
    shown = text[start:end].expandtabs(4) if "\t" not in text[start:end].strip() else text[start:end]
    margin = len(shown) - len(shown.lstrip())
    begin = start + len(text[start:end]) - len(text[start:end].lstrip())
    body = text[begin:end].rstrip()
    seen = fitting(body, room - margin)
    if seen == body:
        return " " * margin + _styled(body, begin, matches, terminal)
    return " " * margin + _styled(fitting(body, room - margin - 1), begin, matches, terminal) + "…"


def _styled(piece: str, start: int, matches: Sequence[Span], terminal: Terminal) -> str:
    """A piece of the text with its matches in bold. `start` < 0: it is not in the text."""
    if start < 0 or not terminal.is_styled:
        return printable(piece)
    parts, done = [], 0
    for match in matches:
        left, right = int(match[0]) - start, int(match[1]) - start
        if right <= done or left >= len(piece):
            continue
        left, right = max(left, done), min(right, len(piece))
        parts += [printable(piece[done:left]), terminal.styled(printable(piece[left:right]), "bold")]
        done = right
    return "".join([*parts, printable(piece[done:])])
