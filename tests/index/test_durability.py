"""An index killed at any instant holds exactly what was acknowledged."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killing import DIM, Killer, after, around, document, unit_rows
from test_index import whole_rows

from mlx_colbert.errors import IndexStoreError, TargetExistsError
from mlx_colbert.index import Index, SearchParams
from mlx_colbert.index.catalog import connection
from mlx_colbert.index.storage import files

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).parents[1] / "data" / "index-v1" / "index"
# What the 8 bits of a component may change in a sum of 8 of them.
TOLERANCE = 0.12

# What the index holds before each action: doc_id → rows.
EXACT = {f"d{i}": unit_rows(i) for i in range(4)}
COMPRESSED = {f"d{i}": around(i % 2, i) for i in range(1, 8)}
SMALL = {"d1": unit_rows(1), "d2": unit_rows(2)}
ONE = np.eye(4)
FORMAT_1 = {"a": ONE[:2], "b": ONE[3:] / 2, "ü": ONE[1:]}
BEFORE = {
    "empty": {},
    "exact": EXACT,
    "sources": EXACT,
    "compressed": COMPRESSED,
    "small": SMALL,
    "format 1": FORMAT_1,
}


@pytest.fixture
def unsynced(monkeypatch):
    """Saves what takes longest here: the system keeps what a killed process has written, synced or not."""
    monkeypatch.setattr(files, "sync", lambda descriptor: None)
    monkeypatch.setattr(connection, "SETTINGS", ("synchronous = OFF",))


@pytest.fixture(scope="module")
def killer():
    with Killer() as started:
        yield started


def after_action(documents, action):
    """What documents an action leaves: doc_id → rows."""
    two = np.eye(4 if documents is FORMAT_1 else DIM)[:2]
    without = {
        "delete": {"d0", "d1"},
        "rename sources": {"d0", "d1", "d2"},
        "delete by filter": {"d1", "d3", "d6"} if "d0" in documents else {"d1", "d6"},
    }.get(action, set())
    added = {
        "add": {"new": two, "newer": two},
        "rename sources": {"d2": documents.get("d0"), "new": documents.get("d1")},
        "upsert": {"new": two, "d1": two},
        "upsert fixture": {"new": two, "a": two},
        "import": {"t0": np.eye(DIM)[:1], "t1": np.eye(DIM)[[1, 1]]},
        "add far": {"new": around(5, 8, 12), "newer": around(6, 9, 12)},
    }.get(action, {})
    return {doc_id: rows for doc_id, rows in documents.items() if doc_id not in without} | added


def held(path):
    """What an index answers: every document with its score, text and metadata, the words, the numbers."""
    with Index.open(path, backend="numpy") as index:
        found = index.search(np.eye(index.dim), 1000, params=SearchParams(exact=True))
        info = index.info()
        words = index.search_keywords("word", 1000) if info.format_version > 1 else []
        assert index.verify() == []
    hits = [(hit.doc_id, hit.score, hit.text, hit.metadata) for hit in found]
    return hits, words, replace(info, bytes=0)


def check_scores(found, documents):
    scores = {doc_id: score for doc_id, score, *_ in found}
    expected = {doc_id: rows.max(axis=0).sum() for doc_id, rows in documents.items()}
    assert scores == pytest.approx(expected, abs=TOLERANCE)


def check_folders(path):
    """After another change nothing is left of a killed one."""
    with Index.open(path, backend="numpy") as index:
        index.add(["later"], [np.ones((1, index.dim))], ["word later"])
        assert "later" in [hit.doc_id for hit in index.search_keywords("later")]
        folders = sorted(name.name[:5] for name in path.iterdir() if name.is_dir())
        info = index.info()
        assert folders == ["codec"] * bool(info.n_centroids) + ["segme"] * info.segments
        assert index.verify() == []


@pytest.mark.parametrize(
    ("base", "action", "least_steps"),
    [
        ("exact", "add", 18),
        ("exact", "upsert", 18),
        ("exact", "delete", 6),
        ("exact", "delete by filter", 6),
        ("exact", "update metadata", 3),
        ("sources", "rename sources", 3),
        ("exact", "compact", 18),
        ("small", "add far", 30),  # trains the codec
        ("empty", "import", 20),
        ("compressed", "add", 18),
        ("compressed", "upsert", 18),
        ("compressed", "delete by filter", 6),
        ("compressed", "update metadata", 3),
        ("compressed", "compact", 30),
        ("compressed", "retrain", 40),
        ("compressed", "add far", 20),  # extends the codec
        ("format 1", "update fixture", 10),
        ("format 1", "upsert fixture", 20),
    ],
)
def test_change_killed_at_any_step_is_there_as_a_whole_or_not_at_all(
    tmp_path, killer, unsynced, base, action, least_steps
):
    if base == "format 1":
        shutil.copytree(FIXTURE, tmp_path / "base")
    else:
        killer.run(tmp_path / "base", f"base {base}")
    whole = shutil.copytree(tmp_path / "base", tmp_path / "whole")
    n_steps = killer.run(whole, action)
    before, after_it = held(tmp_path / "base"), held(whole)
    check_scores(before[0], BEFORE[base])
    check_scores(after_it[0], after_action(BEFORE[base], action))
    versions = (before[2].format_version, after_it[2].format_version)
    assert versions == (1 if base == "format 1" else 4, 4)
    more_centroids = after_it[2].n_centroids > before[2].n_centroids
    assert more_centroids == (action in ("add far", "import"))
    if base == "format 1":  # opening it has made SQLite's companions
        shutil.rmtree(tmp_path / "base")
        shutil.copytree(FIXTURE, tmp_path / "base")

    done = []
    for step in range(1, n_steps + 1):
        path = shutil.copytree(tmp_path / "base", tmp_path / str(step))
        killer.kill_at(path, action, step)
        seen = held(path)
        assert seen in (before, after_it)
        done.append(seen == after_it)
        check_folders(path)

    assert (done == sorted(done), done[0], done[-1]) == (True, False, True)
    assert n_steps > least_steps


def test_create_killed_at_any_step_can_be_made_again(tmp_path, killer, unsynced):
    n_steps = killer.run(tmp_path / "whole", "create")
    for step in range(1, n_steps + 1):
        path = tmp_path / str(step)
        killer.kill_at(path, "create", step)
        with contextlib.suppress(TargetExistsError):
            Index.create(path, DIM, backend="numpy").close()
        with Index.open(path, backend="numpy") as index:
            index.add(["a"], [whole_rows(0)])
            assert (len(index), index.verify()) == (1, [])

    assert n_steps > 4


@pytest.mark.parametrize("part", range(4))
def test_index_killed_at_random_times_holds_what_was_acknowledged(tmp_path, killer, unsynced, part):
    rng = random.Random(part)
    path = tmp_path / "index"
    Index.create(path, DIM, nbits=8, exact_tokens=24, backend="numpy").close()
    n_done, codecs = 0, set()
    for _ in range(50):
        acknowledged = n_done + killer.kill_after(
            path, part, n_done, n_changes=rng.randint(0, 4), seconds=rng.uniform(0, 0.03)
        )

        with Index.open(path, backend="numpy") as index:
            assert index.verify() == []
            hits = index.search(np.eye(DIM), 1000, params=SearchParams(exact=True))
            held = {hit.doc_id: (hit.text, hit.metadata) for hit in hits}
            words = {hit.doc_id for hit in index.search_keywords("word", 1000)}
            codecs.add(index.info().n_centroids)
        for n_done in (acknowledged, acknowledged + 1):
            state = after(part, n_done)
            expected = {
                doc_id: (document(doc_id, seed)[1], metadata) for doc_id, (seed, metadata) in state.items()
            }
            if held == expected:
                break
        assert held == expected
        assert words == {doc_id for doc_id, (text, _) in held.items() if text}
        rows = {doc_id: document(doc_id, seed)[0] for doc_id, (seed, _) in state.items()}
        check_scores([(hit.doc_id, hit.score) for hit in hits], rows)
    assert len(codecs) > 1


FAILING = {
    "add": lambda index: index.upsert(["a"], [whole_rows(1)]),
    "train": lambda index: index.add(["more"], [unit_rows(1, 200)]),
    "extend": lambda index: index.add(["far"], [around(5, 8, 5000)]),
    "compact": lambda index: index.compact(),
    "retrain": lambda index: index.compact(retrain=True),
}


@pytest.mark.parametrize("change", FAILING)
def test_change_that_fails_to_write_leaves_the_index_as_it_was(tmp_path, monkeypatch, change):
    with Index.create(tmp_path / "index", DIM, nbits=8, exact_tokens=100, backend="numpy") as index:
        index.add(["a"], [whole_rows(0)])
        if change != "train":
            index.add(["b", "c"], [around(0, 0, 100), around(1, 1, 100)])
        index.add(["d"], [unit_rows(3)], ["word"])
        before = held(index.path)
        for step in itertools.count(1):
            left = iter(range(step))

            def full(descriptor, left=left):
                if next(left, None) is None:
                    raise OSError(28, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr("mlx_colbert.index.storage.files.sync", full)
                try:
                    FAILING[change](index)
                    break
                except IndexStoreError as error:
                    assert "No space left on device. Nothing was changed" in str(error)
            assert held(index.path) == before
        assert index.verify() == []
        index.add(["later"], [whole_rows(1)])
        assert len(list(index.path.glob("segment-*"))) == index.info().segments
        assert len(list(index.path.glob("codec-*"))) == (index.info().n_centroids > 0)
    assert step > 3


LIMITED = """
import resource, sys, numpy as np
from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index import Index
rows = np.random.default_rng(0).standard_normal((15000, 8))
index = Index.open(sys.argv[1], backend="numpy")
for i in range(2):
    index.add([f"half {i}"], [rows])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for change in (
    lambda: index.add(["rows"], [rows[[0] * 30000]]),
    lambda: index.add(["text"], [rows[:1]], ["x" * 10**6]),
    lambda: index.compact(),
    lambda: index.compact(retrain=True),
):
    try:
        change()
    except IndexStoreError as error:
        print(type(error).__name__, error)
