"""What a framework searches: an index, or collections of files. It is opened at the first search."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from mlx_colbert.checks import check_list
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.collection.search import search
from mlx_colbert.configuration import refresh_limit
from mlx_colbert.errors import InputError
from mlx_colbert.index import Filter, StoredPassage
from mlx_colbert.integrations.reranking import model_name
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.position import place_text
from mlx_colbert.retriever.retriever import Mode, Retriever
from mlx_colbert.types import Hit

__all__ = ["AnyFilter", "Searched", "field_name", "filter_of", "metadata_of"]

# A filter in the language of this package, or fields with the values that they must have.
AnyFilter = Filter | str | Mapping[str, Any]


class Searched:
    """An index, or collections of files. It is opened at the first search, and can be pickled.

    Attributes:
        index: the folder of the index. None: collections are searched.
        collections: the names of the collections. None: an index is searched.
    """

    def __init__(
        self,
        index: Retriever | str | Path | None = None,
        collections: Sequence[str] | str | None = None,
        *,
        model: ColBERT | str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what is searched. Nothing is opened yet.

        Args:
            index: an index folder, or an open retriever.
            collections: names of collections, as for `Registry.find`.
            model: makes the index if it does not exist. None: the index exists.
            settings: the settings of a new index, as for `Retriever.create`.

        Raises:
            InputError: if both an index and collections are given, or none.
        """
        if (index is None) == (collections is None):
            raise InputError(
                "there is not exactly one place to search. Give index=FOLDER, or collections=[NAME, …]."
            )
        self._lock = threading.Lock()
        self._model = model
        self._settings = dict(settings or {})
        self._retriever = index if isinstance(index, Retriever) else None
        self._opened: list[Collection] | None = None
        self.index: str | None = None
        self.collections: list[str] | None = None
        if isinstance(index, Retriever):
            self.index = str(index.store.path)
        elif index is not None:
            self.index = str(index)
        else:
            names = [collections] if isinstance(collections, str) else collections
            self.collections = check_list(names or (), "collections")

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(Searched, model=self.model, settings=self._settings)
        return made, (self.index, self.collections)

    @property
    def model(self) -> str | None:
        """The folder or the hub id of the model of a new index. None: the index exists."""
        return None if self._model is None else model_name(self._model)

    def open(self) -> None:
        """Open the index or the collections, and load the model.

        Raises:
            CollectionNotFoundError: if a collection does not exist, or has no index.
            IndexStoreError: if the index cannot be used.
            CheckpointError: if the model cannot be loaded.
        """
        if self.collections is None:
            _ = self.retriever.model
        else:
            for collection in self._open_collections():
                _ = collection.retriever.model

    @property
    def retriever(self) -> Retriever:
        """The retriever of the index.

        Raises:
            InputError: if collections are searched.
            IndexStoreError: if there is no usable index.
            TargetExistsError: if the index has other settings.
            CheckpointError: if the model of a new index cannot be loaded.
        """
        with self._lock:
            if self._retriever is None:
                if self.index is None:
                    raise InputError("a collection takes its passages from files. Change its files instead.")
                if self._model is None:
                    self._retriever = Retriever.open(self.index)
                else:
                    self._retriever = Retriever.create(
                        self.index, self._model, exist_ok=True, **self._settings
                    )
            return self._retriever

    def _open_collections(self) -> list[Collection]:
        with self._lock:
            if self._opened is None:
                with ExitStack() as stack:
                    opened = [stack.enter_context(Collection.open(name)) for name in self.collections or ()]
                    for collection in opened:
                        # One of several that has no index would only be left out with a note.
                        _ = collection.index
                    stack.pop_all()
                self._opened = opened
            return self._opened

    def search(
        self, query: str, k: int, *, mode: Mode | None = None, filter: AnyFilter | None = None
    ) -> Sequence[Hit]:
        """The k best passages for a query, best first.

        Changed files of collections are looked for first, for as long as the setting `refresh_seconds` says.

        Args:
            query: the query. It must not be blank.
            k: at least 1.
            mode: "semantic", "keyword" or "hybrid". None: "semantic" for an index, "hybrid" for collections.
            filter: which passages may be found, as for `filter_of`.

        Raises:
            InputError: if an argument cannot be used.
            ColBERTError: if the index, a collection or the model cannot be used.
        """
        condition = filter_of(filter)
        if self.collections is None:
            return self.retriever.search(query, k, mode=mode or "semantic", filter=condition)
        return search(
            self._open_collections(),
            query,
            k,
            mode=mode or "hybrid",
            restriction=Restriction(filter=condition),
            min_confidence=None,
            refresh_s=refresh_limit(),
        ).hits

    def close(self) -> None:
        """Close what is open. A later search opens it again."""
        with self._lock:
            if self._retriever is not None:
                self._retriever.close()
            for collection in self._opened or ():
                collection.close()
            self._retriever = self._opened = None


def metadata_of(found: Hit | StoredPassage) -> dict[str, Any]:
    """The metadata of a passage for a framework: the stored ones, and where the passage stands.

    "source", "location" (file and lines), "position", "collection" and "confidence" are added, if they are
    known. A stored value with one of these names is kept.

    >>> metadata_of(Hit(1, 2.5, "a", "Bees dance.", {"lang": "en"}, "bees.md", {"lines": [12, 31]}))
    {'source': 'bees.md', 'location': 'bees.md:12-31', 'position': {'lines': [12, 31]}, 'lang': 'en'}
    """
    added: dict[str, Any] = {}
    if found.source is not None:
        path = found.path if isinstance(found, CollectionHit) else None
        added = {"source": found.source, "location": place_text(path or found.source, found.position)}
    if found.position:
        added["position"] = dict(found.position)
    if isinstance(found, CollectionHit):
        added |= {"collection": found.collection, "confidence": found.confidence}
    return added | dict(found.metadata or {})


def filter_of(value: AnyFilter | None) -> Filter | str | None:
    """A filter of this package.

    Args:
        value: a filter, or fields with the value that each must have. A list of values means: one of them.
            None as a value means: the passage does not have the field.

    Raises:
        InputError: if it is neither.

    >>> filter_of({"lang": "en", "year": [2019, 2020]})
    Filter(expression='"lang" = ? and "year" in (?, ?)', parameters=('en', 2019, 2020))
    """
    if value is None or isinstance(value, str | Filter):
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"filter {value!r:.80}: is neither a filter nor a dict of fields and values.")
    parts: list[str] = []
    parameters: list[Any] = []
    for key, wanted in value.items():
        field = field_name(key)
        if wanted is None:
            parts.append(f"not exists({field})")
            continue
        is_list = isinstance(wanted, list | tuple | set | frozenset)
        values = list(wanted) if is_list else [wanted]
        if not values or not all(isinstance(one, str | int | float) for one in values):
            raise InputError(
                f"filter {key!r}: cannot compare with {wanted!r:.80}. Give a text, a number, true, false or "
                "a list of them. For other conditions, write the filter as text: 'year >= 2020'."
            )
        parts.append(f"{field} in ({', '.join('?' * len(values))})" if is_list else f"{field} = ?")
        parameters += values
    return Filter(" and ".join(parts), *parameters) if parts else None


def field_name(key: str) -> str:
    """The name of a field as it is written in a filter. A dot leads to a field within a field.

    >>> print(field_name("author.first name"))
    "author"."first name"
    """
    return ".".join('"' + part.replace('"', '""') + '"' for part in str(key).split("."))
