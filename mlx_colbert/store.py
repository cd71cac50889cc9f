"""The interface between a retriever and the place where its passages are stored.

`Index`, a folder on this machine, is the store of this package. Another engine with these methods can replace
it.
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
    """Passages with their token embeddings. Changes are transactions, and searches go on during them.

    Each change is durable when its method returns. A change is made completely or not at all. Arguments,
    results and errors are those of the methods of `Index`.
    """

    @property
    def path(self) -> Path:
        """The location of the store, for messages."""
        ...

    @property
    def dim(self) -> int:
        """D, the number of components of a token embedding."""
        ...

    @property
    def model(self) -> Mapping[str, str] | None:
        """The model of the token embeddings, as the store records it."""
        ...

    @property
    def indexing(self) -> Mapping[str, str]:
        """The settings to encode passages, as the store records them."""
        ...

    def check_model(self, model: Mapping[str, str] | None) -> None:
        """Raise an error if this model did not make the token embeddings."""
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
        """Add N passages, and delete old passages with the same ids."""
        ...

    def replace_sources(
        self,
        sources: Mapping[Source, Mapping[str, Position | None]],
        doc_ids: Iterable[str] = (),
        embeddings: TokenEmbeddings | Iterable[Array] = (),
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> int:
        """Replace the passages of sources; returns how many were deleted."""
        ...

    def rename_sources(
        self,
        sources: Mapping[str, Source],
        doc_ids: Mapping[str, str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Give sources other names, and their passages other ids and metadata."""
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
        """A block for many additions. The store may delay work to the end of the block."""
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
        """The k passages with the highest MaxSim, for each query."""
        ...

    def search_keywords(
        self,
        query: str,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
    ) -> list[Hit]:
        """The k passages whose texts best match the words of a query, by BM25."""
        ...

    def get(self, doc_id: str) -> StoredPassage:
        """The passage with this id."""
        ...

    def existing(self, doc_ids: Iterable[str]) -> set[str]:
        """The ids among these that the store has."""
        ...

    def compare(
        self,
        doc_ids: Iterable[str],
        texts: Iterable[str | None],
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        sources: Iterable[Source | None] | None = None,
        positions: Iterable[Position | None] | None = None,
    ) -> dict[str, bool]:
        """The ids that the store has, each with True if its text, headings and metadata are the same."""
        ...

    def passages(
        self,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[StoredPassage]:
        """The stored passages."""
        ...

    def passages_of(self, source: str) -> list[str]:
        """The ids of the passages of a source."""
        ...

    def sources(self) -> list[Source]:
        """The sources of its passages."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...

    def __len__(self) -> int: ...

    def __contains__(self, doc_id: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


def open_store(location: str | Path, *, backend: Backend = "auto") -> Store:
    """Open the store at a location.

    Args:
        location: the folder of an index. Locations with a scheme ("lancedb://…") are reserved for engines
            that this version does not know.
        backend: the kernels for searches.

    Raises:
        InputError: if the location has a scheme that is not known.
        IndexStoreError: if there is no usable index.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://", str(location))
    if scheme:
        raise InputError(f"{location}: the store {scheme[1]!r} is not known. Give the folder of an index.")
    return Index.open(location, backend=backend)
