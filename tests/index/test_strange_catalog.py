"""The catalog of a stranger: what SQLite would run in it is refused, and no query takes for ever."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from test_index import DIM

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index import Index

FOR_EVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"


@pytest.fixture
def path(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a"], [np.ones((1, DIM))], ["word"])
    return tmp_path / "index"


def run_sql(path, *statements):
    with closing(sqlite3.connect(path / "catalog.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


STRANGE = {
    "view in place of a table": (
        "DROP TABLE meta",
        f"CREATE VIEW meta AS {FOR_EVER} i AS name, i AS value FROM n",
    ),
    "view": (f"CREATE VIEW other AS {FOR_EVER} i FROM n",),
    "trigger": (f"CREATE TRIGGER t AFTER INSERT ON passages BEGIN {FOR_EVER} count(*) FROM n; END",),
    "table": ("CREATE TABLE other (x)",),
    "index": ("CREATE INDEX other ON passages (n_tokens)",),
    "index on an expression": ("CREATE INDEX other ON passages (length(zeroblob(1000000000)))",),
    "column that is computed": (
        "DROP TABLE tombstones",
        "CREATE TABLE tombstones (segment INTEGER, ordinal INTEGER, "
        "x AS (length(zeroblob(1000000000))) STORED)",
    ),
    "virtual table": ("CREATE VIRTUAL TABLE other USING fts5(text)",),
    "lacking table": ("DROP TABLE tombstones",),
}


@pytest.mark.parametrize("change", STRANGE)
def test_catalog_of_other_tables_is_refused_on_open(path, change):
    run_sql(path, *STRANGE[change])
    with pytest.raises(IndexDamagedError, match=r"catalog.db: (has an?|lacks the) \w+ .* part of format 4"):
        Index.open(path, backend="numpy")


def test_catalog_that_was_analyzed_is_not_strange(path):
    run_sql(path, "ANALYZE")
    with Index.open(path, backend="numpy") as index:
        assert (len(index), index.verify()) == (1, [])


def test_query_that_takes_too_long_is_stopped(path):
    with Index.open(path, backend="numpy") as index:
        with (
            index._open.reading() as searcher,
            pytest.raises(IndexStoreError, match="did not answer a query"),
        ):
            searcher.catalog.rows(f"{FOR_EVER} count(*) FROM n", seconds=0.05)
        assert len(index) == 1
