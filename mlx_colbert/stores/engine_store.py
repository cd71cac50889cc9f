"""The class `EngineStore`: a store whose passages are in another engine.

::

    EngineStore ─┬─ Engine         rows and records of one engine: lancedb.py, qdrant.py
                 ├─ Changes        what a change writes, and in which order
                 ├─ Selection      the passages that a filter or ids select; the engine tests their facts
                 ├─ Candidates     the passages that the engine finds, and their exact MaxSim
                 ├─ StoredRows     passages by their ids; SourceRecords: their sources
                 └─ Shadow         a copy without vectors on this machine: keywords, some filters
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

import numpy as np

from mlx_colbert.checks import check_doc_ids, check_k, check_list, check_text, check_whole, is_text
from mlx_colbert.errors import IndexStoreError, InputError, TargetExistsError
from mlx_colbert.index import Filter, Index, SearchParams, StoredPassage
from mlx_colbert.index.passage_checks import check_metadata, check_passages, check_positions
from mlx_colbert.index.search.queries import check_queries
from mlx_colbert.index.settings import check_same_model
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.index.writing.source_changes import SourceChanges, SourceNames
from mlx_colbert.progress import Progress
from mlx_colbert.stores.candidates import Candidates
from mlx_colbert.stores.changes import Changes
from mlx_colbert.stores.rows import Engine
from mlx_colbert.stores.selection import Selection
from mlx_colbert.stores.settings import SETTINGS, Settings
from mlx_colbert.stores.shadow import Shadow
from mlx_colbert.stores.source_records import SourceRecords
from mlx_colbert.stores.stored_rows import StoredRows
from mlx_colbert.types import Array, Hit, Position, Source, TokenEmbeddings, is_one_text

__all__ = ["EngineStore"]


class EngineStore:
    """Passages in another engine, with the methods of the protocol `Store` (`mlx_colbert.store`).

    Scores are those of an exact `Index` with the same passages: the engine finds candidates, and this
    computes their MaxSim from the stored float16 vectors.

    Attributes:
        path: its location, for messages.
        dim: D.
        model: the model that it records.
        indexing: the settings to encode passages that it records.
    """

    def __init__(
        self,
        path: str | Path,
        engine: Engine,
        model: Mapping[str, str] | None = None,
        *,
        unfinished: str | None = None,
    ) -> None:
        """Open a store.

        Args:
            path: its location.
            engine: where its passages are.
            model: the model of the caller.
            unfinished: the text that the store must record if it is not complete.
        """
        self.path = path
        self._engine = engine
        self._shadow = Shadow(engine)
        self._rows = StoredRows(path, engine)
        self._sources = SourceRecords(path, engine)
        self._changes = Changes(path, engine)
        self._candidates = Candidates(path, engine)
        # One change of this process at a time.
        self._turn = RLock()
        self._n_bulk = 0
        try:
            settings = Settings.read(path, engine)
            self.dim = settings.dim
            self.model: Mapping[str, str] | None = settings.model
            self.indexing: Mapping[str, str] = settings.indexing
            self._settings = settings
            self.check_model(model)
            if settings.unfinished not in (None, unfinished):
                raise IndexStoreError(path, "is not complete. Make the same export again to complete it.")
        except BaseException:
            engine.close()
            raise

    @classmethod
    def begin(cls, path: str | Path, engine: Engine, settings: Settings, *, exist_ok: bool) -> Self:
        """Record the settings in a new store, or compare them with those of an old one, and open it.

        Raises:
            TargetExistsError: if it exists. With `exist_ok`, if it has other settings.
            ModelMismatchError: with `exist_ok`, if it has the vectors of another model.
        """
        try:
            if not engine.records([SETTINGS]):
                engine.put_records(settings.record())
                return cls(path, engine, settings.model, unfinished=settings.unfinished)
            begun = Settings.read(path, engine).unfinished
            if not exist_ok and (begun is None or begun != settings.unfinished):
                raise TargetExistsError(path, advice="Open it, or choose another location.")
            store = cls(path, engine, settings.model, unfinished=settings.unfinished)
            pairs = [(name, getattr(store, name), getattr(settings, name)) for name in ("dim", "indexing")]
            if differences := [f"{name} {old}, not {new}" for name, old, new in pairs if old != new]:
                raise TargetExistsError(path, advice=f"It was created with {', '.join(differences)}.")
            return store
        except BaseException:
            engine.close()
            raise

    def finish(self) -> None:
        """Record that a store that was unfinished is complete."""
        self._settings.unfinished = None
        self._engine.put_records(self._settings.record())

    def check_model(self, model: Mapping[str, str] | None) -> None:
        """Raise an error if the "fingerprint" of a model is not the one that the store records.

        Raises:
            ModelMismatchError: the message names both models.
        """
        check_same_model(self.path, theirs=model, ours=self.model)

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
        """Add passages, as `Index.add` does."""
        self._write(False, doc_ids, embeddings, texts, metadata, sources, positions)

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
        """Add passages, and replace those with the same ids, as `Index.upsert` does."""
        self._write(True, doc_ids, embeddings, texts, metadata, sources, positions)

    def _write(
        self, upsert: bool, doc_ids: Any, embeddings: Any, texts: Any, metadata: Any, *places: Any
    ) -> None:
        sources, positions = places
        batch = Batch.check(
            doc_ids,
            embeddings,
            texts=texts,
            metadata=metadata,
            sources=sources,
            positions=positions,
            dim=self.dim,
        )
        with self._turn:
            self._changes.write(batch, upsert=upsert)

    def replace_sources(
        self,
        sources: Mapping[Source, Mapping[str, Position | None]],
        doc_ids: Iterable[str] = (),
        embeddings: TokenEmbeddings | Iterable[Array] = (),
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> int:
        """Replace the passages of sources, as `Index.replace_sources` does; returns how many were deleted."""
        changes = SourceChanges.check(
            sources, doc_ids, embeddings, texts=texts, metadata=metadata, dim=self.dim
        )
        with self._turn:
            return self._changes.replace_sources(changes)

    def rename_sources(
        self,
        sources: Mapping[str, Source],
        doc_ids: Mapping[str, str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Give sources other names and their passages other ids, as `Index.rename_sources` does."""
        names = SourceNames.check(sources, doc_ids, metadata)
        with self._turn:
            self._changes.rename_sources(names)

    def delete(
        self,
        doc_ids: Iterable[str] | None = None,
        *,
        filter: Filter | str | None = None,
        source: str | None = None,
    ) -> int:
        """Delete passages by their ids, by a filter, or by their source, as `Index.delete` does."""
        if sum(given is not None for given in (doc_ids, filter, source)) != 1:
            raise InputError("delete needs doc_ids, a filter or a source. Give exactly one of them.")
        with self._turn:
            if source is not None:
                check_text(source, "source")
                rows = {row.doc_id: row for row in self._engine.rows_of(source)}
            elif doc_ids is None:
                assert filter is not None
                rows = self._rows.known(self.ids(filter=filter))
            else:
                rows = self._rows.known(list(dict.fromkeys(check_doc_ids(doc_ids))))
            self._changes.delete(rows)
        return len(rows)

    def update_metadata(self, doc_ids: Iterable[str], metadata: Iterable[Mapping[str, Any] | None]) -> None:
        """Replace the metadata of passages, as `Index.update_metadata` does."""
        ids = check_doc_ids(doc_ids)
        objects = dict(zip(ids, check_metadata(ids, metadata), strict=True))
        with self._turn:
            self._changes.set_metadata(objects)

    @contextmanager
    def bulk(self, *, progress: Progress | None = None) -> Iterator[None]:
        """A block for many additions. At its end the engine merges small files and makes indexes."""
        self._n_bulk += 1
        try:
            yield
            if self._n_bulk == 1:
                with self._turn:
                    self._engine.tidy(self._settings.exact_tokens)
        finally:
            self._n_bulk -= 1

    def search(
        self,
        query_embeddings: Any,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        params: SearchParams | None = None,
    ) -> Any:
        """The k passages with the highest MaxSim, by score, then by doc_id.

        The engine finds `params.n_candidates` candidates, and their exact scores decide. If more passages
        than that have the same score, those with other ids may be found. `params.exact` makes an engine that
        has an index of the vectors compare the query with each passage.

        Args:
            query_embeddings: as for `Index.search`.
            k: how many, 1 or more.
            filter: a condition on the metadata (`Filter`).
            doc_ids: find only these passages.
            params: how many candidates.

        Returns:
            The hits of one query, or a list of hits for each query.

        Raises:
            InputError: if an argument cannot be used.
            ShapeError: if D is not the store's.
        """
        k = check_k(k)
        if params is not None and not isinstance(params, SearchParams):
            raise InputError(f"params has the type {type(params).__name__}. Give a SearchParams.")
        single = is_one_text(query_embeddings)
        queries = check_queries([query_embeddings] if single else query_embeddings, dim=self.dim)
        ids = None if doc_ids is None else check_doc_ids(doc_ids)
        selection = Selection(self._engine, self._copy, filter, ids)
        resolved = (params or SearchParams()).resolved(k)
        hits = [
            self._candidates.best(np.ascontiguousarray(query, np.float32), selection, k, resolved)
            for query in queries
        ]
        return hits[0] if single else hits

    def search_keywords(
        self,
        query: str,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
    ) -> list[Hit]:
        """The k passages whose texts best match the words of a query, as `Index.search_keywords` says."""
        return self._copy().search_keywords(query, k, filter=filter, doc_ids=doc_ids)

    def _copy(self) -> Index:
        return self._shadow.index({source.uri: source for source in self.sources()})

    def keyword_problems(self, query: str) -> list[str]:
        """The reasons why a keyword search finds nothing, as `Index.keyword_problems` says."""
        return self._copy().keyword_problems(query)

    def filter_problems(self, filter: Filter | str) -> list[str]:
        """The reasons why a filter may find nothing, as `Index.filter_problems` says."""
        return self._copy().filter_problems(filter)

    def get(self, doc_id: str) -> StoredPassage:
        """The passage with this id.

        Raises:
            UnknownIdError: if the store does not have it.
        """
        return self._rows.known(check_doc_ids([doc_id]))[doc_id].passage()

    def embeddings(self, doc_ids: Iterable[str]) -> TokenEmbeddings:
        """The stored token embeddings of passages, float32, in the order of the ids.

        Raises:
            UnknownIdError: if one of them is not in the store.
        """
        return TokenEmbeddings.pack(self._rows.vectors(check_doc_ids(doc_ids)), dim=self.dim)

    def existing(self, doc_ids: Iterable[str]) -> set[str]:
        """The ids among these that the store has."""
        return set(self._rows.stored(check_doc_ids(doc_ids)))

    def compare(
        self,
        doc_ids: Iterable[str],
        texts: Iterable[str | None],
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        sources: Iterable[Source | None] | None = None,
        positions: Iterable[Position | None] | None = None,
    ) -> dict[str, bool]:
        """The ids that the store has, each with True if the passage is the same, as `Index.compare` says."""
        ids, contents, objects = check_passages(doc_ids, texts, metadata)
        places = None if positions is None else check_list(positions, "positions", may_be_empty=True)
        if places is not None:
            check_positions(ids, places)
        uris = [None if source is None else source.uri for source in sources or [None] * len(ids)]
        stored = self._rows.stored(ids)
        same = {}
        for i, doc_id in enumerate(ids):
            if doc_id in stored:
                row = stored[doc_id]
                is_under = places is None or _headings(row.place()) == _headings(places[i])
                is_of = uris[i] in (None, row.source or uris[i])
                same[doc_id] = (row.text, row.metadata) == (contents[i], objects[i]) and is_of and is_under
        return same

    def ids(self, *, filter: Filter | str | None = None, limit: int | None = None) -> list[str]:
        """The ids of the passages, oldest first.

        Raises:
            InputError: if the filter is not valid, or limit < 1.
        """
        n_ids = None if limit is None else check_whole(limit, "limit", at_least=1)
        return Selection(self._engine, self._copy, filter).ids()[:n_ids]

    def passages(
        self,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[StoredPassage]:
        """The stored passages, oldest first. Only a few at a time are in memory.

        Args:
            filter: a condition on the metadata.
            doc_ids: only these passages, in this order, instead of a filter.
            limit: the most passages to return.

        Raises:
            InputError: if the filter is not valid, both are given, or limit < 1.
        """
        if doc_ids is None:
            return self._rows.passages(self.ids(filter=filter, limit=limit))
        if filter is not None:
            raise InputError("passages got a filter and doc_ids. Give one of them.")
        n_passages = None if limit is None else check_whole(limit, "limit", at_least=1)
        return self._rows.passages(check_doc_ids(doc_ids)[:n_passages])

    def passages_of(self, source: str) -> list[str]:
        """The ids of the passages of a source, oldest first."""
        check_text(source, "source")
        rows = sorted(self._engine.rows_of(source), key=lambda row: row.order)
        return [row.doc_id for row in rows]

    def sources(self) -> list[Source]:
        """The sources of all passages, ordered by uri."""
        return self._sources.all()

    def close(self) -> None:
        """Close the store."""
        self._shadow.close()
        self._engine.close()

    def __len__(self) -> int:
        return self._engine.count()

    def __contains__(self, doc_id: object) -> bool:
        return isinstance(doc_id, str) and is_text(doc_id) and bool(self._rows.stored([doc_id]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.path)!r} of {self.dim} components>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _headings(position: Position | None) -> list[str]:
    return list((position or {}).get("headings") or [])
