"""A hit of a search in collections: where it is, and how sure it is that it has to do with the query."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mlx_colbert.collection.collection import Collection
from mlx_colbert.types import Hit

__all__ = ["CollectionHit", "Match", "located"]


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
class CollectionHit(Hit):
    """A hit of a search in collections.

    Attributes:
        collection: the name of the collection.
        path: the absolute path of the file. None: its folder is no longer one of the collection.
        similarity: the mean similarity of the tokens of the query to the passage, in [-1, 1]. None for a
            keyword search.
        confidence: how sure it is that the passage has to do with the query, in [0, 1]
            (`mlx_colbert.collection.confidence`). None for a keyword search.
        context: what the user has said about the file and the folders above it, the widest first.
        matches: the words that answer the query, in their order. Empty if they were not asked for.
    """

    collection: str = ""
    path: str | None = None
    similarity: float | None = None
    confidence: float | None = None
    context: tuple[str, ...] = ()
    matches: tuple[Match, ...] = ()

    @property
    def short_id(self) -> str:
        """The end of the id, which is unique in most collections: `#1a2b3c4d`."""
        return f"#{self.doc_id.rpartition('#')[2]}"

    @property
    def line(self) -> int | None:
        """The first line of the passage in its file. None: its file has no lines."""
        lines = (self.position or {}).get("lines")
        return lines[0] if lines else None

    @property
    def link(self) -> str | None:
        """The URL of the file. None: there is no path."""
        return None if self.path is None else Path(self.path).as_uri()


def located(hit: Hit, collection: Collection) -> CollectionHit:
    """A hit of a collection, with the path of its file and what the user has said about it."""
    path = None if hit.source is None else collection.settings.path_of(hit.source)
    return CollectionHit(
        **vars(hit),
        collection=collection.name,
        path=None if path is None else str(path),
        context=() if hit.source is None else tuple(collection.settings.context_of(hit.source)),
    )
