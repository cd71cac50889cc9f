"""The tables of the catalog: how the database is created, and how it is checked."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from mlx_colbert.errors import (
    ColBERTError,
    IndexDamagedError,
    IndexFormatError,
    IndexNotFoundError,
    IndexStoreError,
    TargetExistsError,
)
from mlx_colbert.index.catalog import connection as connection_module
from mlx_colbert.index.catalog import database_errors
from mlx_colbert.index.catalog.commits import NOTE_NAME, write_note
from mlx_colbert.index.catalog.connection import no_fork
from mlx_colbert.index.catalog.database_errors import CATALOG_FILES, CATALOG_NAME, sqlite_errors
from mlx_colbert.index.catalog.database_file import connected
from mlx_colbert.index.catalog.digests import tables_digest
from mlx_colbert.index.catalog.keywords import TOKENIZER
from mlx_colbert.index.storage.files import REBUILD, sync_folder

# "MLXC" in ASCII.
APPLICATION_ID = 0x4D4C5843
FORMAT_VERSION = 4
# The first format with sources, and with digests of rows.
FIRST_WITH_DIGESTS = 3
# The first format whose keywords are also the words of the headings.
FIRST_WITH_HEADINGS = 4

SCHEMA_1 = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE segments (
    segment INTEGER PRIMARY KEY AUTOINCREMENT,
    codec TEXT NOT NULL,
    n_documents INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    n_deleted INTEGER NOT NULL DEFAULT 0,
    n_deleted_tokens INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE files (
    segment INTEGER NOT NULL,
    name TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    PRIMARY KEY (segment, name)
) WITHOUT ROWID;
CREATE TABLE documents (
    document INTEGER PRIMARY KEY,
    doc_id TEXT NOT NULL UNIQUE,
    segment INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    UNIQUE (segment, ordinal)
);
CREATE TABLE contents (
    document INTEGER PRIMARY KEY,
    text TEXT,
    metadata TEXT
);
CREATE TABLE tombstones (
    segment INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    PRIMARY KEY (segment, ordinal)
) WITHOUT ROWID;
"""
# What format 2 added.
SCHEMA_2 = """
CREATE TABLE codecs (
    codec INTEGER PRIMARY KEY AUTOINCREMENT,
    nbits INTEGER NOT NULL,
    n_centroids INTEGER NOT NULL,
    outlier_distance REAL NOT NULL
);
CREATE TABLE codec_files (
    codec INTEGER NOT NULL,
    name TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    PRIMARY KEY (codec, name)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE keywords USING fts5(
    text, content='', tokenize='unicode61 remove_diacritics 2'
);
"""

SCHEMA_3 = f"""
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE segments (
    segment INTEGER PRIMARY KEY AUTOINCREMENT,
    label TEXT,
    storage TEXT NOT NULL,
    n_passages INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    n_deleted INTEGER NOT NULL DEFAULT 0,
    n_deleted_tokens INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE files (
    segment INTEGER NOT NULL,
    name TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    PRIMARY KEY (segment, name)
) WITHOUT ROWID;
CREATE TABLE codecs (
    codec INTEGER PRIMARY KEY AUTOINCREMENT,
    label TEXT,
    nbits INTEGER NOT NULL,
    n_centroids INTEGER NOT NULL,
    outlier_distance REAL NOT NULL
);
CREATE TABLE codec_files (
    codec INTEGER NOT NULL,
    name TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    PRIMARY KEY (codec, name)
) WITHOUT ROWID;
CREATE TABLE sources (
    source INTEGER PRIMARY KEY,
    uri TEXT NOT NULL UNIQUE,
    folder TEXT,
    content_hash TEXT,
    modified_ns INTEGER,
    n_bytes INTEGER,
    digest INTEGER NOT NULL
);
CREATE TABLE passages (
    passage INTEGER PRIMARY KEY,
    doc_id TEXT NOT NULL UNIQUE,
    segment INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    UNIQUE (segment, ordinal)
);
CREATE TABLE contents (
    passage INTEGER PRIMARY KEY,
    text TEXT,
    metadata TEXT,
    source INTEGER,
    position TEXT,
    digest INTEGER NOT NULL
);
CREATE INDEX contents_of_source ON contents (source) WHERE source NOTNULL;
CREATE TABLE tombstones (
    segment INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    PRIMARY KEY (segment, ordinal)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE keywords USING fts5(
    text, content='', tokenize="{TOKENIZER}"
);
"""

# Format 4 has the tables of format 3.
_SCHEMAS = {1: SCHEMA_1, 2: SCHEMA_1 + SCHEMA_2, 3: SCHEMA_3, 4: SCHEMA_3}

