"""The SQLite catalog: which segments and which codec are live, where each document lies in them.

`schema.py` makes and opens the database; `contents.py` reads the texts, metadata and keywords.
Write-ahead logging lets a search keep its snapshot while a writer commits, and costs one sync per commit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index.catalog import database_errors
from mlx_colbert.index.catalog.commits import lost_commits, read_note, write_note
from mlx_colbert.index.catalog.connection import Connection
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME
from mlx_colbert.index.catalog.database_file import Identity
from mlx_colbert.index.catalog.keywords import searchable_text
from mlx_colbert.index.catalog.schema import FORMAT_VERSION, SCHEMA_2, check_database, check_format
from mlx_colbert.index.settings import IndexSettings
from mlx_colbert.index.storage.codec import CodecRecord
from mlx_colbert.index.storage.files import REBUILD, FileRecord
from mlx_colbert.index.storage.segment import SegmentRecord, Storage

# Below the 999 variables that old builds of SQLite allow in one statement.
_IDS_PER_STATEMENT = 500

_PROBLEMS = {
    "a segment's documents and tombstones are not its ordinals": """
        SELECT count(*) FROM segments WHERE n_documents != (SELECT count(*) FROM
        (SELECT ordinal FROM documents WHERE documents.segment = segments.segment
        UNION SELECT ordinal FROM tombstones WHERE tombstones.segment = segments.segment)
        WHERE ordinal BETWEEN 0 AND n_documents - 1)""",
    "a document lies in a segment that does not exist": """
        SELECT count(*) FROM documents WHERE segment NOT IN (SELECT segment FROM segments)""",
    "a segment's rows are not those of its documents": """
        SELECT count(*) FROM segments WHERE n_tokens - n_deleted_tokens != (SELECT coalesce(sum(n_tokens), 0)
        FROM documents WHERE documents.segment = segments.segment)""",
    "a file belongs to no segment": """
        SELECT count(*) FROM files WHERE segment NOT IN (SELECT segment FROM segments)""",
    "a live document has a tombstone": """
        SELECT count(*) FROM documents JOIN tombstones USING (segment, ordinal)""",
    "a document has no contents, or contents no document": """
        SELECT (SELECT count(*) FROM documents) + (SELECT count(*) FROM contents)
        - 2 * (SELECT count(*) FROM documents JOIN contents USING (document))""",
    "a document's id, location, text or metadata has another type": """
        SELECT count(*) FROM documents LEFT JOIN contents USING (document) WHERE typeof(doc_id) != 'text'
        OR typeof(ordinal) != 'integer' OR typeof(n_tokens) != 'integer'
        OR typeof(text) NOT IN ('text', 'null') OR typeof(metadata) NOT IN ('text', 'null')
        OR (metadata NOTNULL
        AND CASE json_valid(metadata) WHEN 1 THEN json_type(metadata) ELSE 0 END != 'object')""",
}
# Of format 2: keywords_docsize is FTS5's own list of the texts that it knows.
_PROBLEMS_2 = {
    "a file belongs to no codec": """
        SELECT count(*) FROM codec_files WHERE codec NOT IN (SELECT codec FROM codecs)""",
    "the keywords are not those of the texts": """
        SELECT (SELECT count(*) FROM contents WHERE text NOTNULL) + (SELECT count(*) FROM keywords_docsize)
        - 2 * (SELECT count(*) FROM contents JOIN keywords_docsize ON id = document WHERE text NOTNULL)""",
}


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

    Attributes:
        format: of the database.
        settings: what the index was created with.

    Raises:
        IndexStoreError: from every method, if SQLite cannot do it; the subclass says why.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._connection = Connection(root, partial(check_database, root))
        try:
            self.format = self._stored_format()
            meta = {name: json.loads(value) for name, value in self.rows("SELECT name, value FROM meta")}
            self.settings = IndexSettings.from_meta(meta)
        except IndexStoreError:
            self.close()
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            self.close()
            raise self.damaged("does not say dim, model and how it stores rows") from error

    @property
    def identity(self) -> Identity:
        """Of its file, which another one at the same path does not have."""
        return self._connection.identity

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def folder(self) -> AbstractContextManager[int]:
        """A descriptor of the index folder. It stays the same folder, whatever becomes of the path."""
        return self._connection.folder()

    @contextmanager
    def read(self) -> Iterator[None]:
        """A transaction in which every read sees the same commit."""
        with self._connection.transaction():
            if self.format < FORMAT_VERSION:
                # Another connection may have brought it up to date since.
                self.format = self._stored_format()
            yield

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction that is durable when the block ends, and undone when it raises.

        Raises:
            IndexLockedError: if another writer does not finish in time.
        """
        with self._connection.transaction(for_writing=True):
            yield
            number = max(self._n_commits(), read_note(self.root) or 0) + 1
            self.run(
                "INSERT INTO meta VALUES ('commits', ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (str(number),),
            )
            self._connection.check_identity()
            self.run("COMMIT")
            # Whoever replaces it must not be told that the change is there.
            self._connection.check_identity()
            write_note(self.root, number)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which nobody else writes, and nothing is written.

        Raises:
            IndexLockedError: if another writer does not finish in time.
        """
        with self._connection.transaction(for_writing=True):
            yield

    def n_documents(self) -> int:
        """How many documents there are."""
        return sum(record.n_documents - record.n_deleted for record in self.segments())

    def lost_commits(self) -> IndexDamagedError | None:
        """The error of a catalog that has lost acknowledged changes; None if nothing is known to be lost."""
        numbers = dict(self.rows("SELECT name, seq FROM sqlite_sequence"))
        lost = lost_commits(
            self.root,
            self._n_commits(),
            {"segment": numbers.get("segments", 0), "codec": numbers.get("codecs", 0)},
        )
        return None if lost is None else IndexDamagedError(self.root / CATALOG_NAME, lost)

    def start_note(self) -> None:
        """Notes the last commit where no note is: what a crash leaves from now on is known to be nobody's."""
        if read_note(self.root) is None:
            write_note(self.root, self._n_commits())

    def shorten_log(self) -> None:
        """Gives back the room of commits that are copied into the database, if no reader needs them still."""
        # It would wait for readers, and for writers meanwhile; and the commits stand without it.
        with suppress(IndexStoreError):
            self.run("PRAGMA busy_timeout = 0")
            try:
                self.run("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self.run(f"PRAGMA busy_timeout = {round(database_errors.LOCK_TIMEOUT_S * 1000)}")

    def version(self) -> tuple[int, int]:
        """What changes when another connection commits."""
        (data_version,) = self.rows("PRAGMA data_version")[0]
        return self._connection.n_opened, int(data_version)

    def segments(self) -> list[SegmentRecord]:
        """The live segments, in the order they were made."""
        files: dict[int, list[FileRecord]] = {}
        for number, *file in self.rows(
            "SELECT segment, name, n_bytes, crc32 FROM files ORDER BY segment, name"
        ):
            files.setdefault(number, []).append(self._file(*file))
        rows = self.rows(
            "SELECT segment, codec, n_documents, n_tokens, n_deleted, n_deleted_tokens FROM segments "
            "ORDER BY segment"
        )
        records = [SegmentRecord(*(*row, tuple(files.get(row[0], [])))) for row in rows]
        for record in records:
            counts = (record.n_documents, record.n_tokens, record.n_deleted, record.n_deleted_tokens)
            whole = all(type(count) is int and count >= 0 for count in counts)
            if not whole or counts[2] > counts[0] or counts[3] > counts[1]:
                raise self.damaged(f"says {counts} of segment {record.number}")
        return records

    def codec(self) -> CodecRecord | None:
        """The codec of the segments that have one."""
        if self.format < 2:
            return None
        rows = self.rows("SELECT codec, nbits, n_centroids, outlier_distance FROM codecs")
        if not rows:
            return None
        types = [type(value) for value in rows[0]]
        if len(rows) > 1 or types != [int, int, int, float] or not 0 <= rows[0][3] < math.inf:
            raise self.damaged("says more than one codec, or what is no codec")
        files = self.rows(
            "SELECT name, n_bytes, crc32 FROM codec_files WHERE codec = ? ORDER BY name", rows[0][:1]
        )
        number, nbits, n_centroids, distance = rows[0]
        return CodecRecord(number, nbits, n_centroids, distance, tuple(self._file(*file) for file in files))

    def new_codec(self, nbits: int, *, n_centroids: int, outlier_distance: float) -> int:
        """The number of a new codec, which takes the place of the one before."""
        self.run("DELETE FROM codecs")
        self.run("DELETE FROM codec_files")
        rows = self.rows(
            "INSERT INTO codecs (nbits, n_centroids, outlier_distance) VALUES (?, ?, ?) RETURNING codec",
            (nbits, n_centroids, outlier_distance),
        )
        return int(rows[0][0])

    def insert_codec_files(self, codec: int, files: Iterable[FileRecord]) -> None:
        """Names the files of a codec."""
        rows = ((codec, f.name, f.n_bytes, f.crc32) for f in files)
        self.run_many("INSERT INTO codec_files VALUES (?, ?, ?, ?)", rows)

    def upgrade(self) -> None:
        """Brings an older catalog to this format, within a write."""
        # Another connection may have done it since.
        self.format = self._stored_format()
        if self.format < FORMAT_VERSION:
            for statement in SCHEMA_2.split(";"):
                self.run(statement)
            self.run(f"PRAGMA user_version = {FORMAT_VERSION}")
            self.format = FORMAT_VERSION
            rows = self.rows("SELECT document, text FROM contents WHERE text NOTNULL")
            self.insert_keywords(rows)

    def insert_keywords(self, rows: Iterable[tuple[int, str]]) -> None:
        """Makes texts findable by their words.

        Args:
            rows: (document, text).
        """
        self.run_many(
            "INSERT INTO keywords (rowid, text) VALUES (?, ?)",
            ((document, searchable_text(text)) for document, text in rows),
        )

    def deleted_ordinals(self, record: SegmentRecord) -> list[int]:
        """The ordinals of the documents of a segment that are deleted."""
        rows = self.rows("SELECT ordinal FROM tombstones WHERE segment = ?", (record.number,))
        ordinals = [ordinal for (ordinal,) in rows]
        inside = all(type(ordinal) is int and 0 <= ordinal < record.n_documents for ordinal in ordinals)
        if not inside or len(ordinals) != record.n_deleted:
            raise self.damaged(f"has tombstones that are not segment {record.number}'s")
        return ordinals

    def damaged(self, problem: str) -> IndexDamagedError:
        """The error of a catalog whose content cannot be right."""
        return IndexDamagedError(self.root / CATALOG_NAME, f"{problem}. {REBUILD}")

    def locate(self, doc_ids: Sequence[str]) -> dict[str, DocumentLocation]:
        """The locations of those ids that the index holds."""
        found: dict[str, DocumentLocation] = {}
        for start in range(0, len(doc_ids), _IDS_PER_STATEMENT):
            part = doc_ids[start : start + _IDS_PER_STATEMENT]
            marks = ",".join("?" * len(part))
            rows = self.rows(
                "SELECT doc_id, document, segment, ordinal, n_tokens FROM documents "
                f"WHERE doc_id IN ({marks})",
                part,
            )
            found.update((doc_id, DocumentLocation(*location)) for doc_id, *location in rows)
        return found

    def new_segment(self, storage: Storage, *, n_documents: int, n_tokens: int) -> int:
        """The number of a new segment, which no committed segment ever had."""
        rows = self.rows(
            "INSERT INTO segments (codec, n_documents, n_tokens) VALUES (?, ?, ?) RETURNING segment",
            (storage, n_documents, n_tokens),
        )
        return int(rows[0][0])

    def insert_files(self, segment: int, files: Iterable[FileRecord]) -> None:
        """Names the files of a segment."""
        self.run_many(
            "INSERT INTO files VALUES (?, ?, ?, ?)", ((segment, f.name, f.n_bytes, f.crc32) for f in files)
        )

    def insert_documents(
        self, segment: int, rows: Sequence[tuple[str, int, str | None, str | None]], *, first_ordinal: int
    ) -> None:
        """Adds documents to a segment.

        Args:
            segment: number of the segment.
            rows: (doc_id, n_tokens, text, metadata as JSON), in the order of their ordinals.
            first_ordinal: ordinal of the first one.
        """
        first = 1 + int(self.rows("SELECT coalesce(max(document), 0) FROM documents")[0][0])
        self.run_many(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
            ((first + i, row[0], segment, first_ordinal + i, row[1]) for i, row in enumerate(rows)),
        )
        self.run_many(
            "INSERT INTO contents VALUES (?, ?, ?)",
            ((first + i, row[2], row[3]) for i, row in enumerate(rows)),
        )
        self.insert_keywords((first + i, row[2]) for i, row in enumerate(rows) if row[2] is not None)

    def move_documents(self, segment: int, to_segment: int, *, first_ordinal: int) -> int:
        """The number of live documents moved: they keep their order and are numbered from `first_ordinal`."""
        rows = self.rows("SELECT document FROM documents WHERE segment = ? ORDER BY ordinal", (segment,))
        self.run_many(
            "UPDATE documents SET segment = ?, ordinal = ? WHERE document = ?",
            ((to_segment, first_ordinal + i, document) for i, (document,) in enumerate(rows)),
        )
        return len(rows)

    def delete_documents(self, locations: Iterable[DocumentLocation]) -> None:
        """Deletes documents and leaves a tombstone for each."""
        for location in locations:
            document = location.document
            text = self.rows("SELECT CAST(text AS TEXT) FROM contents WHERE document = ?", (document,))
            if text and text[0][0] is not None:
                # A table without contents must be told what it is to forget.
                self.run(
                    "INSERT INTO keywords (keywords, rowid, text) VALUES ('delete', ?, ?)",
                    (document, searchable_text(text[0][0])),
                )
            self.run("DELETE FROM documents WHERE document = ?", (document,))
            self.run("DELETE FROM contents WHERE document = ?", (document,))
            self.run("INSERT INTO tombstones VALUES (?, ?)", (location.segment, location.ordinal))
            self.run(
                "UPDATE segments SET n_deleted = n_deleted + 1, n_deleted_tokens = n_deleted_tokens + ? "
                "WHERE segment = ?",
                (location.n_tokens, location.segment),
            )

    def drop_segment(self, segment: int) -> None:
        """Forgets a segment that holds no live document."""
        for table in ("segments", "files", "tombstones"):
            self.run(f"DELETE FROM {table} WHERE segment = ?", (segment,))

    def problems(self) -> list[str]:
        """What is wrong within the catalog, one sentence each; reads all of it."""
        rows = self.rows("PRAGMA integrity_check", seconds=math.inf)
        if rows != [("ok",)]:
            # A page that the disk could not give just now is no damage.
            rows = self.rows("PRAGMA integrity_check", seconds=math.inf)
        found = [str(row[0]) for row in rows if row[0] != "ok"]
        queries = _PROBLEMS if self.format < 2 else _PROBLEMS | _PROBLEMS_2
        found += [problem for problem, query in queries.items() if self.rows(query, seconds=math.inf)[0][0]]
        return [f"index {self.root / CATALOG_NAME}: {problem}." for problem in found]

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Runs a statement."""
        self._connection.rows(sql, parameters)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs a statement with the parameters of each row."""
        self._connection.run_many(sql, rows)

    def rows(
        self, sql: str, parameters: Sequence[Any] = (), *, seconds: float = database_errors.QUERY_TIMEOUT_S
    ) -> list[Any]:
        """The rows of a query, which may take so many seconds."""
        return self._connection.rows(sql, parameters, seconds=seconds)

    def _n_commits(self) -> int:
        rows = self.rows("SELECT value FROM meta WHERE name = 'commits'")
        if rows and re.fullmatch(r"\d{1,18}", str(rows[0][0])) is None:
            raise self.damaged("does not say the number of its last commit")
        return int(rows[0][0]) if rows else 0

    def _stored_format(self) -> int:
        stored = int(self.rows("PRAGMA user_version")[0][0])
        check_format(self.root, stored)
        return stored

    def _file(self, name: Any, n_bytes: Any, crc32: Any) -> FileRecord:
        if [type(name), type(n_bytes), type(crc32)] != [str, int, int]:
            raise self.damaged(f"says {(n_bytes, crc32)} of file {name!r}")
        return FileRecord(name, n_bytes, crc32)
