"""An index of an older format: it is read as it is by connections that come and go, until it is changed."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert.errors import DuplicateIdError, IndexDamagedError, IndexStoreError
from mlx_colbert.index import Index
from mlx_colbert.index.catalog import database_file

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(params=[1, 2, 3])
def path(request, tmp_path):
    if request.param == 1:
        return shutil.copytree(DATA / "index-v1" / "index", tmp_path / "index")
    shutil.unpack_archive(DATA / f"index-v{request.param}" / "index.zip", tmp_path / "index")
    return tmp_path / "index"


def found(index):
    ids = index.ids()
    return ids, [(hit.doc_id, hit.score) for hit in index.search(np.eye(index.dim), 5)], index.get(ids[0])


def connection_of(index):
    with index._pool.searcher() as searcher:
        return searcher.catalog._connection


def format_of(path):
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def run_sql(path, sql):
    with closing(sqlite3.connect(path / "catalog.db")) as connection, connection:
        connection.execute(sql)


def test_old_format_is_read_after_its_connection_was_closed_for_a_fork(path):
    with Index.open(path, backend="numpy") as index:
        before = found(index)
        connection = connection_of(index)
        connection.close_before_fork()

        assert found(index) == before
        assert (connection.n_opened, index.verify()) == (2, [])


def test_reader_follows_another_that_changes_an_old_format(path):
    with Index.open(path, backend="numpy") as reader, Index.open(path, backend="numpy") as writer:
        ids, hits, _ = found(reader)
        writer.add(["late"], [np.ones((1, writer.dim))], ["C++ late"])

        assert reader.ids() == [*ids, "late"]
        others = [hit for hit in found(reader)[1] if hit[0] != "late"]
        assert others == hits[: len(others)] and len(others) >= len(hits) - 1
        assert [hit.doc_id for hit in reader.search_keywords('"C++ late"')] == ["late"]
        writer.delete(["late"])
        reader.update_metadata([ids[0]], [{"n": 1}])
        assert (writer.get(ids[0]).metadata, reader.verify(), format_of(path)) == ({"n": 1}, [], 4)


def test_change_that_fails_leaves_the_old_format_and_the_next_one_succeeds(path):
    version = format_of(path)
    with Index.open(path, backend="numpy") as index:
        ids = index.ids()
        with pytest.raises(DuplicateIdError):
            index.add(ids[:1], [np.ones((1, index.dim))])
        assert (format_of(path), index.ids(), index.verify()) == (version, ids, [])
        with index.bulk():
            pass
        index.delete(ids[:1])
        assert (format_of(path), index.ids(), index.verify()) == (4, ids[1:], [])


def test_query_of_an_old_format_that_fails_once_is_no_damage(path, monkeypatch):
    failed = []

    class Failing(sqlite3.Connection):
        def execute(self, sql, *parameters):
            if "FROM passages" in sql and not failed:
                failed.append(sql)
                error = sqlite3.DatabaseError("database disk image is malformed")
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error
            return super().execute(sql, *parameters)

    connect = sqlite3.connect
    monkeypatch.setattr(
        database_file.sqlite3, "connect", lambda *args, **rest: connect(*args, factory=Failing, **rest)
    )
    with Index.open(path, backend="numpy") as index:
        with pytest.raises(IndexStoreError, match="a second check found no damage") as raised:
            index.ids()
        assert not isinstance(raised.value, IndexDamagedError)
        assert (len(index.ids()), len(failed)) == (len(index), 1)


def test_old_format_with_a_table_of_a_stranger_is_refused(path):
    run_sql(path, "CREATE TABLE strange (uri)")
    with pytest.raises(IndexDamagedError, match="has a table 'strange' that is not part of format"):
        Index.open(path, backend="numpy")


def test_number_of_the_last_commit_is_covered_by_the_digest(path):
    with Index.open(path, backend="numpy") as index:
        index.delete(index.ids()[:1])
    run_sql(path, "UPDATE meta SET value = '3' WHERE name = 'commits'")
    with pytest.raises(IndexDamagedError, match="do not match their digest"):
        Index.open(path, backend="numpy")
