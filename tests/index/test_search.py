"""What a search of a compressed index finds: which documents, in which order, by filter and doc_ids."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from clusters import maxsim_by_hand, recall, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from searched import DIM, N, assert_hits_are, ids_of, stored_rows

from mlx_colbert.errors import InputError, UnknownIdError
from mlx_colbert.index import Filter, Index, SearchParams
from mlx_colbert.index.search.params import ResolvedParams

EXACTLY = SearchParams(exact=True)
# As little as may be looked at.
STINGY = SearchParams(n_probe=1, n_approximate=1, n_candidates=1)


@pytest.fixture
def index(folder, backend):
    """The index to read, through the kernels of each backend."""
    with Index.open(folder, backend=backend) as opened:
        yield opened


@pytest.fixture
def own(folder, tmp_path, backend):
    """A copy of it to change."""
    with Index.open(shutil.copytree(folder, tmp_path / "index"), backend=backend) as opened:
        yield opened


# The ranking


def test_exact_search_is_maxsim_of_what_the_codes_stand_for(own, queries):
    own.delete([f"d{i:03}" for i in range(0, N, 3)])
    rows = stored_rows(own)

    for query, hits in zip(queries[:5], own.search(queries[:5], 20, params=EXACTLY), strict=True):
        assert len(hits) == 20
        assert_hits_are(hits, {doc_id: maxsim_by_hand(query, part) for doc_id, part in rows.items()})


def test_scores_are_those_of_an_exact_search_whatever_is_looked_at(index, queries):
    scores = {hit.doc_id: hit.score for hit in index.search(queries[0], N, params=EXACTLY)}

    for params in (None, STINGY, SearchParams(n_probe=3, n_approximate=50, n_candidates=20)):
        hits = index.search(queries[0], 10, params=params)
        assert [hit.score for hit in hits] == pytest.approx([scores[i] for i in ids_of(hits)], abs=1e-5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.slow
def test_search_that_looks_at_everything_is_exact(index, queries):
    everything = SearchParams(n_probe=10_000, n_approximate=N, n_candidates=N)
    all_candidates = SearchParams(n_probe=10_000, n_approximate=N - 1, n_candidates=N - 1)

    expected = [ids_of(hits) for hits in index.search(queries, params=EXACTLY)]

    assert [ids_of(hits) for hits in index.search(queries, params=everything)] == expected
    assert [ids_of(hits) for hits in index.search(queries, params=all_candidates)] == expected


# Of the ten best by float16 vectors; measured: 0.862, 0.93, 0.975, 0.997.
@pytest.mark.slow
@pytest.mark.parametrize(("nbits", "at_least"), [(1, 0.85), (2, 0.91), (4, 0.96), (8, 0.985)])
def test_recall_of_a_clustered_collection(documents, queries, tmp_path, nbits, at_least):
    with (
        Index.create(tmp_path / "exact", DIM, exact_tokens=None, backend="numpy") as exact,
        Index.create(
            tmp_path / "compressed", DIM, exact_tokens=0, nbits=nbits, backend="numpy"
        ) as compressed,
    ):
        for index in (exact, compressed):
            index.add(documents, documents.values())
        expected = exact.search(queries)

        # The stages lose nothing that the codes keep, even where they narrow down to one document in 45.
        for params in (EXACTLY, None, SearchParams(n_probe=8, n_approximate=60, n_candidates=20)):
            assert recall(compressed.search(queries, params=params), expected) >= at_least


@pytest.mark.slow
def test_backends_find_the_same(folder, queries):
    pytest.importorskip("mlx.core")
    with Index.open(folder, backend="numpy") as one, Index.open(folder, backend="mlx") as other:
        for params in (None, EXACTLY):
            pairs = zip(one.search(queries, params=params), other.search(queries, params=params), strict=True)
            shared = [len({*ids_of(a)} & {*ids_of(b)}) for a, b in pairs]
            # A tie within float32 at the tenth place, or a backend that scores more documents than it must.
            assert np.mean(shared) >= 9.7


@pytest.mark.slow
def test_answers_are_the_same_each_time_and_for_each_query_alone(index, queries):
    together = index.search(queries)

    assert index.search(queries) == together
    for query, hits in zip(queries, together, strict=True):
        alone = index.search(query)
        assert ids_of(alone) == ids_of(hits)
        # A product of another size may round otherwise.
        assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], abs=1e-5)


@pytest.mark.parametrize("params", [None, EXACTLY])
def test_ties_are_ordered_by_doc_id_over_compressed_segments(own, params):
    row = unit(np.random.default_rng(7).standard_normal((1, DIM)))
    names = ["é", "b", "Z", "a", "10", "2", "猫", "𝄞", *(f"m{i}" for i in range(30))]
    for part in (names[:20], names[20:]):
        # The documents that follow make each add large enough to be compressed.
        own.add(
            [*part, *(f"{part[0]}-{i}" for i in range(450))], [row] * len(part) + [np.eye(DIM)[:10]] * 450
        )
    assert own.info().segments == 5

    assert ids_of(own.search(row, 12, params=params)) == sorted(names)[:12]


@pytest.mark.parametrize("k", [1, 33, N - 1, N, N + 1, 10**12])
def test_k_documents_are_found_or_all(index, queries, k):
    for params in (None, STINGY):
        found = ids_of(index.search(queries[0], k, params=params))
        assert len(found) == len(set(found)) == min(k, N)


def test_hits_carry_text_and_metadata(index, queries):
    (hit,) = index.search(queries[0], 1)

    n = int(hit.doc_id[1:])
    assert (hit.text, hit.metadata["n"], hit.metadata.get("year")) == (
        f"text {hit.doc_id}",
        n,
        2000 + n if n % 2 == 0 else None,
    )


@pytest.mark.slow
def test_rows_of_other_lengths_weigh_more_or_less_in_a_compressed_index(tmp_path, documents, backend):
    lengths = {"half": 0.5, "once": 1, "twice": 2, "tiny": 0.01}
    row = unit(np.random.default_rng(3).standard_normal((1, DIM)))
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend=backend) as index:
        rows = [length * row for length in lengths.values()]
        index.add([*lengths, *documents], [*rows, *documents.values()])

        scores = {hit.doc_id: hit.score for hit in index.search(row, N + 4) if hit.doc_id in lengths}

    # 4 bits: the direction is right to a few percent.
    assert scores == {doc_id: pytest.approx(length, rel=0.04) for doc_id, length in lengths.items()}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in ("n_probe", "n_approximate", "n_candidates")
        for value in (0, -1, 1.5, True, "3")
    ]
    + [("exact", 1), ("exact", None)],
)
def test_unusable_search_params_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"{field} is {re.escape(repr(value))}"):
        SearchParams(**{field: value})


@given(
    st.builds(SearchParams, *[st.none() | st.integers(1, 1000)] * 3, exact=st.booleans()), st.integers(1, 500)
)
@settings(max_examples=50)
def test_stages_narrow_and_leave_room_for_k(params, k):
    resolved = params.resolved(k)

    assert resolved.n_approximate >= resolved.n_candidates >= k
    if params.n_probe:
        assert resolved.n_probe == params.n_probe
    if params.n_candidates:
        assert resolved.n_candidates == max(params.n_candidates, k)
    if params.n_approximate:
        assert resolved.n_approximate == max(params.n_approximate, resolved.n_candidates)
    assert resolved.exact == params.exact


@pytest.mark.parametrize(
    ("k", "n_probe", "n_approximate", "n_candidates"),
    [
        (1, 64, 960, 160),
        (32, 64, 960, 160),
        (33, 66, 960, 160),
        (100, 200, 1800, 300),
        (1000, 256, 18_000, 3000),
    ],
)
def test_stages_grow_with_k(k, n_probe, n_approximate, n_candidates):
    assert SearchParams().resolved(k) == ResolvedParams(n_probe, n_approximate, n_candidates, False)


# Filters and doc_ids


@pytest.mark.slow
@pytest.mark.parametrize("params", [None, STINGY, EXACTLY])
@pytest.mark.parametrize(
    ("condition", "n_matching"),
    [("n = 7", 1), ("n < 10", 10), ("n >= 888", 12), ("exists(year)", 450), ("n >= 0", N)],
)
def test_as_many_as_match_are_found_up_to_k(index, queries, params, condition, n_matching):
    scores = {hit.doc_id: hit.score for hit in index.search(queries[3], N, params=EXACTLY)}
    matching = set(ids_of(index.search(queries[3], N, filter=condition, params=EXACTLY)))
    assert len(matching) == n_matching

    for k in (1, 10, 500):
        hits = index.search(queries[3], k, filter=condition, params=params)
        assert len(set(ids_of(hits))) == len(hits) == min(k, n_matching)
        assert [hit.score for hit in hits] == pytest.approx([scores[i] for i in ids_of(hits)], abs=1e-5)
        assert set(ids_of(hits)) <= matching


@pytest.mark.parametrize("condition", ["n = 7", "n in (1, 500, 700, 895)", "n < 10", "exists(year)"])
def test_filtered_search_is_the_ranking_of_what_matches(index, queries, condition):
    def matches(n):
        return {"n = 7": n == 7, "n < 10": n < 10, "exists(year)": n % 2 == 0}.get(
            condition, n in (1, 500, 700, 895)
        )

    ranking = [i for i in ids_of(index.search(queries[5], N, params=EXACTLY)) if matches(int(i[1:]))]

    assert ids_of(index.search(queries[5], 8, filter=condition, params=EXACTLY)) == ranking[:8]


# As many candidates as match, at least, since there are never fewer than k.
@pytest.mark.parametrize(
    ("params", "k"),
    [(None, 4), (SearchParams(n_probe=1, n_approximate=14, n_candidates=14), 4), (STINGY, 14)],
)
def test_few_matches_are_ranked_exactly_whatever_the_params(index, queries, params, k):
    for condition in ("n in (3, 505, 899)", "n < 4", "n > 885"):
        exactly = ids_of(index.search(queries[0], k, filter=condition, params=EXACTLY))
        assert ids_of(index.search(queries[0], k, filter=condition, params=params)) == exactly


@pytest.mark.slow
def test_recall_does_not_suffer_from_a_filter(index, queries):
    exactly = index.search(queries, filter="exists(year)", params=EXACTLY)

    assert recall(index.search(queries, filter="exists(year)"), exactly) >= 0.95


@pytest.mark.parametrize(
    "nothing", [{"filter": "n < 0"}, {"filter": "no.such = 1"}, {"doc_ids": []}, {"doc_ids": ["x"]}]
)
def test_selection_of_nothing_finds_nothing(index, queries, nothing):
    assert index.search(queries[0], **nothing) == []
    assert index.search(queries[:2], **nothing) == [[], []]
    assert index.search_keywords("text", **nothing) == []


@pytest.mark.parametrize(
    "wanted", [["d004"], ["d899", "d100", "d700"], [f"d{i:03}" for i in range(100, 700)]]
)
@pytest.mark.parametrize("params", [None, STINGY])
def test_doc_ids_are_found_and_unknown_ones_passed_over(index, queries, wanted, params):
    found = ids_of(index.search(queries[0], N, doc_ids=["?", *wanted, "d9999", wanted[0]], params=params))

    assert sorted(found) == sorted(wanted)


def test_doc_ids_and_filter_select_what_satisfies_both(index, queries):
    found = ids_of(
        index.search(queries[0], doc_ids=["d001", "d002", "d004", "d898"], filter="n <= 4 and n > 1")
    )

    assert sorted(found) == ["d002", "d004"]


def test_filter_takes_parameters(index, queries):
    assert ids_of(index.search(queries[0], filter=Filter("n = ? or n = ?", 1, 2), params=EXACTLY)) in (
        ["d001", "d002"],
        ["d002", "d001"],
    )


@pytest.mark.parametrize("broken", ["", "n =", "n = 1 or", "1 = 1; DROP TABLE documents"])
def test_filter_that_is_not_understood_is_refused_before_anything_happens(own, queries, broken):
    for act in (own.search, own.search_keywords):
        with pytest.raises(InputError, match="filter"):
            act("text" if act == own.search_keywords else queries[0], filter=broken)
    with pytest.raises(InputError, match="filter"):
        own.delete(filter=broken)
    assert len(own) == N


def test_filter_is_read_even_where_there_is_nothing_to_filter(tmp_path, backend):
    with Index.create(tmp_path / "index", DIM, backend=backend) as empty:
        with pytest.raises(InputError, match="filter"):
            empty.search(np.eye(DIM), filter="n =")


@pytest.mark.parametrize(
    "names", [["\x00"], ["a\x00b"], ["a", "\U0001d11e"], ['"', "x" * 5000], ["a\x00b", "é"]]
)
def test_any_id_can_be_selected(tmp_path, names):
    known = ["a", "a\x00b", "a\x00c", "\x00", '"', "é", "\U0001d11e", "x" * 5000]
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(known, [np.eye(DIM)[:2]] * len(known), ["word"] * len(known))

        assert ids_of(index.search(np.eye(DIM), doc_ids=names)) == sorted(names)
        assert ids_of(index.search_keywords("word", doc_ids=names)) == sorted(names)


def test_more_doc_ids_than_sql_variables_can_be_selected(index, queries):
    many = [f"d{i:03}" for i in range(N)] + [f"unknown {i}" for i in range(40_000)]

    assert len(index.search(queries[0], N, doc_ids=many)) == N


def test_deleted_documents_are_not_found_and_leave_room_for_others(own, queries):
    best = ids_of(own.search(queries[0], 300, params=EXACTLY))
    live = [i for i in ids_of(own.search(queries[0], N, params=EXACTLY)) if i not in best]

    own.delete(best)

    assert ids_of(own.search(queries[0], 10, params=EXACTLY)) == live[:10]
    for params in (None, STINGY):
        found = ids_of(own.search(queries[0], 10, params=params))
        assert len(found) == 10
        assert not set(found) & set(best)


def test_filter_and_deletions_hold_together(own, queries):
    own.delete([f"d{i:03}" for i in range(0, N, 4)])

    for params in (None, STINGY, EXACTLY):
        found = ids_of(own.search(queries[0], N, filter="exists(year) and n < 100", params=params))
        assert sorted(found) == [f"d{i:03}" for i in range(2, 100, 4)]


def test_filter_whose_documents_are_rarely_near_finds_the_best_of_them(index, queries):
    few = SearchParams(n_probe=1, n_approximate=90, n_candidates=90)
    allowed = "n < 100"

    for query in queries[:10]:
        hits = index.search(query, 20, filter=allowed, params=few)
        best = index.search(query, 20, filter=allowed, params=EXACTLY)
        assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in best]


def test_stored_vectors_are_returned_in_the_order_of_the_ids(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 8)).astype(np.float16) for n in (3, 1, 2)]
    with Index.create(tmp_path / "index", 8, backend="numpy") as index:
        index.add(["a", "b", "c"], arrays)
        found = index.embeddings(["c", "a", "c"])
        assert [part.shape for part in found] == [(2, 8), (3, 8), (2, 8)]
        assert np.array_equal(found[1], arrays[0].astype(np.float32))
        with pytest.raises(UnknownIdError, match="'d'"):
            index.embeddings(["a", "d"])


def test_stored_vectors_of_a_compressed_index_are_decoded(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((64, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with Index.create(tmp_path / "index", 16, nbits=8, exact_tokens=0, backend="numpy") as index:
        index.add(["a", "b"], [rows[:40], rows[40:]])
        found = index.embeddings(["b", "a"])
    assert np.abs(found[1] - rows[:40]).max() < 0.1
    assert np.abs(found[0] - rows[40:]).max() < 0.1
