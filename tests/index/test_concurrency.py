"""Several readers and writers of one index, in threads and in processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from killing import unit_rows
from test_index import DIM, expected_hits, found, whole_rows

from mlx_colbert.errors import IndexLockedError, IndexStoreError
from mlx_colbert.index import Index, SearchParams
from mlx_colbert.index.search import searcher
from mlx_colbert.index.storage import codec, codec_cache, files
from mlx_colbert.index.storage.codec_cache import CodecCache
from mlx_colbert.index.writing import merge_policy, segment_writer
from mlx_colbert.kernels import get_search_ops

pytestmark = pytest.mark.slow

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


@pytest.fixture
def compressed(tmp_path, monkeypatch):
    """An index that codes what is small, so that its codec often changes."""
    monkeypatch.setattr(merge_policy, "SMALLEST_TOKENS", 8)
    monkeypatch.setattr(codec, "_TOKENS_PER_CENTROID", 8)
    with Index.create(tmp_path / "compressed", DIM, nbits=8, exact_tokens=0, backend="numpy") as made:
        write_generation(made, 0)
        yield made


# All documents are replaced in one commit: a search that finds two generations saw half of one.
IDS = [f"d{i}" for i in range(12)]


def rows_of_generation(number):
    # Every few generations there are more rows, so more centroids.
    return [unit_rows(100 * number + i, 4 + number % 3) for i in range(len(IDS))]


def write_generation(index, number):
    index.upsert(IDS, rows_of_generation(number), [f"word {number}"] * len(IDS), [{"n": number}] * len(IDS))


def check_one_generation(index):
    """Which generation all answers of a search are of."""
    query = np.eye(DIM)
    hits = index.search(query, 100, params=SearchParams(exact=True))
    (number,) = {hit.metadata["n"] for hit in hits}
    scores = {hit.doc_id: hit.score for hit in hits}
    rows = dict(zip(IDS, rows_of_generation(number), strict=True))
    expected = {doc_id: (query @ rows[doc_id].T).max(axis=1).sum() for doc_id in IDS}
    # 8 bits, compressed again at most a few times.
    assert scores == pytest.approx(expected, abs=0.15)
    assert {hit.text for hit in hits} == {f"word {number}"}
    assert len({hit.text for hit in index.search_keywords("word", 100)}) == 1
    assert len({hit.metadata["n"] for hit in index.search(query[:2], 5, filter="n >= 0")}) == 1
    return number


def write_generations(index, count):
    for number in range(1, count + 1):
        write_generation(index, number)
        index.delete(["other"] if "other" in index else [])
        index.compact(retrain=number % 2 == 0)
    return index.info().n_centroids


READER = """
import os, sys
sys.path[:0] = sys.argv[2].split(os.pathsep)
import pytest
from test_concurrency import check_one_generation
from mlx_colbert.index import Index
with Index.open(sys.argv[1], backend="numpy") as index:
    print("open", flush=True)
    seen = [0]
    while seen[-1] < int(sys.argv[3]):
        seen.append(check_one_generation(index))
