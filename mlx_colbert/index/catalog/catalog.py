"""The SQLite catalog: which segments and which codec are live, and the transactions over all of it.

`schema.py` makes and opens the database, `formats.py` reads older ones. `passages.py` has the rows of
passages, `sources.py` where they came from, `documents.py` finds texts, metadata and keywords.
Write-ahead logging lets a search keep its snapshot while a writer commits, and costs one sync per commit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index.catalog import schema
from mlx_colbert.index.catalog.digests import row_digest, tables_digest
from mlx_colbert.index.catalog.formats import bring_up, drop_views, make_views
from mlx_colbert.index.catalog.schema import (
    CATALOG_NAME,
    FORMAT_VERSION,
    check_format,
    connect,
    file_identity,
    sqlite_errors,
)
from mlx_colbert.index.settings import IndexSettings
from mlx_colbert.index.storage.codec import CodecRecord
from mlx_colbert.index.storage.files import REBUILD, FileRecord
from mlx_colbert.index.storage.segment import SegmentRecord, Storage


class Catalog:
    """One connection to the catalog of an index, for one thread at a time.

    Attributes:
        identity: of its file, which another one at the same path does not have.
        settings: what the index was created with.

    Raises:
        IndexStoreError: from every method, if SQLite cannot do it; the subclass says why.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._connection, self.format = connect(root)
        self.identity = file_identity(root)
        # The last commit whose small tables were compared with their digest.
        self._compared: int | None = None
        try:
            make_views(self, self.format)
            self._compare_digest()
            self.settings, self._name = self._read_settings()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    @contextmanager
    def read(self) -> Iterator[None]:
        """A transaction in which every read sees the same commit."""
        self._begin_read()
        try:
            self._check_identity()
            version = self.version()
            if version != self._compared:
                self._compare_digest()
                self._compared = version
            yield
        finally:
            self._rollback()

    def _begin_read(self) -> None:
        self.run("BEGIN")
        try:
            stored = self._stored_format()
            if stored == self.format:
                return
        except BaseException:
            self._rollback()
            raise
        # Another connection has brought it up to date since. Views stay as they are after a transaction.
        self._rollback()
        drop_views(self)
        make_views(self, stored)
        self.format = stored
        self.settings, self._name = self._read_settings()
        self._begin_read()

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction that is durable when the block ends, and undone when it raises.

        Raises:
            IndexLockedError: if another writer does not finish in time.
        """
        before = self.format
        self.run("BEGIN IMMEDIATE")
        try:
            self._check_identity()
            self._upgrade()
            self._compare_digest()
            yield
            self._write_digest()
            self.run("COMMIT")
        except BaseException:
            self._rollback()
            self.format = before
            raise

    def shorten_log(self) -> None:
        """Gives back the room of commits that are copied into the database, if no reader needs them still."""
        # It would wait for readers, and for writers meanwhile; and the commits stand without it.
        with suppress(IndexStoreError):
            self.run("PRAGMA busy_timeout = 0")
            try:
                self.run("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self.run(f"PRAGMA busy_timeout = {round(schema.LOCK_TIMEOUT_S * 1000)}")

    def version(self) -> int:
        """A number that changes when another connection commits."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def segments(self) -> list[SegmentRecord]:
        """The live segments, in the order they were made."""
        files: dict[int, list[FileRecord]] = {}
        for number, *file in self.rows(
            "SELECT segment, name, n_bytes, crc32 FROM files ORDER BY segment, name"
        ):
            files.setdefault(number, []).append(self._file(*file))
        rows = self.rows(
            "SELECT segment, label, storage, n_passages, n_tokens, n_deleted, n_deleted_tokens "
            "FROM segments ORDER BY segment"
        )
        records = [SegmentRecord(*(*row, tuple(files.get(row[0], [])))) for row in rows]
        for record in records:
            self._check_label(record.label, "segment", record.number)
            counts = (record.n_documents, record.n_tokens, record.n_deleted, record.n_deleted_tokens)
            whole = all(type(count) is int and count >= 0 for count in counts)
            if not whole or counts[2] > counts[0] or counts[3] > counts[1]:
                raise self.damaged(f"says {counts} of segment {record.number}")
        return records

    def codec(self) -> CodecRecord | None:
        """The codec of the segments that have one."""
        rows = self.rows("SELECT codec, nbits, n_centroids, outlier_distance, label FROM codecs")
        if not rows:
            return None
        types = [type(value) for value in rows[0][:4]]
        if len(rows) > 1 or types != [int, int, int, float] or not 0 <= rows[0][3] < math.inf:
            raise self.damaged("names more than one codec, or a codec that is not possible")
        files = self.rows(
            "SELECT name, n_bytes, crc32 FROM codec_files WHERE codec = ? ORDER BY name", rows[0][:1]
        )
        number, nbits, n_centroids, distance, label = rows[0]
        self._check_label(label, "codec", number)
        records = tuple(self._file(*file) for file in files)
        return CodecRecord(number, label, nbits, n_centroids, distance, records)

    def new_codec(self, nbits: int, *, n_centroids: int, outlier_distance: float) -> tuple[int, str]:
        """Number and label of a new codec, which takes the place of the one before."""
        self.run("DELETE FROM codecs")
        self.run("DELETE FROM codec_files")
        rows = self.rows(
            "INSERT INTO codecs (nbits, n_centroids, outlier_distance) VALUES (?, ?, ?) RETURNING codec",
            (nbits, n_centroids, outlier_distance),
        )
        return self._labelled("codec", int(rows[0][0]))

    def _labelled(self, kind: str, number: int) -> tuple[int, str]:
        """Number and label of a new segment or codec. The label is in each of its files."""
        label = f"{self._name}/{kind}-{number:06d}"
        self.run(f"UPDATE {kind}s SET label = ? WHERE {kind} = ?", (label, number))
        return number, label

    def _check_label(self, label: object, kind: str, number: int) -> None:
        if label is not None and label != f"{self._name}/{kind}-{number:06d}":
            raise self.damaged(f"says that {kind} {number} is {label!r:.60}")

    def insert_codec_files(self, codec: int, files: Iterable[FileRecord]) -> None:
        """Names the files of a codec."""
        rows = ((codec, f.name, f.n_bytes, f.crc32) for f in files)
        self.run_many("INSERT INTO codec_files VALUES (?, ?, ?, ?)", rows)

    def deleted_ordinals(self, record: SegmentRecord) -> list[int]:
        """The ordinals of the passages of a segment that are deleted."""
        rows = self.rows("SELECT ordinal FROM tombstones WHERE segment = ?", (record.number,))
        ordinals = [ordinal for (ordinal,) in rows]
        inside = all(type(ordinal) is int and 0 <= ordinal < record.n_documents for ordinal in ordinals)
        if not inside or len(ordinals) != record.n_deleted:
            raise self.damaged(f"has tombstones that are not segment {record.number}'s")
        return ordinals

    def damaged(self, problem: str) -> IndexDamagedError:
        """The error of a catalog whose content cannot be right."""
        return IndexDamagedError(self.root / CATALOG_NAME, f"{problem}. {REBUILD}")

    def new_segment(self, storage: Storage, *, n_documents: int, n_tokens: int) -> tuple[int, str]:
        """Number and label of a new segment; no committed segment ever had this number."""
        rows = self.rows(
            "INSERT INTO segments (storage, n_passages, n_tokens) VALUES (?, ?, ?) RETURNING segment",
            (storage, n_documents, n_tokens),
        )
        return self._labelled("segment", int(rows[0][0]))

    def insert_files(self, segment: int, files: Iterable[FileRecord]) -> None:
        """Names the files of a segment."""
        self.run_many(
            "INSERT INTO files VALUES (?, ?, ?, ?)", ((segment, f.name, f.n_bytes, f.crc32) for f in files)
        )

    def drop_segment(self, segment: int) -> None:
        """Forgets a segment that holds no live passage."""
        for table in ("segments", "files", "tombstones"):
            self.run(f"DELETE FROM {table} WHERE segment = ?", (segment,))

    def checked(self, row: Sequence[Any], what: str, name: object) -> list[Any]:
        """The values of a row without its digest, which is the last of them.

        Raises:
            IndexDamagedError: if they are not the values that were written.
        """
        *values, digest = row
        # Older formats have no digests.
        if self.format == FORMAT_VERSION and not _is_digest(digest, values):
            raise self.damaged(f"the {what} {name!r} is not as it was written")
        return values

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Runs a statement."""
        with sqlite_errors(self.root):
            self._connection.execute(sql, parameters)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs a statement with the parameters of each row."""
        with sqlite_errors(self.root):
            self._connection.executemany(sql, rows)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""
        with sqlite_errors(self.root):
            return self._connection.execute(sql, parameters).fetchall()

    def _check_identity(self) -> None:
        # SQLite goes on with the file that it has open, but segments are found by their path.
        if file_identity(self.root) != self.identity:
            raise IndexStoreError(self.root, "was removed or replaced since it was opened. Open it again.")

    def _stored_format(self) -> int:
        stored = int(self.rows("PRAGMA user_version")[0][0])
        check_format(self.root, stored)
        return stored

    def _read_settings(self) -> tuple[IndexSettings, str | None]:
        """What the index was created with, and its name, which older formats do not have."""
        try:
            meta = {name: json.loads(value) for name, value in self.rows("SELECT name, value FROM meta")}
            settings, name = IndexSettings.from_meta(meta), meta.get("index")
            if self.format < FORMAT_VERSION or re.fullmatch("[0-9a-f]{8}", str(name)):
                return settings, name
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, IndexStoreError):
                raise
            raise self.damaged("does not say dim, model and how it stores rows") from error
        raise self.damaged("has no name of eight hexadecimal digits")

    def _upgrade(self) -> None:
        """Brings an older catalog to this format, within a write."""
        stored = self._stored_format()
        drop_views(self)
        if stored < FORMAT_VERSION:
            bring_up(self, stored)
            self._write_digest()
        if self.format < FORMAT_VERSION:
            self.format = FORMAT_VERSION
            self.settings, self._name = self._read_settings()

    def _write_digest(self) -> None:
        self.run("INSERT OR REPLACE INTO meta VALUES ('digest', ?)", (json.dumps(tables_digest(self.rows)),))

    def _compare_digest(self) -> None:
        if self.format < FORMAT_VERSION:
            return
        stored = self.rows("SELECT value FROM meta WHERE name = 'digest'")
        try:
            is_same = stored == [(json.dumps(tables_digest(self.rows)),)]
        except TypeError:
            is_same = False
        if not is_same:
            raise self.damaged("its settings, segments or files are not as they were written")

    def _file(self, name: Any, n_bytes: Any, crc32: Any) -> FileRecord:
        if [type(name), type(n_bytes), type(crc32)] != [str, int, int]:
            raise self.damaged(f"says {(n_bytes, crc32)} of file {name!r}")
        return FileRecord(name, n_bytes, crc32)

    def _rollback(self) -> None:
        # SQLite has ended the transaction itself after some errors, a full disk for one.
        if self._connection.in_transaction:
            self.run("ROLLBACK")


def _is_digest(digest: object, values: Sequence[Any]) -> bool:
    try:
        return bool(row_digest(*values) == digest)
    except TypeError:
        return False
