"""What people do with a store, on an index and on each other engine: the results are the same."""

from __future__ import annotations

import numpy as np
import pytest
from made_stores import KINDS, location, make, reopen

from mlx_colbert.errors import DuplicateIdError, InputError, UnknownIdError
from mlx_colbert.index import Filter, Index, SearchParams
from mlx_colbert.store import open_store
from mlx_colbert.types import Source, TokenEmbeddings

DIM = 8
ROW = np.eye(1, DIM, dtype=np.float32)
IDS = [
    "a/b#c?d=e&f",
    "naïve",
    "nai\u0308ve",
    "日本語",
    "\u202eabc",
    "👩‍👩‍👧",
    "a b",
    "x" * 2000,
    "'; DROP TABLE passages",
    "A",
    "a",
]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, tmp_path):
    made = make(kind, tmp_path / "store", DIM, exact_tokens=None)
    yield made
    made.close()


def unit(seed, n=1):
    rows = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def found(hits):
    return [hit.doc_id for hit in hits]


def test_an_empty_store_finds_nothing_and_is_not_an_error(store):
    assert (len(store), list(store), list(store.passages()), store.sources()) == (0, [], [], [])
    assert store.search(ROW) == [] and store.search([ROW, ROW], 3) == [[], []]
    assert store.search(ROW, filter="n = 1") == [] and store.search_keywords("tea") == []
    assert store.search(ROW, doc_ids=[]) == [] and store.existing(["a"]) == set()
    assert store.delete(filter="n = 1") == 0 and store.delete(source="s") == 0
    assert list(store.passages(filter="not n = 1")) == [] and store.passages_of("s") == []
    with store.bulk():
        pass
    assert "a" not in store and store.embeddings([]).vectors.shape == (0, DIM)


def test_ids_of_any_characters_are_kept_apart(store):
    store.add(IDS, [unit(i) for i in range(len(IDS))], IDS, [{"n": i} for i in range(len(IDS))])
    assert list(store) == IDS and store.existing(IDS) == set(IDS)
    for i, doc_id in enumerate(IDS):
        assert doc_id in store and store.get(doc_id).text == doc_id
        assert found(store.search(unit(i), 1)) == [doc_id]
        assert found(store.search(unit(i), 5, doc_ids=[doc_id])) == [doc_id]
        assert found(store.search(unit(i), 5, filter=Filter("n = ?", i))) == [doc_id]
    assert store.delete(IDS[::2]) == len(IDS[::2])
    assert list(store) == IDS[1::2]


def test_more_hits_than_passages_gives_all_of_them(store):
    store.add([f"p{i}" for i in range(7)], [unit(i) for i in range(7)], metadata=[{"n": i} for i in range(7)])
    assert len(store.search(unit(0), 1000)) == 7
    assert len(store.search(unit(0), 1000, filter="n < 3")) == 3
    assert len(store.search(unit(0), 1000, doc_ids=["p1", "p2", "absent"])) == 2
    assert [hit.rank for hit in store.search(unit(0), 1000)] == list(range(1, 8))


def test_equal_scores_are_ordered_by_id_in_each_selection(store):
    ids = [f"p{i:02}" for i in range(30)]
    store.add(ids[::-1], [ROW] * 30, metadata=[{"n": i % 2} for i in range(30)])
    assert found(store.search(ROW, 5)) == ids[:5]
    assert found(store.search(ROW, 5, filter="n = 0")) == ids[1::2][:5]
    assert found(store.search(ROW, 5, doc_ids=ids[10:])) == ids[10:15]


def test_a_large_batch_is_one_change(store):
    n = 3000
    ids = [f"p{i}" for i in range(n)]
    rows = np.repeat(unit(0, n)[:, None, :], 2, axis=1)
    store.add(ids, rows, ids, [{"n": i, "part": i % 3} for i in range(n)], sources=[Source("s")] * n)
    assert len(store) == n and list(store) == ids and store.passages_of("s") == ids
    assert found(store.search(rows[2500], 1)) == ["p2500"]
    for k in (1, 200):
        hits = store.search(rows[7], k, filter="part = 1 and n >= 1000")
        assert len(hits) == k and all(int(hit.doc_id[1:]) % 3 == 1 for hit in hits)
    assert store.delete(filter="part = 2") == 1000
    assert (len(store), store.embeddings(ids[:3:3]).vectors.shape) == (2000, (2, DIM))
    assert store.delete([doc_id for doc_id in ids if doc_id in store]) == 2000
    assert len(store) == 0 and store.sources() == []


def test_what_is_deleted_stays_so_after_tidying_and_reopening(kind, tmp_path):
    store = make(kind, tmp_path / "store", DIM, exact_tokens=None)
    with store.bulk():
        for i in range(0, 100, 10):
            store.add([f"p{j}" for j in range(i, i + 10)], [unit(j) for j in range(i, i + 10)])
    with store.bulk():
        store.delete([f"p{i}" for i in range(0, 100, 2)])
        store.upsert(["p1", "p0"], [unit(500), unit(501)], ["again", "back"])
    if isinstance(store, Index):
        store.compact()
    store.close()

    store = reopen(kind, tmp_path / "store")

    assert set(store) == {f"p{i}" for i in range(1, 100, 2)} | {"p0"}
    assert list(store)[-2:] == ["p1", "p0"]
    assert found(store.search(unit(500), 1)) == ["p1"] and "p2" not in store
    assert found(store.search_keywords("again")) == ["p1"]
    with pytest.raises(UnknownIdError):
        store.get("p2")
    store.add(["p2"], [unit(2)])
    assert found(store.search(unit(2), 1)) == ["p2"]
    store.close()


