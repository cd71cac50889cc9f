"""The engine Qdrant: a server, or its local mode in a folder.

The collection of passages has a point for each passage, with its token embeddings as one multivector. A
second collection without vectors has the settings, the sources, and a record that each change renews.

Local mode is for tests and small collections: it keeps all vectors in memory, and one process has the folder.
It reads its folder with pickle, which can run any program. So never open a folder of a stranger.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mlx_colbert.errors import (
    ColBERTError,
    IndexLockedError,
    IndexNotFoundError,
    IndexStoreError,
    InputError,
    MissingExtraError,
    said,
)
from mlx_colbert.index.settings import EXACT_TOKENS
from mlx_colbert.stores.engine_store import EngineStore
from mlx_colbert.stores.fact_tests import All, FactTest, Has, Neither, Ordered, Some
from mlx_colbert.stores.facts import Facts
from mlx_colbert.stores.location import shown_location
from mlx_colbert.stores.rows import Mark, Row, key_of
from mlx_colbert.stores.settings import Settings
from mlx_colbert.types import Array

__all__ = ["QdrantStore"]

_VECTORS = "tokens"
_PAYLOAD = "doc_id ordering stamp text metadata source position n_tokens".split()
_MARKS = "doc_id ordering stamp".split()
_CHANGE = "change"
_FACTS, _NUMBERS = "facts", "numbers"
_RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
# Points in one request. A server refuses a request of more than 32 MB: 64 passages of 300 tokens of 128
# components are 20 MB of JSON.
_POINTS_AT_ONCE = 64
_MARKS_AT_ONCE = 4096
_KEYS_AT_ONCE = 256


class QdrantStore(EngineStore):
    """Passages in Qdrant. It compares by MaxSim with dot products.

    A change of several passages is several requests: other clients may see a part of it, and a crash may
    leave a part. Make the change again then: `upsert` and `replace_sources` complete it.
    """

    @classmethod
    def create(
        cls,
        location: str | Path,
        dim: int = 128,
        *,
        model: Mapping[str, str] | None = None,
        indexing: Mapping[str, str] | None = None,
        exact_tokens: int | None = EXACT_TOKENS,
        exist_ok: bool = False,
        unfinished: str | None = None,
    ) -> QdrantStore:
        """Create a new, empty store and open it. With `exist_ok`, open the store there if there is one.

        Args:
            location: a folder for local mode, or "http://host:6333/collection". The key of a server is in the
                environment variable QDRANT_API_KEY.
            dim: D.
            model: the model of the token embeddings.
            indexing: the settings to encode passages.
            exact_tokens: not used: a server decides itself when it makes an index.
            exist_ok: open an existing store with the same settings and model.
            unfinished: mark the store as not complete, until `finish`. It can then be opened only by `create`
                with the same text.

        Raises:
            MissingExtraError: if qdrant-client is not installed.
            TargetExistsError: if there is one. With `exist_ok`, if it has other settings.
            ModelMismatchError: with `exist_ok`, if it has the vectors of another model.
            IndexLockedError: if another process has the folder open.
            InputError: if a setting cannot be used.
        """
        settings = Settings.check(dim, model, indexing, exact_tokens, unfinished)
        engine = _Qdrant(location, dim=settings.dim)
        return cls.begin(shown_location(location), engine, settings, exist_ok=exist_ok)

    @classmethod
    def open(cls, location: str | Path, *, model: Mapping[str, str] | None = None) -> QdrantStore:
        """Open a store.

        Args:
            location: a folder, or "http://host:6333/collection".
            model: the model of the caller. Its "fingerprint" must be the one that the store records.

        Raises:
            MissingExtraError: if qdrant-client is not installed.
            IndexNotFoundError: if there is no store.
            IndexLockedError: if another process has the folder open.
            ModelMismatchError: if it has the vectors of another model.
        """
        return cls(shown_location(location), _Qdrant(location), model)


class _Qdrant:
    """Implements `Engine`."""

    most_keys = 10_000

    def __init__(self, location: str | Path, *, dim: int | None = None) -> None:
        """Connect. With `dim`, make the collections if they are missing."""
        try:
            from qdrant_client import QdrantClient, models
        except ImportError as error:
            raise MissingExtraError("A store in Qdrant", "qdrant") from error
        self._models: Any = models
        self._path = shown_location(location)
        is_server = "://" in str(location)
        self._passages = str(location).rstrip("/").rpartition("/")[2] if is_server else "passages"
        self._records = f"{self._passages}_records" if is_server else "records"
        if dim is None and not is_server and not Path(location).is_dir():
            raise IndexNotFoundError(self._path, "does not exist. Make it with QdrantStore.create.")
        with self._failing():
            if is_server:
                url = str(location).rstrip("/").rpartition("/")[0]
                if url.endswith("/"):
                    raise InputError(f"{self._path}: has no collection. Give http://host:6333/collection.")
                if "?" in self._passages:
                    problem = "has a ? after the collection. Give a key in QDRANT_API_KEY"
                    raise InputError(f"{self._path}: {problem}.")
                key = os.environ.get("QDRANT_API_KEY")
                # The check is a request in a thread, which may outlive the client.
                self._client: Any = QdrantClient(url=url, api_key=key, timeout=60, check_compatibility=False)
            else:
                self._client = QdrantClient(path=str(Path(location).absolute()))
            try:
                self._prepare(dim, is_server)
            except BaseException:
                self._client.close()
                raise

    def _prepare(self, dim: int | None, is_server: bool) -> None:
        models, client = self._models, self._client
        missing = [name for name in (self._passages, self._records) if not client.collection_exists(name)]
        if missing and dim is None:
            raise IndexNotFoundError(self._path, "is not a Qdrant store of mlx-colbert.")
        if self._records in missing:
            client.create_collection(self._records, vectors_config={})
        if self._passages in missing:
            vectors = models.VectorParams(
                size=dim,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                on_disk=True,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            )
            client.create_collection(self._passages, vectors_config={_VECTORS: vectors})
            if is_server:
                for field in ("source_key", _FACTS):
                    client.create_payload_index(self._passages, field, field_schema="keyword")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        try:
            yield
        except ColBERTError:
            raise
        except (OSError, RuntimeError, ValueError, ApiException, QdrantException) as error:
            if "already accessed" in str(error):
                raise IndexLockedError(self._path, "another process has it open. Close it there.") from error
            raise IndexStoreError(self._path, f"Qdrant failed: {said(error)}.") from error

    def among(self, keys: Sequence[str]) -> Any:
        """The condition that a passage has one of these keys."""
        return self._models.Filter(must=[self._models.HasIdCondition(has_id=list(keys))])

    def satisfying(self, test: FactTest) -> Any | None:
        """The condition that the facts of a passage pass a test. Qdrant does not know the order of texts."""
        models = self._models
        match test:
            case Has(words):
                match = models.FieldCondition(key=_FACTS, match=models.MatchAny(any=list(words)))
                return models.Filter(must=[match])
            case Ordered(key, order, value):
                if isinstance(value, str):
                    return None
                limit = models.Range(**{_RANGES[order]: float(value)})
                return models.Filter(must=[models.FieldCondition(key=f"{_NUMBERS}.{key}", range=limit)])
            case All(tests) | Some(tests) | Neither(tests):
                parts = [part for one in tests if (part := self.satisfying(one)) is not None]
                clause = {All: "must", Some: "should", Neither: "must_not"}[type(test)]
                return models.Filter(**{clause: parts}) if len(parts) == len(tests) else None

    def count(self) -> int:
        """The number of passages."""
        with self._failing():
            return int(self._client.count(self._passages, exact=True).count)

    def version(self) -> Hashable:
        """The record that each change renews."""
        return self.records([_CHANGE]).get(_CHANGE)

    def marks(self, condition: Any = None, *, limit: int | None = None) -> Iterator[Mark]:
        """The marks of the passages that satisfy a condition, at most `limit`."""
        size = _MARKS_AT_ONCE if limit is None else min(limit, _MARKS_AT_ONCE)
        for point in islice(self._scroll(self._passages, condition, _MARKS, size), limit):
            yield Mark(str(point.id), *(point.payload[name] for name in _MARKS))

    def rows(self, keys: Sequence[str], *, vectors: bool = False) -> Iterator[Row]:
        """The passages with these keys."""
        size = _POINTS_AT_ONCE if vectors else _KEYS_AT_ONCE
        for start in range(0, len(keys), size):
            with self._failing():
                found = self._client.retrieve(
                    self._passages,
                    list(keys[start : start + size]),
                    with_payload=True,
                    with_vectors=[_VECTORS] if vectors else False,
                )
            yield from map(_row, found)

    def rows_of(self, source: str, *, vectors: bool = False) -> Iterator[Row]:
        """The passages of a source."""
        models = self._models
        match = models.FieldCondition(key="source_key", match=models.MatchValue(value=key_of(source)))
        condition = models.Filter(must=[match])
        yield from map(_row, self._scroll(self._passages, condition, True, _POINTS_AT_ONCE, vectors))

    def _scroll(
        self, collection: str, condition: Any, payload: Any, size: int, vectors: bool = False
    ) -> Iterator[Any]:
        offset = None
        while True:
            with self._failing():
                points, offset = self._client.scroll(
                    collection,
                    scroll_filter=condition,
                    limit=size,
                    offset=offset,
                    with_payload=payload,
                    with_vectors=[_VECTORS] if vectors else False,
                )
            yield from points
            if offset is None:
                return

    def put(self, rows: Sequence[Row], deleted: Sequence[str], *, are_new: bool = False) -> list[str]:
        """Write passages, then delete others. It is several requests, and the last writer of an id wins."""
        written = {key_of(row.doc_id) for row in rows}
        gone = [key for key in deleted if key not in written]
        # Before and after: a reader that comes between must read again, also if this process is killed.
        self._renew()
        with self._failing():
            for start in range(0, len(rows), _POINTS_AT_ONCE):
                part = rows[start : start + _POINTS_AT_ONCE]
                facts = Facts.of((row.metadata, row.source) for row in part)
                points = list(map(self._point, part, facts))
                self._client.upsert(self._passages, points, wait=True)
            for start in range(0, len(gone), _MARKS_AT_ONCE):
                selector = self._models.PointIdsList(points=gone[start : start + _MARKS_AT_ONCE])
                self._client.delete(self._passages, selector, wait=True)
        self._renew()
        return []

    def _point(self, row: Row, facts: Facts) -> Any:
        assert row.vectors is not None
        payload = {
            "doc_id": row.doc_id,
            "ordering": row.order,
            "stamp": row.stamp,
            "text": row.text,
            "metadata": row.metadata,
            "source": row.source,
            "source_key": None if row.source is None else key_of(row.source),
            "position": row.position,
            "n_tokens": row.n_tokens,
            _FACTS: facts.words,
            _NUMBERS: facts.numbers,
        }
        vectors = row.vectors.astype(np.float32).tolist()
        return self._models.PointStruct(id=key_of(row.doc_id), vector={_VECTORS: vectors}, payload=payload)

    def _renew(self) -> None:
        self._write_records({_CHANGE: f"{time.time_ns()} {uuid.uuid4()}"})

    def nearest(self, query: Array, n: int, condition: Any = None, *, exact: bool) -> list[str]:
        """The ids of the n passages with the best MaxSim among those that satisfy a condition."""
        models = self._models
        with self._failing():
            found = self._client.query_points(
                self._passages,
                query=query.tolist(),
                using=_VECTORS,
                limit=n,
                query_filter=condition,
                search_params=models.SearchParams(exact=exact),
                with_payload=["doc_id"],
            )
        return [point.payload["doc_id"] for point in found.points]

    def records(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """The records with these names."""
        if names is None:
            points = list(self._scroll(self._records, None, True, _MARKS_AT_ONCE))
        else:
            with self._failing():
                points = self._client.retrieve(self._records, list(map(key_of, names)), with_payload=True)
        return {point.payload["name"]: point.payload["value"] for point in points}

    def put_records(self, records: Mapping[str, str | None]) -> None:
        """Write and delete records."""
        if records:
            self._write_records(records)
            self._renew()

    def _write_records(self, records: Mapping[str, str | None]) -> None:
        models = self._models
        kept = [
            models.PointStruct(id=key_of(name), vector={}, payload={"name": name, "value": value})
            for name, value in records.items()
            if value is not None
        ]
        gone = [key_of(name) for name, value in records.items() if value is None]
        with self._failing():
            if kept:
                self._client.upsert(self._records, kept, wait=True)
            if gone:
                self._client.delete(self._records, models.PointIdsList(points=gone), wait=True)

    def tidy(self, exact_tokens: int | None) -> None:
        """Do nothing: a server tidies up by itself."""

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def _row(point: Any) -> Row:
    vectors = None
    if isinstance(point.vector, dict):
        vectors = np.asarray(point.vector[_VECTORS], np.float32).astype(np.float16)
    return Row.of([*(point.payload[name] for name in _PAYLOAD), vectors])
