"""A store of another engine answers as an index does, after any changes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from made_stores import ENGINES, location, make, reopen

from mlx_colbert.errors import (
    ColBERTError,
    IndexNotFoundError,
    InputError,
    ModelMismatchError,
    ShapeError,
    TargetExistsError,
    UnknownIdError,
)
from mlx_colbert.index import Filter, SearchParams
from mlx_colbert.store import create_store, open_store
from mlx_colbert.types import Source

DIM = 16
# What could end a string, a pattern or a statement, in SQL or in JSON.
HOSTILE = [
    "' OR 1=1 --",
    '"; DROP TABLE passages; --',
    "a\\'b",
    "%",
    "a\0b",
    "é",
    "e\u0301",
    "\U0001f600 x",
    "{}",
    "\n",
]
FILTERS = [
    "n >= 5",
    "n in (1, 2, 3) or lang = 'en'",
    "not lang = 'en'",
    "lang != 'en'",
    "tags contains 'b' and n < 30",
    "exists(author.name) and author.name like 'a%'",
    "source.uri = 's1'",
    "source.uri glob 's[23]'",
    "n = '5'",
    Filter("lang = ?", HOSTILE[0]),
    Filter("lang in (?, ?)", HOSTILE[1], HOSTILE[5]),
]
# float32 sums of up to 5 products of 16 components.
TOLERANCE = 1e-5


@pytest.fixture(params=ENGINES)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, tmp_path):
    made = make(kind, tmp_path / "store", DIM)
    yield made
    made.close()


@pytest.fixture
def index(tmp_path):
    made = make("index", tmp_path / "index", DIM)
    yield made
    made.close()


def vectors(rng, n):
    return [rng.standard_normal((int(rng.integers(1, 7)), DIM)).astype(np.float32) for _ in range(n)]


def a_change(chance, rng, known):
    """A random change, as a function of a store."""
    ids = [f"p{chance.randrange(60)}" for _ in range(chance.randrange(1, 6))] + chance.sample(HOSTILE, 2)
    ids = list(dict.fromkeys(ids))
    rows = vectors(rng, len(ids))
    texts = [chance.choice([f"word{chance.randrange(9)} tea {n}", None, chance.choice(HOSTILE)]) for n in ids]
    languages = ["en", "de", None, *HOSTILE[:2], HOSTILE[5]]
    metadata = [
        {
            "n": chance.randrange(40),
            "lang": chance.choice([lang for lang in languages if lang is None or "\0" not in lang]),
            "tags": chance.sample("abc", 2),
            "author": {"name": chance.choice(["ann", "bob"])},
        }
        if chance.random() < 0.9
        else None
        for _ in ids
    ]
    uris = [chance.choice([None, "s1", "s2", "s'3", HOSTILE[0]]) for _ in ids]
    sources = [None if uri is None else Source(uri, content_hash=f"h{chance.randrange(9)}") for uri in uris]
    # A source has one hash.
    sources = [
        next((s for s in sources if s and source and s.uri == source.uri), source) for source in sources
    ]
    positions = [chance.choice([None, {"lines": [1, 2]}, {"page": 3, "headings": ["Ä"]}]) for _ in ids]
    some = chance.sample(known, min(len(known), 3)) if known else []
    source = Source(
        chance.choice(["s1", "s2", "s4"]), content_hash="new", modified_ns=chance.randrange(10**18)
    )
    places = dict(zip(ids, positions, strict=True)) | dict.fromkeys(some)
    return chance.choice(
        [
            lambda store: store.upsert(ids, rows, texts, metadata, sources=sources, positions=positions),
            lambda store: store.upsert(ids, rows, texts, metadata),
            lambda store: store.add(ids, rows, texts, metadata),
            lambda store: store.delete(some),
            lambda store: store.delete(filter="n > 33"),
            lambda store: store.delete(source="s2"),
            lambda store: store.replace_sources({source: places}, ids, rows, texts, metadata),
            lambda store: store.rename_sources(
                {"s1": Source("s5"), "s5": Source("s1", content_hash="x")}, {}
            ),
            lambda store: store.rename_sources({"s1": source}, {some[0]: "renamed"} if some else {}),
        ]
    )


def outcome(change, store):
    try:
        return change(store)
    except ColBERTError as error:
        return type(error)


def assert_same(store, index, rng):
    ids = list(index)
    assert (list(store), len(store)) == (ids, len(index))
    assert list(store.passages()) == list(index.passages())
    assert store.sources() == index.sources()
    for source in index.sources():
        assert store.passages_of(source.uri) == index.passages_of(source.uri)
    if ids:
        assert np.array_equal(store.embeddings(ids).vectors, index.embeddings(ids).vectors)
    queries = vectors(rng, 2)
    for selection in [{}, {"doc_ids": ids[::2]}, *({"filter": filter} for filter in FILTERS)]:
        if "filter" in selection:
            assert list(store.passages(**selection)) == list(index.passages(**selection))
        for ours, theirs in zip(
            index.search(queries, 5, **selection), store.search(queries, 5, **selection), strict=True
        ):
            assert [hit.score for hit in theirs] == pytest.approx([hit.score for hit in ours], abs=TOLERANCE)
            assert [vars(hit) | {"score": 0} for hit in theirs] == [vars(hit) | {"score": 0} for hit in ours]
        for query in ("word1 tea", '"word2 tea"', "' OR 1=1", "é"):
            ours, theirs = (place.search_keywords(query, 5, **selection) for place in (index, store))
            assert [hit.doc_id for hit in theirs] == [hit.doc_id for hit in ours]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_changes_give_what_an_index_has(store, index, seed):
    chance, rng = random.Random(seed), np.random.default_rng(seed)
    for step in range(25):
        change = a_change(chance, rng, list(index))
        assert outcome(change, store) == outcome(change, index)
        if step % 6 == 5:
            assert_same(store, index, rng)


def test_what_was_added_is_found_after_reopening(kind, tmp_path, index):
    rng = np.random.default_rng(0)
    rows = vectors(rng, 40)
    model = {"source": "m", "fingerprint": "f"}
    made = make(kind, tmp_path / "store", DIM, model=model, indexing={"pool_factor": "2"})
    for place in (made, index):
        place.add([f"p{i}" for i in range(40)], rows, [f"text {i}" for i in range(40)])
    made.close()

    opened = reopen(kind, tmp_path / "store")

    assert (opened.dim, opened.model, opened.indexing) == (DIM, model, {"pool_factor": "2"})
    assert_same(opened, index, rng)
    opened.close()


def test_vectors_of_another_model_are_refused(kind, tmp_path):
    make(kind, tmp_path / "store", DIM, model={"source": "m", "fingerprint": "f"}).close()
    other = {"source": "n", "fingerprint": "g"}

    store = reopen(kind, tmp_path / "store")
    with pytest.raises(ModelMismatchError, match=r"has the vectors of 'm' \(f\), not of 'n' \(g\)"):
        store.check_model(other)
    store.close()
    with pytest.raises(ModelMismatchError):
        make(kind, tmp_path / "store", DIM, model=other, exist_ok=True)


def test_existing_store_is_not_created_again(kind, tmp_path):
    make(kind, tmp_path / "store", DIM).close()

    with pytest.raises(TargetExistsError, match="Open it, or choose another location"):
        make(kind, tmp_path / "store", DIM)
    with pytest.raises(TargetExistsError, match="It was created with dim 16, not 32"):
        make(kind, tmp_path / "store", 32, exist_ok=True)
    make(kind, tmp_path / "store", DIM, exist_ok=True).close()


def test_missing_store_is_an_error_and_nothing_is_made(kind, tmp_path):
    with pytest.raises(IndexNotFoundError, match="none: does not exist"):
        reopen(kind, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(IndexNotFoundError, match="is not a"):
        reopen(kind, tmp_path / "empty")


def test_values_that_cannot_be_stored_change_nothing(store):
    row = np.ones((1, DIM))
    for wrong in (np.full((1, DIM), np.nan), np.full((1, DIM), 1e6), np.ones((0, DIM))):
        with pytest.raises(InputError):
            store.add(["a", "b"], [row, wrong])
    with pytest.raises(ShapeError):
        store.add(["a"], [np.ones((1, DIM + 1))])
    with pytest.raises(InputError, match="NUL"):
        store.add(["a"], [row], metadata=[{"x": "\0"}])
    with pytest.raises(UnknownIdError):
        store.get("a")
    with pytest.raises(InputError, match="filter"):
        store.search(row, filter="lang = 'en' OR")
    assert len(store) == 0


def test_search_that_is_smaller_than_the_ties_is_ordered_by_id(store):
    store.add([f"p{i:02}" for i in range(20)], [np.ones((1, DIM))] * 20)
    hits = store.search(np.ones((2, DIM)), 3, params=SearchParams(n_candidates=20))
    assert [hit.doc_id for hit in hits] == ["p00", "p01", "p02"]


def test_filter_sees_what_another_opening_changed(kind, tmp_path):
    if kind == "qdrant":
        pytest.skip("a folder of Qdrant's local mode is for one opening at a time")
    first = make(kind, tmp_path / "store", DIM)
    second = reopen(kind, tmp_path / "store")
    first.add(["a"], [np.ones((1, DIM))], ["tea"], [{"n": 1}])
    assert second.passages(filter="n = 1").__next__().doc_id == "a"
    first.upsert(["a"], [np.ones((1, DIM))], ["coffee"], [{"n": 2}])
    assert list(second.passages(filter="n = 1")) == []
    assert [hit.doc_id for hit in second.search_keywords("coffee")] == ["a"]
    first.close()
    second.close()


def test_location_without_a_place_is_refused():
    for wrong in ("lancedb://", "qdrant+ftp://x", "lancedb+http://x"):
        with pytest.raises(InputError, match=r"is not known|names no place"):
            open_store(wrong)
        with pytest.raises(InputError, match=r"is not known|names no place"):
            create_store(wrong, DIM)


def test_location_is_that_of_the_engine(kind, tmp_path):
    assert location(kind, tmp_path) == f"{kind}://{tmp_path}"
