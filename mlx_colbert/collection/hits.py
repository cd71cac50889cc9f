"""A hit of a search in collections: where it is, and how sure it is that it has to do with the query."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlx_colbert.collection.collection import Collection
from mlx_colbert.types import Hit

__all__ = ["CollectionHit", "Match", "Surroundings", "located"]

# The end of the id of a passage of a file.
_OF_FILE = re.compile(r"#[0-9a-f]{8}\Z")


class Match(NamedTuple):
    """A word of a passage that answers a word of the query.

    Attributes:
        start: its first character in the text of the passage.
        end: the character after its last one.
        similarity: the similarity of the best of its tokens to a token of the query, in [-1, 1].
        query_word: the number of the word of the query, from 0.
    """

    start: int
    end: int
    similarity: float
    query_word: int


@dataclass(frozen=True)
class Surroundings:
    """The lines before and after a passage.

    Attributes:
        first: the number of the first of the lines before it. Line 1 is the first of the file.
        before: the lines before it.
        after: the lines after it.
    """

    first: int
    before: list[str]
    after: list[str]


@dataclass(frozen=True)
class CollectionHit(Hit):
    """A hit of a search in collections.

    Attributes:
        collection: the name of the collection.
        path: the absolute path of the file. None: it comes from no file, or its folder was removed from
            the collection.
        similarity: the mean similarity of the tokens of the query to the passage, in [-1, 1]. None for a
            keyword search.
        confidence: how sure it is that the passage has to do with the query, in [0, 1]
            (`mlx_colbert.collection.confidence`). None for a keyword search.
        context: what the user has said about the file and the folders above it, the widest first.
        matches: the words that answer the query, in their order. Empty if they were not asked for.
        words: all words, with how much each answers the query (`mlx_colbert.collection.matches.shading`).
            Empty if they were not asked for.
        surroundings: the lines around it. None: they were not asked for, or are not known.
    """

    collection: str = ""
    path: str | None = None
    similarity: float | None = None
    confidence: float | None = None
    context: tuple[str, ...] = ()
    matches: tuple[Match, ...] = ()
    words: tuple[Match, ...] = ()
    surroundings: Surroundings | None = None

    @property
    def short_id(self) -> str:
        """The end of the id, which is unique in most collections: `#1a2b3c4d`. Other ids are whole."""
        end = _OF_FILE.search(self.doc_id)
        return self.doc_id if end is None else end[0]

    @property
    def line(self) -> int | None:
        """The first line of the passage in its file. None: its file has no lines."""
        lines = (self.position or {}).get("lines")
        return lines[0] if lines else None

    @property
    def link(self) -> str | None:
        """The URL of the file. None: there is no path."""
        return None if self.path is None else Path(self.path).as_uri()

    def to_dict(self) -> dict[str, Any]:
        """The hit as a JSON object."""
        around = self.surroundings
        return {
            **super().to_dict(),
            "short_id": self.short_id,
            "link": self.link,
            "context": list(self.context),
            "matches": list(self.matches),
            "words": [word._asdict() for word in self.words],
            "surroundings": None if around is None else dict(vars(around)),
        }


def located(hit: Hit, collection: Collection) -> CollectionHit:
    """A hit of a collection, with the path of its file and what the user has said about it."""
    path = None if hit.source is None else collection.settings.path_of(hit.source)
    return CollectionHit(
        **vars(hit),
        collection=collection.name,
        path=None if path is None else str(path),
        context=() if hit.source is None else tuple(collection.settings.context_of(hit.source)),
    )
