"""The interface between a retriever and the place where its passages are stored.

`Index`, a folder on this machine, is the store of this package. `mlx_colbert.stores` has stores of other
engines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlx_colbert.errors import InputError
from mlx_colbert.index import (
    DEFAULT_NBITS,
    EXACT_TOKENS,
    Bits,
    Filter,
    Index,
    SearchParams,
    StoredPassage,
)
from mlx_colbert.progress import Progress
from mlx_colbert.stores.location import shown_location
from mlx_colbert.types import Array, Hit, Position, Source, TokenEmbeddings

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["Store", "create_store", "is_index", "open_store"]

# Engine and protocol of the schemes.
_ENGINES = {("lancedb", ""), ("lancedb", "s3"), ("qdrant", ""), ("qdrant", "http"), ("qdrant", "https")}


class Store(Protocol):
    """Passages with their token embeddings. Changes are transactions, and searches go on during them.

    Each change is durable when its method returns. A change is made completely or not at all. Arguments,
    results and errors are those of the methods of `Index`.
    """

    @property
    def path(self) -> str | Path:
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

    def keyword_problems(self, query: str) -> list[str]:
        """The reasons why a keyword search finds nothing in any store, one sentence each."""
        ...

    def filter_problems(self, filter: Filter | str) -> list[str]:
        """The reasons why a filter may find nothing, one sentence each."""
        ...

    def get(self, doc_id: str) -> StoredPassage:
        """The passage with this id."""
        ...

    def embeddings(self, doc_ids: Iterable[str]) -> TokenEmbeddings:
        """The stored token embeddings of passages."""
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

    =========================================  ===================================================
    ``notes.index``                            the folder of an index
    ``lancedb://notes.lance``                  a folder with tables of LanceDB
    ``lancedb+s3://bucket/notes``              tables of LanceDB in S3, or a server that speaks S3
    ``qdrant://notes.qdrant``                  a folder of Qdrant's local mode
    ``qdrant+http://localhost:6333/notes``     a collection of a Qdrant server; also qdrant+https
    =========================================  ===================================================

    A third slash makes a path absolute: ``lancedb:///data/notes.lance``.

    Args:
        location: the location.
        backend: the kernels for searches in an index. Other engines do not use them.

    Raises:
        InputError: if the location has a scheme that is not known.
        MissingExtraError: if the engine is not installed.
        IndexStoreError: if there is no usable store.
    """
    engine, place = _engine_of(location)
    if engine == "lancedb":
        from mlx_colbert.stores.lancedb import LanceStore

        return LanceStore.open(place)
    if engine == "qdrant":
        from mlx_colbert.stores.qdrant import QdrantStore

        return QdrantStore.open(place)
    return Index.open(location, backend=backend)


def create_store(
    location: str | Path,
    dim: int = 128,
    *,
    nbits: Bits = DEFAULT_NBITS,
    exact_tokens: int | None = EXACT_TOKENS,
    model: Mapping[str, str] | None = None,
    indexing: Mapping[str, str] | None = None,
    backend: Backend = "auto",
    exist_ok: bool = False,
) -> Store:
    """Create a new, empty store and open it. With `exist_ok`, open the store there if there is one.

    Args:
        location: as for `open_store`.
        dim: D.
        nbits: bits per component of a compressed index. Other engines do not use it.
        exact_tokens: with more token embeddings than this, an index is compressed, and LanceDB makes an index
            of the vectors. None: never.
        model: the model of the token embeddings.
        indexing: the settings to encode passages.
        backend: the kernels for searches in an index.
        exist_ok: open an existing store that has the same settings and model.

    Raises:
        TargetExistsError: if there is one. With `exist_ok`, if it has other settings.
        ModelMismatchError: with `exist_ok`, if it has the vectors of another model.
        MissingExtraError: if the engine is not installed.
        InputError: if a setting cannot be used, or the location has a scheme that is not known.
        IndexStoreError: if the store cannot be written.
    """
    engine, place = _engine_of(location)
    settings: dict[str, Any] = {"exact_tokens": exact_tokens, "model": model, "indexing": indexing}
    if engine == "lancedb":
        from mlx_colbert.stores.lancedb import LanceStore

        return LanceStore.create(place, dim, exist_ok=exist_ok, **settings)
    if engine == "qdrant":
        from mlx_colbert.stores.qdrant import QdrantStore

        return QdrantStore.create(place, dim, exist_ok=exist_ok, **settings)
    return Index.create(location, dim, nbits=nbits, backend=backend, exist_ok=exist_ok, **settings)


def is_index(location: str | Path) -> bool:
    """Whether a location is one of an index folder, and not of another engine.

    Raises:
        InputError: if it has a scheme that is not known.
    """
    return not _engine_of(location)[0]


def _engine_of(location: str | Path) -> tuple[str, str]:
    """The engine of a location, empty for an index, and the location for it.

    >>> _engine_of("lancedb://notes"), _engine_of("lancedb+s3://bucket/notes"), _engine_of("notes")
    (('lancedb', 'notes'), ('lancedb', 's3://bucket/notes'), ('', 'notes'))
    """
    match = re.match(r"([a-z][a-z0-9+.-]+)://(.*)", str(location), re.DOTALL)
    if not match:
        return "", str(location)
    engine, _, protocol = match[1].partition("+")
    if (engine, protocol) not in _ENGINES:
        raise InputError(
            f"{shown_location(location)}: the store {match[1]!r} is not known. Give the folder of an index, "
            "or a location that begins with lancedb://, lancedb+s3://, qdrant://, qdrant+http:// or "
            "qdrant+https://."
        )
    if not match[2]:
        raise InputError(f"{shown_location(location)}: names no place. Give one, as in {match[1]}://notes.")
    return engine, f"{protocol}://{match[2]}" if protocol else match[2]
