"""Excerpts: hits without repetitions, with neighbouring passages of one source joined in reading order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.position import place_text
from mlx_colbert.types import Hit

__all__ = ["Excerpt", "excerpts", "without_repetitions"]

# Lines between two passages that are neighbours: the next line, or one blank line between.
_MAX_STEP = 2
_NUMBER = re.compile(r"#([0-9]{1,9})\Z")


@dataclass(frozen=True)
class Excerpt:
    """A part of one source: one passage, or several that follow each other.

    Attributes:
        text: the passages in reading order.
        hits: the hits of these passages, the best first.
        lines: first and last line in the source. None: they are not known.
        headings: the headings above all of it.
    """

    text: str
    hits: tuple[Hit, ...]
    lines: tuple[int, int] | None = None
    headings: tuple[str, ...] = ()

    @property
    def best(self) -> Hit:
        """The best hit of the excerpt."""
        return self.hits[0]

    @property
    def place(self) -> str:
        """Where the excerpt is, for people.

        >>> position = {"lines": [12, 31], "headings": ["Dance", "Meaning"]}
        >>> excerpts([Hit(1, 9.0, "a", "Bees dance.", None, "notes/bees.md", position)])[0].place
        'notes/bees.md:12-31 › Dance › Meaning'
        """
        place = place_text(
            self.best.source or self.best.doc_id, {**_position(self.best), "lines": self.lines}
        )
        return " › ".join([place, *self.headings])

    def to_dict(self) -> dict[str, Any]:
        """The excerpt as a JSON object. "doc_id" is the id of its best passage."""
        best = self.best
        place = (
            {"collection": best.collection, "path": best.path, "link": best.link}
            if isinstance(best, CollectionHit)
            else {}
        )
        return {
            **place,
            "doc_id": self.best.doc_id,
            "doc_ids": [hit.doc_id for hit in self.hits],
            "source": self.best.source,
            "lines": list(self.lines) if self.lines else None,
            "place": self.place,
            "text": self.text,
        }


def without_repetitions(hits: Sequence[Hit]) -> list[Hit]:
    """The hits that have a text, without those whose text is in the text of a better hit."""
    kept: list[Hit] = []
    seen: list[str] = []
    for hit in hits:
        text = " ".join((hit.text or "").split()).casefold()
        if text and not any(text in other for other in seen):
            kept.append(hit)
            seen.append(text)
    return kept


def excerpts(hits: Sequence[Hit], cut: str | None = None) -> list[Excerpt]:
    """The excerpts of hits, the one with the best hit first.

    Args:
        hits: hits without repetitions, the best first.
        cut: the id of a hit whose text has lost its end, so that nothing can follow it.
    """
    ordered = sorted(hits, key=lambda hit: (hit.source or "", _lines(hit) or (0, 0), _number(hit)))
    runs: list[list[Hit]] = []
    for hit in ordered:
        if runs and runs[-1][-1].doc_id != cut and _follows(runs[-1][-1], hit):
            runs[-1].append(hit)
        else:
            runs.append([hit])
    rank = {id(hit): number for number, hit in enumerate(hits)}
    runs.sort(key=lambda run: min(rank[id(hit)] for hit in run))
    return [_joined(run, sorted(run, key=lambda hit: rank[id(hit)])) for run in runs]


def _joined(run: Sequence[Hit], best_first: Sequence[Hit]) -> Excerpt:
    text = (run[0].text or "").strip("\n")
    for before, hit in pairwise(run):
        step = (_lines(hit) or (0, 0))[0] - (_lines(before) or (0, 0))[1]
        text += ("\n\n" if step == _MAX_STEP else "\n" if step else " ") + (hit.text or "").strip("\n")
    first, last = _lines(run[0]), _lines(run[-1])
    return Excerpt(
        text=text,
        hits=tuple(best_first),
        lines=(first[0], max(first[1], last[1])) if first and last else None,
        headings=_shared([_position(hit).get("headings") or () for hit in run]),
    )


def _follows(before: Hit, hit: Hit) -> bool:
    """Whether the passage of a hit comes directly after another one in the same source."""
    first, second = _lines(before), _lines(hit)
    if before.source is None or before.source != hit.source or not first or not second:
        return False
    # Rows of a table are not parts of one text.
    if not (_is_of_file(before) and _is_of_file(hit)) or "row" in _position(hit):
        return False
    if first == second:
        # Parts of one long line. Their numbers tell the order, if they have numbers.
        return 0 <= _number(before) == _number(hit) - 1
    return 0 <= second[0] - first[1] <= _MAX_STEP


def _is_of_file(hit: Hit) -> bool:
    """Whether the id of a passage was made from the name of its source."""
    name = hit.doc_id.rpartition("#")[0]
    # The source may have the name of its collection before its own.
    return bool(name) and (hit.source or "").endswith(name)


def _position(hit: Hit) -> Mapping[str, Any]:
    return hit.position or {}


def _lines(hit: Hit) -> tuple[int, int] | None:
    lines = _position(hit).get("lines")
    return (lines[0], lines[1]) if lines else None


def _number(hit: Hit) -> int:
    """The number of a passage in its source, as its id tells it. -1: the id tells none."""
    found = _NUMBER.search(hit.doc_id)
    return int(found[1]) if found else -1


def _shared(paths: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The headings that all paths begin with."""
    shared = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return tuple(shared)
