"""Errors that pass: they are said as what they are, and the next try begins anew."""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_index import DIM

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index import Index
from mlx_colbert.index.catalog import database_file

ROWS = [np.ones((1, DIM))]


@pytest.fixture
def path(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a"], ROWS, ["word"])
    return tmp_path / "index"


def work(index):
    index.upsert(["b"], ROWS)
    assert [hit.doc_id for hit in index.search(ROWS[0])] == ["a", "b"]
    assert len(index.search_keywords("word")) == 1


def fail_once(monkeypatch, code, step):
    """Lets the n-th statement of SQLite fail; whether it came to that."""
    left = iter(range(step))
    failed = []

    class Failing(sqlite3.Connection):
        def execute(self, sql, *parameters):
            if not failed and next(left, None) is None:
                failed.append(sql)
                error = sqlite3.OperationalError("injected")
                error.sqlite_errorcode = code
                raise error
            return super().execute(sql, *parameters)

    monkeypatch.setattr(
        database_file.sqlite3,
        "connect",
        lambda *args, **settings: CONNECT(*args, factory=Failing, **settings),
    )
    return failed


CONNECT = sqlite3.connect


def twice(action):
    """Does what may fail for a passing reason, and then again."""
    try:
        return action()
    except IndexStoreError as error:
        assert not isinstance(error, IndexDamagedError)
        return action()


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT],
)
def test_statement_that_fails_once_is_no_damage_and_is_forgotten(path, monkeypatch, code):
    for step in itertools.count():
        with monkeypatch.context() as patch:
            failed = fail_once(patch, code, step)
            index = twice(lambda: Index.open(path, backend="numpy"))
            twice(lambda index=index: work(index))
            index.close()
        if not failed:
            break
    assert step > 40
    with Index.open(path, backend="numpy") as index:
        assert index.verify() == []


def test_file_that_could_once_not_be_opened_for_writing_is_written(path, monkeypatch):
    with Index.open(path, backend="numpy") as index:
        with monkeypatch.context() as patch:
            # What SQLite does itself where the system refuses to open a file for writing.
            open_file = database_file._open
            patch.setattr(database_file, "_open", lambda file, mode: open_file(file, "mode=ro"))
            index._open.writer()
        work(index)


TOO_MANY_FILES = """
import os, resource, sys
import numpy as np
from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index import Index
rows = np.ones((1, 8))
used = len(os.listdir("/dev/fd")) - 1
index = Index.open(sys.argv[1], backend="numpy")
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for name, use in {
    "open": lambda: Index.open(sys.argv[1], backend="numpy").close(),
    "write": lambda: index.upsert(["b"], [rows]),
}.items():
    for more in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))
        try:
            use()
        except IndexStoreError as error:
            assert not isinstance(error, IndexDamagedError), error
            assert "oo many open files" in str(error) and "Check the disk" not in str(error), error
            print(name, "refused")
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
index.upsert(["b"], [rows])
print(len(index), len(index.search(rows)), index.verify())
"""


def test_too_many_open_files_are_said_and_forgotten(path):
    command = [sys.executable, "-c", TOO_MANY_FILES, str(path)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *refused, last = result.stdout.splitlines()
    assert {"open refused", "write refused"} <= set(refused)
    assert last == "2 2 []"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.EMFILE, errno.EACCES])
def test_file_that_cannot_be_read_now_is_not_called_damaged(path, monkeypatch, number):
    open_file = Path.open

    def failing(file, *arguments, **settings):
        if file.name == "vectors.npy" and arguments == ("rb",):
            raise OSError(number, os.strerror(number))
        return open_file(file, *arguments, **settings)

    with Index.open(path, backend="numpy") as index:
        index.add(["b"], ROWS)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", failing)
            for use in (index.verify, lambda: index.compact(), lambda: Index.open(path, backend="numpy")):
                with pytest.raises(
                    IndexStoreError, match=rf"cannot be read: {os.strerror(number)}"
                ) as caught:
                    use()
                assert not isinstance(caught.value, IndexDamagedError)
        assert index.verify() == []
        index.compact()
        work(index)


def test_path_that_cannot_be_looked_at_now_is_not_called_removed(path, monkeypatch):
    with Index.open(path, backend="numpy") as index:
        with monkeypatch.context() as patch:

            def failing(*arguments, **settings):
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr(database_file.os, "stat", failing)
            with pytest.raises(IndexStoreError, match=r"cannot be read: Input/output error. Try again"):
                index.search(ROWS[0])
        work(index)


def test_search_that_failed_leaves_no_searcher_behind(path, monkeypatch):
    with Index.open(path, backend="numpy") as index:
        assert len(index._open.pool._idle) == 1
        with pytest.raises(IndexStoreError), index._open.reading():
            raise IndexStoreError(path, "injected")
        assert index._open.pool._idle == []
        work(index)


def test_verify_that_has_no_room_for_its_copy_is_no_damage(path, monkeypatch):
    def full(*_):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    def no_folder(**_):
        raise OSError(errno.EMFILE, "Too many open files")

    with Index.open(path, backend="numpy") as index:
        for name, failing in ("_is_complete", full), ("tempfile.TemporaryDirectory", no_folder):
            with monkeypatch.context() as patch:
                patch.setattr(f"mlx_colbert.index.catalog.damage.{name}", failing)
                with pytest.raises(IndexStoreError, match="cannot be copied") as caught:
                    index.verify()
                assert not isinstance(caught.value, IndexDamagedError)
        assert index.verify() == []
