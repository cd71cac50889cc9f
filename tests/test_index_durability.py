"""An index killed at any instant holds exactly what was acknowledged."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from test_index import DIM, expected_hits, found, whole_rows

from mlx_colbert.errors import IndexStoreError, TargetExistsError
from mlx_colbert.index import Index

# Kills itself before the n-th step that reaches the disk: a sync, rename, removal or commit.
KILL_AT_STEP = """
import os, shutil, signal, sqlite3, sys
import numpy as np
from mlx_colbert.index import Index, files, writer

path, fatal, action = sys.argv[1], int(sys.argv[2]), sys.argv[3]
steps = 0

def step():
    global steps
    steps += 1
    if steps == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

def stepped(function):
    def call(*args, **kwargs):
        step()
        return function(*args, **kwargs)
    return call

class Connection(sqlite3.Connection):
    def execute(self, sql, *parameters):
        if sql == "COMMIT":
            step()
            result = super().execute(sql, *parameters)
            step()
            return result
        return super().execute(sql, *parameters)

connect = sqlite3.connect
sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Connection, **kwargs)
files._sync = stepped(files._sync)
os.mkdir, os.rename, os.rmdir = stepped(os.mkdir), stepped(os.rename), stepped(os.rmdir)
os.unlink = stepped(os.unlink)
shutil.rmtree = stepped(shutil.rmtree)
writer._FAN_OUT = 3  # so that the change merges

index = None if action == "create" else Index.open(path, backend="numpy")
rows = [np.full((2, 8), 2.0)] * 2
if action == "create":
    Index.create(path, 8, backend="numpy").close()
elif action == "delete":
    index.delete(["d0", "d1"])
else:
    getattr(index, action)(["new", "d1" if action == "upsert" else "newer"], rows)
print("done", flush=True)
"""

# Works through a list of changes that is the same in every process, and acknowledges each.
KILL_AT_RANDOM = """
import os, sys
from mlx_colbert.index import Index
sys.path.insert(0, sys.argv[2])
from test_index_durability import changes
with Index.open(sys.argv[1], backend="numpy") as index:
    for number, (method, *arguments) in enumerate(changes()):
        getattr(index, method)(*arguments)
        os.write(1, b"%d\\n" % number)
