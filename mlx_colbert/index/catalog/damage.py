"""Damage in the catalog: wrong values in rows, tables and keywords."""

from __future__ import annotations

import math
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mlx_colbert.errors import IndexDamagedError, IndexStoreError, said
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME
from mlx_colbert.index.catalog.keywords import keyword_text, words
from mlx_colbert.index.catalog.schema import FIRST_WITH_DIGESTS, FIRST_WITH_HEADINGS, SCHEMA_3

__all__ = ["catalog_problems"]

_CONTRADICTIONS = {
    "the passages and tombstones of a segment do not match its ordinals": """
        SELECT count(*) FROM segments WHERE n_passages != (SELECT count(*) FROM
        (SELECT ordinal FROM passages WHERE passages.segment = segments.segment
        UNION SELECT ordinal FROM tombstones WHERE tombstones.segment = segments.segment)
        WHERE ordinal BETWEEN 0 AND n_passages - 1)""",
    "a passage is in a segment that does not exist": """
        SELECT count(*) FROM passages WHERE segment NOT IN (SELECT segment FROM segments)""",
    "a tombstone is in a segment that does not exist": """
        SELECT count(*) FROM tombstones WHERE segment NOT IN (SELECT segment FROM segments)""",
    "the vector count of a segment does not match its passages": """
        SELECT count(*) FROM segments WHERE n_tokens - n_deleted_tokens != (SELECT coalesce(sum(n_tokens), 0)
        FROM passages WHERE passages.segment = segments.segment)""",
    "a file belongs to no segment": """
        SELECT count(*) FROM files WHERE segment NOT IN (SELECT segment FROM segments)""",
    "a file belongs to no codec": """
        SELECT count(*) FROM codec_files WHERE codec NOT IN (SELECT codec FROM codecs)""",
    "a live passage has a tombstone": """
        SELECT count(*) FROM passages JOIN tombstones USING (segment, ordinal)""",
    "a passage has no contents, or contents have no passage": """
        SELECT (SELECT count(*) FROM passages) + (SELECT count(*) FROM contents)
        - 2 * (SELECT count(*) FROM passages JOIN contents USING (passage))""",
    "a passage has a source that does not exist": """
        SELECT count(*) FROM contents WHERE source NOTNULL AND source NOT IN (SELECT source FROM sources)""",
    "the id, location, text or metadata of a passage has the wrong type": """
        SELECT count(*) FROM passages LEFT JOIN contents USING (passage) WHERE typeof(doc_id) != 'text'
        OR typeof(ordinal) != 'integer' OR typeof(n_tokens) != 'integer'
        OR typeof(text) NOT IN ('text', 'null') OR typeof(metadata) NOT IN ('text', 'null')
        OR (metadata NOTNULL
        AND CASE json_valid(metadata) WHEN 1 THEN json_type(metadata) ELSE 0 END != 'object')""",
}
# keywords_docsize is FTS5's own list of its texts.
_KEYWORDS_OF_OTHERS = """
    SELECT (SELECT count(*) FROM contents WHERE text NOTNULL) + (SELECT count(*) FROM keywords_docsize)
    - 2 * (SELECT count(*) FROM contents JOIN keywords_docsize ON id = passage WHERE text NOTNULL)"""
# Columns of each table whose rows have digests. The first column is the number of the row.
_ROWS = {
    "passages": "passage, doc_id, segment, ordinal, n_tokens, digest",
    "contents": "passage, text, metadata, source, position, digest",
    "sources": "source, uri, folder, content_hash, modified_ns, n_bytes, digest",
}
_FTS5_TABLES = {
    "keywords_data": "id, block",
    "keywords_idx": "segid, term, pgno",
    "keywords_docsize": "id, sz",
    "keywords_config": "k, v",
}
_CREATE_KEYWORDS = SCHEMA_3[SCHEMA_3.index("CREATE VIRTUAL TABLE keywords") :]
_ROWS_AT_A_TIME = 1000
# What SQLite says where a copy cannot be written: that is not damage of the index.
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
_KEYWORDS_DIFFER = "the keywords do not match the texts"


def catalog_problems(catalog: Catalog) -> list[str]:
    """The problems in the catalog, one sentence each. This reads all of it. Call it within `Catalog.read`."""
    rows = catalog.rows("PRAGMA integrity_check", seconds=math.inf)
    if rows != [("ok",)]:
        # Check again: a read error of the disk may be temporary, and is not damage.
        rows = catalog.rows("PRAGMA integrity_check", seconds=math.inf)
    found = [str(row[0]) for row in rows if row[0] != "ok"]
    try:
        found += [problem for problem, query in _CONTRADICTIONS.items() if _counts(catalog, query)]
        for table, columns in _ROWS.items():
            for row in _rows(catalog, table, columns):
                catalog.checked(row, f"row of {table}", row[0])
        if catalog.format >= FIRST_WITH_DIGESTS:
            found += _keyword_problems(catalog)
        elif catalog.format == 2 and _counts(catalog, _KEYWORDS_OF_OTHERS):
            found.append(_KEYWORDS_DIFFER)
    except IndexDamagedError as error:
        return [*_sentences(catalog, found), str(error)]
    return _sentences(catalog, found)


