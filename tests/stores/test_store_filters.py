"""Filters that an engine tests itself select what an index selects."""

from __future__ import annotations

import random

import numpy as np
import pytest
from made_stores import ENGINES, make

from mlx_colbert.index import Filter
from mlx_colbert.index.catalog.filters import filter_condition
from mlx_colbert.stores.fact_tests import fact_test
from mlx_colbert.stores.facts import has_exact_order, token_of
from mlx_colbert.types import Source

DIM = 8
LONG = "x" * 63 + "é"
VALUES = [
    *(0, -0.0, 1, -1, 5, 5.0, 2.5, -2.5, 1e-300, -1e300, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)),
    *(
        "",
        "5",
        "a",
        "b",
        "a b",
        "é",
        "e\u0301",
        "É|",
        "'",
        "|",
        "\U0001f600",
        LONG,
        LONG + "a",
        "x" * 70,
        "2024-05-31",
    ),
    *(True, False, None),
]
PLAIN = [value for value in VALUES if value is not None]
NAMES = ["n", "é", "e\u0301", "a.b", '"q"', "|"]


def metadata_of(chance):
    if chance.random() < 0.1:
        return None
    some = {name: chance.choice(VALUES) for name in chance.sample(NAMES, 3)}
    some["tags"] = chance.choice([chance.sample(VALUES, 3), [], [["a"], {"b": 1}], "a", None])
    some["inner"] = chance.choice([{"n": chance.choice(VALUES), "é": 1}, {}, [{"n": 5}], 5])
    return some


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def filter_of(chance, depth=0):
    """A random filter, as its expression and its parameters."""
    if depth < 3 and chance.random() < 0.4:
        word = chance.choice([" and ", " or "])
        parts = [filter_of(chance, depth + 1) for _ in range(2)]
        negation = chance.choice(["", "not "])
        return f"{negation}({word.join(part[0] for part in parts)})", [
            value for part in parts for value in part[1]
        ]
    field = chance.choice(
        [*map(quoted, NAMES), "tags", "inner", "inner.n", 'inner."é"', "source.uri", "absent"]
    )
    negation = chance.choice(["", "not "])
    ordered = [value for value in PLAIN if not isinstance(value, bool)]
    match chance.randrange(6):
        case 0:
            return f"{negation}{field} {chance.choice(['=', '!='])} ?", [chance.choice(PLAIN)]
        case 1:
            return f"{negation}{field} {chance.choice(['<', '<=', '>', '>='])} ?", [chance.choice(ordered)]
        case 2:
            return f"{field} {negation}in (?, ?, ?)", chance.sample(PLAIN, 3)
        case 3:
            kind = chance.choice([str, int])
            low, high = (
                chance.choice([v for v in ordered if isinstance(v, str) == (kind is str)]) for _ in range(2)
            )
            return f"{field} {negation}between ? and ?", [low, high]
        case 4:
            return f"{field} {negation}contains ?", [chance.choice(PLAIN)]
    return f"{negation}exists({field})", []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
def test_random_filters_select_what_an_index_selects(kind, tmp_path):
    chance, rng = random.Random(5), np.random.default_rng(5)
    ids = [f"p{i}" for i in range(300)]
    rows = [rng.standard_normal((2, DIM)).astype(np.float32) for _ in ids]
    metadata = [metadata_of(chance) for _ in ids]
    sources = [chance.choice([None, Source("s1"), Source("é"), Source("e\u0301")]) for _ in ids]
    store, index = make(kind, tmp_path / "store", DIM), make("index", tmp_path / "index", DIM)
    for place in (store, index):
        place.add(ids, rows, None, metadata, sources=sources)
    tested, selected = 0, []
    for _ in range(400):
        filter = Filter((made := filter_of(chance))[0], *made[1])
        test = fact_test(filter_condition(filter))
        tested += test is not None and store._engine.satisfying(test) is not None
        expected = index.ids(filter=filter)
        assert store.ids(filter=filter) == expected, filter
        selected.append(len(expected))
    # Most of them are tested by the engine, and select some passages.
    assert tested > 200 and sum(0 < n < 300 for n in selected) > 200
    for filter in ("n < 5", "not exists(tags) or inner.n != 1", "tags contains 'a' and \"é\" in (1, 5)"):
        for selection in ({"filter": filter}, {"filter": filter, "doc_ids": ids[::3]}):
            ours, theirs = (place.search([rows[0]], 20, **selection)[0] for place in (index, store))
            assert [hit.doc_id for hit in theirs] == [hit.doc_id for hit in ours]
    store.close()
    index.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
def test_a_filter_that_the_engine_tests_reads_no_texts(kind, tmp_path, monkeypatch):
    store = make(kind, tmp_path / "store", DIM)
    store.add(["a", "b"], [np.eye(1, DIM)] * 2, ["tea", "tea"], [{"n": 1, "l": "en"}, {"n": 2, "l": "de"}])
    monkeypatch.setattr(type(store._shadow), "index", lambda *_: pytest.fail("the copy was made"))

    assert [hit.doc_id for hit in store.search(np.eye(1, DIM), filter="l = 'en' and n < 2")] == ["a"]
    assert [passage.doc_id for passage in store.passages(filter="not l = 'en'")] == ["b"]
    assert store.delete(filter="n >= 2") == 1
    store.close()


def test_tokens_have_the_order_of_their_values():
    numbers = sorted(value for value in PLAIN if not isinstance(value, str | bool))
    texts = sorted(value for value in PLAIN if isinstance(value, str))
    for values in (numbers, texts):
        for low in values:
            for high in values:
                a, b = token_of(low), token_of(high)
                assert (a == b) == (low == high)
                if has_exact_order(high):
                    assert (a < b) == (low < high)


def test_patterns_times_and_large_integers_are_not_told_by_facts():
    for filter in (
        "a like 'b%'",
        "a glob 'b*'",
        "source.modified > '2024'",
        f"a < {2**53}",
        f"a between 0 and {2**60}",
        f"a < '{'x' * 65}'",
        f"a in ({', '.join(map(str, range(65)))})",
        "n = 1 or not (m = 2 and a like 'b%')",
    ):
        assert fact_test(filter_condition(filter)) is None, filter
