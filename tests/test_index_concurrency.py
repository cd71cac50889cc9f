"""Several readers and writers of one index, in threads and in processes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_index import DIM, expected_hits, found, whole_rows

from mlx_colbert.backends import get_ops
from mlx_colbert.errors import IndexLockedError, IndexStoreError
from mlx_colbert.index import Index, searcher

ONES = np.ones((1, DIM))

WRITER = """
import sys, numpy as np
from mlx_colbert.index import Index
with Index.open(sys.argv[1], backend="numpy") as index:
    for i in range(25):
        index.add([f"{sys.argv[2]}{i}"], [np.ones((1, 8))])
"""

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1] + "/catalog.db", isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
connection.close()
"""


@pytest.fixture
def index(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as made:
        yield made


def test_reader_sees_new_commits_without_reopening(index):
    index.add(["a"], [ONES])
    with Index.open(index.path, backend="numpy") as reader:
        assert [hit.doc_id for hit in reader.search(ONES)] == ["a"]

        index.upsert(["a", "b"], [2 * ONES, ONES])
        assert found(reader.search(ONES)) == [("a", 16.0), ("b", 8.0)]

        index.delete(["a"])
        assert [hit.doc_id for hit in reader.search(ONES)] == ["b"]


def test_snapshot_stays_the_same_while_a_writer_merges(index):
    for i in range(7):
        index.add([f"d{i}"], [ONES])
    reader = searcher.Searcher(index.path, searcher.CodecCache(index.path, get_ops("numpy")))
    with reader.snapshot() as snapshot:
        index.upsert([f"d{i}" for i in range(8)], [2 * ONES] * 8)

        assert [live.n_live for live in snapshot.segments] == [1] * 7
        assert [live.segment.embeddings.vectors.max() for live in snapshot.segments] == [1] * 7
        assert reader.contents.document("d7") is None
    with reader.snapshot() as snapshot:
        assert [live.n_live for live in snapshot.segments] == [8]
    reader.close()


def test_reader_survives_a_segment_that_vanishes_before_it_is_mapped(index, monkeypatch):
    index.add(["a"], [ONES])
    original, calls = searcher.open_segment, []

    def replaced_just_before(root, record, **settings):
        calls.append(record.number)
        if len(calls) == 1:
            index.upsert(["a"], [2 * ONES])
        return original(root, record, **settings)

    monkeypatch.setattr(searcher, "open_segment", replaced_just_before)
    with Index.open(index.path, backend="numpy") as reader:
        assert found(reader.search(ONES)) == [("a", 16.0)]
    assert calls == [1, 2]


def test_second_writer_waits_then_gives_up(index, monkeypatch):
    monkeypatch.setattr("mlx_colbert.index.schema.LOCK_TIMEOUT_S", 0.2)
    command = [sys.executable, "-c", HOLDER, str(index.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(IndexLockedError, match=r"another writer did not finish within 0.2 s"):
            index.add(["a"], [ONES])
        assert index.search(ONES) == []
        holder.communicate()

    index.add(["a"], [ONES])
    assert len(index) == 1


def test_two_writing_processes_take_turns(index):
    commands = [[sys.executable, "-c", WRITER, str(index.path), name] for name in "xy"]
    writers = [subprocess.Popen(command) for command in commands]
    seen = []
    while any(writer.poll() is None for writer in writers):
        seen.append(len(index.search(ONES, 100)))

    assert [writer.returncode for writer in writers] == [0, 0]
    assert (len(index), index.verify(), seen) == (50, [], sorted(seen))


def test_threads_search_while_others_write(index):
    documents = {f"{name}{i}": whole_rows(i) for name in "xy" for i in range(30)}

    def write(name):
        for i in range(30):
            index.add([f"{name}{i}"], [documents[f"{name}{i}"]], [f"text {name}{i}"])

    def read(seed):
        query = whole_rows(seed)
        for _ in range(60):
            hits = index.search(query, 100)
            assert all(hit.text == f"text {hit.doc_id}" for hit in hits)
            present = {hit.doc_id: documents[hit.doc_id] for hit in hits}
            assert found(hits) == expected_hits(present, query, 100)

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(write, name) for name in "xy"] + [pool.submit(read, seed) for seed in range(4)]
        for job in jobs:
            job.result()

    assert found(index.search(whole_rows(7), 100)) == expected_hits(documents, whole_rows(7), 100)


def test_change_that_comes_after_another_thread_closed_says_so(index):
    late = index._writing()
    index.close()

    with pytest.raises(IndexStoreError, match="was closed by another thread"):
        late.delete(["a"])


def test_closing_lets_a_search_in_another_thread_finish(index):
    index.add(["a"], [ONES])
    with ThreadPoolExecutor(1) as pool, index._searcher() as busy:
        pool.submit(index.close).result()
        assert busy.catalog.locate(["a"])

    with pytest.raises(IndexStoreError, match="was closed"):
        busy.catalog.locate(["a"])


def test_only_one_of_several_creators_wins_and_keeps_its_documents(tmp_path):
    code = """
import sys, numpy as np
from mlx_colbert.errors import TargetExistsError
from mlx_colbert.index import Index
try:
    with Index.create(sys.argv[1], 8, backend="numpy") as index:
        index.add([sys.argv[2]], [np.ones((1, 8))])
    print("won")
except TargetExistsError:
    print("lost")
"""
    for attempt in range(4):
        path = tmp_path / str(attempt)
        command = [sys.executable, "-c", code, str(path)]
        children = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(3)]
        results = [child.communicate()[0].strip() for child in children]
        assert sorted(results) == ["lost", "lost", "won"]
        with Index.open(path, backend="numpy") as index:
            assert (str(results.index("won")) in index, len(index)) == (True, 1)