"""


def changes():
    """An endless list of valid changes, the same for everyone."""
    rng = random.Random(0)
    alive = []
    while True:
        method = rng.choice(["add", "add", "upsert", "delete"]) if alive else "add"
        if method == "delete":
            yield method, [alive.pop(rng.randrange(len(alive)))]
            continue
        seed = rng.randrange(10**9)
        doc_id = f"d{seed}" if method == "add" else rng.choice(alive)
        alive += [doc_id] if method == "add" else []
        yield method, [doc_id], [whole_rows(seed)], [str(seed)]


def after(n_changes):
    """What the index holds after so many changes: doc_id → text."""
    state = {}
    for _, (method, ids, *rest) in zip(range(n_changes), changes(), strict=False):
        if method == "delete":
            del state[ids[0]]
        else:
            state[ids[0]] = rest[1][0]
    return state


def contents(index):
    return {hit.doc_id: hit.text for hit in index.search(np.ones((1, DIM)), 10**6)}


def states(action):
    """What the index holds before and after an action of KILL_AT_STEP: doc_id → rows."""
    before = {} if action == "create" else {f"d{i}": whole_rows(i) for i in range(4)}
    two = np.full((2, DIM), 2.0)
    return before, {
        "create": {},
        "add": before | {"new": two, "newer": two},
        "upsert": before | {"new": two, "d1": two},
        "delete": {doc_id: rows for doc_id, rows in before.items() if doc_id not in ("d0", "d1")},
    }[action]


def killed_at(step, path, action):
    command = [sys.executable, "-c", KILL_AT_STEP, str(path), str(step), action]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result.stdout != "done\n"


@pytest.mark.parametrize(
    ("action", "least_steps"), [("add", 18), ("upsert", 18), ("delete", 6), ("create", 4)]
)
def test_change_killed_at_any_step_is_there_as_a_whole_or_not_at_all(tmp_path, action, least_steps):
    before, after_it = states(action)
    if action != "create":
        with Index.create(tmp_path / "base", DIM, backend="numpy") as index:
            index.add(["d0", "d1"], [before["d0"], before["d1"]])
            index.add(["d2"], [before["d2"]])
            index.add(["d3"], [before["d3"]])
    done = []
    for step in itertools.count(1):
        path = tmp_path / str(step)
        if action != "create":
            shutil.copytree(tmp_path / "base", path)
        killed = killed_at(step, path, action)
        if action == "create":
            # What a killed create leaves is no obstacle to another one.
            with contextlib.suppress(TargetExistsError):
                Index.create(path, DIM, backend="numpy").close()
        with Index.open(path, backend="numpy") as index:
            hits = found(index.search(np.ones((1, DIM)), 100))
            assert hits in [expected_hits(state, np.ones((1, DIM)), 100) for state in (before, after_it)]
            assert index.verify() == []
            index.add(["later"], [np.ones((1, DIM))])
            assert len(list(path.glob("segment-*"))) == index.info().segments
        done.append(hits == expected_hits(after_it, np.ones((1, DIM)), 100))
        if not killed:
            break

    assert (done == sorted(done), done[-1]) == (True, True)
    assert step > least_steps


def test_index_killed_at_random_times_holds_what_was_acknowledged(tmp_path):
    rng = random.Random(1)
    for attempt in range(10):
        path = tmp_path / str(attempt)
        Index.create(path, DIM, backend="numpy").close()
        command = [sys.executable, "-c", KILL_AT_RANDOM, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            acknowledged = child.stdout.readline()
            time.sleep(rng.uniform(0, 0.2))
            child.kill()
            acknowledged += child.stdout.read()
        n_done = acknowledged.count(b"\n")

        with Index.open(path, backend="numpy") as index:
            assert contents(index) in (after(n_done), after(n_done + 1))
            assert index.verify() == []


def test_change_that_fails_to_write_leaves_the_index_as_it_was(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a"], [whole_rows(0)])
        with monkeypatch.context() as patch:
            patch.setattr("mlx_colbert.index.files._sync", full)
            with pytest.raises(IndexStoreError, match=r"No space left on device\. Nothing was changed"):
                index.upsert(["a"], [whole_rows(1)])
        assert len(list(index.path.glob("segment-*"))) == 1
        index.add(["b"], [whole_rows(1)])
        assert (len(index), index.verify()) == (2, [])


def test_file_size_limit_is_one_clear_error_and_nothing_is_lost(tmp_path):
    script = (
        "import resource, sys, numpy as np\n"
        "from mlx_colbert.errors import IndexStoreError\n"
        "from mlx_colbert.index import Index\n"
        "index = Index.open(sys.argv[1], backend='numpy')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "for ids, n_rows, text in ((['rows'], 100_000, ''), (['text'], 1, 'x' * 10**6)):\n"
        "    try: index.add(ids, [np.ones((n_rows, 8))], [text])\n"
        "    except IndexStoreError as error: print(type(error).__name__, error)\n"
        "print(len(index), index.verify())\n"
    )
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a"], [whole_rows(0)])

    command = [sys.executable, "-c", script, str(tmp_path / "index")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    assert [line.split()[0] for line in lines[:2]] == ["IndexStoreError"] * 2
    assert lines[2:] == ["1 []"]


READ_ONLY = """
import os, sys
import numpy as np
from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index import Index
with Index.create(sys.argv[2], 8, backend="numpy") as index:
    # Loads every module, which the other user may not be able to read.
    index.add(["a"], [np.ones((1, 8))])
    index.search(np.ones((1, 8)))
if os.geteuid() == 0:
    os.setuid(65534)
with Index.open(sys.argv[1], backend="numpy") as index:
    print(len(index), [hit.doc_id for hit in index.search(np.ones((1, 8)))], index.verify())
    for change in (lambda: index.add(["b"], [np.ones((1, 8))]), lambda: index.delete(["a"])):
        try:
            change()
        except IndexStoreError as error:
            print(type(error).__name__)
    print(len(index))
"""


@pytest.mark.parametrize("writer_was_killed", [False, True])
def test_read_only_index_is_searched_and_refuses_changes(writer_was_killed):
    # pytest's own tmp_path is closed to the other user that root becomes, for whom permissions count.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "index"
        with Index.create(path, DIM, backend="numpy") as index:
            index.add(["a"], [whole_rows(0)])
            if writer_was_killed:
                # As the connection is open, the commit is in the log still.
                path = shutil.copytree(path, path.with_name("copy"))
        for file in (*path.rglob("*"), path):
            file.chmod(0o555 if file.is_dir() else 0o444)

        command = [sys.executable, "-c", READ_ONLY, str(path), str(Path(folder) / "warm")]
        result = subprocess.run(command, check=False, capture_output=True, text=True)

    assert result.stdout.splitlines() == ["1 ['a'] []", "IndexStoreError", "IndexStoreError", "1"], (
        result.stderr
    )
