"""The engine LanceDB: a folder on this machine, or a prefix in a bucket of S3 or of a server that speaks S3.

The table `passages` has a row for each passage. One commit writes a change of passages. The table `records`
has the settings and the sources.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mlx_colbert.errors import (
    ColBERTError,
    IndexNotFoundError,
    IndexStoreError,
    MissingExtraError,
    said,
)
from mlx_colbert.index.settings import EXACT_TOKENS
from mlx_colbert.stores.engine_store import EngineStore
from mlx_colbert.stores.fact_tests import All, FactTest, Has, Neither, Ordered, Some
from mlx_colbert.stores.facts import Facts, token_of
from mlx_colbert.stores.location import shown_location
from mlx_colbert.stores.rows import Mark, Row, key_of
from mlx_colbert.stores.settings import Settings
from mlx_colbert.types import Array

__all__ = ["LanceStore"]

_PASSAGES, _RECORDS = "passages", "records"
_COLUMNS = "doc_id ordering stamp text metadata source position n_tokens".split()
_MARKS = "key doc_id ordering stamp".split()
# With it, two merges that insert the same key at the same time meet: the second is made again. Without it,
# both insert a row.
_IS_KEY = {"lance-schema:unenforced-primary-key": "true"}
# Keys in one condition: a condition of 2,000 takes about 40 ms.
_KEYS_AT_ONCE = 2000
# Partitions of the index of vectors that a search reads for each query token.
_N_PROBE = 32
# With fewer rows, a scan of the keys takes less than 5 ms.
_ROWS_FOR_KEY_INDEX = 20_000
# Writes between two tidyings. So small files and rows without an index stay few, also without `bulk`.
_WRITES = 64
# Files of older versions are kept for readers that have them open.
_KEEP = timedelta(hours=1)


class LanceStore(EngineStore):
    """Passages in LanceDB.

    Before the table has an index of its vectors, LanceDB compares a query with each passage. `bulk` makes
    that index when the store has more than `exact_tokens` token embeddings. The index compares by cosine, so
    use it only for unit vectors, as a ColBERT model makes them.
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
    ) -> LanceStore:
        """Create a new, empty store and open it. With `exist_ok`, open the store there if there is one.

        Args:
            location: a folder, or "s3://bucket/prefix".
            dim: D.
            model: the model of the token embeddings.
            indexing: the settings to encode passages.
            exact_tokens: with more token embeddings than this, `bulk` makes an index of the vectors. None:
                never.
            exist_ok: open an existing store with the same settings and model.
            unfinished: mark the store as not complete, until `finish`. It can then be opened only by `create`
                with the same text.

        Raises:
            MissingExtraError: if lancedb is not installed.
            TargetExistsError: if there is one. With `exist_ok`, if it has other settings.
            ModelMismatchError: with `exist_ok`, if it has the vectors of another model.
            InputError: if a setting cannot be used.
        """
        settings = Settings.check(dim, model, indexing, exact_tokens, unfinished)
        engine = _Lance(location, dim=settings.dim)
        return cls.begin(shown_location(location), engine, settings, exist_ok=exist_ok)

    @classmethod
    def open(cls, location: str | Path, *, model: Mapping[str, str] | None = None) -> LanceStore:
        """Open a store.

        Args:
            location: a folder, or "s3://bucket/prefix".
            model: the model of the caller. Its "fingerprint" must be the one that the store records.

        Raises:
            MissingExtraError: if lancedb is not installed.
            IndexNotFoundError: if there is no store.
            ModelMismatchError: if it has the vectors of another model.
        """
        return cls(shown_location(location), _Lance(location), model)


