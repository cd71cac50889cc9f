"""Catalogs of older formats: views to read them, and the upgrade to this format."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from mlx_colbert.index.catalog.digests import row_digest
from mlx_colbert.index.catalog.keywords import keyword_text, searchable_text
from mlx_colbert.index.catalog.schema import FORMAT_VERSION, SCHEMA_3, check_database, new_identity

__all__ = ["bring_up", "drop_views", "prepare"]

_SEGMENTS = """
    SELECT segment, NULL AS label,
        CASE codec WHEN 'float16' THEN 'exact' WHEN 'centroids' THEN 'compressed' ELSE codec END AS storage,
        n_documents AS n_passages, n_tokens, n_deleted, n_deleted_tokens FROM main.segments"""
_PASSAGES = """
    SELECT document AS passage, doc_id, segment, ordinal, n_tokens, NULL AS digest FROM main.documents"""
_CONTENTS = """
    SELECT document AS passage, text, metadata, NULL AS source, NULL AS position, NULL AS digest
    FROM main.contents"""
_SOURCES = """
    SELECT NULL AS source, NULL AS uri, NULL AS folder, NULL AS content_hash, NULL AS modified_ns,
        NULL AS n_bytes, NULL AS digest WHERE 0"""
_NO_CODECS = """
    SELECT NULL AS codec, NULL AS label, NULL AS nbits, NULL AS n_centroids, NULL AS outlier_distance
    WHERE 0"""
_NO_CODEC_FILES = "SELECT NULL AS codec, NULL AS name, NULL AS n_bytes, NULL AS crc32 WHERE 0"
_CODECS = "SELECT codec, NULL AS label, nbits, n_centroids, outlier_distance FROM main.codecs"

# For each older format, the content of the tables of this format.
_OF_BOTH = {"segments": _SEGMENTS, "passages": _PASSAGES, "contents": _CONTENTS, "sources": _SOURCES}
_VIEWS = {
    1: {**_OF_BOTH, "codecs": _NO_CODECS, "codec_files": _NO_CODEC_FILES},
    2: {**_OF_BOTH, "codecs": _CODECS},
}

# Keeps a large collection out of memory.
_ROWS_AT_A_TIME = 1000


class OldCatalog(Protocol):
    """What this module needs of a catalog to bring it to the present format."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run a statement."""

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row."""

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""

    def damaged(self, problem: str) -> Exception:
        """The error to raise for wrong content of the catalog."""


def prepare(root: Path, connection: sqlite3.Connection) -> int:
    """Create views of an older format that look like the tables of this one; returns the format.

    The views exist for this connection only, and nothing is written to the file. Call this outside a
    transaction: a rollback would remove the views.

    Raises:
        IndexStoreError: if the database is not a catalog; the subclass says why.
    """
    connection.execute("BEGIN")
    version = check_database(root, connection)
    connection.execute("ROLLBACK")
    for name, query in _VIEWS.get(version, {}).items():
        connection.execute(f"CREATE TEMP VIEW {name} AS {query}")
    return version


def drop_views(catalog: OldCatalog) -> None:
    """Drop the views that `prepare` created."""
    for (name,) in catalog.rows("SELECT name FROM sqlite_temp_master WHERE type = 'view'"):
        catalog.run(f"DROP VIEW temp.{name}")


def bring_up(catalog: OldCatalog, version: int) -> None:
    """Upgrade the tables of an older format to this one. Call it within a transaction.

    Args:
        catalog: the catalog, without the views.
        version: its format, 1, 2 or 3.
    """
    if version == 3:
        _add_headings(catalog)
    else:
        _make_tables(catalog, version)
    catalog.run(f"PRAGMA user_version = {FORMAT_VERSION}")


def _add_headings(catalog: OldCatalog) -> None:
    """Add the words of headings to the keywords. Format 3 has only those of texts."""
    for passage, text, position in catalog.rows(
        "SELECT passage, text, position FROM contents WHERE text NOTNULL AND position LIKE '%\"headings\"%'"
    ):
        try:
            whole = keyword_text(text, position)
        except (AttributeError, TypeError, ValueError) as error:
            raise catalog.damaged(f"has a position of the wrong type for passage {passage}") from error
        catalog.run(
            "INSERT INTO keywords (keywords, rowid, text) VALUES ('delete', ?, ?)",
            (passage, searchable_text(text)),
        )
        catalog.run("INSERT INTO keywords (rowid, text) VALUES (?, ?)", (passage, searchable_text(whole)))


def _make_tables(catalog: OldCatalog, version: int) -> None:
    old = ["segments", "contents"]
    if version == 2:
        old.append("codecs")
        catalog.run("DROP TABLE keywords")
    for table in old:
        catalog.run(f"ALTER TABLE {table} RENAME TO old_{table}")
    present = {name for (name,) in catalog.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for statement in SCHEMA_3.split(";"):
        name = re.search(r"(?:TABLE|INDEX) (\w+)", statement)
        if name is not None and name[1] not in present:
            catalog.run(statement)
    for table in set(old) - {"contents"}:
        query = _VIEWS[version][table].replace(f"main.{table}", f"old_{table}")
        catalog.run(f"INSERT INTO {table} {query}")
        # A number is never used again, not even the number of a last segment that is deleted.
        catalog.run("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        catalog.run(
            "INSERT INTO sqlite_sequence SELECT ?, seq FROM sqlite_sequence WHERE name = ?",
            (table, f"old_{table}"),
        )
    _copy_passages(catalog)
    for table in (*(f"old_{table}" for table in old), "documents"):
        catalog.run(f"DROP TABLE {table}")
    catalog.run("INSERT INTO meta VALUES ('index', ?)", (json.dumps(new_identity()),))


def _copy_passages(catalog: OldCatalog) -> None:
    last = 0
    while rows := catalog.rows(
        "SELECT documents.document, doc_id, segment, ordinal, n_tokens, text, metadata, "
        "old_contents.document FROM documents LEFT JOIN old_contents USING (document) "
        "WHERE documents.document > ? ORDER BY documents.document LIMIT ?",
        (last, _ROWS_AT_A_TIME),
    ):
        passages, contents, keywords = [], [], []
        for *location, text, metadata, found in rows:
            passage = location[0]
            try:
                passages.append((*location, row_digest(*location)))
                contents.append((passage, text, metadata, row_digest(passage, text, metadata, None, None)))
            except TypeError as error:
                raise catalog.damaged(f"has a value of the wrong type for passage {passage}") from error
            if found is None:
                raise catalog.damaged(f"has no contents for passage {passage}")
            if text is not None:
                keywords.append((passage, searchable_text(text)))
        catalog.run_many("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)", passages)
        catalog.run_many("INSERT INTO contents VALUES (?, ?, ?, NULL, NULL, ?)", contents)
        catalog.run_many("INSERT INTO keywords (rowid, text) VALUES (?, ?)", keywords)
        last = rows[-1][0]
