"""The class `EngineStore`: a store whose passages are in another engine.

::

    EngineStore ─┬─ Engine     rows and records of one engine: lancedb.py, qdrant.py
                 ├─ Shadow     a copy without vectors on this machine: filters and keywords
                 └─ exact MaxSim of the candidates of the engine

The order of the writes keeps one promise after a crash: a source with a content hash has all its passages. A
change first takes the content hashes of its sources away, then writes passages, then writes the hashes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

import numpy as np

from mlx_colbert.checks import check_doc_ids, check_k, check_list, check_text, check_whole, is_text
from mlx_colbert.errors import (
    DuplicateIdError,
    IndexDamagedError,
    IndexStoreError,
    InputError,
    TargetExistsError,
    UnknownIdError,
)
from mlx_colbert.index import Filter, Index, SearchParams, StoredPassage
from mlx_colbert.index.passage_checks import check_metadata, check_passages, check_positions
from mlx_colbert.index.search.queries import check_queries
from mlx_colbert.index.settings import check_same_model
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.index.writing.source_changes import SourceChanges, SourceNames
from mlx_colbert.progress import Progress
from mlx_colbert.stores.rows import Engine, Row, key_of
from mlx_colbert.stores.settings import SETTINGS, Settings
from mlx_colbert.stores.shadow import Shadow
from mlx_colbert.types import Array, Hit, Position, Source, TokenEmbeddings, is_one_text

__all__ = ["EngineStore"]

# The names of the records of sources begin with this.
_SOURCE = "source:"
# Passages to read at a time. The most with vectors: 64 passages of 300 tokens of 128 components are 5 MB.
_PASSAGES_AT_ONCE = 256
_VECTORS_AT_ONCE = 64


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
        # One change of this process at a time.
        self._turn = RLock()
        self._n_bulk = 0
        self._last = 0
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
        rows = self._new_rows(batch)
        with self._turn:
            old = self._stored(batch.doc_ids)
            if old and not upsert:
                raise DuplicateIdError.existing(old, where=self.path)
            given = {source.uri: source for source in batch.sources if source is not None}
            self._change(rows, [], given, {row.source for row in old.values()})

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
        rows = [] if changes.batch is None else self._new_rows(changes.batch)
        new = {row.doc_id for row in rows}
        listed = {doc_id for positions in changes.members.values() for doc_id in positions}
        with self._turn:
            touched = {row.source for row in self._stored(list(new)).values()}
            gone: list[str] = []
            for source, positions in changes.members.items():
                stale = [row for row in self._engine.rows_of(source.uri) if row.doc_id not in listed]
                gone += [row.doc_id for row in stale]
                kept = self._known([doc_id for doc_id in positions if doc_id not in new])
                moved = [
                    key_of(doc_id)
                    for doc_id, row in kept.items()
                    if (row.source, row.position) != (source.uri, positions[doc_id])
                ]
                for row in self._engine.rows(moved, vectors=True):
                    touched.add(row.source)
                    rows.append(
                        replace(row, source=source.uri, position=positions[row.doc_id], stamp=self._tick(1))
                    )
            used = {source.uri: source for source, positions in changes.members.items() if positions}
            empty = {source.uri for source, positions in changes.members.items() if not positions}
            self._change(rows, gone, used, touched | empty)
        return len(gone)

    def rename_sources(
        self,
        sources: Mapping[str, Source],
        doc_ids: Mapping[str, str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Give sources other names and their passages other ids, as `Index.rename_sources` does."""
        names = SourceNames.check(sources, doc_ids, metadata)
        objects = dict(zip(names.doc_ids, names.metadata or (), strict=False))
        with self._turn:
            rows: dict[str, Row] = {}
            for uri, source in names.sources.items():
                found = list(self._engine.rows_of(uri, vectors=True))
                if not found:
                    raise InputError(f"source {uri!r}: no passage of index {self.path} has it.")
                rows |= {row.doc_id: replace(row, source=source.uri) for row in found}
            if unknown := [doc_id for doc_id in names.doc_ids if doc_id not in rows]:
                raise UnknownIdError(unknown, where=self.path)
            overwritten: set[str] = set()
            for source in names.sources.values():
                if source.uri not in names.sources:
                    overwritten |= {row.doc_id for row in self._engine.rows_of(source.uri)}
            taken = self._stored(list(names.doc_ids.values())).keys() - names.doc_ids.keys() - overwritten
            if taken:
                raise DuplicateIdError.existing(sorted(taken), where=self.path)
            renamed = [
                replace(
                    row,
                    doc_id=names.doc_ids.get(doc_id, doc_id),
                    metadata=objects.get(doc_id, row.metadata),
                    stamp=self._tick(1),
                )
                for doc_id, row in rows.items()
            ]
            gone = (rows.keys() | overwritten) - {row.doc_id for row in renamed}
            given = {source.uri: source for source in names.sources.values()}
            self._change(renamed, sorted(gone), given, set(names.sources))

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
                rows = self._known(self.ids(filter=filter))
            else:
                rows = self._known(list(dict.fromkeys(check_doc_ids(doc_ids))))
            if rows:
                self._change([], list(rows), {}, {row.source for row in rows.values()})
        return len(rows)

    def update_metadata(self, doc_ids: Iterable[str], metadata: Iterable[Mapping[str, Any] | None]) -> None:
        """Replace the metadata of passages, as `Index.update_metadata` does."""
        ids = check_doc_ids(doc_ids)
        objects = dict(zip(ids, check_metadata(ids, metadata), strict=True))
        with self._turn:
            self._known(ids)
            rows = [
                replace(row, metadata=objects[row.doc_id], stamp=self._tick(1))
                for row in self._engine.rows(list(map(key_of, objects)), vectors=True)
            ]
            if rows:
                self._change(rows, [], {}, {row.source for row in rows})

    def _change(
        self,
        rows: Sequence[Row],
        gone: Sequence[str],
        given: Mapping[str, Source],
        touched: Iterable[str | None],
    ) -> None:
        """Make one change.

        Args:
            rows: passages to write.
            gone: the ids of passages to delete.
            given: uri → source, of the sources that the caller gives.
            touched: the uris of the other sources whose passages change.
        """
        uris = {uri for uri in touched if uri is not None} - given.keys()
        if uris or given:
            stored = self._sources([*uris, *given])
            doubtful = [
                replace(source, content_hash=None)
                for uri in sorted(uris | given.keys())
                if (source := stored.get(uri, given.get(uri))) is not None
                and (uri not in stored or source.content_hash is not None)
            ]
            self._engine.put_records(dict(map(_source_record, doubtful)))
        if rows or gone:
            self._engine.put(rows, [key_of(doc_id) for doc_id in gone])
        records: dict[str, str | None] = dict(map(_source_record, given.values()))
        records |= {
            _source_name(uri): None for uri in uris if not any(True for _ in self._engine.rows_of(uri))
        }
        self._engine.put_records(records)

    def _tick(self, n: int) -> int:
        """The first of n numbers that are greater than all before. They count nanoseconds."""
        self._last = max(time.time_ns(), self._last + 1)
        first, self._last = self._last, self._last + n - 1
        return first

    def _new_rows(self, batch: Batch) -> list[Row]:
        first = self._tick(len(batch.doc_ids))
        vectors = np.concatenate(list(batch.blocks()))
        parts = np.split(vectors, np.cumsum(batch.lengths)[:-1])
        return [
            Row(
                doc_id,
                first + i,
                first + i,
                batch.texts[i],
                batch.metadata[i],
                None if (source := batch.sources[i]) is None else source.uri,
                batch.positions[i],
                len(parts[i]),
                parts[i],
            )
            for i, doc_id in enumerate(batch.doc_ids)
        ]

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
        keys = self._selected(filter, doc_ids)
        resolved = (params or SearchParams()).resolved(k)
        hits = []
        for query in queries:
            query = np.ascontiguousarray(query, np.float32)
            if keys is None:
                found = self._engine.nearest(query, resolved.n_candidates, None, exact=resolved.exact)
            elif len(keys) <= resolved.n_candidates:
                hits.append(self._ranked(query, keys, k))
                continue
            else:
                found = [
                    doc_id
                    for part in _parts(keys, self._engine.most_keys)
                    for doc_id in self._engine.nearest(
                        query, resolved.n_candidates, part, exact=resolved.exact
                    )
                ]
            hits.append(self._ranked(query, list(map(key_of, found)), k))
        return hits[0] if single else hits

    def _selected(self, filter: Filter | str | None, doc_ids: Iterable[str] | None) -> list[str] | None:
        """The keys of the passages that may be found. None: all."""
        if doc_ids is None and filter is None:
            return None
        ids = None if doc_ids is None else dict.fromkeys(check_doc_ids(doc_ids))
        if filter is not None:
            allowed = self._copy().ids(filter=filter)
            ids = dict.fromkeys(allowed if ids is None else ids.keys() & set(allowed))
        return [key_of(doc_id) for doc_id in ids or ()]

    def _ranked(self, query: Array, keys: Sequence[str], k: int) -> list[Hit]:
        """The best k of some passages, by their exact scores."""
        scored: list[tuple[float, Row]] = []
        for part in _parts(keys, _VECTORS_AT_ONCE):
            for row in self._engine.rows(part, vectors=True):
                assert row.vectors is not None
                score = (query @ row.vectors.astype(np.float32).T).max(axis=1).sum()
                if not np.isfinite(score):
                    raise IndexDamagedError(
                        self.path, f"passage {row.doc_id!r} has a vector that is not finite."
                    )
                scored.append((float(score), replace(row, vectors=None)))
            scored = sorted(scored, key=lambda pair: (-pair[0], pair[1].doc_id))[:k]
        return [_hit(rank, score, row.passage()) for rank, (score, row) in enumerate(scored, start=1)]

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
        return self._known(check_doc_ids([doc_id]))[doc_id].passage()

    def embeddings(self, doc_ids: Iterable[str]) -> TokenEmbeddings:
        """The stored token embeddings of passages, float32, in the order of the ids.

        Raises:
            UnknownIdError: if one of them is not in the store.
        """
        ids = check_doc_ids(doc_ids)
        found = {row.doc_id: row.vectors for row in self._engine.rows(list(map(key_of, ids)), vectors=True)}
        if unknown := [doc_id for doc_id in dict.fromkeys(ids) if doc_id not in found]:
            raise UnknownIdError(unknown, where=self.path)
        return TokenEmbeddings.pack([_widened(found[doc_id]) for doc_id in ids], dim=self.dim)

    def existing(self, doc_ids: Iterable[str]) -> set[str]:
        """The ids among these that the store has."""
        return set(self._stored(check_doc_ids(doc_ids)))

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
        stored = self._stored(ids)
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
        allowed = None if filter is None else set(self._copy().ids(filter=filter))
        marks = sorted(self._engine.marks(), key=lambda mark: mark.order)
        ids = [mark.doc_id for mark in marks if allowed is None or mark.doc_id in allowed]
        return ids[:n_ids]

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
            return self._passages(self.ids(filter=filter, limit=limit))
        if filter is not None:
            raise InputError("passages got a filter and doc_ids. Give one of them.")
        n_passages = None if limit is None else check_whole(limit, "limit", at_least=1)
        return self._passages(check_doc_ids(doc_ids)[:n_passages])

    def _passages(self, doc_ids: list[str]) -> Iterator[StoredPassage]:
        for part in _parts(doc_ids, _PASSAGES_AT_ONCE):
            found = self._stored(part)
            yield from (found[doc_id].passage() for doc_id in part if doc_id in found)

    def passages_of(self, source: str) -> list[str]:
        """The ids of the passages of a source, oldest first."""
        check_text(source, "source")
        rows = sorted(self._engine.rows_of(source), key=lambda row: row.order)
        return [row.doc_id for row in rows]

    def sources(self) -> list[Source]:
        """The sources of all passages, ordered by uri."""
        texts = [text for name, text in self._engine.records().items() if name.startswith(_SOURCE)]
        return sorted(map(self._read_source, texts), key=lambda source: source.uri)

    def _sources(self, uris: Iterable[str]) -> dict[str, Source]:
        """The sources with these uris that the store has."""
        found = map(self._read_source, self._engine.records(list(map(_source_name, uris))).values())
        return {source.uri: source for source in found}

    def _read_source(self, text: str) -> Source:
        try:
            return Source(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise IndexDamagedError(self.path, "has a source that cannot be read.") from error

    def _stored(self, doc_ids: Sequence[str]) -> dict[str, Row]:
        """The passages with these ids that the store has, without vectors."""
        return {row.doc_id: row for row in self._engine.rows(list(map(key_of, doc_ids)))}

    def _known(self, doc_ids: Sequence[str]) -> dict[str, Row]:
        """The passages with these ids.

        Raises:
            UnknownIdError: if the store does not have one.
        """
        found = self._stored(doc_ids)
        if unknown := [doc_id for doc_id in doc_ids if doc_id not in found]:
            raise UnknownIdError(unknown, where=self.path)
        return found

    def close(self) -> None:
        """Close the store."""
        self._shadow.close()
        self._engine.close()

    def __len__(self) -> int:
        return self._engine.count()

    def __contains__(self, doc_id: object) -> bool:
        return isinstance(doc_id, str) and is_text(doc_id) and bool(self._stored([doc_id]))

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


def _source_name(uri: str) -> str:
    return f"{_SOURCE}{key_of(uri)}"


def _source_record(source: Source) -> tuple[str, str]:
    return _source_name(source.uri), json.dumps(vars(source))


def _headings(position: Position | None) -> list[str]:
    return list((position or {}).get("headings") or [])


def _widened(vectors: Array | None) -> Array:
    assert vectors is not None
    return vectors.astype(np.float32)


def _hit(rank: int, score: float, passage: StoredPassage) -> Hit:
    place = passage.source, passage.position
    return Hit(rank, score, passage.doc_id, passage.text, passage.metadata, *place)


def _parts(values: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(values[start : start + size]) for start in range(0, len(values), size))
