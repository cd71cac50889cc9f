"""What a retriever needs of the place where passages are kept.

`Index`, a folder on this machine, is the store of this package. Another engine behind these methods works in
its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlx_colbert.errors import InputError
from mlx_colbert.index import Filter, Index, SearchParams, StoredPassage
from mlx_colbert.progress import Progress
from mlx_colbert.types import Array, Hit, Position, Source, TokenEmbeddings

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["Store", "open_store"]


class Store(Protocol):
    """Passages with their token embeddings, changed in transactions and searched meanwhile.

    Every change is durable when its method returns, and is there as a whole or not at all. Arguments, results
    and errors are those of the methods of `Index`.
    """

    @property
    def path(self) -> Path:
        """Where it is, for people."""
        ...

    @property
    def dim(self) -> int:
        """D, the number of components of a token embedding."""
        ...

    @property
    def model(self) -> Mapping[str, str] | None:
        """What it records of the model that made its token embeddings."""
        ...

    def check_model(self, model: Mapping[str, str] | None) -> None:
        """Refuse a model that did not make these token embeddings."""
        ...

    def add(
        self,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[Array],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        sources: Iterable[Source | None] | None = None,
        positions: Iterable[Position | None] | None = None,
    ) -> None:
        """Add N passages with new ids."""
        ...

    def upsert(
        self,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[Array],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        sources: Iterable[Source | None] | None = None,
        positions: Iterable[Position | None] | None = None,
    ) -> None:
        """Add N passages, and delete those that had the same ids."""
        ...

    def replace_sources(
        self,
        sources: Mapping[Source, Mapping[str, Position | None]],
        doc_ids: Iterable[str] = (),
        embeddings: TokenEmbeddings | Iterable[Array] = (),
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Replace what came from sources."""
        ...

    def delete(
        self,
        doc_ids: Iterable[str] | None = None,
        *,
        filter: Filter | str | None = None,
        source: str | None = None,
    ) -> int:
        """Delete passages; returns how many."""
        ...

    def bulk(self, *, progress: Progress | None = None) -> AbstractContextManager[None]:
        """A block of many additions, at whose end the store does the work that it put off."""
        ...

    def search(
        self,
        query_embeddings: TokenEmbeddings,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        params: SearchParams | None = None,
    ) -> list[list[Hit]]:
        """The k passages of the highest MaxSim, for each query."""
        ...

    def search_keywords(
        self,
        query: str,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
    ) -> list[Hit]:
        """The k passages whose texts match the words of a query best, by BM25."""
        ...

    def get(self, doc_id: str) -> StoredPassage:
        """The stored passage of that id."""
        ...

    def existing(self, doc_ids: Iterable[str]) -> set[str]:
        """The ids that the store has, of those given."""
        ...

    def compare(
        self,
        doc_ids: Iterable[str],
        texts: Iterable[str | None],
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        sources: Iterable[Source | None] | None = None,
    ) -> dict[str, bool]:
        """The ids that the store has, and whether it has them with this text and metadata."""
        ...

    def sources(self) -> list[Source]:
        """What its passages came from."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...

    def __len__(self) -> int: ...

    def __contains__(self, doc_id: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


def open_store(location: str | Path, *, backend: Backend = "auto") -> Store:
    """The store at a location.

    Args:
        location: the folder of an index. Locations with a scheme ("lancedb://…") are reserved for engines
            that this version does not know.
        backend: the kernels that search it.

    Raises:
        InputError: if the location has a scheme that is not known.
        IndexStoreError: if there is no usable index.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://", str(location))
    if scheme:
        raise InputError(f"{location}: the store {scheme[1]!r} is not known. Give the folder of an index.")
    return Index.open(location, backend=backend)