index.upsert(["later"], [rows[:1]])
print(len(index), index.verify())
"""


@pytest.mark.parametrize("exact_tokens", [None, 30500, 0])  # exact; trained by an add; compressed
def test_file_size_limit_is_one_clear_error_and_nothing_is_lost(tmp_path, exact_tokens):
    path = tmp_path / "index"
    with Index.create(path, DIM, nbits=8, exact_tokens=exact_tokens, backend="numpy") as index:
        index.add(["a"], [whole_rows(0)])

    command = [sys.executable, "-c", LIMITED, str(path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    assert [line.split()[0] for line in lines[:-1]] == ["IndexStoreError"] * 4
    assert lines[-1] == "4 []"


READ_ONLY = """
import os, sys
import numpy as np
from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index import Index
with Index.create(sys.argv[2], 8, exact_tokens=0, backend="numpy") as index:
    # Loads every module, which the other user may not be able to read.
    index.add(["a"], [np.ones((1, 8))])
    index.search(np.ones((1, 8)))
if os.geteuid() == 0:
    os.setuid(65534)
with Index.open(sys.argv[1], backend="numpy") as index:
    axes = np.eye(index.dim)
    print(len(index), [hit.doc_id for hit in index.search(axes[:1], 1)], index.verify())
    for change in (lambda: index.add(["new"], [axes]), lambda: index.delete(["a"])):
        try:
            change()
        except IndexStoreError as error:
            print(type(error).__name__)
    print(len(index))
"""


@pytest.mark.parametrize("kind", ["exact", "writer was killed", "compressed", "format 1"])
def test_read_only_index_is_searched_and_refuses_changes(kind):
    # pytest's own tmp_path is closed to the other user that root becomes, for whom permissions count.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "index"
        if kind == "format 1":
            shutil.copytree(FIXTURE, path)
        else:
            with Index.create(
                path, DIM, exact_tokens=0 if kind == "compressed" else None, backend="numpy"
            ) as index:
                index.add(["a", "b", "c"], [np.eye(DIM)[[i] * 3] for i in range(3)])
                if kind == "writer was killed":
                    # As the connection is open, the commit is in the log still.
                    path = shutil.copytree(path, path.with_name("copy"))
        for file in (*path.rglob("*"), path):
            file.chmod(0o555 if file.is_dir() else 0o444)

        command = [sys.executable, "-c", READ_ONLY, str(path), str(Path(folder) / "warm")]
        result = subprocess.run(command, check=False, capture_output=True, text=True)

    lines = ["3 ['a'] []", "IndexStoreError", "IndexStoreError", "3"]
    assert result.stdout.splitlines() == lines, result.stderr
