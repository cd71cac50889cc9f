"""The part of a passage that is shown: the best part, as lines, with the words that answer in bold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from mlx_colbert.cli.passage_parts import Part, parts
from mlx_colbert.cli.pieces import Piece, Span, line_places, margin_of, pieces
from mlx_colbert.cli.render import printable
from mlx_colbert.cli.terminal import Terminal, fitting, width_of

__all__ = ["excerpt", "first_line", "whole", "wrapped"]

# Lines of running text that are shown. Other lines are less full: of these there are twice as many.
N_LINES = 4
_COSTS = {"prose": 2, "line": 1, "code": 1}
# The worth of a match of a word of the query that has a match already.
_REPEATED = 0.05
# The worth of a beginning at a sentence or at a line.
_AT_BEGINNING = 0.5
# The sign for what is left out of a line.
_CUT = Piece("…", -1)


class _Line(NamedTuple):
    """A line that is shown.

    Attributes:
        margin: what stands before its pieces.
        pieces: what follows.
    """

    margin: str
    pieces: list[Piece]


class _Shown(NamedTuple):
    """Neighbouring lines that are shown.

    Attributes:
        lines: the lines.
        owners: for each line the number of the part that it is of.
        end: the number of the part after them. The number of parts: the passage ends with them.
        is_cut: whether the last line has the sign at its end.
    """

    lines: list[_Line]
    owners: list[int]
    end: int
    is_cut: bool

    def worth(self) -> float:
        """How much of a query they answer. A word of it counts once, and a little for each other match."""
        return _worth({piece.answers for line in self.lines for piece in line.pieces if piece.answers})


def _worth(answered: set[Span]) -> float:
    """The worth of matches."""
    best: dict[float, float] = {}
    for match in answered:
        best[match.query_word] = max(best.get(match.query_word, 0.0), match.similarity)
    return sum(best.values()) + _REPEATED * len(answered)


def excerpt(
    text: str, matches: Sequence[Sequence[float]], kind: str | None, terminal: Terminal, indent: str
) -> list[str]:
    """The lines with the best part of a passage. Lists, tables and code keep their lines.

    The sign "…" stands for what is left out: within a line, or on a line of its own for whole lines of lists,
    tables and code.

    Args:
        text: the passage.
        matches: the words that answer the query.
        kind: the kind of its file.
        terminal: where it is shown.
        indent: stands before each line.
    """
    room = terminal.width - len(indent)
    spans = _spans(matches)
    lines = _best(parts(text, spans, kind, room), spans, room)
    return [(indent + _drawn(line, spans, terminal)).rstrip() for line in lines]


def whole(
    text: str,
    matches: Sequence[Sequence[float]],
    kind: str | None,
    terminal: Terminal,
    indent: str,
    numbers: Sequence[str] = (),
) -> list[str]:
    """All lines of a passage, wrapped.

    Args:
        text: as for `excerpt`.
        matches: as for `excerpt`.
        kind: as for `excerpt`.
        terminal: as for `excerpt`.
        indent: as for `excerpt`.
        numbers: the numbers of the lines, in the width of the indent or less. None: no numbers.
    """
    room = terminal.width - len(indent)
    spans = _spans(matches)
    lines: list[str] = []
    for number, (first, last) in enumerate(line_places(text)):
        margin = text[first : first + min(margin_of(text[first:last]), room // 2)].replace("\t", "    ")
        found = pieces(text, spans, first, last, keeps_gaps=True)
        filled = list(_filled(found, room - width_of(margin))) or [[]]
        drawn = [(indent + _drawn(_Line(margin, line), spans, terminal)).rstrip() for line in filled]
        if numbers:
            label = numbers[number]
            drawn[0] = terminal.styled(label, "dim") + drawn[0][len(label) :]
        lines += drawn
    return lines


def wrapped(text: str, terminal: Terminal, indent: str, hang: str) -> list[str]:
    """A sentence as lines. The first begins with `indent`, the others with `hang`."""
    lines = _filled(pieces(text, [], 0, len(text)), terminal.width - len(hang))
    return [
        _drawn(_Line(hang if number else indent, line), [], terminal) for number, line in enumerate(lines)
    ]


def first_line(text: str, matches: Sequence[Span], lines: Sequence[int] | None) -> int | None:
    """The line of the file that has the best match. The first line of the passage, if that is not known."""
    if lines is None:
        return None
    best = max(matches, key=lambda match: match[2], default=None)
    if best is None or text.count("\n") != lines[1] - lines[0]:
        return lines[0]
    return lines[0] + text.count("\n", 0, int(best[0]))


def _spans(matches: Sequence[Sequence[float]]) -> list[Span]:
    """The matches of a hit, which are lists in JSON."""
    return [Span(int(start), int(end), similarity, int(word)) for start, end, similarity, word in matches]


def _best(found: Sequence[Part], spans: Sequence[Span], room: int) -> list[_Line]:
    """The neighbouring lines with the most worth that fit."""
    best, best_worth, best_place = _shown(found, 0, 0, room), -1.0, (0, 0)
    if best.end == len(found) or not any(piece.answers for part in found for piece in part.pieces):
        return _signed(best, found, spans, room)
    for number, part in enumerate(found):
        for place in _beginnings(part, room):
            shown = _shown(found, number, place, room)
            at_beginning = place == 0 or part.pieces[place - 1].ends_sentence
            worth = shown.worth() + (_AT_BEGINNING if at_beginning else 0.0)
            # Of equal ones the last begins at a match. But the first line says what code or a table is.
            is_later = part.kind != "prose" and worth == best_worth and best_place != (0, 0)
            if worth > best_worth or is_later:
                best, best_worth, best_place = shown, worth, (number, place)
            if shown.end == len(found):
                return _signed(best, found, spans, room)
    return _signed(best, found, spans, room)


def _signed(shown: _Shown, found: Sequence[Part], spans: Sequence[Span], room: int) -> list[_Line]:
    """The lines, with later ones that answer, and with the sign for whole lines that are left out."""
    shown = shown if shown.is_cut else _extended(shown, found, spans, room)
    if not any(line.pieces for line in shown.lines):
        return []
    lines: list[_Line] = []
    last = -1
    for line, owner in zip(shown.lines, shown.owners, strict=True):
        has_sign = bool(line.pieces) and line.pieces[0] == _CUT
        if not has_sign and any(part.pieces for part in found[last + 1 : owner]):
            lines.append(_Line("", [_CUT]))
        lines.append(line)
        last = owner
    if not shown.is_cut and any(part.pieces for part in found[last + 1 :]):
        lines.append(_Line("", [_CUT]))
    return _without_blank_ends(lines)


def _extended(shown: _Shown, found: Sequence[Part], spans: Sequence[Span], room: int) -> _Shown:
    """Lines with later ones that answer, in place of blank ones and of the last ones without a match."""
    kept = [place for place, line in enumerate(shown.lines) if line.pieces]
    while len(kept) > 1 and _can_go(found[shown.owners[kept[-1]]]):
        del kept[-1]
    left = N_LINES * _COSTS["prose"] - sum(_COSTS[found[shown.owners[place]].kind] for place in kept)
    worths = {
        number: _worth(_spans_in(part, spans))
        for number, part in enumerate(found[shown.end :], start=shown.end)
        if part.kind != "prose"
    }
    more: dict[int, list[_Line]] = {}
    for number in sorted(filter(worths.__getitem__, worths), key=lambda number: -worths[number]):
        part = list(islice(_lines(found[number], 0, room, is_cut=False), left + 1))
        if len(part) <= left:
            left -= len(part)
            more[number] = part
    if not more:
        return shown
    lines, owners = [shown.lines[place] for place in kept], [shown.owners[place] for place in kept]
    for number in sorted(more):
        lines += more[number]
        owners += [number] * len(more[number])
    return shown._replace(lines=lines, owners=owners)


def _can_go(part: Part) -> bool:
    """Whether a part may be left out for others: it answers nothing, and is no running text."""
    return part.kind != "prose" and not any(piece.answers for piece in part.pieces)


def _spans_in(part: Part, spans: Sequence[Span]) -> set[Span]:
    """All matches in a part. A piece has one of its own alone."""
    places = [piece.start for piece in part.pieces if piece.start >= 0]
    if not places:
        return set()
    end = max(piece.start + len(piece.text) for piece in part.pieces)
    return {span for span in spans if span.start < end and span.end > places[0]}


def _beginnings(part: Part, room: int) -> Iterator[int]:
    """The pieces of a part that an excerpt may begin with. What fits on a line is not cut."""
    if not part.pieces:
        return
    yield 0
    if part.kind == "code" or _fit(part.pieces, room - width_of(part.first)):
        return
    for place in range(1, len(part.pieces)):
        if part.pieces[place - 1].ends_sentence or part.pieces[place].answers:
            yield place


def _shown(found: Sequence[Part], number: int, place: int, room: int) -> _Shown:
    """As many lines as are shown, from a piece of a part on."""
    lines: list[_Line] = []
    owners: list[int] = []
    left = N_LINES * _COSTS["prose"]
    is_cut = place > 0 or (number > 0 and found[number].kind == "prose")
    before = ""
    for owner, part in enumerate(found[number:], start=number):
        for count, line in enumerate(_lines(part, place, room, is_cut=is_cut)):
            left -= _COSTS[part.kind]
            if left < 0:
                is_ended = count > 0 or before == "prose"
                if is_ended:
                    lines[-1] = _ended(lines[-1], room)
                return _Shown(lines, owners, owner, is_cut=is_ended)
            lines.append(line)
            owners.append(owner)
        place, is_cut, before = 0, False, part.kind
    return _Shown(lines, owners, len(found), is_cut=False)


def _without_blank_ends(lines: list[_Line]) -> list[_Line]:
    filled = [number for number, line in enumerate(lines) if line.pieces]
    return lines[filled[0] : filled[-1] + 1] if filled else []


def _ended(line: _Line, room: int) -> _Line:
    """A line with the sign at its end, after as many of its pieces as then fit."""
    shown = list(line.pieces)
    while shown and not _fit([*shown, _CUT], room - width_of(line.margin)):
        shown.pop()
    return _Line(line.margin, [*shown, _CUT])


def _lines(part: Part, place: int, room: int, *, is_cut: bool) -> Iterator[_Line]:
    """The lines of a part, from a piece on. If `is_cut`, the sign is before it."""
    first = part.hang if place else part.first
    left = room - max(width_of(first), width_of(part.hang))
    chosen = part.pieces[place:] if place else part.pieces
    if part.kind == "code":
        clipped = _clipped(chosen, room - width_of(first))
        # A line is cut if no word that answers is lost.
        if not any(piece.answers for piece in chosen[len(clipped) - 1 :]) or len(clipped) == len(chosen):
            yield _Line(first, clipped)
            return
    filled = _filled([_CUT, *chosen] if is_cut else chosen, left)
    for number, pieces_of_line in enumerate(filled):
        yield _Line(part.hang if number else first, pieces_of_line)


def _fit(found: Sequence[Piece], room: int) -> bool:
    """Whether pieces fit on a line."""
    used = 0
    for number, piece in enumerate(found):
        used += piece.gap if number else 0
        if used >= room or len(fitting(piece.text, room - used)) < len(piece.text):
            return False
        used += width_of(piece.text)
    return True


def _clipped(found: Sequence[Piece], room: int) -> list[Piece]:
    """The pieces, cut where the line ends. If they are cut, the last one is the sign."""
    if _fit(found, room):
        return list(found)
    shown: list[Piece] = []
    used = 0
    for piece in found:
        gap = piece.gap if shown else 0
        text = fitting(piece.text, max(room - len(_CUT.text) - used - gap, 0))
        if text:
            shown.append(piece._replace(text=text))
        if text != piece.text:
            break
        used += gap + width_of(text)
    return [*shown, _CUT._replace(gap=0)]


def _filled(found: Sequence[Piece], room: int) -> Iterator[list[Piece]]:
    """The pieces as lines of a width."""
    line: list[Piece] = []
    used = 0
    for whole_piece in found:
        for piece in _broken(whole_piece, room):
            width = width_of(piece.text)
            if line and used + piece.gap + width > room:
                yield line
                line, used = [], 0
            used += width + (piece.gap if line else 0)
            line.append(piece)
    if line:
        yield line


def _broken(piece: Piece, room: int) -> Iterator[Piece]:
    """The piece, or its parts if it is wider than a line."""
    begin, gap = 0, piece.gap
    while begin < len(piece.text):
        # A sign that is wider than the line is shown all the same.
        text = fitting(piece.text[begin:], room) or piece.text[begin]
        start = piece.start + begin if piece.start >= 0 else -1
        yield piece._replace(text=text, start=start, gap=gap)
        begin, gap = begin + len(text), 0


def _drawn(line: _Line, matches: Sequence[Span], terminal: Terminal) -> str:
    """A line as text for the terminal."""
    drawn = [printable(line.margin)]
    for number, piece in enumerate(line.pieces):
        drawn += [" " * piece.gap if number else "", _styled(piece.text, piece.start, matches, terminal)]
    return "".join(drawn)


def _styled(piece: str, start: int, matches: Sequence[Span], terminal: Terminal) -> str:
    """A piece of the text with its matches in bold. `start` < 0: it is not in the text."""
    if start < 0 or not terminal.is_styled:
        return printable(piece)
    drawn, done = [], 0
    for match in matches:
        left, right = match.start - start, match.end - start
        if right <= done or left >= len(piece):
            continue
        left, right = max(left, done), min(right, len(piece))
        drawn += [printable(piece[done:left]), terminal.styled(printable(piece[left:right]), "bold")]
        done = right
    return "".join([*drawn, printable(piece[done:])])
