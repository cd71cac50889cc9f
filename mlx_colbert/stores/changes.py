"""The changes of a store in another engine.

The order of the writes keeps one promise after a crash: a source with a content hash has all its passages. A
change first takes the content hashes of its sources away, then writes passages, then writes the hashes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_colbert.errors import DuplicateIdError, InputError, UnknownIdError
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.index.writing.source_changes import SourceChanges, SourceNames
from mlx_colbert.stores.rows import Engine, Row, key_of
from mlx_colbert.stores.source_records import SourceRecords
from mlx_colbert.stores.stored_rows import StoredRows
from mlx_colbert.types import Source

__all__ = ["Changes"]


class Changes:
    """Makes checked changes. One thread at a time may use it.

    Args:
        path: the location of the store, for messages.
        engine: where the rows are.
    """

    def __init__(self, path: str | Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine
        self._rows = StoredRows(path, engine)
        self._sources = SourceRecords(path, engine)
        self._last = 0

    def write(self, batch: Batch, *, upsert: bool) -> None:
        """Add passages. With `upsert`, replace those with the same ids.

        Raises:
            DuplicateIdError: without `upsert`, if the store has one of the ids.
        """
        old = self._rows.stored(batch.doc_ids)
        if old and not upsert:
            raise DuplicateIdError.existing(old, where=self._path)
        given = {source.uri: source for source in batch.sources if source is not None}
        touched = {row.source for row in old.values()}
        self._make(self._new_rows(batch), [], given, touched, are_new=not upsert)

    def replace_sources(self, changes: SourceChanges) -> int:
        """Replace the passages of sources; returns how many were deleted."""
        rows = [] if changes.batch is None else self._new_rows(changes.batch)
        new = {row.doc_id for row in rows}
        listed = {doc_id for positions in changes.members.values() for doc_id in positions}
        touched = {row.source for row in self._rows.stored(list(new)).values()}
        gone: list[str] = []
        for source, positions in changes.members.items():
            stale = [row for row in self._engine.rows_of(source.uri) if row.doc_id not in listed]
            gone += [row.doc_id for row in stale]
            kept = self._rows.known([doc_id for doc_id in positions if doc_id not in new])
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
        self._make(rows, gone, used, touched | empty)
        return len(gone)

    def rename_sources(self, names: SourceNames) -> None:
        """Give sources other names and their passages other ids.

        Raises:
            InputError: if no passage has one of the sources.
            UnknownIdError: if a passage is not one of these sources.
            DuplicateIdError: if another passage has a new id.
        """
        objects = dict(zip(names.doc_ids, names.metadata or (), strict=False))
        rows: dict[str, Row] = {}
        for uri, source in names.sources.items():
            found = list(self._engine.rows_of(uri, vectors=True))
            if not found:
                raise InputError(f"source {uri!r}: no passage of index {self._path} has it.")
            rows |= {row.doc_id: replace(row, source=source.uri) for row in found}
        if unknown := [doc_id for doc_id in names.doc_ids if doc_id not in rows]:
            raise UnknownIdError(unknown, where=self._path)
        overwritten: set[str] = set()
        for source in names.sources.values():
            if source.uri not in names.sources:
                overwritten |= {row.doc_id for row in self._engine.rows_of(source.uri)}
        taken = self._rows.stored(list(names.doc_ids.values())).keys() - names.doc_ids.keys() - overwritten
        if taken:
            raise DuplicateIdError.existing(sorted(taken), where=self._path)
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
        self._make(renamed, sorted(gone), given, set(names.sources))

    def delete(self, rows: Mapping[str, Row]) -> None:
        """Delete passages, given as id → row."""
        if rows:
            self._make([], list(rows), {}, {row.source for row in rows.values()})

    def set_metadata(self, objects: Mapping[str, str | None]) -> None:
        """Replace the metadata of passages.

        Args:
            objects: id → JSON object, as text.

        Raises:
            UnknownIdError: if the store does not have one of the ids.
        """
        self._rows.known(list(objects))
        rows = [
            replace(row, metadata=objects[row.doc_id], stamp=self._tick(1))
            for row in self._engine.rows(list(map(key_of, objects)), vectors=True)
        ]
        if rows:
            self._make(rows, [], {}, {row.source for row in rows})

    def _make(
        self,
        rows: Sequence[Row],
        gone: Sequence[str],
        given: Mapping[str, Source],
        touched: Iterable[str | None],
        *,
        are_new: bool = False,
    ) -> None:
        """Make one change.

        Args:
            rows: passages to write.
            gone: the ids of passages to delete.
            given: uri → source, of the sources that the caller gives.
            touched: the uris of the other sources whose passages change.
            are_new: whether the store has none of the passages to write.

        Raises:
            DuplicateIdError: with `are_new`, if another process has added one meanwhile.
        """
        uris = {uri for uri in touched if uri is not None} - given.keys()
        if uris or given:
            stored = self._sources.some([*uris, *given])
            self._sources.put(
                replace(source, content_hash=None)
                for uri in sorted(uris | given.keys())
                if (source := stored.get(uri, given.get(uri))) is not None
                and (uri not in stored or source.content_hash is not None)
            )
        if rows or gone:
            taken = self._engine.put(rows, [key_of(doc_id) for doc_id in gone], are_new=are_new)
            if taken:
                raise DuplicateIdError.existing(taken, where=self._path)
        unused = [uri for uri in uris if not any(True for _ in self._engine.rows_of(uri))]
        self._sources.put(given.values(), unused)

    def _tick(self, n: int) -> int:
        """The first of n numbers that are greater than all before. They count nanoseconds."""
        self._last = max(time.time_ns(), self._last + 1)
        first, self._last = self._last, self._last + n - 1
        return first

    def _new_rows(self, batch: Batch) -> list[Row]:
        first = self._tick(len(batch.doc_ids))
        vectors = np.concatenate(list(batch.blocks()))
        arrays = np.split(vectors, np.cumsum(batch.lengths)[:-1])
        return [
            Row(
                doc_id,
                first + i,
                first + i,
                batch.texts[i],
                batch.metadata[i],
                None if (source := batch.sources[i]) is None else source.uri,
                batch.positions[i],
                len(arrays[i]),
                arrays[i],
            )
            for i, doc_id in enumerate(batch.doc_ids)
        ]