assert seen == sorted(seen), seen
print(len(set(seen)))
"""


def test_readers_in_threads_follow_a_codec_that_changes(compressed):
    done = threading.Event()

    def read():
        seen = [0]
        while not done.is_set():
            seen.append(check_one_generation(compressed))
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            write_generations(compressed, 15)
        finally:
            done.set()
        seen = [reader.result() for reader in readers]

    assert all(numbers == sorted(numbers) for numbers in seen)
    assert len(set().union(*seen)) > 3
    assert (check_one_generation(compressed), compressed.verify()) == (15, [])
    assert len(list(compressed.path.glob("codec-*"))) == 1


def test_readers_in_processes_follow_a_codec_that_changes(compressed):
    here = Path(__file__).parent
    command = [sys.executable, "-c", READER, str(compressed.path), f"{here}{os.pathsep}{here.parent}", "30"]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [reader.stdout.readline() for reader in readers] == ["open\n"] * 2

    write_generations(compressed, 30)
    seen = [reader.communicate()[0] for reader in readers]

    assert [reader.returncode for reader in readers] == [0, 0]
    assert all(int(numbers) > 3 for numbers in seen)
    assert compressed.verify() == []


def test_snapshot_outlives_its_codec_and_its_segments(compressed):
    reader = searcher.Searcher(compressed.path, CodecCache(compressed.path, get_search_ops("numpy")))
    with reader.snapshot() as snapshot:
        (part,) = snapshot.segments
        before = snapshot.codec.decode(part.segment.rows(slice(None)))
        write_generation(compressed, 2)
        compressed.compact(retrain=True)

        assert not part.segment.path.exists()
        after = snapshot.codec.decode(part.segment.rows(slice(None)))
        np.testing.assert_array_equal(before, after)
        assert reader.contents.passage("d0").text == "word 0"
    with reader.snapshot() as snapshot:
        assert snapshot.codec.n_centroids != len(before) // 8
    reader.close()


def test_reader_survives_a_codec_that_vanishes_before_it_is_read(compressed, monkeypatch):
    original, calls = codec_cache.open_codec, []

    def replaced_just_before(root, record, **settings):
        calls.append(record.number)
        if len(calls) == 1:
            compressed.compact(retrain=True)
        return original(root, record, **settings)

    monkeypatch.setattr(codec_cache, "open_codec", replaced_just_before)
    with Index.open(compressed.path, backend="numpy") as reader:
        assert check_one_generation(reader) == 0
    assert calls == [1, 2]


@pytest.mark.parametrize("fatal", range(1, 14))
def test_reader_survives_files_that_vanish_while_it_opens_them(compressed, monkeypatch, fatal):
    original, calls = files.Folder._opened, []

    @contextmanager
    def opened(folder, name, *layout):
        with original(folder, name, *layout) as file:
            calls.append(name)
            if len(calls) == fatal:
                compressed.compact(retrain=True)
            yield file

    monkeypatch.setattr(files.Folder, "_opened", opened)
    with Index.open(compressed.path, backend="numpy") as reader:
        assert check_one_generation(reader) == 0
    assert len(calls) > 13


def test_verify_finds_nothing_wrong_in_files_that_a_writer_replaces_meanwhile(compressed, monkeypatch):
    original, calls = files.Folder._check_content, []

    def replaced_just_before(folder, file):
        calls.append(file.name)
        if len(calls) == 3:
            compressed.compact(retrain=True)
        return original(folder, file)

    with Index.open(compressed.path, backend="numpy") as reader:
        monkeypatch.setattr(files.Folder, "_check_content", replaced_just_before)
        assert reader.verify() == []
        monkeypatch.undo()
        (next(compressed.path.glob("segment-*")) / "codes.npy").unlink()
        (problem,) = reader.verify()
        assert "codes.npy: is missing" in problem


def test_writers_wait_for_a_training_and_readers_do_not(compressed, monkeypatch):
    started, go_on = threading.Event(), threading.Event()
    original = segment_writer.train

    def slow(*args, **settings):
        started.set()
        assert go_on.wait(30)
        return original(*args, **settings)

    monkeypatch.setattr(segment_writer, "train", slow)
    monkeypatch.setattr("mlx_colbert.index.catalog.database_errors.LOCK_TIMEOUT_S", 0.2)
    with ThreadPoolExecutor(1) as pool, Index.open(compressed.path, backend="numpy") as other:
        job = pool.submit(compressed.compact, retrain=True)
        assert started.wait(30)
        with pytest.raises(IndexLockedError, match=r"another writer did not finish within 0.2 s"):
            other.delete(["d0"])
        with pytest.raises(IndexLockedError, match=r"another thread did not finish writing within 0.2 s"):
            compressed.delete(["d0"])
        assert check_one_generation(other) == check_one_generation(compressed) == 0
        go_on.set()
        job.result()
        other.delete(["d0"])
        assert (len(compressed), compressed.verify()) == (11, [])


COMPRESSED_WRITER = """
import sys, numpy as np
from mlx_colbert.index import Index
with Index.open(sys.argv[1], backend="numpy") as index:
    for i in range(8):
        rows = np.random.default_rng(i).standard_normal((40, 8))
        rows[:, i] += 9 if sys.argv[2] == "x" else -9
        index.add([f"{sys.argv[2]}{i}"], [rows / np.linalg.norm(rows, axis=1, keepdims=True)], ["word"])
        if i % 3 == 2:
            index.compact(retrain=i == 2)
"""


def test_two_processes_that_train_and_code_take_turns(tmp_path):
    with Index.create(tmp_path / "index", DIM, nbits=8, exact_tokens=100, backend="numpy") as index:
        command = [sys.executable, "-c", COMPRESSED_WRITER, str(index.path)]
        writers = [subprocess.Popen([*command, name]) for name in "xy"]
        assert [process.wait() for process in writers] == [0, 0]

        assert (len(index), index.verify()) == (16, [])
        assert len(index.search_keywords("word", 100)) == 16
        for i in range(8):
            assert index.search(np.eye(DIM)[i : i + 1], 1)[0].doc_id == f"x{i}"
            assert index.search(-np.eye(DIM)[i : i + 1], 1)[0].doc_id == f"y{i}"
        assert len(list(index.path.glob("codec-*"))) == 1


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
    reader = searcher.Searcher(index.path, CodecCache(index.path, get_search_ops("numpy")))
    with reader.snapshot() as snapshot:
        index.upsert([f"d{i}" for i in range(8)], [2 * ONES] * 8)

        assert [live.n_live for live in snapshot.segments] == [1] * 7
        assert [live.segment.embeddings.vectors.max() for live in snapshot.segments] == [1] * 7
        assert reader.contents.passage("d7") is None
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
    monkeypatch.setattr("mlx_colbert.index.catalog.database_errors.LOCK_TIMEOUT_S", 0.2)
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
    late = index._open.writer()
    index.close()

    with pytest.raises(IndexStoreError, match="was closed by another thread"):
        late.delete(["a"])


def test_closing_lets_a_search_in_another_thread_finish(index):
    index.add(["a"], [ONES])
    with ThreadPoolExecutor(1) as pool, index._open.pool.searcher() as busy:
        pool.submit(index.close).result()
        assert busy.passages.locate(["a"])

    with pytest.raises(IndexStoreError, match="was closed"):
        busy.passages.locate(["a"])


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
