"""What SQLite's errors mean for an index."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_colbert.errors import IndexDamagedError, IndexLockedError, IndexStoreError, said
from mlx_colbert.index.storage.files import REBUILD

CATALOG_NAME = "catalog.db"
# The catalog and the files that SQLite keeps beside it.
CATALOG_FILES = tuple(f"{CATALOG_NAME}{suffix}" for suffix in ("", "-journal", "-wal", "-shm"))
LOCK_TIMEOUT_S = 10.0
# How much longer to wait for an index of an older format, whose next change upgrades it. On one free core an
# upgrade takes 0.0001 s per passage of 80 words.
UPGRADE_S_PER_PASSAGE = 0.004
# A filter over ten million passages takes about ten seconds.
QUERY_TIMEOUT_S = 60.0
UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}
# The errors that mean damage. All other errors may be temporary.
_DAMAGE = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
}

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_TOO_MANY_FILES = "This process has too many open files. Close some, or raise the limit (ulimit -n)."


def advice_for(error: OSError) -> str:
    """What to do when the system cannot write a file of an index."""
    return _TOO_MANY_FILES if error.errno in _OUT_OF_DESCRIPTORS else "Check the disk."


@contextmanager
def sqlite_errors(root: Path) -> Iterator[None]:
    """Turn errors of SQLite into errors of this package."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # SQLite's messages may quote the bytes of a damaged schema.
        raise _store_error(root, error) from error


def _store_error(root: Path, error: sqlite3.Error | UnicodeDecodeError) -> IndexStoreError:
    # The low byte is the kind of error. Errors of the Python module itself have no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    path = root / CATALOG_NAME
    if isinstance(error, sqlite3.ProgrammingError):
        return IndexStoreError(root, "was closed by another thread.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexLockedError(
            root, f"another writer did not finish within {LOCK_TIMEOUT_S:g} s. Try again later."
        )
    if code == sqlite3.SQLITE_INTERRUPT:
        return IndexStoreError(
            root, f"did not answer a query within {QUERY_TIMEOUT_S:g} s. Use a simpler filter or query."
        )
    if code in UNWRITABLE:
        return IndexStoreError(path, f"cannot be opened or written: {said(error)}. {_advice(root)}")
    if code in _DAMAGE:
        return IndexDamagedError(path, f"{said(error)}. {REBUILD}")
    return IndexStoreError(
        path, f"{said(error)}. Nothing was changed. Check the disk and its free space, and try again."
    )


def _advice(root: Path) -> str:
    """What to do when SQLite cannot open or write a catalog."""
    if _lacks_descriptors():
        return _TOO_MANY_FILES
    log, shared = (root / f"{CATALOG_NAME}{suffix}" for suffix in ("-wal", "-shm"))
    if log.exists() and not shared.exists() and not os.access(root, os.W_OK):
        return f"Nobody can read {log.name} without write permission. Open the index once with permission."
    with suppress(OSError):
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            return "Its file system is read-only."
    return "Check the permissions of the folder."


def _lacks_descriptors() -> bool:
    """Whether this process cannot open enough files for a connection."""
    opened: list[int] = []
    try:
        while len(opened) < 4:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in _OUT_OF_DESCRIPTORS
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False
