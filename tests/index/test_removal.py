"""An index folder that is removed, renamed or replaced while it is open."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_index import DIM

from mlx_colbert.errors import IndexStoreError
from mlx_colbert.index import Index
from mlx_colbert.index.writing import segment_writer, writer
from mlx_colbert.index.writing.batch import Batch

ROWS = [np.ones((1, DIM))]
GONE = "was removed or replaced since it was opened"


@pytest.fixture
def index(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as made:
        yield made


def remove(path):
    shutil.rmtree(path)


def rename(path):
    path.rename(path.with_name("elsewhere"))


def replace(path):
    rename(path)
    with Index.create(path, DIM, backend="numpy") as other:
        for i in range(3):
            other.add([f"other {i}"], ROWS)
        other.delete(["other 0"])


CHANGES = [remove, rename, replace]
READS = {
    "search": lambda index: index.search(ROWS[0]),
    "keywords": lambda index: index.search_keywords("word"),
    "get": lambda index: index.get("a"),
    "existing": lambda index: index.existing(["a"]),
    "compare": lambda index: index.compare(["a"], ["word"]),
    "len": len,
    "in": lambda index: "a" in index,
    "info": lambda index: index.info(),
    "verify": lambda index: index.verify(),
    "add": lambda index: index.add(["b"], ROWS),
    "delete": lambda index: index.delete(["a"]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", READS)
def test_index_that_is_no_longer_at_its_path_answers_nothing(index, change, read):
    index.add(["a"], ROWS, ["word"])
    READS[read](index)
    if read == "delete":
        index.add(["a"], ROWS, ["word"])

    change(index.path)

    with pytest.raises(IndexStoreError, match=GONE):
        READS[read](index)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("step", ["write_exact", "collect_garbage", "remove"])
def test_change_of_an_index_that_is_replaced_meanwhile_is_not_acknowledged(index, monkeypatch, change, step):
    for i in range(7):  # the next one merges them, so there is something to collect
        index.add([f"d{i}"], ROWS)
    module = segment_writer if step == "write_exact" else writer
    original, calls = getattr(module, step), []

    def changed_before(*arguments, **settings):
        calls.append(step)
        if len(calls) == 1:
            change(index.path)
        return original(*arguments, **settings)

    monkeypatch.setattr(module, step, changed_before)
    if step == "remove":
        # The commit stands by then, and is in the folder that was moved.
        index.add(["late"], ROWS)
    else:
        with pytest.raises(IndexStoreError):
            index.add(["late"], ROWS)

    assert calls
    if change is replace:
        with Index.open(index.path, backend="numpy") as other:
            assert sorted(hit.doc_id for hit in other.search(ROWS[0])) == ["other 1", "other 2"]
            assert other.verify() == []
    if change is rename:
        with Index.open(index.path.with_name("elsewhere"), backend="numpy") as moved:
            assert (len(moved), moved.verify()) == (7 + (step == "remove"), [])


@pytest.mark.parametrize("change", CHANGES)
def test_index_that_takes_the_place_of_one_that_is_written_keeps_its_segments(index, monkeypatch, change):
    index.add(["a"], ROWS)
    original = Batch.blocks

    def changed_before(batch):
        monkeypatch.setattr(Batch, "blocks", original)
        change(index.path)
        return original(batch)

    monkeypatch.setattr(Batch, "blocks", changed_before)
    with pytest.raises(IndexStoreError, match=GONE):
        index.add(["late"], ROWS)

    if change is replace:
        with Index.open(index.path, backend="numpy") as other:
            assert (sorted(other), other.verify()) == (["other 1", "other 2"], [])


def test_unused_index_is_discarded_and_those_who_have_it_open_are_told(index):
    with Index.open(index.path, backend="numpy") as other:
        index.discard_if_empty(keep_folder=False)

        assert not index.path.exists()
        with pytest.raises(IndexStoreError, match=GONE):
            other.add(["a"], ROWS)
        with pytest.raises(IndexStoreError, match=GONE):
            len(other)


def test_folder_that_was_there_before_is_kept_as_is_what_others_put_there(tmp_path):
    (tmp_path / "kept").mkdir()
    Index.create(tmp_path / "kept", DIM, backend="numpy").discard_if_empty(keep_folder=True)
    assert list((tmp_path / "kept").iterdir()) == []

    index = Index.create(tmp_path / "shared", DIM, backend="numpy")
    (tmp_path / "shared" / "notes.txt").write_text("keep")
    index.discard_if_empty(keep_folder=False)
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["notes.txt"]


def test_index_that_another_has_added_to_is_not_discarded(index):
    with Index.open(index.path, backend="numpy") as other:
        other.add(["a"], ROWS)
        index.discard_if_empty(keep_folder=False)

        assert (len(other), other.verify()) == (1, [])


def test_index_that_another_is_adding_to_is_not_discarded(index, monkeypatch):
    monkeypatch.setattr("mlx_colbert.index.catalog.database_errors.LOCK_TIMEOUT_S", 0.1)
    started, go_on = threading.Event(), threading.Event()
    original = segment_writer.write_exact

    def slow(*arguments, **settings):
        started.set()
        assert go_on.wait(30)
        return original(*arguments, **settings)

    monkeypatch.setattr(segment_writer, "write_exact", slow)
    with ThreadPoolExecutor(1) as pool, Index.open(index.path, backend="numpy") as other:
        job = pool.submit(other.add, ["a"], ROWS)
        assert started.wait(30)
        index.discard_if_empty(keep_folder=False)
        go_on.set()
        job.result()
        assert (len(other), other.verify()) == (1, [])


def test_add_that_waits_for_a_discard_is_refused(index):
    with ThreadPoolExecutor(1) as pool, Index.open(index.path, backend="numpy") as other:
        writing = index._open.writer()
        # It is open before the files go, however late the thread begins.
        other._open.writer()
        with writing.catalog.locked():
            job = pool.submit(other.add, ["a"], ROWS)
            for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
                (index.path / name).unlink()
        with pytest.raises(IndexStoreError, match=GONE):
            job.result()


def test_closing_an_index_that_was_replaced_leaves_the_log_of_the_new_one(index):
    index.add(["a"], ROWS)
    shutil.rmtree(index.path)
    with Index.create(index.path, DIM, backend="numpy") as new:
        new.add(["b"], ROWS)
        index.close()
        with Index.open(index.path, backend="numpy") as reader:
            new.add(["c"], ROWS)
            assert (len(reader), len(new)) == (2, 2)
    with Index.open(new.path, backend="numpy") as reader:
        assert (len(reader), reader.verify()) == (2, [])
