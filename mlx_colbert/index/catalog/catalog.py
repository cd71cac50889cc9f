"""The SQLite catalog: it names the live segments and the live codec, and runs all transactions.

`schema.py` creates and checks the database. `formats.py` reads older formats. `passages.py` reads and writes
the table of passages, `sources.py` the table of sources. `documents.py` finds texts, metadata and keywords.
Write-ahead logging lets a search keep its snapshot while a writer commits. It costs one sync per commit.
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
from mlx_colbert.index.catalog.schema import FIRST_WITH_DIGESTS, FORMAT_VERSION, check_format
from mlx_colbert.index.settings import IndexSettings
from mlx_colbert.index.storage.files import REBUILD, FileRecord, sync_folder
from mlx_colbert.index.storage.records import CodecRecord, SegmentRecord, Storage


class Catalog:
    """One connection to the catalog of an index, for one thread at a time.

    Attributes:
        format: the format of the database.
        settings: the settings that the index was created with.

    Raises:
        IndexStoreError: from every method, if SQLite reports an error. The subclass says which.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._connection = Connection(root, partial(prepare, root))
        self.format: int = self._connection.format
        # The last commit for which the digest of the small tables was checked.
        self._compared: tuple[int, int] | None = None
        self._upgrade_s = 0.0
        try:
            with self.read():
                self._upgrade_s = self.n_passages() * database_errors.UPGRADE_S_PER_PASSAGE
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> Identity:
        """The identity of the catalog file. A new file at the same path has another identity."""
        return self._connection.identity

    @property
    def lock_timeout_s(self) -> float:
        """How long to wait for another writer. It may be upgrading an index of an older format."""
        return database_errors.LOCK_TIMEOUT_S + self._patience_s

    @property
    def _patience_s(self) -> float:
        return self._upgrade_s if self.format < FORMAT_VERSION else 0.0

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def folder(self) -> AbstractContextManager[int]:
        """A descriptor of the index folder. It names the same folder even if the path changes."""
        return self._connection.folder()

    @contextmanager
    def read(self) -> Iterator[None]:
        """A transaction. Every read in it sees the same commit."""
        with self._transaction():
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block that keeps the write lock and writes nothing.

        Raises:
            IndexLockedError: if another writer does not finish in time.
        """
        with self._transaction(for_writing=True):
            yield

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction. It is durable when the block ends, and is undone if the block raises.

        It also upgrades a catalog of an older format.

        Raises:
            IndexLockedError: if another writer does not finish in time.
        """
        # Check the digest again: damaged tables must not get a new one.
        self._compared = None
        with self._transaction(for_writing=True):
            self._upgrade()
            yield
            number = max(self.n_commits(), read_note(self.root) or 0) + 1
            self._set_meta("commits", number)
            self._set_meta("digest", tables_digest(self.rows))
            self._connection.check_identity()
            self.run("COMMIT")
            # If the file was replaced during the commit, do not report success.
            self._connection.check_identity()
            write_note(self.root, number)

    @contextmanager
    def _transaction(self, *, for_writing: bool = False) -> Iterator[None]:
        while True:
            with self._connection.transaction(for_writing=for_writing, patience_s=self._patience_s):
                self.format = self._connection.format
                if self._stored_format() == self.format:
                    self._notice_commit()
                    yield
                    return
            # Another writer has upgraded the catalog. The views of the old format are no longer valid.
            self._connection.reopen()

    def _notice_commit(self) -> None:
        version = self.version()
        if version != self._compared:
            self._compare_digest()
            self.settings: IndexSettings
            self.settings, self._name = self._read_settings()
            self._compared = version

    def n_passages(self) -> int:
        """The number of live passages."""
        return sum(record.n_documents - record.n_deleted for record in self.segments())

    def lost_commits(self) -> IndexDamagedError | None:
        """The error to raise if the catalog has lost acknowledged changes, or None."""
        numbers = dict(self.rows("SELECT name, seq FROM sqlite_sequence"))
        lost = lost_commits(
            self.root,
            self.n_commits(),
            {"segment": numbers.get("segments", 0), "codec": numbers.get("codecs", 0)},
        )
        return None if lost is None else IndexDamagedError(self.root / CATALOG_NAME, lost)

    def start_note(self) -> None:
        """Write the note of the last commit if there is none.

        With a note, folders that a later crash leaves behind are known to be unused.
        """
        if read_note(self.root) is None:
            write_note(self.root, self.n_commits())
            sync_folder(self.root)

    def shorten_log(self) -> None:
        """Shorten the log of commits that are already in the database, if no reader needs them."""
        # Do not wait for readers: writers would wait too, and no commit depends on this.
        with suppress(IndexStoreError):
            self.run("PRAGMA busy_timeout = 0")
            try:
                self.run("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self.run(f"PRAGMA busy_timeout = {round(database_errors.LOCK_TIMEOUT_S * 1000)}")

    def version(self) -> tuple[int, int]:
        """A value that changes when another connection commits."""
        (data_version,) = self.rows("PRAGMA data_version")[0]
        return self._connection.n_opened, int(data_version)

    def segments(self) -> list[SegmentRecord]:
        """The live segments, oldest first."""
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
                raise self.damaged(f"has impossible counts {counts} for segment {record.number}")
        return records

    def codec(self) -> CodecRecord | None:
        """The codec of the compressed segments, or None."""
        rows = self.rows("SELECT codec, nbits, n_centroids, outlier_distance, label FROM codecs")
        if not rows:
            return None
        types = [type(value) for value in rows[0][:4]]
        if len(rows) > 1 or types != [int, int, int, float] or not 0 <= rows[0][3] < math.inf:
            raise self.damaged("has more than one codec, or a codec with impossible values")
        files = self.rows(
            "SELECT name, n_bytes, crc32 FROM codec_files WHERE codec = ? ORDER BY name", rows[0][:1]
        )
        number, nbits, n_centroids, distance, label = rows[0]
        self._check_label(label, "codec", number)
        records = tuple(self._file(*file) for file in files)
        return CodecRecord(number, label, nbits, n_centroids, distance, records)

    def new_codec(self, nbits: int, *, n_centroids: int, outlier_distance: float) -> tuple[int, str]:
        """Replace the codec; returns the number and the label of the new one."""
        self.run("DELETE FROM codecs")
        self.run("DELETE FROM codec_files")
        rows = self.rows(
            "INSERT INTO codecs (nbits, n_centroids, outlier_distance) VALUES (?, ?, ?) RETURNING codec",
            (nbits, n_centroids, outlier_distance),
        )
        return self._labelled("codec", int(rows[0][0]))

    def _labelled(self, kind: str, number: int) -> tuple[int, str]:
        """Label a new segment or codec; returns number and label. Each of its files contains the label."""
        label = f"{self._name}/{kind}-{number:06d}"
        self.run(f"UPDATE {kind}s SET label = ? WHERE {kind} = ?", (label, number))
        return number, label

    def _check_label(self, label: object, kind: str, number: int) -> None:
        if label is not None and label != f"{self._name}/{kind}-{number:06d}":
            raise self.damaged(f"has the wrong label {label!r:.60} for {kind} {number}")

    def insert_codec_files(self, codec: int, files: Iterable[FileRecord]) -> None:
        """Add the files of a codec to the catalog."""
        rows = ((codec, f.name, f.n_bytes, f.crc32) for f in files)
        self.run_many("INSERT INTO codec_files VALUES (?, ?, ?, ?)", rows)

    def deleted_ordinals(self, record: SegmentRecord) -> list[int]:
        """The ordinals of the deleted passages of a segment."""
        rows = self.rows("SELECT ordinal FROM tombstones WHERE segment = ?", (record.number,))
        ordinals = [ordinal for (ordinal,) in rows]
        inside = all(type(ordinal) is int and 0 <= ordinal < record.n_documents for ordinal in ordinals)
        if not inside or len(ordinals) != record.n_deleted:
            raise self.damaged(f"has wrong tombstones for segment {record.number}")
        return ordinals

    def damaged(self, problem: str) -> IndexDamagedError:
        """The error to raise for wrong content of the catalog."""
        return IndexDamagedError(self.root / CATALOG_NAME, f"{problem}. {REBUILD}")

    def new_segment(self, storage: Storage, *, n_documents: int, n_tokens: int) -> tuple[int, str]:
        """Add a segment; returns its number and label. No committed segment ever had this number."""
        rows = self.rows(
            "INSERT INTO segments (storage, n_passages, n_tokens) VALUES (?, ?, ?) RETURNING segment",
            (storage, n_documents, n_tokens),
        )
        return self._labelled("segment", int(rows[0][0]))

    def insert_files(self, segment: int, files: Iterable[FileRecord]) -> None:
        """Add the files of a segment to the catalog."""
        self.run_many(
            "INSERT INTO files VALUES (?, ?, ?, ?)", ((segment, f.name, f.n_bytes, f.crc32) for f in files)
        )

    def drop_segment(self, segment: int) -> None:
        """Remove a segment without live passages from the catalog."""
        for table in ("segments", "files", "tombstones"):
            self.run(f"DELETE FROM {table} WHERE segment = ?", (segment,))

    def checked(self, row: Sequence[Any], what: str, name: object) -> list[Any]:
        """The values of a row without its last one, the digest.

        Raises:
            IndexDamagedError: if the values do not match the digest.
        """
        *values, digest = row
        # Older formats have no digests.
        if self.format >= FIRST_WITH_DIGESTS and not _is_digest(digest, values):
            raise self.damaged(f"the {what} {name!r} does not match its digest")
        return values

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run an SQL statement."""
        self._connection.rows(sql, parameters)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run an SQL statement once for each row of parameters."""
        self._connection.run_many(sql, rows)

    def rows(
        self, sql: str, parameters: Sequence[Any] = (), *, seconds: float = database_errors.QUERY_TIMEOUT_S
    ) -> list[Any]:
        """The rows of a query. It fails if it takes longer than `seconds`."""
        return self._connection.rows(sql, parameters, seconds=seconds)

    def n_commits(self) -> int:
        """The number of the last commit. 0: the index has an older format and was never changed since."""
        rows = self.rows("SELECT value FROM meta WHERE name = 'commits'")
        if rows and re.fullmatch(r"\d{1,18}", str(rows[0][0])) is None:
            raise self.damaged("has no valid number of the last commit")
        return int(rows[0][0]) if rows else 0

    def _set_meta(self, name: str, value: object) -> None:
        self.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    def _stored_format(self) -> int:
        stored = int(self.rows("PRAGMA user_version")[0][0])
        check_format(self.root, stored)
        return stored

    def _read_settings(self) -> tuple[IndexSettings, str | None]:
        """The settings of the index, and its name. Older formats have no name."""
        try:
            meta = {name: json.loads(value) for name, value in self.rows("SELECT name, value FROM meta")}
            settings, name = IndexSettings.from_meta(meta), meta.get("index")
            if self.format < FIRST_WITH_DIGESTS or re.fullmatch("[0-9a-f]{8}", str(name)):
                return settings, name
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, IndexStoreError):
                raise
            raise self.damaged("has no valid settings") from error
        raise self.damaged("has no index name of eight hexadecimal digits")

    def _upgrade(self) -> None:
        """Upgrade a catalog of an older format. Call it within `write`."""
        if self.format < FORMAT_VERSION:
            drop_views(self)
            bring_up(self, self.format)
            self.format = FORMAT_VERSION
            # If the upgrade is undone, the next transaction must read the settings again.
            self._compared = None
            self.settings, self._name = self._read_settings()
            self._set_meta("model", self.settings.model)
            self._set_meta("indexing", self.settings.indexing)

    def _compare_digest(self) -> None:
        if self.format < FIRST_WITH_DIGESTS:
            return
        stored = self.rows("SELECT value FROM meta WHERE name = 'digest'")
        try:
            is_same = stored == [(json.dumps(tables_digest(self.rows)),)]
        except TypeError:
            is_same = False
        if not is_same:
            raise self.damaged("its settings, segments or files do not match their digest")

    def _file(self, name: Any, n_bytes: Any, crc32: Any) -> FileRecord:
        if [type(name), type(n_bytes), type(crc32)] != [str, int, int]:
            raise self.damaged(f"has an impossible size or checksum {(n_bytes, crc32)} for file {name!r}")
        return FileRecord(name, n_bytes, crc32)


def _is_digest(digest: object, values: Sequence[Any]) -> bool:
    try:
        return bool(row_digest(*values) == digest)
    except TypeError:
        return False