def _sentences(catalog: Catalog, problems: Iterable[str]) -> list[str]:
    path = catalog.root / CATALOG_NAME
    return [f"index {path}: {problem}." for problem in problems]


def _counts(catalog: Catalog, query: str) -> bool:
    """Whether a query counts any rows."""
    return bool(catalog.rows(query, seconds=math.inf)[0][0])


def _rows(catalog: Catalog, table: str, columns: str) -> Iterator[Any]:
    """All rows of a table. Only a few of them are in memory at a time."""
    number, last = columns.split(",")[0], 0
    query = f"SELECT {columns} FROM {table} WHERE {number} > ? ORDER BY {number} LIMIT {_ROWS_AT_A_TIME}"
    while rows := catalog.rows(query, (last,)):
        yield from rows
        last = rows[-1][0]


def _keyword_problems(catalog: Catalog) -> list[str]:
    """The problems of the full-text table.

    FTS5 has no checksums, so this looks up each word of each text. It works on a copy, because FTS5's own
    check needs write permission.
    """
    with _temporary_folder() as folder:
        path = folder / "keywords.db"
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                copy.execute("PRAGMA synchronous = OFF")
                copy.execute("BEGIN")
                copy.execute(_CREATE_KEYWORDS)
                for table, columns in _FTS5_TABLES.items():
                    copy.execute(f"DELETE FROM {table}")
                    marks = ", ".join("?" * len(columns.split(",")))
                    copy.executemany(
                        f"INSERT INTO {table} VALUES ({marks})",
                        _rows(catalog, table, columns)
                        if columns.startswith("id")
                        else catalog.rows(f"SELECT {columns} FROM {table}"),
                    )
                copy.execute("COMMIT")
            # A new connection, because FTS5 caches what it has read.
            with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                return [] if _is_complete(copy, catalog) else [_KEYWORDS_DIFFER]
        # A position that is not a JSON object raises one of the others.
        except (sqlite3.Error, AttributeError, TypeError, ValueError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_ROOM:
                raise _no_copy(path, error) from error
            return [_KEYWORDS_DIFFER]


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="mlx-colbert-")
    except OSError as error:
        raise _no_copy(tempfile.gettempdir(), error) from error
    with folder as path:
        yield Path(path)


def _no_copy(path: Path | str, error: Exception) -> IndexStoreError:
    return IndexStoreError(
        path, f"the keywords cannot be copied there to verify them: {said(error)}. Try again."
    )


def _is_complete(copy: sqlite3.Connection, catalog: Catalog) -> bool:
    """Whether the full-text table in a copy has the words of all texts and no others."""
    places: dict[str, int] = {}
    lengths: dict[int, int] = {}
    for passage, text, position in _rows(catalog, "contents", "passage, text, position"):
        if text is None:
            continue
        has_headings = catalog.format >= FIRST_WITH_HEADINGS
        found = words(keyword_text(text, position if has_headings else None))
        lengths[passage] = len(found)
        for offset, word in enumerate(found):
            # A sum of hashes: a list of all places would take too much memory.
            places[word] = places.get(word, 0) + hash((passage, offset))
    sizes = dict(copy.execute("SELECT id, sz FROM keywords_docsize"))
    if {passage: _varints(size) for passage, size in sizes.items()} != {p: [n] for p, n in lengths.items()}:
        return False
    total = sum(lengths.values())
    averages = [_varints(block) for (block,) in copy.execute("SELECT block FROM keywords_data WHERE id = 1")]
    if lengths and averages != [[len(lengths), total]]:
        return False
    copy.execute("INSERT INTO keywords (keywords) VALUES ('integrity-check')")
    copy.execute("CREATE VIRTUAL TABLE words USING fts5vocab(keywords, instance)")
    if copy.execute("SELECT count(*) FROM words").fetchone()[0] != total:
        return False
    find = "SELECT doc, offset FROM words WHERE term = ?"
    return all(sum(map(hash, copy.execute(find, (word,)))) == place for word, place in places.items())


def _varints(data: object) -> list[int]:
    """The numbers that SQLite wrote as bytes: seven bits in each byte, the highest bits first."""
    numbers, number = [], 0
    for byte in data if isinstance(data, bytes) else b"":
        number = number << 7 | byte & 127
        if byte < 128:
            numbers.append(number)
            number = 0
    return numbers
