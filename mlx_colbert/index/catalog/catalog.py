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
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index.catalog import database_errors
from mlx_colbert.index.catalog.commits import lost_commits, read_note, write_note
from mlx_colbert.index.catalog.connection import Connection
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME
from mlx_colbert.index.catalog.database_file import Identity
from mlx_colbert.index.catalog.digests import row_digest, tables_digest
from mlx_colbert.index.catalog.formats import bring_up, drop_views, prepare
from mlx_colbert.index.catalog.schema import FORMAT_VERSION, check_format
from mlx_colbert.index.settings import IndexSettings
from mlx_colbert.index.storage.codec import CodecRecord
from mlx_colbert.index.storage.files import REBUILD, FileRecord
from mlx_colbert.index.storage.segment import SegmentRecord, Storage


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
        self._connection = Connection(root, partial(prepare, root))
        self.format = self._connection.format
        # The last commit whose small tables were compared with their digest.
        self._compared: tuple[int, int] | None = None
        try:
            with self.read():
                pass
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> Identity:
        """Of its file, which another one at the same path does not have."""
        return self._connection.identity

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def folder(self) -> AbstractContextManager[int]:
        """A descriptor of the index folder. It stays the same folder, whatever becomes of the path."""
        return self._connection.folder()

    @contextmanager
    def read(self) -> Iterator[None]:
        """A transaction in which every read sees the same commit."""
        with self._transaction():
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which nobody else writes, and nothing is written.

        Raises:
            IndexLockedError: if another writer does not finish in time.
        """
        with self._transaction(for_writing=True):
            yield

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction that is durable when the block ends, and undone when it raises.

        An older catalog is brought to this format in it.

        Raises:
            IndexLockedError: if another writer does not finish in time.
        """
        # What is damaged must not get a new digest.
        self._compared = None
        with self._transaction(for_writing=True):
            self._upgrade()
            yield
            number = max(self._n_commits(), read_note(self.root) or 0) + 1
            self._set_meta("commits", number)
            self._set_meta("digest", tables_digest(self.rows))
            self._connection.check_identity()
            self.run("COMMIT")
            # Whoever replaces it must not be told that the change is there.
            self._connection.check_identity()
            write_note(self.root, number)

    @contextmanager
    def _transaction(self, *, for_writing: bool = False) -> Iterator[None]:
        while True:
            with self._connection.transaction(for_writing=for_writing):
                self.format = self._connection.format
                if self._stored_format() == self.format:
                    self._notice_commit()
                    yield
                    return
            # It has been brought up to date since, and is no longer read in the way of its old format.
            self._connection.reopen()

    def _notice_commit(self) -> None:
        version = self.version()
        if version != self._compared:
            self._compare_digest()
            self.settings, self._name = self._read_settings()
            self._compared = version

    def n_passages(self) -> int:
        """How many passages there are."""
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
        """Give back the room of commits that are copied into the database, if no reader needs them still."""
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
        """Run a statement."""
        self._connection.rows(sql, parameters)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement with the parameters of each row."""
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

    def _set_meta(self, name: str, value: object) -> None:
        self.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

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
        """Bring an older catalog to this format, within a write."""
        if self.format < FORMAT_VERSION:
            drop_views(self)
            bring_up(self, self.format)
            self.format = FORMAT_VERSION
            # If this is undone, the next transaction reads the settings again.
            self._compared = None
            self.settings, self._name = self._read_settings()

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


def _is_digest(digest: object, values: Sequence[Any]) -> bool:
    try:
        return bool(row_digest(*values) == digest)
    except TypeError:
        return False
