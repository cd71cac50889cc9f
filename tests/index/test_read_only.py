"""A reader that may not write to the index folder follows what its owner does."""

from __future__ import annotations

import os
import shutil
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


@pytest.mark.slow
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


MOUNTED = """
import sys
import numpy as np
from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index import Index, verify
path, rows = sys.argv[1], np.ones((1, 8))
try:
    with Index.open(path, backend="numpy") as index:
        hits = sorted(hit.doc_id for hit in index.search(rows))
        keywords = [hit.doc_id for hit in index.search_keywords("tea")]
        print(hits, keywords, index.ids(), index.info().passages, index.verify(), verify(path))
        for change in (lambda: index.add(["c"], [rows]), index.compact):
            try:
                change()
            except IndexStoreError as error:
                print(error)
except IndexStoreError as error:
    print(error)
"""


@pytest.fixture
def on_read_only_mount(tmp_path):
    """A function that runs code with a path, in a mount namespace in which the folder of the path is read-only."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'

    def run(path, *command):
        arguments = [*unshare, "sh", "-c", script, "sh", str(path.parent), *command]
        # A library with threads of its own, as OpenBLAS, keeps unshare from working.
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        return subprocess.run(arguments, check=False, capture_output=True, text=True, env=env)

    if not shutil.which("unshare") or run(tmp_path / "index", "true").returncode:
        pytest.skip("needs mount namespaces")
    return lambda path, code: run(path, sys.executable, "-c", code, str(path)).stdout.splitlines()


def make(path, kind):
    with Index.create(path, DIM, exact_tokens=0 if kind == "compressed" else None, backend="numpy") as index:
        index.add(["a", "b"], ROWS * 2, ["tea", None])
        if kind.startswith("log"):
            # While the index is open, its commits are in the log.
            return shutil.copytree(path, path.with_name("copy"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "compressed", "log and shared memory"])
def test_index_on_a_read_only_file_system_is_read_and_refuses_changes(tmp_path, on_read_only_mount, kind):
    read, *refused = on_read_only_mount(make(tmp_path / "index", kind), MOUNTED)

    assert read == "['a', 'b'] ['a'] ['a', 'b'] 2 [] []"
    assert [line.rpartition(". ")[2] for line in refused] == ["Its file system is read-only."] * 2


def test_log_alone_on_a_read_only_file_system_is_one_error(tmp_path, on_read_only_mount):
    path = make(tmp_path / "index", "log alone")
    (path / "catalog.db-shm").unlink()

    (line,) = on_read_only_mount(path, MOUNTED)

    assert line.endswith("read catalog.db-wal without write permission. Open the index once with permission.")


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
        with pytest.raises(IndexStoreError, match="changed during the read"), reader._open.reading():
            with Index.open(path, backend="numpy") as index:
                index.add(["b"], ROWS)
        assert len(reader) == len(reader.search(ROWS[0])) == 2
        reader.close()
