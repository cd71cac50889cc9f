"""An index of an older format: it is read as it is by connections that come and go, until it is changed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert.errors import DuplicateIdError, IndexDamagedError, IndexLockedError, IndexStoreError
from mlx_colbert.index import Index
from mlx_colbert.index.catalog import connection, database_errors, database_file
from mlx_colbert.index.catalog.digests import tables_digest

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
    with index._open.pool.searcher() as searcher:
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


MODEL = {"source": "here", "fingerprint": "1"}
INDEXING = {"pool_factor": "2", "on_overflow": "chunk"}


def put_settings_into_the_model(path):
    """Change an index as if a version had made it that records these settings with the model."""
    with closing(sqlite3.connect(path / "catalog.db")) as connection, connection:
        connection.execute("DELETE FROM meta WHERE name IN ('indexing', 'model')")
        connection.execute("INSERT INTO meta VALUES ('model', ?)", (json.dumps(MODEL | INDEXING),))
        if connection.execute("PRAGMA user_version").fetchone()[0] >= 3:
            digest = json.dumps(tables_digest(connection.execute))
            connection.execute("UPDATE meta SET value = ? WHERE name = 'digest'", (digest,))


def test_settings_that_an_old_format_has_in_its_model_are_read_and_kept(path):
    put_settings_into_the_model(path)
    with Index.open(path, backend="numpy") as index:
        assert (index.model, index.indexing) == (MODEL, INDEXING)
        index.delete(index.ids()[:1])
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        meta = dict(connection.execute("SELECT name, value FROM meta"))
    assert (json.loads(meta["model"]), json.loads(meta["indexing"])) == (MODEL, INDEXING)
    with Index.open(path, backend="numpy") as index:
        assert (index.model, index.info().indexing, index.verify()) == (MODEL, INDEXING, [])


def test_settings_in_the_model_of_a_development_version_are_read(tmp_path):
    Index.create(tmp_path / "index", 2, model=MODEL, indexing=INDEXING, backend="numpy").close()
    put_settings_into_the_model(tmp_path / "index")
    with Index.open(tmp_path / "index", backend="numpy") as index:
        index.add(["a"], [np.eye(2)])
        assert (index.model, index.indexing, index.verify()) == (MODEL, INDEXING, [])


def test_writer_waits_longer_while_another_may_be_upgrading_the_index(path, monkeypatch):
    monkeypatch.setattr(database_errors, "LOCK_TIMEOUT_S", 0.01)
    monkeypatch.setattr(database_errors, "UPGRADE_S_PER_PASSAGE", 60)
    rows, tries = connection.Connection.rows, []
    with Index.open(path, backend="numpy") as index, closing(sqlite3.connect(path / "catalog.db")) as other:
        other.execute("BEGIN IMMEDIATE")

        def counted(self, sql, *parameters, **rest):
            if sql == "BEGIN IMMEDIATE":
                tries.append(sql)
                if len(tries) == 3:
                    other.rollback()
            return rows(self, sql, *parameters, **rest)

        monkeypatch.setattr(connection.Connection, "rows", counted)
        writer = index._open.writer()
        assert writer.catalog.lock_timeout_s > 60
        index.delete(index.ids()[:1])
        assert (len(tries), format_of(path), writer.catalog.lock_timeout_s) == (3, 4, 0.01)


def test_writer_that_waited_for_an_upgrade_says_so(path, monkeypatch):
    monkeypatch.setattr(database_errors, "LOCK_TIMEOUT_S", 0.01)
    monkeypatch.setattr(database_errors, "UPGRADE_S_PER_PASSAGE", 0.001)
    with Index.open(path, backend="numpy") as index, closing(sqlite3.connect(path / "catalog.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexLockedError, match="may be upgrading the index to this version"):
            index.delete(index.ids()[:1])
