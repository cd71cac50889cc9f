"""A reader that may not write to the index folder follows what its owner does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from test_index import DIM

from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index import Index
from mlx_colbert.index.catalog import database_file

ROWS = [np.ones((1, DIM))]

READER = """
import os, sys
import numpy as np
from mlx_colbert.index import Index
rows = np.ones((1, 8))
with Index.create(sys.argv[2], 8, backend="numpy") as index:
    # Loads every module, which the other user may not be able to read.
    index.add(["a"], [rows])
    index.search(rows)
if os.geteuid() == 0:
    os.setuid(65534)
with Index.open(sys.argv[1], backend="numpy") as index:
    for line in sys.stdin:
        hits = index.search(rows, 100)
        print(len(index), *sorted(hit.doc_id for hit in hits), index.verify(), flush=True)
"""


@pytest.fixture
def folder():
    # pytest's own tmp_path is closed to the other user that root becomes, for whom permissions count.
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to read")
def test_reader_that_may_not_write_sees_each_commit(folder):
    path = folder / "index"
    with Index.create(path, DIM, backend="numpy") as index:
        index.add(["a", "b"], ROWS * 2)
    command = [sys.executable, "-c", READER, str(path), str(folder / "warm")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:

        def seen():
            print(file=reader.stdin, flush=True)
            return reader.stdout.readline().strip()

        assert seen() == "2 a b []"
        with Index.open(path, backend="numpy") as index:
            assert seen() == "2 a b []"
            index.add(["c"], ROWS)
            assert seen() == "3 a b c []"
            index.delete(["a"])
            index.compact()
            assert seen() == "2 b c []"
        assert seen() == "2 b c []"
        with Index.open(path, backend="numpy") as index:
            index.upsert(["d"], ROWS)
        with Index.open(path, backend="numpy") as index:
            index.compact()
        assert seen() == "3 b c d []"
        reader.stdin.close()


def as_never_changing(monkeypatch):
    """Lets SQLite open the file as it does where the folder cannot be written."""
    open_file = database_file._open

    def opened(file, mode):
        if mode == "mode=rw" and not file.with_name("catalog.db-wal").exists():
            error = database_file.sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = database_file.sqlite3.SQLITE_CANTOPEN
            raise error
        return open_file(file, mode)

    monkeypatch.setattr(database_file, "_open", opened)
    monkeypatch.setattr(database_file.os, "access", lambda path, mode: False)


def test_change_in_the_middle_of_a_read_is_said(folder, monkeypatch):
    path = folder / "index"
    with Index.create(path, DIM, backend="numpy") as index:
        index.add(["a"], ROWS)
    with monkeypatch.context() as patch:
        as_never_changing(patch)
        reader = Index.open(path, backend="numpy")
        assert len(reader) == 1
        patch.undo()
        with pytest.raises(IndexStoreError, match="changed during the read"), reader._reading():
            with Index.open(path, backend="numpy") as index:
                index.add(["b"], ROWS)
        assert len(reader) == len(reader.search(ROWS[0])) == 2
        reader.close()
