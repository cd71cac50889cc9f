"""Kills and writers side by side: what other engines promise, and what a second try mends."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from made_stores import ENGINES, location, make, reopen

from mlx_colbert.types import Source

pytestmark = pytest.mark.slow
DIM = 8
ROW = np.eye(1, DIM)
OLD = Source("notes.md", content_hash="old")
NEW = Source("notes.md", content_hash="new")


@pytest.fixture(params=ENGINES)
def kind(request):
    return request.param


# Replaces the passages of a source, and kills itself at a call of the engine.
REPLACES = """
import os, signal, sys
import numpy as np
from mlx_colbert.store import open_store
from mlx_colbert.types import Source
place, moment, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(place)
engine, calls = store._engine, []
def counted(function):
    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        function(*args, **kwargs)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
    return call
engine.put, engine.put_records = counted(engine.put), counted(engine.put_records)
row = np.eye(1, 8)
store.replace_sources(
    {Source("notes.md", content_hash="new"): {"b": None, "c": None}}, ["b", "c"], [row, row], ["new", "new"]
)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_source_with_a_content_hash_is_complete_after_a_kill(kind, tmp_path, moment, number):
    store = make(kind, tmp_path / "store", DIM)
    store.replace_sources({OLD: {"a": None, "b": None}}, ["a", "b"], [ROW, ROW], ["old", "old"])
    store.close()
    place = location(kind, tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-c", REPLACES, place, moment, str(number)], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr

    store = reopen(kind, tmp_path / "store")

    (source,) = store.sources()
    texts = {passage.doc_id: passage.text for passage in store.passages()}
    assert texts in ({"a": "old", "b": "old"}, {"b": "new", "c": "new"})
    if source.content_hash is not None:
        assert texts == ({"a": "old", "b": "old"} if source == OLD else {"b": "new", "c": "new"})
    store.replace_sources({NEW: {"b": None, "c": None}}, ["b", "c"], [ROW, ROW], ["new", "new"])
    assert {passage.doc_id: passage.text for passage in store.passages()} == {"b": "new", "c": "new"}
    assert store.sources() == [NEW]
    store.close()


def test_threads_of_one_process_add_and_search_side_by_side(kind, tmp_path):
    store = make(kind, tmp_path / "store", DIM)

    def add(thread):
        for i in range(6):
            store.add([f"{thread}-{i}"], [ROW], ["tea"], [{"thread": thread}], sources=[Source(f"s{thread}")])
            assert f"{thread}-{i}" in {hit.doc_id for hit in store.search([ROW], 100)[0]}
        return len(list(store.passages(filter=f"thread = {thread}")))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(add, range(4))) == [6] * 4
    assert (len(store), len(store.sources())) == (24, 4)
    store.close()


ADDS = """
import sys
import numpy as np
from mlx_colbert.store import open_store
from mlx_colbert.types import Source
store = open_store(sys.argv[1])
for i in range(6):
    store.upsert([f"{sys.argv[2]}-{i}", "shared"], [np.eye(1, 8)] * 2, sources=[Source(sys.argv[2]), None])
"""


def test_processes_write_to_lancedb_side_by_side(tmp_path):
    pytest.importorskip("lancedb")
    store = make("lancedb", tmp_path / "store", DIM)
    store.add(["shared"], [ROW])
    place = location("lancedb", tmp_path / "store")
    processes = [
        subprocess.Popen([sys.executable, "-c", ADDS, place, name], stderr=subprocess.PIPE, text=True)
        for name in ("one", "two", "three")
    ]
    errors = [process.communicate()[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert sorted(store) == sorted(
        [*(f"{name}-{i}" for name in ("one", "two", "three") for i in range(6)), "shared"]
    )
    assert [source.uri for source in store.sources()] == ["one", "three", "two"]
    store.close()


# Writes ids that another process writes too. Both look for them before one of them writes.
RACES = """
import json, sys, time
from pathlib import Path
import numpy as np
from mlx_colbert.errors import DuplicateIdError
from mlx_colbert.store import open_store
place, folder, name, method = sys.argv[1:]
store, succeeded = open_store(place), []
look = store._changes._rows.stored
def looked(doc_ids):
    found = look(doc_ids)
    Path(folder, f"{name}-{number}").touch()
    while len(list(Path(folder).glob(f"*-{number}"))) < 2:
        time.sleep(0.001)
    return found
store._changes._rows.stored = looked
for number in range(8):
    ids = [f"both-{number}", f"{name}-{number}"]
    try:
        getattr(store, method)(ids, [np.eye(1, 8)] * 2, [name] * 2)
        succeeded.append(number)
    except DuplicateIdError as error:
        assert error.doc_ids == ids[:1]
print(json.dumps(succeeded))
"""


def raced(tmp_path, method):
    """What is in a store after two processes wrote the same ids, and the numbers that each wrote."""
    pytest.importorskip("lancedb")
    store, folder = make("lancedb", tmp_path / "store", DIM), tmp_path / "looks"
    folder.mkdir()
    words = [sys.executable, "-c", RACES, location("lancedb", tmp_path / "store"), str(folder)]
    processes = [
        subprocess.Popen([*words, name, method], stdout=subprocess.PIPE, text=True) for name in ("one", "two")
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    ids = list(store)
    texts = {passage.doc_id: passage.text for passage in store.passages()}
    store.close()
    return ids, texts, [set(json.loads(text)) for text in said]


def test_an_id_that_two_processes_add_to_lancedb_at_once_is_added_by_one(tmp_path):
    ids, texts, (one, two) = raced(tmp_path, "add")

    assert one | two == set(range(8)) and not one & two
    winners = {number: name for name, numbers in (("one", one), ("two", two)) for number in numbers}
    expected = {f"{who}-{number}": name for number, name in winners.items() for who in ("both", name)}
    assert texts == expected and len(ids) == 16


def test_an_id_that_two_processes_upsert_to_lancedb_at_once_is_there_once(tmp_path):
    ids, texts, numbers = raced(tmp_path, "upsert")

    assert numbers == [set(range(8))] * 2
    assert len(ids) == 24 and set(ids) == {f"{who}-{n}" for who in ("both", "one", "two") for n in range(8)}
    assert {texts[f"both-{n}"] for n in range(8)} <= {"one", "two"}


# Its client does not close the lock file that it could not lock.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_folder_of_qdrant_is_for_one_process(tmp_path):
    pytest.importorskip("qdrant_client")
    from mlx_colbert.errors import IndexLockedError

    store = make("qdrant", tmp_path / "store", DIM)
    with pytest.raises(IndexLockedError, match="another process has it open"):
        reopen("qdrant", tmp_path / "store")
    store.close()