def test_two_readers_see_what_a_writer_changes(kind, tmp_path):
    if kind == "qdrant":
        pytest.skip("a folder of Qdrant's local mode is for one opening at a time")
    writer = make(kind, tmp_path / "store", DIM)
    readers = [reopen(kind, tmp_path / "store") for _ in range(2)]
    for step in range(3):
        writer.upsert(["a", f"n{step}"], [unit(step)] * 2, [f"word{step}"] * 2, [{"step": step}] * 2)
        for reader in readers:
            assert found(reader.search(unit(step), 2)) == ["a", f"n{step}"]
            assert found(reader.search(unit(step), 5, filter=f"step = {step}")) == ["a", f"n{step}"]
            assert len(reader.search_keywords(f"word{step}")) == 2 and len(reader) == step + 2
    writer.delete(["a"])
    assert [("a" in reader, len(reader)) for reader in readers] == [(False, 3)] * 2
    for store in (writer, *readers):
        store.close()


def test_a_search_during_an_iteration_and_a_deletion_in_it_are_no_error(store):
    store.add([f"p{i}" for i in range(600)], [ROW] * 600)
    seen = []
    for passage in store.passages():
        if not seen:
            store.delete([f"p{i}" for i in range(500, 600)])
            assert len(store.search(ROW, 3)) == 3
        seen.append(passage.doc_id)
    assert seen[:500] == [f"p{i}" for i in range(500)] and len(seen) == 500


def test_a_change_that_is_refused_changes_nothing(store):
    store.add(["a", "b"], [ROW] * 2, ["tea", None], [{"n": 1}, None], sources=[Source("s"), None])
    before = list(store.passages()), store.sources()
    for change in (
        lambda: store.add(["c", "a"], [ROW] * 2),
        lambda: store.add(["c", "c"], [ROW] * 2),
        lambda: store.upsert(["c", "d"], [ROW] * 2, metadata=[{"x": 1}, {"x": float("nan")}]),
    ):
        with pytest.raises((DuplicateIdError, InputError)):
            change()
    for change in (lambda: store.delete(["a", "absent"]), lambda: store.embeddings(["a", "absent"])):
        with pytest.raises(UnknownIdError):
            change()
    for wrong in ("n = ", "n = 1 or", "= 1"):
        for call in (store.search, store.passages, store.delete):
            with pytest.raises(InputError, match="filter"):
                call(*([ROW] if call == store.search else []), filter=wrong)
    assert (list(store.passages()), store.sources()) == before


def test_a_passage_of_many_tokens_and_one_without_text_are_found(store):
    long = unit(3, 1500)
    store.add(["long", "bare"], [long, ROW], ["tea " * 20_000, None], [None, {"a": {"b": ["x" * 5000]}}])
    assert found(store.search(long[700:703], 1)) == ["long"]
    assert store.get("long").n_tokens == 1500 and store.get("bare").text is None
    assert np.array_equal(store.embeddings(["long"]).vectors, long.astype(np.float16).astype(np.float32))
    assert [p.doc_id for p in store.passages(filter=Filter("a.b contains ?", "x" * 5000))] == ["bare"]
    assert found(store.search_keywords("tea")) == ["long"]


def test_arrays_of_any_kind_are_stored(store):
    rows = unit(1, 5)
    packed = TokenEmbeddings(rows, np.array([2, 3]))
    store.add(["a", "b"], packed)
    store.add(["c"], [rows.astype(np.float64)[::2]])
    store.add(["d"], [rows[::-1]])
    store.add(["e"], [np.asfortranarray(rows)])
    got = store.embeddings(["e", "d", "c", "b", "a"])
    expected = np.concatenate([rows, rows[::-1], rows[::2], rows[2:], rows[:2]])
    assert np.array_equal(got.vectors, expected.astype(np.float16).astype(np.float32))
    assert found(store.search(packed[0:1], 1)[0])[0] in ("a", "d", "e")


def test_fewer_candidates_than_hits_are_enough_for_them(store):
    store.add([f"p{i}" for i in range(50)], [unit(i) for i in range(50)])
    hits = store.search(unit(9), 20, params=SearchParams(n_candidates=1))
    assert len(hits) == 20 and hits[0].doc_id == "p9"


def test_a_closed_store_can_be_opened_again_at_once(kind, tmp_path):
    for number in range(3):
        store = make(kind, tmp_path / "store", DIM, exist_ok=True)
        store.add([f"p{number}"], [unit(number)], ["tea"], [{"n": number}])
        assert len(store.search_keywords("tea")) == number + 1
        store.close()
        store.close()
    opened = open_store(location(kind, tmp_path / "store"))
    assert list(opened) == ["p0", "p1", "p2"]
    opened.close()
