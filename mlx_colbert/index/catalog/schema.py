"""The catalog's tables, and how the database is made, opened and found unusable."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mlx_colbert.errors import (
    ColBERTError,
    IndexDamagedError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    IndexStoreError,
    TargetExistsError,
)
from mlx_colbert.index.catalog.digests import tables_digest
from mlx_colbert.index.catalog.keywords import TOKENIZER
from mlx_colbert.index.storage.files import REBUILD, sync_folder

CATALOG_NAME = "catalog.db"
# "MLXC" in ASCII.
APPLICATION_ID = 0x4D4C5843
FORMAT_VERSION = 3
LOCK_TIMEOUT_S = 10.0
# Of each connection: a commit is on the disk when it returns.
_SETTINGS = ("synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON")

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

# What a killed create leaves behind: a catalog without tables, and SQLite's companions of it.
_UNFINISHED = {f"{CATALOG_NAME}{suffix}" for suffix in ("", "-journal", "-wal", "-shm")}
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_TOOBIG}


def create_catalog(root: Path, meta: Mapping[str, Any]) -> None:
    """Makes an index folder with an empty catalog; killed at any instant, it can be made again.

    Args:
        root: the folder.
        meta: settings, as JSON values.

    Raises:
        TargetExistsError: if the path exists and is not an empty folder.
        IndexStoreError: if it cannot be written.
    """
    exists = TargetExistsError(root, advice="Open it with Index.open, or choose a path that does not exist.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not {path.name for path in root.iterdir()} <= _UNFINISHED:
            raise exists
        uri = f"{(root / CATALOG_NAME).absolute().as_uri()}?mode=rwc"
        with sqlite_errors(root), closing(_connection(uri)) as connection:
            _use_log(connection)
            # Creators take turns here; who comes second finds the tables of the first.
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
            connection.execute("COMMIT")
        sync_folder(root)
        sync_folder(root.parent)
    except FileExistsError as error:
        raise exists from error
    except ColBERTError:
        raise
    except OSError as error:
        raise IndexStoreError(root, f"cannot be made: {error.strerror}.") from error


def new_identity() -> str:
    """The name that an index has for good, in the header of each of its files: 8 hexadecimal digits."""
    return secrets.token_hex(4)


def _use_log(connection: sqlite3.Connection) -> None:
    """Turns write-ahead logging on, which SQLite refuses without waiting while another creator does it."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}")


def connect(root: Path) -> tuple[sqlite3.Connection, int]:
    """A connection to the catalog of an index, and its format.

    Raises:
        IndexNotFoundError: if there is nothing at the path.
        IndexFormatError: if a newer version wrote it.
        IndexDamagedError: if the catalog cannot be read.
        IndexStoreError: if it is not an index.
    """
    path = root / CATALOG_NAME
    if not os.path.lexists(root):
        raise IndexNotFoundError(root, "does not exist. Make it with Index.create (mlx-colbert index).")
    try:
        is_index = path.is_file()
    except OSError as error:
        raise IndexStoreError(root, f"cannot be read: {error.strerror}.") from error
    if not is_index:
        raise IndexStoreError(root, f"is not an index: it is not a folder with a {CATALOG_NAME}.")
    with sqlite_errors(root):
        connection = _connect(path)
    try:
        with sqlite_errors(root):
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}")
        if application_id != APPLICATION_ID:
            raise IndexStoreError(
                root, f"is not an index: {CATALOG_NAME} belongs to another program, or is empty."
            )
        if version < 1:
            raise IndexDamagedError(path, f"says format {version}. {REBUILD}")
        check_format(root, version)
    except BaseException:
        connection.close()
        raise
    return connection, version


def file_identity(root: Path) -> tuple[int, int] | None:
    """What tells the file of a catalog from another one that takes its place; None where there is none."""
    try:
        status = (root / CATALOG_NAME).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_format(root: Path, version: int) -> None:
    """Refuses a format that only a newer version reads."""
    if version > FORMAT_VERSION:
        raise IndexFormatError(
            root,
            f"format {version} is newer than this version reads ({FORMAT_VERSION}). Upgrade mlx-colbert.",
        )


@contextmanager
def sqlite_errors(root: Path) -> Iterator[None]:
    """Turns the errors of SQLite into this package's."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # SQLite's messages may quote the bytes of a damaged schema.
        raise _store_error(root, error) from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _open(path, "mode=rw")
    except sqlite3.OperationalError as error:
        # Without a writable folder SQLite cannot make the files that write-ahead logging shares between
        # processes. Nobody can be writing then, unless commits still wait in the log.
        log = path.with_name(f"{path.name}-wal")
        waiting = log.exists() and log.stat().st_size
        if error.sqlite_errorcode & 0xFF not in _UNWRITABLE or os.access(path.parent, os.W_OK) or waiting:
            raise
        return _open(path, "immutable=1")


def _connection(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=LOCK_TIMEOUT_S
    )


def _open(path: Path, mode: str) -> sqlite3.Connection:
    connection = _connection(f"{path.absolute().as_uri()}?{mode}")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _store_error(root: Path, error: sqlite3.Error | UnicodeDecodeError) -> IndexStoreError:
    # The low byte is the kind of error; errors that the Python module raises itself carry none.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    path = root / CATALOG_NAME
    if isinstance(error, sqlite3.ProgrammingError):
        return IndexStoreError(root, "was closed by another thread.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexLockedError(
            root, f"another writer did not finish within {LOCK_TIMEOUT_S:g} s. Try again later."
        )
    if code in _UNWRITABLE:
        return IndexStoreError(
            path, f"cannot be opened or written: {error}. Check the permissions of the folder."
        )
    if code in _NO_ROOM:
        return IndexStoreError(path, f"{error}. Nothing was changed. Check the disk and its free space.")
    return IndexDamagedError(path, f"{error}. {REBUILD}")
