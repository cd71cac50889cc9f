"""The SQLite catalog: which segments are live, where each document lies in them, texts and metadata.

Every SQL statement that changes rows or reads them is in this file; `schema.py` makes and opens the database.
Write-ahead logging lets a search keep its snapshot while a writer commits, and costs one sync per commit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index.schema import CATALOG_NAME, MAX_DIM, connect, sqlite_errors
from mlx_colbert.index.segment import FileRecord, SegmentRecord
from mlx_colbert.passage import is_text

# Below the 999 variables that old builds of SQLite allow in one statement.
_IDS_PER_STATEMENT = 500

# A candidate is [segment, ordinal, rank]; equal ranks are ordered by doc_id.
_TOP = """
SELECT chosen.position, chosen.doc_id, contents.text, contents.metadata FROM (
    SELECT candidate.key AS position, documents.document, documents.doc_id,
        json_extract(candidate.value, '$[2]') AS rank
    FROM json_each(?) AS candidate CROSS JOIN documents
    ON documents.segment = json_extract(candidate.value, '$[0]')
        AND documents.ordinal = json_extract(candidate.value, '$[1]')
    ORDER BY rank, documents.doc_id LIMIT ?
) AS chosen JOIN contents USING (document) ORDER BY chosen.rank, chosen.doc_id
"""

_PROBLEMS = {
    "a segment's documents and tombstones are not its ordinals": """
        SELECT count(*) FROM segments WHERE n_documents != (SELECT count(*) FROM
        (SELECT ordinal FROM documents WHERE documents.segment = segments.segment
        UNION SELECT ordinal FROM tombstones WHERE tombstones.segment = segments.segment)
        WHERE ordinal BETWEEN 0 AND n_documents - 1)""",
    "a document lies in a segment that does not exist": """
        SELECT count(*) FROM documents WHERE segment NOT IN (SELECT segment FROM segments)""",
    "a live document has a tombstone": """
        SELECT count(*) FROM documents JOIN tombstones USING (segment, ordinal)""",
    "a document has no contents, or contents no document": """
        SELECT (SELECT count(*) FROM documents) + (SELECT count(*) FROM contents)
        - 2 * (SELECT count(*) FROM documents JOIN contents USING (document))""",
}


@dataclass(frozen=True)
class Document:
    """A stored document.

    Attributes:
        doc_id: the id that it was added with.
        text: the stored text, if any.
        metadata: the stored JSON object, if any.
        n_tokens: number of its token embeddings.
    """

    doc_id: str
    text: str | None
    metadata: dict[str, Any] | None
    n_tokens: int


@dataclass(frozen=True)
class DocumentLocation:
    """Where a live document lies.

    Attributes:
        document: its number in the catalog, which merging does not change.
        segment: number of the segment.
        ordinal: position in the segment.
        n_tokens: number of its token embeddings.
    """

    document: int
    segment: int
    ordinal: int
    n_tokens: int


class Catalog:
    """One connection to the catalog of an index, for one thread at a time.

    Raises:
        IndexStoreError: from every method, if SQLite cannot do it; the subclass says why.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._connection = connect(root)
        try:
            meta = dict(self._rows("SELECT name, value FROM meta"))
            self.dim: int = json.loads(meta["dim"])
            self.model: dict[str, str] | None = json.loads(meta["model"])
            texts = [part for item in (self.model or {}).items() for part in item]
            if type(self.dim) is not int or not 1 <= self.dim <= MAX_DIM or not all(map(is_text, texts)):
                raise ValueError("dim or model has another type")
        except IndexStoreError:
            self.close()
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            self.close()
            raise self._damaged("does not say dim and model") from error

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    @contextmanager
    def read(self) -> Iterator[None]:
        """A transaction in which every read sees the same commit."""
        self._run("BEGIN")
        try:
            yield
        finally:
            self._rollback()

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction that is durable when the block ends, and undone when it raises.

        Raises:
            IndexLockedError: if another writer does not finish in time.
        """
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def version(self) -> int:
        """A number that changes when another connection commits."""
        return int(self._rows("PRAGMA data_version")[0][0])

    def segments(self) -> list[SegmentRecord]:
        """The live segments, in the order they were made."""
        files: dict[int, list[FileRecord]] = {}
        for number, *file in self._rows(
            "SELECT segment, name, n_bytes, crc32 FROM files ORDER BY segment, name"
        ):
            files.setdefault(number, []).append(FileRecord(*file))
        rows = self._rows(
            "SELECT segment, codec, n_documents, n_tokens, n_deleted, n_deleted_tokens FROM segments "
            "ORDER BY segment"
        )
        records = [SegmentRecord(*(*row, tuple(files.get(row[0], [])))) for row in rows]
        for record in records:
            counts = (record.n_documents, record.n_tokens, record.n_deleted, record.n_deleted_tokens)
            if not all(type(count) is int and count >= 0 for count in counts) or counts[2] > counts[0]:
                raise self._damaged(f"says {counts} of segment {record.number}")
        return records

    def deleted_ordinals(self, record: SegmentRecord) -> list[int]:
        """The ordinals of the documents of a segment that are deleted."""
        rows = self._rows("SELECT ordinal FROM tombstones WHERE segment = ?", (record.number,))
        ordinals = [ordinal for (ordinal,) in rows]
        inside = all(type(ordinal) is int and 0 <= ordinal < record.n_documents for ordinal in ordinals)
        if not inside or len(ordinals) != record.n_deleted:
            raise self._damaged(f"has tombstones that are not segment {record.number}'s")
        return ordinals

    def _parse(self, metadata: str | None) -> dict[str, Any] | None:
        try:
            value: dict[str, Any] | None = None if metadata is None else json.loads(metadata)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._damaged("holds metadata that is not JSON") from error
        return value

    def _damaged(self, problem: str) -> IndexDamagedError:
        return IndexDamagedError(
            self.root / CATALOG_NAME, f"{problem}. Restore it from a backup, or build the index again."
        )

    def locate(self, doc_ids: Sequence[str]) -> dict[str, DocumentLocation]:
        """The locations of those ids that the index holds."""
        found: dict[str, DocumentLocation] = {}
        for start in range(0, len(doc_ids), _IDS_PER_STATEMENT):
            part = doc_ids[start : start + _IDS_PER_STATEMENT]
            marks = ",".join("?" * len(part))
            rows = self._rows(
                "SELECT doc_id, document, segment, ordinal, n_tokens FROM documents "
                f"WHERE doc_id IN ({marks})",
                part,
            )
            found.update((doc_id, DocumentLocation(*location)) for doc_id, *location in rows)
        return found

    def document(self, doc_id: str) -> Document | None:
        """The stored document of that id, or None."""
        rows = self._rows(
            "SELECT doc_id, text, metadata, n_tokens FROM documents JOIN contents USING (document) "
            "WHERE doc_id = ?",
            (doc_id,),
        )
        return Document(rows[0][0], rows[0][1], self._parse(rows[0][2]), rows[0][3]) if rows else None

    def top(
        self, candidates: Sequence[tuple[int, int, int]], k: int
    ) -> list[tuple[int, str, str | None, dict[str, Any] | None]]:
        """The k first candidates as (position in candidates, doc_id, text, metadata).

        Args:
            candidates: (segment, ordinal, rank) of live documents; equal ranks are ordered by doc_id.
            k: how many to return.
        """
        rows = self._rows(_TOP, (json.dumps(candidates), k))
        return [(position, doc_id, text, self._parse(metadata)) for position, doc_id, text, metadata in rows]

    def new_segment(self, codec: str, n_documents: int, n_tokens: int) -> int:
        """The number of a new segment, which no committed segment ever had."""
        rows = self._rows(
            "INSERT INTO segments (codec, n_documents, n_tokens) VALUES (?, ?, ?) RETURNING segment",
            (codec, n_documents, n_tokens),
        )
        return int(rows[0][0])

    def insert_files(self, segment: int, files: Iterable[FileRecord]) -> None:
        """Names the files of a segment."""
        self._run_many(
            "INSERT INTO files VALUES (?, ?, ?, ?)", ((segment, f.name, f.n_bytes, f.crc32) for f in files)
        )

    def insert_documents(
        self, segment: int, first_ordinal: int, rows: Sequence[tuple[str, int, str | None, str | None]]
    ) -> None:
        """Adds documents to a segment.

        Args:
            segment: number of the segment.
            first_ordinal: ordinal of the first one.
            rows: (doc_id, n_tokens, text, metadata as JSON), in the order of their ordinals.
        """
        first = 1 + int(self._rows("SELECT coalesce(max(document), 0) FROM documents")[0][0])
        self._run_many(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
            ((first + i, row[0], segment, first_ordinal + i, row[1]) for i, row in enumerate(rows)),
        )
        self._run_many(
            "INSERT INTO contents VALUES (?, ?, ?)",
            ((first + i, row[2], row[3]) for i, row in enumerate(rows)),
        )

    def move_documents(self, segment: int, to_segment: int, first_ordinal: int) -> int:
        """The number of live documents moved: they keep their order and are numbered from `first_ordinal`."""
        rows = self._rows("SELECT document FROM documents WHERE segment = ? ORDER BY ordinal", (segment,))
        self._run_many(
            "UPDATE documents SET segment = ?, ordinal = ? WHERE document = ?",
            ((to_segment, first_ordinal + i, document) for i, (document,) in enumerate(rows)),
        )
        return len(rows)

    def delete_documents(self, locations: Iterable[DocumentLocation]) -> None:
        """Deletes documents and leaves a tombstone for each."""
        for at in locations:
            self._run("DELETE FROM documents WHERE document = ?", (at.document,))
            self._run("DELETE FROM contents WHERE document = ?", (at.document,))
            self._run("INSERT INTO tombstones VALUES (?, ?)", (at.segment, at.ordinal))
            self._run(
                "UPDATE segments SET n_deleted = n_deleted + 1, n_deleted_tokens = n_deleted_tokens + ? "
                "WHERE segment = ?",
                (at.n_tokens, at.segment),
            )

    def drop_segment(self, segment: int) -> None:
        """Forgets a segment that holds no live document."""
        for table in ("segments", "files", "tombstones"):
            self._run(f"DELETE FROM {table} WHERE segment = ?", (segment,))

    def problems(self) -> list[str]:
        """What is wrong within the catalog, one sentence each; reads all of it."""
        found = [str(row[0]) for row in self._rows("PRAGMA integrity_check") if row[0] != "ok"]
        found += [problem for problem, query in _PROBLEMS.items() if self._rows(query)[0][0]]
        return [f"index {self.root / CATALOG_NAME}: {problem}." for problem in found]

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        with sqlite_errors(self.root):
            self._connection.execute(sql, parameters)

    def _run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with sqlite_errors(self.root):
            self._connection.executemany(sql, rows)

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with sqlite_errors(self.root):
            return self._connection.execute(sql, parameters).fetchall()

    def _rollback(self) -> None:
        # SQLite has ended the transaction itself after some errors, a full disk for one.
        if self._connection.in_transaction:
            self._run("ROLLBACK")
