"""The parts of a document, as each kind of file gives them: headings and blocks, in reading order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mlx_colbert.types import Position

__all__ = ["Block", "Cut", "Heading", "Parts"]

# Where a block may be cut if it is too long: between sentences, list items, lines of code (blank lines
# first), or rows of a table. If that is not enough, between words.
Cut = Literal["sentences", "items", "lines", "rows"]


# eq=False: two headings of the same text are two headings.
@dataclass(frozen=True, eq=False)
class Heading:
    """A heading. It stands over all blocks until the next heading of the same or a higher level.

    Attributes:
        text: the heading without markup. Empty: only the headings before it end here.
        level: 0 for the title of the document, then 1, 2, … A lower number is a higher level.
        source: the heading as it stands in the text. Empty if it is not in the text, such as the title
            in the properties of a file.
        position: its place.
        verbatim: whether `source` is the lines of the file that `position` names.
    """

    text: str
    level: int
    source: str = ""
    position: Position = field(default_factory=Position)
    verbatim: bool = False


@dataclass(frozen=True)
class Block:
    """A paragraph, a list, a table, or a piece of code. It stays whole if it fits into a passage.

    Attributes:
        text: its text.
        position: the place of `text`, without headings.
        cut: where it may be cut.
        verbatim: whether `text` is the lines of the file that `position` names.
        head: lines before the text, repeated in each part of a cut block: the header of a table.
        tail: a line after the text, repeated in the same way: the end of fenced code.
        opens: whether `head` stands directly before the text in the file.
        closes: whether `tail` stands directly after the text in the file.
        metadata: the other columns of a row. Such a block is not joined to others.
    """

    text: str
    position: Position = field(default_factory=Position)
    cut: Cut = "sentences"
    verbatim: bool = False
    head: str = ""
    tail: str = ""
    opens: bool = True
    closes: bool = True
    metadata: Mapping[str, Any] | None = None


Parts: TypeAlias = Iterator[Heading | Block]
