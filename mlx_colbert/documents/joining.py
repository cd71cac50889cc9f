"""Joins the blocks of a document to passages, and cuts blocks that are too long.

Neighbours under the same headings are joined. Small neighbours under sibling headings are joined too, so
that a passage says something. Headings at the end of a document have no text below them: they join the
passage before. Headings alone are a passage where there is nothing else to join them to: a file of headings,
a last slide with nothing but its title, or more headings at the end than a passage has room for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import chain, pairwise

from mlx_colbert.documents.blocks import Block, Heading
from mlx_colbert.documents.passage import FilePassage, encoded_text
from mlx_colbert.documents.splitting import count_words, cut_spans
from mlx_colbert.types import Position

__all__ = ["MAX_WORDS", "joined"]

# The most words of a passage. Such a passage is short enough to be read at a glance, and most models read
# it to its end. A table, a list or a function of up to twice this length stays whole.
MAX_WORDS = 120
# A passage with fewer words is joined to its neighbour under another heading.
_SMALL = 40
# A longer heading is a paragraph.
_HEADING_WORDS = 30
# Below this number of words in a passage, there is no room for headings.
_FEW = 16

Fits = Callable[[str], bool]
_Path = tuple[Heading, ...]


@dataclass(frozen=True)
class _Unit:
    """A block with the headings above it.

    Attributes:
        block: the block.
        path: the headings above it, the highest level first.
        lead: the path of each heading in the text between the block before and this one. The last heading of
            a path is that heading itself.
        gap: the white space between this part of a block and the part before it. None: it is a whole block,
            or the first part.
        is_heading: whether it is a heading at the end, which has no text below it.
    """

    block: Block
    path: _Path
    lead: tuple[_Path, ...] = ()
    gap: str | None = None
    is_heading: bool = False

    @cached_property
    def n_words(self) -> int:
        """The words of the block."""
        return count_words(self.block.text)

    @cached_property
    def n_lead_words(self) -> int:
        """The words of the headings before it."""
        return sum(count_words(path[-1].source) for path in self.lead)

    def follows(self, other: _Unit) -> bool:
        """Whether this may be in one passage with the unit before it."""
        same_place = all(
            self.block.position.get(key) == other.block.position.get(key) for key in ("page", "slide")
        )
        return same_place and self.block.metadata is other.block.metadata


def joined(parts: Iterable[Heading | Block], kind: str, fits: Fits | None = None) -> Iterator[FilePassage]:
    r"""The passages of a document.

    Args:
        parts: its headings and blocks, in reading order.
        kind: the name of its kind.
        fits: whether a model reads a text to its end. The encoded text of each passage fits, if that of
            single words does.

    >>> parts = [Heading("Tea", 1), Block("Steep it."), Block("Drink it.")]
    >>> [(passage.text, passage.position) for passage in joined(parts, "text")]
    [('Steep it.\n\nDrink it.', {'headings': ['Tea']})]
    """
    for text, position, units in _passages(list(_units(parts)), MAX_WORDS, fits or (lambda text: True)):
        yield FilePassage(text, position, kind, units[0].block.metadata)


def _units(parts: Iterable[Heading | Block]) -> Iterator[_Unit]:
    path: list[Heading] = []
    lead: list[_Path] = []
    last: _Path = ()
    for part in parts:
        if isinstance(part, Heading) and part.source and count_words(part.text) > _HEADING_WORDS:
            part = _as_block(part)
        if isinstance(part, Heading):
            while path and path[-1].level >= part.level:
                path.pop()
            if part.text:
                path.append(part)
            if part.text and part.source:
                lead.append(tuple(path))
        elif part.text.strip():
            last = tuple(path)
            yield _Unit(part, last, tuple(lead))
            lead = []
    # Headings at the end, without a text below them, are a text below the headings before.
    yield from (_Unit(_as_block(heading), last, is_heading=True) for *_, heading in lead)


def _as_block(heading: Heading) -> Block:
    return Block(heading.source, heading.position, verbatim=heading.verbatim)


def _passages(
    units: Sequence[_Unit], max_words: int, fits: Fits
) -> Iterator[tuple[str, Position, Sequence[_Unit]]]:
    """(text, position, units) of each passage."""
    for group in _merged(list(_grouped(units, max_words, fits)), max_words):
        text, position = _rendered(group, max_words)
        if max_words == 1 or fits(encoded_text(text, position)):
            yield text, position, group
        else:
            smaller = max_words // 2
            yield from _passages(_without_headings(group) if smaller < _FEW else group, smaller, fits)


def _without_headings(units: Sequence[_Unit]) -> list[_Unit]:
    """The same text as blocks alone, for a model that reads very short texts only."""
    plain: list[_Unit] = []
    for unit in units:
        plain += [_Unit(_as_block(path[-1]), ()) for path in unit.lead]
        plain.append(replace(unit, path=(), lead=()))
    return plain


def _grouped(units: Sequence[_Unit], max_words: int, fits: Fits) -> Iterator[list[_Unit]]:
    """Groups of neighbours under the same headings. Each has at most `max_words` words, or is one block."""
    group: list[_Unit] = []
    room = 0
    for unit in chain.from_iterable(_cut(whole, max_words, fits) for whole in units):
        # A passage has always room for a few headings at the end.
        is_end = bool(group) and unit.is_heading and not group[0].is_heading
        more = min(_SMALL, max_words // 3) if is_end else 0
        if group and unit.n_words <= room + more and not unit.lead and unit.follows(group[-1]):
            group.append(unit)
            room -= unit.n_words
        else:
            if group:
                yield group
            group, room = [unit], max(max_words - unit.n_words, 0)
    if group:
        yield group


def _cut(unit: _Unit, max_words: int, fits: Fits) -> list[_Unit]:
    """The unit, or its parts if it is too long."""
    if count_words(unit.block.head + unit.block.tail) > max_words // 3:
        unit = replace(unit, block=_with_head(unit.block))
    block = unit.block
    if unit.n_words <= max_words:
        return [unit]
    stays_whole = block.cut != "sentences" and unit.n_words <= 2 * max_words and max_words == MAX_WORDS
    if stays_whole and fits(encoded_text(*_rendered([unit], max_words))):
        return [unit]
    spans = cut_spans(block.text, block.cut, max_words)
    parts = [
        replace(
            block,
            text=block.text[start:end],
            position=_part_position(block, start, end),
            opens=block.opens and number == 0,
            closes=block.closes and number == len(spans) - 1,
        )
        for number, (start, end) in enumerate(spans)
    ]
    gaps = [unit.gap, *(block.text[end:start] for (_, end), (start, _) in pairwise(spans))]
    leads = [unit.lead, *[()] * (len(parts) - 1)]
    return [_Unit(part, unit.path, lead, gap) for part, lead, gap in zip(parts, leads, gaps, strict=True)]


def _with_head(block: Block) -> Block:
    """The block with the lines around it in its text, because they are too long to repeat."""
    head = block.head if block.opens else ""
    tail = block.tail if block.closes else ""
    position = block.position.copy()
    if lines := _lines(block):
        position["lines"] = lines
    text = "\n".join(filter(None, (head, block.text, tail)))
    return replace(block, text=text, position=position, head="", tail="")


def _part_position(block: Block, start: int, end: int) -> Position:
    position = block.position.copy()
    if block.verbatim:
        first = position["lines"][0] + block.text.count("\n", 0, start)
        position["lines"] = [first, first + block.text.count("\n", start, end)]
    return position


def _merged(groups: Sequence[list[_Unit]], max_words: int) -> Iterator[list[_Unit]]:
    """The groups, with small ones joined to neighbours under sibling headings."""
    small = min(_SMALL, max_words // 3)
    merged: list[_Unit] = []
    size = 0
    # Whether all groups under the headings of `merged` are in it.
    is_whole = True
    for number, group in enumerate(groups):
        path = group[0].path
        starts = number == 0 or groups[number - 1][0].path != path
        ends = number == len(groups) - 1 or groups[number + 1][0].path != path
        n_words = sum(unit.n_words for unit in group)
        total = size + n_words + group[0].n_lead_words
        is_small = size < small or (n_words < small and ends)
        is_near = bool(merged) and group[0].follows(merged[-1]) and _are_near(merged[0].path, path)
        if starts and is_whole and is_small and is_near and total <= max_words:
            merged, size = merged + group, total
        else:
            if merged:
                yield merged
            merged, size, is_whole = group, n_words, starts
        is_whole = is_whole and ends
    if merged:
        yield merged


def _are_near(left: _Path, right: _Path) -> bool:
    """Whether two paths are siblings, or one is above the other."""
    return len(_common(left, right)) >= min(len(left), len(right)) - 1


def _common(left: _Path, right: _Path) -> _Path:
    n_common = 0
    for ours, theirs in zip(left, right, strict=False):
        if ours is not theirs:
            break
        n_common += 1
    return left[:n_common]


def _rendered(units: Sequence[_Unit], max_words: int) -> tuple[str, Position]:
    """The text of a passage, and its position with the headings that are not in the text."""
    above = reduce(_common, (unit.path for unit in units))
    shown = _shown(above, max_words)
    lead = list(units[0].lead)
    while lead and lead[0] == above[: len(lead[0])] and lead[0][-1] in shown:
        del lead[0]
    if lead:
        # This heading is in the text, and so are those that follow.
        shown = _shown(_common(above, lead[0][:-1]), max_words)
    text = ""
    blocks: list[Block] = []
    for number, unit in enumerate(units):
        block = unit.block
        is_same_table = number and block.head and not block.opens and block.head == blocks[-1].head
        if number and (unit.gap is not None or is_same_table):
            # Two parts of one block, or two rows of a table. The lines around them are not repeated.
            text = (
                text.removesuffix(f"\n{block.tail}")
                + ("\n" if unit.gap is None else unit.gap)
                + "\n".join(filter(None, (block.text, block.tail)))
            )
            blocks.append(block)
            continue
        for part in [*(_as_block(path[-1]) for path in (unit.lead if number else lead)), block]:
            text += (_gap(blocks[-1], part) if blocks else "") + _whole(part)
            blocks.append(part)
    position = units[0].block.position.copy()
    lines = [line for block in blocks for line in _lines(block)]
    if lines:
        position["lines"] = [min(lines), max(lines)]
    if names := [heading.text for heading in shown if not _repeats_title(heading, shown)]:
        position["headings"] = names
    return text, position


def _repeats_title(heading: Heading, path: _Path) -> bool:
    """Whether a heading is the first one after a title that begins with the same words."""
    is_first = len(path) > 1 and path[0].level == 0 and heading is path[1]
    return is_first and path[0].text.casefold().startswith(heading.text.casefold())


def _shown(path: _Path, max_words: int) -> _Path:
    """The headings of a path that are shown: if they are long, the highest ones are left out."""
    room = max_words // 3
    for n, heading in enumerate(reversed(path)):
        room -= count_words(heading.text)
        if room < 0:
            return path[len(path) - n :]
    return path


def _whole(block: Block) -> str:
    """The text of a block with its repeated lines."""
    return "\n".join(filter(None, (block.head, block.text, block.tail)))


def _lines(block: Block) -> list[int]:
    """First and last line of a block, with the lines around it."""
    if "lines" not in block.position:
        return []
    first, last = block.position["lines"]
    n_head = block.head.count("\n") + 1 if block.head and block.opens else 0
    return [first - n_head, last + (1 if block.tail and block.closes else 0)]


def _gap(before: Block, block: Block) -> str:
    """The line ends between two blocks: those of the file, but at most one blank line."""
    if not (before.verbatim and block.verbatim):
        return "\n\n"
    return "\n" * min(2, max(1, _lines(block)[0] - _lines(before)[-1]))