# The files that a killed `create_catalog` leaves behind.
_UNFINISHED = {*CATALOG_FILES, NOTE_NAME}
# Files that file managers put into a folder. Users do not see them.
LITTER = {".DS_Store", ".localized", "Thumbs.db", "desktop.ini", ".directory"}


def create_catalog(root: Path, meta: Mapping[str, Any]) -> None:
    """Create an index folder with an empty catalog. If this is killed, it can be called again.

    Args:
        root: the folder.
        meta: the settings, as JSON values.

    Raises:
        TargetExistsError: if the path exists and is not an empty folder.
        IndexStoreError: if the folder cannot be written.
    """
    exists = TargetExistsError(root, advice="Open it with Index.open, or choose a path that does not exist.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not _is_unfinished(root):
            raise exists
        uri = f"{(root / CATALOG_NAME).absolute().as_uri()}?mode=rwc"
        with no_fork(), sqlite_errors(root), closing(connected(uri)) as connection:
            _use_log(connection)
            # Only one process at a time gets past this line. The next one finds the tables of the first.
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise exists
            for statement in SCHEMA_3.split(";"):
                connection.execute(statement)
            settings = {**meta, "index": new_identity()}
            write = "INSERT INTO meta VALUES (?, ?)"
            connection.executemany(write, ((k, json.dumps(v)) for k, v in settings.items()))
            connection.execute(write, ("digest", json.dumps(tables_digest(connection.execute))))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            # A removed index may have left its note.
            write_note(root, 0, may_lower=True)
            connection.execute("COMMIT")
        sync_folder(root)
        sync_folder(root.parent)
    except FileExistsError as error:
        raise exists from error
    except ColBERTError:
        raise
    except OSError as error:
        raise IndexStoreError(root, f"cannot be created: {error.strerror}.") from error


def _is_unfinished(root: Path) -> bool:
    """Whether a folder has nothing but what a killed `create_catalog` leaves behind."""
    return {path.name for path in root.iterdir()} <= _UNFINISHED | LITTER


def new_identity() -> str:
    """A new name for an index: 8 hexadecimal digits. It never changes, and each file header contains it."""
    return secrets.token_hex(4)


def _use_log(connection: sqlite3.Connection) -> None:
    """Turn write-ahead logging on. SQLite refuses this without waiting while another process does it."""
    deadline = time.monotonic() + database_errors.LOCK_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    for setting in connection_module.SETTINGS:
        connection.execute(f"PRAGMA {setting}")


def check_database(root: Path, connection: sqlite3.Connection) -> int:
    """The format of a database.

    Raises:
        IndexFormatError: if a newer version wrote it.
        IndexDamagedError: if its format or its tables are wrong.
        IndexNotFoundError: if its creation has not ended, or was stopped.
        IndexStoreError: if it belongs to another program.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID:
        if not _objects(connection) and _is_unfinished(root):
            raise IndexNotFoundError(
                root, "was not created completely. Create it again with Index.create (mlx-colbert index)."
            )
        raise IndexStoreError(
            root, f"is not an index: {CATALOG_NAME} belongs to another program, or is empty."
        )
    if version < 1:
        raise IndexDamagedError(
            root / CATALOG_NAME, f"has the format {version}, which does not exist. {REBUILD}"
        )
    check_format(root, version)
    found, known = _objects(connection), _known_objects(version)
    if found == known:
        return int(version)
    kind, name, _ = min(found - known or known - found)
    strange = f"has {'an' if kind == 'index' else 'a'} {kind} {ascii(name)[:80]} that is not"
    problem = strange if found - known else f"lacks the {kind} {name!r} that is"
    raise IndexDamagedError(root / CATALOG_NAME, f"{problem} part of format {version}. {REBUILD}")


@cache
def _known_objects(version: int) -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in _SCHEMAS[version].split(";"):
            connection.execute(statement)
        return _objects(connection)


def _objects(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    """The kind, name and definition of each table, index, view and trigger of a database.

    SQLite runs the code in views, triggers, tables and indexes when somebody reads or writes.
    """
    rows = connection.execute(
        "SELECT type, name, substr(coalesce(sql, ''), 1, 2000) FROM sqlite_master "
        # The tables of SQLite's ANALYZE are allowed.
        "WHERE NOT (type = 'table' AND name GLOB 'sqlite_stat[1-4]') LIMIT 100"
    )
    return frozenset((str(kind), str(name), " ".join(str(sql).split())) for kind, name, sql in rows)


def check_format(root: Path, version: int) -> None:
    """Raise an error for a format that only a newer version can read.

    Raises:
        IndexFormatError: if the format is newer than `FORMAT_VERSION`.
    """
    if version > FORMAT_VERSION:
        raise IndexFormatError(
            root,
            f"format {version} is newer than this version reads ({FORMAT_VERSION}). Upgrade mlx-colbert.",
        )
