"""The rows that another engine stores, and the interface of such an engine."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from mlx_colbert.index import StoredPassage
from mlx_colbert.stores.fact_tests import FactTest
from mlx_colbert.types import Array, Position

__all__ = ["Engine", "Mark", "Row", "key_of", "parts"]


def key_of(text: str) -> str:
    """The key of an id or a uri: a UUID of its hash.

    Only keys are written into the filters of an engine. So no text of a user can change their meaning.

    >>> key_of("notes/tea.md")
    'd359e58e-17dd-5541-8d73-eceb071cf09f'
    """
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=5))


def parts(values: Sequence[str], size: int) -> Iterator[list[str]]:
    """The values in lists of at most `size`.

    >>> list(parts(["a", "b", "c"], 2))
    [['a', 'b'], ['c']]
    """
    return (list(values[start : start + size]) for start in range(0, len(values), size))


@dataclass(frozen=True, eq=False)
class Row:
    """A passage as an engine stores it.

    Attributes:
        doc_id: its id.
        order: a number that is greater for later passages.
        stamp: a number that changes with each change of the passage.
        text: its text.
        metadata: a JSON object, as text.
        source: the uri of its source.
        position: its position in the source, as JSON text.
        n_tokens: the number of its token embeddings.
        vectors: (n_tokens, D) float16. None: they were not read.
    """

    doc_id: str
    order: int
    stamp: int
    text: str | None
    metadata: str | None
    source: str | None
    position: str | None
    n_tokens: int
    vectors: Array | None = None

    @classmethod
    def of(cls, values: Iterable[Any]) -> Row:
        """The row with these values, in the order of the attributes."""
        return cls(*values)

    def passage(self) -> StoredPassage:
        """The passage without its vectors."""
        metadata = None if self.metadata is None else json.loads(self.metadata)
        return StoredPassage(self.doc_id, self.text, metadata, self.n_tokens, self.source, self.place())

    def place(self) -> Position | None:
        """The position in the source."""
        return None if self.position is None else cast(Position, json.loads(self.position))


class Mark(NamedTuple):
    """What tells whether a passage changed: its key, id, order and stamp."""

    key: str
    doc_id: str
    order: int
    stamp: int


class Engine(Protocol):
    """What an engine does for a store. Each method raises an `IndexStoreError` if the engine fails.

    A condition is the engine's own form of one. None means all passages.

    Attributes:
        most_keys: the most keys in a condition.
    """

    most_keys: int

    def among(self, keys: Sequence[str]) -> Any:
        """The condition that a passage has one of these keys."""
        ...

    def satisfying(self, test: FactTest) -> Any | None:
        """The condition that the facts of a passage pass a test. None: the engine cannot tell it exactly."""
        ...

    def count(self) -> int:
        """The number of passages."""
        ...

    def version(self) -> Hashable:
        """A value that is another one after each change, by any process."""
        ...

    def marks(self, condition: Any = None, *, limit: int | None = None) -> Iterator[Mark]:
        """The marks of the passages that satisfy a condition, in no order, at most `limit`."""
        ...

    def rows(self, keys: Sequence[str], *, vectors: bool = False) -> Iterator[Row]:
        """The passages with these keys that the engine has, in no order."""
        ...

    def rows_of(self, source: str, *, vectors: bool = False) -> Iterator[Row]:
        """The passages of the source with this uri, in no order."""
        ...

    def put(self, rows: Sequence[Row], deleted: Sequence[str], *, are_new: bool = False) -> list[str]:
        """Write passages with their vectors, and delete those with the keys `deleted`.

        With `are_new`, the store has just looked, and the engine has none of the passages. If another process
        has added some meanwhile, nothing is written, and this returns their ids.
        """
        ...

    def nearest(self, query: Array, n: int, condition: Any = None, *, exact: bool) -> list[str]:
        """The ids of the n passages with the best MaxSim among those that satisfy a condition.

        Args:
            query: (Q, D) float32.
            n: how many, 1 or more.
            condition: only these passages.
            exact: compare the query with each passage, also if there is an index of the vectors.
        """
        ...

    def records(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """The records with these names that the engine has. None: all. A record is a text with a name."""
        ...

    def put_records(self, records: Mapping[str, str | None]) -> None:
        """Write records. None deletes one."""
        ...

    def tidy(self, exact_tokens: int | None) -> None:
        """Merge small files and make indexes, after many additions.

        Args:
            exact_tokens: with more token embeddings than this, make an index of the vectors. None: never.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