class _Lance:
    """Implements `Engine`."""

    most_keys = 5000

    def __init__(self, location: str | Path, *, dim: int | None = None) -> None:
        """Connect, and open the tables. With `dim`, make them if they are missing."""
        try:
            import lancedb
            import pyarrow
        except ImportError as error:
            raise MissingExtraError("A store in LanceDB", "lancedb") from error
        self._arrow: Any = pyarrow
        self._path = shown_location(location)
        self._n_writes = 0
        is_remote = "://" in str(location)
        if dim is None and not is_remote and not Path(location).is_dir():
            raise IndexNotFoundError(self._path, "does not exist. Make it with LanceStore.create.")
        where = str(location) if is_remote else str(Path(location).absolute())
        with self._failing():
            # Each read sees the changes that another process has made before it.
            self._database: Any = lancedb.connect(where, read_consistency_interval=timedelta(0))
            names = set(self._database.list_tables().tables)
            if dim is None and not {_PASSAGES, _RECORDS} <= names:
                raise IndexNotFoundError(self._path, "is not a LanceDB store of mlx-colbert.")
            self._records = self._table(_RECORDS, names, [self._key("name"), ("value", pyarrow.string())])
            self._passages = self._table(_PASSAGES, names, None if dim is None else self._schema(dim))
            self._schema_of_passages: Any = self._passages.schema

    def _schema(self, dim: int) -> Any:
        arrow = self._arrow
        texts = "doc_id text metadata source source_key position facts".split()
        return arrow.schema(
            [
                self._key("key"),
                *((name, arrow.string()) for name in texts),
                *((name, arrow.int64()) for name in ("ordering", "stamp", "n_tokens")),
                ("vectors", arrow.list_(arrow.list_(arrow.float16(), dim))),
            ]
        )

    def _key(self, name: str) -> Any:
        """A column of which no two rows have the same value, if they are written by merges."""
        arrow = self._arrow
        return arrow.field(name, arrow.string(), nullable=False, metadata=_IS_KEY)

    def _table(self, name: str, names: set[str], schema: Any) -> Any:
        if name in names:
            return self._database.open_table(name)
        return self._database.create_table(name, schema=self._arrow.schema(schema), exist_ok=True)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except ColBERTError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise IndexStoreError(self._path, f"LanceDB failed: {said(error)}.") from error

    def among(self, keys: Sequence[str]) -> str:
        """The condition that a passage has one of these keys."""
        return _among("key", keys)

    def satisfying(self, test: FactTest) -> str:
        """The condition that the facts of a passage pass a test."""
        return _passing(test)

    def count(self) -> int:
        """The number of passages."""
        with self._failing():
            return int(self._passages.count_rows())

    def version(self) -> Hashable:
        """The versions of the tables."""
        with self._failing():
            return self._passages.version, self._records.version

    def marks(self, condition: str | None = None, *, limit: int | None = None) -> Iterator[Mark]:
        """The marks of the passages that satisfy a condition, at most `limit`."""
        for batch in self._read(self._passages, condition, _MARKS, limit):
            yield from map(Mark._make, zip(*(batch[name].to_pylist() for name in _MARKS), strict=True))

    def rows(self, keys: Sequence[str], *, vectors: bool = False) -> Iterator[Row]:
        """The passages with these keys."""
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            yield from self._rows(_among("key", keys[start : start + _KEYS_AT_ONCE]), vectors)

    def rows_of(self, source: str, *, vectors: bool = False) -> Iterator[Row]:
        """The passages of a source."""
        return self._rows(_among("source_key", [key_of(source)]), vectors)

    def _rows(self, condition: str, vectors: bool) -> Iterator[Row]:
        columns = [*_COLUMNS, "vectors"] if vectors else _COLUMNS
        for batch in self._read(self._passages, condition, columns):
            values = zip(*(batch[name].to_pylist() for name in _COLUMNS), strict=True)
            arrays = _arrays(batch["vectors"]) if vectors else [None] * batch.num_rows
            for row, array in zip(values, arrays, strict=True):
                yield Row.of([*row, array])

    def _read(
        self, table: Any, condition: str | None, columns: list[str], limit: int | None = None
    ) -> Iterator[Any]:
        with self._failing():
            query = table.search().select(columns)
            if limit is not None:
                query = query.limit(limit)
            if condition is not None:
                query = query.where(condition)
            yield from query.to_batches()

    def put(self, rows: Sequence[Row], deleted: Sequence[str], *, are_new: bool = False) -> list[str]:
        """Write and delete passages, in one commit."""
        self._n_writes += 1
        with self._failing():
            taken = self._put(rows, deleted, are_new)
            if self._n_writes % _WRITES == 0:
                self._merge_files()
            return taken

    def _put(self, rows: Sequence[Row], deleted: Sequence[str], are_new: bool) -> list[str]:
        if not rows:
            for start in range(0, len(deleted), _KEYS_AT_ONCE):
                self._passages.delete(_among("key", deleted[start : start + _KEYS_AT_ONCE]))
            return []
        # Never a plain addition: it would not meet that of the same key by another process.
        merge = self._passages.merge_insert("key").when_not_matched_insert_all()
        if are_new:
            if merge.execute(self._batch(rows)).num_inserted_rows < len(rows):
                return self._taken_back(rows)
            return []
        merge = merge.when_matched_update_all()
        written = {key_of(row.doc_id) for row in rows}
        if gone := [key for key in deleted if key not in written]:
            merge = merge.when_not_matched_by_source_delete(_among("key", gone))
        merge.execute(self._batch(rows))
        return []

    def _taken_back(self, rows: Sequence[Row]) -> list[str]:
        """Delete the rows that were just inserted; returns the ids of the others."""
        stamps = {row.doc_id: row.stamp for row in rows}
        found = list(self.rows(list(map(key_of, stamps))))
        own = [row for row in found if row.stamp == stamps[row.doc_id]]
        for row in own:
            self._passages.delete(f"key = '{key_of(row.doc_id)}' AND stamp = {row.stamp}")
        return sorted(stamps.keys() - {row.doc_id for row in own})

    def _batch(self, rows: Sequence[Row]) -> Any:
        """The rows as a table of Arrow."""
        arrow, schema = self._arrow, self._schema_of_passages
        uris = [row.source for row in rows]
        parts = [row.vectors for row in rows if row.vectors is not None]
        values = arrow.array(np.concatenate(parts).astype(np.float16, copy=False).ravel())
        offsets = np.append(0, np.cumsum([len(part) for part in parts])).astype(np.int32)
        columns = {
            "key": [key_of(row.doc_id) for row in rows],
            "doc_id": [row.doc_id for row in rows],
            "ordering": [row.order for row in rows],
            "stamp": [row.stamp for row in rows],
            "text": [row.text for row in rows],
            "metadata": [row.metadata for row in rows],
            "source": uris,
            "source_key": [None if uri is None else key_of(uri) for uri in uris],
            "position": [row.position for row in rows],
            "n_tokens": [row.n_tokens for row in rows],
            "facts": [
                "".join(f"|{word}|" for word in facts.words)
                for facts in Facts.of((row.metadata, row.source) for row in rows)
            ],
            "vectors": arrow.ListArray.from_arrays(
                arrow.array(offsets), arrow.FixedSizeListArray.from_arrays(values, self._dim())
            ),
        }
        return arrow.table([columns[name] for name in schema.names], schema=schema)

    def nearest(self, query: Array, n: int, condition: str | None = None, *, exact: bool) -> list[str]:
        """The ids of the n passages with the best MaxSim among those that satisfy a condition."""
        with self._failing():
            search = self._passages.search(query, vector_column_name="vectors").select(
                ["doc_id", "_distance"]
            )
            if exact or not self._has_index("vectors"):
                search = search.bypass_vector_index().distance_type("dot")
            else:
                search = search.distance_type("cosine").nprobes(_N_PROBE)
            if condition is not None:
                search = search.where(condition, prefilter=True)
            ids: list[str] = search.limit(n).to_arrow()["doc_id"].to_pylist()
            return ids

    def _dim(self) -> int:
        return int(self._schema_of_passages.field("vectors").type.value_type.list_size)

    def _has_index(self, column: str) -> bool:
        return any(index.columns == [column] for index in self._passages.list_indices())

    def records(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """The records with these names."""
        found: dict[str, str] = {}
        if names is not None and not names:
            return found
        condition = None if names is None else _among("name", names)
        for batch in self._read(self._records, condition, ["name", "value"]):
            found |= zip(batch["name"].to_pylist(), batch["value"].to_pylist(), strict=True)
        return found

    def put_records(self, records: Mapping[str, str | None]) -> None:
        """Write and delete records."""
        kept = {name: value for name, value in records.items() if value is not None}
        gone = [name for name, value in records.items() if value is None]
        with self._failing():
            if kept:
                columns = [list(kept), list(kept.values())]
                table = self._arrow.table(columns, schema=self._records.schema)
                merge = self._records.merge_insert("name")
                merge.when_matched_update_all().when_not_matched_insert_all().execute(table)
            if gone:
                self._records.delete(_among("name", gone))

    def tidy(self, exact_tokens: int | None) -> None:
        """Merge small files, and make or complete the indexes."""
        from lancedb.index import IvfRq, IvfSq

        with self._failing():
            if exact_tokens is not None and not self._has_index("vectors"):
                n_tokens = sum(
                    int(np.sum(batch["n_tokens"].to_numpy()))
                    for batch in self._read(self._passages, None, ["n_tokens"])
                )
                if n_tokens > exact_tokens:
                    # RaBitQ is the fastest, and missed no candidate (examples/bench/README.md).
                    kind = IvfSq if self._dim() % 8 else IvfRq
                    partitions = int(n_tokens**0.5)
                    config = kind(distance_type="cosine", num_partitions=partitions, max_iterations=10)
                    self._passages.create_index("vectors", config=config)
            self._merge_files()

    def _merge_files(self) -> None:
        """Merge small files, and make or complete the indexes of the keys."""
        from lancedb.index import BTree

        if self.count() >= _ROWS_FOR_KEY_INDEX:
            for column in ("key", "source_key"):
                if not self._has_index(column):
                    self._passages.create_index(column, config=BTree())
        for table in (self._passages, self._records):
            table.optimize(cleanup_older_than=_KEEP)

    def close(self) -> None:
        """Do nothing: a table of LanceDB has nothing to close."""


def _among(column: str, values: Sequence[str]) -> str:
    """A condition. The values are keys or names of records, never texts of a user."""
    quoted = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({quoted})"


def _passing(test: FactTest) -> str:
    """A condition. It has facts, never texts of a user."""
    match test:
        case Has(words):
            return _joined("OR", [f"contains(facts, '|{word}|')" for word in words])
        case Ordered(key, order, value):
            token = token_of(value)
            # The texts between "|key=" and the next "|".
            stored = f"split_part(split_part(facts, '|{key}=', 2), '|', 1)"
            kind = token[0]
            return (
                f"({stored} >= '{kind}' AND {stored} < '{chr(ord(kind) + 1)}' AND {stored} {order} '{token}')"
            )
        case All(parts):
            return _joined("AND", map(_passing, parts))
        case Some(parts):
            return _joined("OR", map(_passing, parts))
        case Neither(parts):
            return f"NOT {_joined('OR', map(_passing, parts))}"


def _joined(operator: str, conditions: Iterable[str]) -> str:
    return f"({f' {operator} '.join(conditions)})"


def _arrays(column: Any) -> list[Array]:
    """The array (n_tokens, D) of each row of a column of vectors."""
    tokens = column.flatten()
    dim = column.type.value_type.list_size
    values = tokens.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
