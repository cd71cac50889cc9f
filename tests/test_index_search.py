"""What a search of a coded index finds: which documents, in which order, by filter, doc_ids and keywords."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from clusters import clustered_documents, maxsim_by_hand, meanings, queries_from, recall, spread, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_colbert.errors import ConfigError, IndexFormatError, InputError
from mlx_colbert.index import Filter, Index, SearchParams
from mlx_colbert.index.codec import n_centroids_for
from mlx_colbert.index.segment import CodedSegment

DIM = 32
N = 900
EXACTLY = SearchParams(exact=True)
# As little as may be looked at.
STINGY = SearchParams(n_probe=1, n_approximate=1, n_candidates=1)
FORMAT_1 = Path(__file__).parent / "data" / "index-v1" / "index"


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    rows = clustered_documents(rng, meanings(rng, 60, DIM), N)
    return {f"d{i:03}": part for i, part in enumerate(rows)}


@pytest.fixture(scope="module")
def queries(documents):
    return queries_from(np.random.default_rng(1), list(documents.values()), 40)


@pytest.fixture(scope="module")
def folder(documents, tmp_path_factory):
    """A coded index of three segments, a float16 one among them; half of its documents have a year."""
    path = tmp_path_factory.mktemp("searched") / "index"
    ids = list(documents)
    with Index.create(path, DIM, exact_tokens=0, backend="numpy") as index:
        for first, last in ((0, 500), (500, 890), (890, N)):
            metadata = [{"n": i, "year": 2000 + i} if i % 2 == 0 else {"n": i} for i in range(first, last)]
            part = ids[first:last]
            index.add(part, [documents[doc_id] for doc_id in part], [f"text {i}" for i in part], metadata)
        assert (index.info().segments, index.info().coded_documents) == (3, 890)
    return path


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


def stored_rows(index):
    """What an index holds of each document: float16 rows, or what the codes stand for."""
    with index._pool.searcher() as searcher, searcher.snapshot() as snapshot:
        rows = {}
        places = searcher.catalog.rows("SELECT doc_id, segment, ordinal FROM documents")
        segments = {part.segment.record.number: part.segment for part in snapshot.segments}
        for doc_id, number, ordinal in places:
            segment = segments[number]
            if isinstance(segment, CodedSegment):
                found = segment.rows(slice(*segment.offsets[ordinal : ordinal + 2]))
                rows[doc_id] = snapshot.codec.decode(found)
            else:
                rows[doc_id] = np.array(segment.embeddings[ordinal], np.float32)
    return rows


def assert_hits_are(hits, expected):
    """Compares with {doc_id: score}: the best of them, in an order that rounding alone may change."""
    # float32 sums of 6 × 32 products.
    assert [hit.score for hit in hits] == pytest.approx([expected[hit.doc_id] for hit in hits], abs=1e-4)
    best = sorted(expected.values(), reverse=True)[: len(hits)]
    assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def ids_of(hits):
    return [hit.doc_id for hit in hits]


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


def test_search_that_looks_at_everything_is_exact(index, queries):
    everything = SearchParams(n_probe=10_000, n_approximate=N, n_candidates=N)
    all_candidates = SearchParams(n_probe=10_000, n_approximate=N - 1, n_candidates=N - 1)

    expected = [ids_of(hits) for hits in index.search(queries, params=EXACTLY)]

    assert [ids_of(hits) for hits in index.search(queries, params=everything)] == expected
    assert [ids_of(hits) for hits in index.search(queries, params=all_candidates)] == expected


# Of the ten best by float16 vectors; measured: 0.862, 0.93, 0.975, 0.997.
@pytest.mark.parametrize(("nbits", "at_least"), [(1, 0.85), (2, 0.91), (4, 0.96), (8, 0.985)])
def test_recall_of_a_clustered_collection(documents, queries, tmp_path, nbits, at_least):
    with (
        Index.create(tmp_path / "exact", DIM, exact_tokens=None, backend="numpy") as exact,
        Index.create(tmp_path / "coded", DIM, exact_tokens=0, nbits=nbits, backend="numpy") as coded,
    ):
        for index in (exact, coded):
            index.add(documents, documents.values())
        expected = exact.search(queries)

        # The stages lose nothing that the codes keep, even where they narrow down to one document in 45.
        for params in (EXACTLY, None, SearchParams(n_probe=8, n_approximate=60, n_candidates=20)):
            assert recall(coded.search(queries, params=params), expected) >= at_least


def test_backends_find_the_same(folder, queries):
    pytest.importorskip("mlx.core")
    with Index.open(folder, backend="numpy") as one, Index.open(folder, backend="mlx") as other:
        for params in (None, EXACTLY):
            pairs = zip(one.search(queries, params=params), other.search(queries, params=params), strict=True)
            shared = [len({*ids_of(a)} & {*ids_of(b)}) for a, b in pairs]
            # A tie within float32 at the tenth place, or a backend that scores more documents than it must.
            assert np.mean(shared) >= 9.7


def test_answers_are_the_same_each_time_and_for_each_query_alone(index, queries):
    together = index.search(queries)

    assert index.search(queries) == together
    for query, hits in zip(queries, together, strict=True):
        alone = index.search(query)
        assert ids_of(alone) == ids_of(hits)
        # A product of another size may round otherwise.
        assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], abs=1e-5)


@pytest.mark.parametrize("params", [None, EXACTLY])
def test_ties_are_ordered_by_doc_id_over_coded_segments(own, params):
    row = unit(np.random.default_rng(7).standard_normal((1, DIM)))
    names = ["é", "b", "Z", "a", "10", "2", "猫", "𝄞", *(f"m{i}" for i in range(30))]
    for part in (names[:20], names[20:]):
        # The documents that follow make each add large enough to be coded.
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


def test_rows_of_other_lengths_weigh_more_or_less_in_a_coded_index(tmp_path, documents, backend):
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
    with pytest.raises(ConfigError, match=f"SearchParams: {field} is {value!r}"):
        SearchParams(**{field: value})


@given(
    st.builds(SearchParams, *[st.none() | st.integers(1, 1000)] * 3, exact=st.booleans()), st.integers(1, 500)
)
@settings(max_examples=50)
def test_stages_narrow_and_leave_room_for_k(params, k):
    resolved = params.resolved(k)

    assert resolved.n_probe >= 1
    assert resolved.n_approximate >= resolved.n_candidates >= k
    assert resolved.n_probe == (params.n_probe or resolved.n_probe)
    assert resolved.n_candidates == max(params.n_candidates or resolved.n_candidates, k)
    assert resolved.exact == params.exact


# Filters and doc_ids


@pytest.mark.parametrize("params", [None, STINGY, EXACTLY])
@pytest.mark.parametrize(
    ("condition", "n_matching"),
    [("n = 7", 1), ("n < 10", 10), ("n >= 888", 12), ("exists(year)", 450), ("n >= 0", N)],
)
@pytest.mark.parametrize("k", [1, 10, 500])
def test_as_many_as_match_are_found_up_to_k(index, queries, params, condition, n_matching, k):
    hits = index.search(queries[3], k, filter=condition, params=params)

    assert len(set(ids_of(hits))) == len(hits) == min(k, n_matching)
    scores = {hit.doc_id: hit.score for hit in index.search(queries[3], N, params=EXACTLY)}
    assert [hit.score for hit in hits] == pytest.approx([scores[i] for i in ids_of(hits)], abs=1e-5)
    matching = set(ids_of(index.search(queries[3], N, filter=condition, params=EXACTLY)))
    assert set(ids_of(hits)) <= matching
    assert len(matching) == n_matching


@pytest.mark.parametrize("condition", ["n = 7", "n in (1, 500, 700, 895)", "n < 10", "exists(year)"])
def test_filtered_search_is_the_ranking_of_what_matches(index, queries, condition):
    def matches(n):
        return {"n = 7": n == 7, "n < 10": n < 10, "exists(year)": n % 2 == 0}.get(
            condition, n in (1, 500, 700, 895)
        )

    ranking = [i for i in ids_of(index.search(queries[5], N, params=EXACTLY)) if matches(int(i[1:]))]

    assert ids_of(index.search(queries[5], 8, filter=condition, params=EXACTLY)) == ranking[:8]


def test_few_matches_are_ranked_exactly_whatever_the_params(index, queries):
    for condition in ("n in (3, 505, 899)", "n < 4", "n > 885"):
        exactly = ids_of(index.search(queries[0], 4, filter=condition, params=EXACTLY))
        assert ids_of(index.search(queries[0], 4, filter=condition)) == exactly


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


# Creation


def test_index_is_coded_from_the_first_document_on_with_exact_tokens_0(tmp_path, backend):
    rows = unit(np.random.default_rng(0).standard_normal((5, DIM)))
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend=backend) as index:
        assert (index.search(rows), index.info().n_centroids) == ([], 0)

        index.add(["a"], [rows])

        assert (index.info().n_centroids, index.info().coded_documents) == (1, 1)
        # Five unit rows that 4 bits say to within a percent.
        assert index.search(rows)[0].score == pytest.approx(5, rel=0.02)
        assert index.verify() == []


def test_index_is_coded_when_it_outgrows_exact_tokens(tmp_path, backend, documents):
    few = list(documents)[:30]
    n_tokens = sum(len(documents[doc_id]) for doc_id in few)
    with Index.create(tmp_path / "index", DIM, exact_tokens=n_tokens, backend=backend) as index:
        for part in (few[:10], few[10:]):
            index.add(part, [documents[doc_id] for doc_id in part])
        assert (index.info().n_centroids, index.info().tokens) == (0, n_tokens)

        index.add(["one more"], [np.eye(DIM)[:1]], ["text"])

        assert (index.info().n_centroids, index.info().coded_documents) == (n_centroids_for(n_tokens + 1), 31)
        assert (len(index), index.get("one more").text, index.verify()) == (31, "text", [])
        found = [index.search(documents[doc_id], 1)[0].doc_id for doc_id in few]
        assert found == few


def test_index_stays_exact_with_exact_tokens_none(tmp_path, documents, queries):
    with Index.create(tmp_path / "index", DIM, exact_tokens=None, backend="numpy") as index:
        index.add(documents, documents.values())
        index.compact(retrain=True)

        assert (index.info().n_centroids, index.info().coded_documents) == (0, 0)
        halves = {i: rows.astype(np.float16) for i, rows in documents.items()}
        expected = {doc_id: maxsim_by_hand(queries[0], part) for doc_id, part in halves.items()}
        assert_hits_are(index.search(queries[0], 50, params=STINGY), expected)


@pytest.mark.parametrize(("dim", "nbits"), [(1, 4), (3, 2), (4, 1), (7, 4), (129, 4), (100, 1), (126, 2)])
def test_dim_of_no_whole_bytes_is_refused(tmp_path, dim, nbits):
    with pytest.raises(InputError, match=f"dim {dim} times nbits {nbits} is not divisible by 8"):
        Index.create(tmp_path / "index", dim, nbits=nbits)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("nbits", [0, 3, 16, -1, 4.0, True, "4", None])
def test_unknown_numbers_of_bits_are_refused(tmp_path, nbits):
    with pytest.raises(InputError, match="nbits is"):
        Index.create(tmp_path / "index", DIM, nbits=nbits)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("exact_tokens", [-1, 1.5, True, "0"])
def test_unusable_exact_tokens_are_refused(tmp_path, exact_tokens):
    with pytest.raises(InputError, match="exact_tokens is"):
        Index.create(tmp_path / "index", DIM, exact_tokens=exact_tokens)
    assert not (tmp_path / "index").exists()


def test_numpy_integers_are_settings_too(tmp_path):
    settings = {"nbits": np.int64(2), "exact_tokens": np.int32(0)}
    with Index.create(tmp_path / "index", np.int64(8), **settings, backend="numpy") as index:
        assert (index.info().dim, index.info().nbits) == (8, 2)


@pytest.mark.parametrize(("dim", "nbits"), [(8, 1), (4, 2), (2, 4), (1, 8), (48, 4), (128, 1)])
def test_smallest_and_odd_dims_are_searched(tmp_path, backend, dim, nbits):
    rng = np.random.default_rng(dim)
    rows = [unit(rng.standard_normal((n, dim))) for n in (1, 2, 30, 1, 7)]
    with Index.create(tmp_path / "index", dim, nbits=nbits, exact_tokens=0, backend=backend) as index:
        index.add(list("abcde"), rows)

        hits = index.search(rows[2], 5)

        expected = {i: maxsim_by_hand(rows[2], part) for i, part in stored_rows(index).items()}
        assert_hits_are(hits, expected)


# Growth


def test_small_adds_to_a_coded_index_are_found_at_once_and_exactly(own, documents):
    rng = np.random.default_rng(5)
    centroids = own.info().n_centroids
    for i in range(3):
        rows = spread(rng, documents[f"d{i:03}"], 0.1)
        own.add([f"new {i}"], [rows], [f"fresh {i}"])

        (hit, *_) = own.search(rows)
        assert (hit.doc_id, hit.text) == (f"new {i}", f"fresh {i}")
        # It is in float16 yet.
        assert hit.score == pytest.approx(len(rows), abs=1e-2)
    assert (own.info().n_centroids, own.info().coded_documents) == (centroids, 890)


@pytest.mark.parametrize("doc_id", ["d000", "d600", "d899"])
def test_upsert_replaces_a_coded_document(own, documents, doc_id):
    rng = np.random.default_rng(6)
    old, new = documents[doc_id], unit(rng.standard_normal((9, DIM)))

    own.upsert([doc_id], [new], ["new text"], [{"n": -5}])

    (hit, *_) = own.search(new)
    assert (hit.doc_id, hit.text, hit.metadata) == (doc_id, "new text", {"n": -5})
    assert hit.score == pytest.approx(9, abs=1e-2)
    (again,) = own.search(old, doc_ids=[doc_id])
    assert again.score == pytest.approx(maxsim_by_hand(old, new), abs=1e-2)
    assert ids_of(own.search(old, N)).count(doc_id) == 1
    assert (len(own), own.info().deleted, own.verify()) == (N, 1, [])


# Keywords

TEXTS = {
    "fox": "The quick brown fox jumps over the lazy dog.",
    "dog": "A dog is quick; a fox is brown.",
    "code": "def get_user_id(name): raise KeyError",
    "user": "The user has an id, which they get later.",
    "cve": "CVE-2024-1234 affects C++ and foo.bar() of GPT-4.",
    "tokyo": "東京駅は人が多いです。",
    "kyoto": "京都駅から東へ歩く。",
    "nul": "before\x00after",
    "none": None,
    "empty": "",
}


@pytest.fixture
def worded(tmp_path):
    with Index.create(tmp_path / "index", 2, backend="numpy") as made:
        metadata = [{"letters": len(doc_id)} for doc_id in TEXTS]
        made.add(TEXTS, [np.eye(2)] * len(TEXTS), TEXTS.values(), metadata)
        yield made


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("lazy brown", ["fox", "dog"]),
        ('"brown fox"', ["fox"]),
        ('"brown fox" is', ["fox"]),
        ('"fox brown"', []),
        ("get_user_id", ["code", "user"]),
        ('"get_user_id"', ["code"]),
        ("cve-2024-1234", ["cve"]),
        ("東京駅", ["tokyo"]),
        ("京", ["kyoto", "tokyo"]),
        ('"東京"', ["tokyo"]),
        ("after", ["nul"]),
        ("unicorn", []),
        ("", []),
        ("!!! ...", []),
    ],
)
def test_keywords_find_the_texts_they_occur_in(worded, query, found):
    hits = worded.search_keywords(query)

    assert ids_of(hits) == found
    assert [hit.rank for hit in hits] == list(range(1, len(found) + 1))
    assert all(hit.text == TEXTS[hit.doc_id] and hit.metadata for hit in hits)


@pytest.mark.parametrize(
    "query",
    [
        "AND",
        "fox AND",
        "NEAR(fox dog, 2)",
        "fox*",
        '"fox',
        "text:fox",
        "-fox",
        "(fox",
        "f'ox",
        "fox;--",
        "{a}:^",
    ],
)
def test_syntax_of_the_full_text_table_is_no_syntax_of_queries(worded, query):
    found = ids_of(worded.search_keywords(query))

    assert ("fox" in found) == ("fox" in query)


def test_keyword_scores_fall_and_ties_are_ordered_by_doc_id(worded):
    names = ["é", "b", "Z", "a", "10"]
    worded.add(names, [np.eye(2)] * 5, ["unicorns graze"] * 5)
    worded.add(["more"], [np.eye(2)], ["unicorns, unicorns!"])

    hits = worded.search_keywords("unicorns")

    assert ids_of(hits) == ["more", *sorted(names)]
    assert hits[0].score > hits[1].score == hits[5].score > 0
    assert ids_of(worded.search_keywords("unicorns", 3)) == ["more", "10", "Z"]


def test_keywords_take_filter_and_doc_ids(worded):
    assert ids_of(worded.search_keywords("fox dog", filter="letters = 3")) == ["dog", "fox"]
    assert ids_of(worded.search_keywords("fox dog", filter="letters = 4")) == []
    assert ids_of(worded.search_keywords("fox dog", doc_ids=["fox", "user", "?"])) == ["fox"]
    assert ids_of(worded.search_keywords("fox", filter="letters = 3", doc_ids=["user"])) == []


def test_filter_leaves_room_for_k_keyword_hits(worded):
    worded.add([f"many {i}" for i in range(300)], [np.eye(2)] * 300, ["fox fox fox"] * 300, [{"m": 1}] * 300)

    assert ids_of(worded.search_keywords("fox", 2, filter="not exists(m)")) == ["dog", "fox"]


def test_deleted_and_replaced_texts_are_not_found_by_their_words(worded):
    worded.delete(["fox"])
    worded.upsert(["dog", "none"], [np.eye(2)] * 2, ["a cat", "a hen"])

    assert ids_of(worded.search_keywords("fox dog quick")) == []
    assert sorted(ids_of(worded.search_keywords("cat hen"))) == ["dog", "none"]
    worded.delete(filter="letters = 5")
    assert ids_of(worded.search_keywords("東京")) == []
    worded.upsert(["code"], [np.eye(2)])
    assert ids_of(worded.search_keywords('"get_user_id"')) == []


def test_keywords_survive_compaction_metadata_and_a_new_process(worded):
    worded.delete(["dog"])
    worded.update_metadata(["fox"], [{"new": True}])
    worded.compact()
    worded.close()

    with Index.open(worded.path, backend="numpy") as index:
        (hit,) = index.search_keywords("fox")
        assert (hit.doc_id, hit.metadata) == ("fox", {"new": True})
        assert index.verify() == []


def test_unusable_keyword_searches_are_refused(worded):
    with pytest.raises(InputError, match="k is 0"):
        worded.search_keywords("fox", 0)
    for query in (3, None, b"fox", "\ud800"):
        with pytest.raises(InputError, match="the query"):
            worded.search_keywords(query)


# Format 1


@pytest.fixture
def old(tmp_path, backend):
    with Index.open(shutil.copytree(FORMAT_1, tmp_path / "index"), backend=backend) as opened:
        yield opened


CHANGES = {
    "add": lambda index: index.add(["new"], [np.eye(4)], ["the first words"]),
    "upsert": lambda index: index.upsert(["b"], [np.eye(4)], ["now first as well"]),
    "delete": lambda index: index.delete(["b"]),
    "delete by filter": lambda index: index.delete(filter="n > 1"),
    "update_metadata": lambda index: index.update_metadata(["a"], [{"n": 2}]),
    "compact": lambda index: index.compact(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_first_change_of_an_index_of_format_1_brings_keywords(old, change):
    other = Index.open(old.path, backend="numpy")
    for index in (old, other):
        with pytest.raises(IndexFormatError, match=r"format 1 holds no keywords.*compact"):
            index.search_keywords("first")
    assert (old.info().format_version, old.verify()) == (1, [])

    CHANGES[change](old)

    for index in (old, other):
        found = ids_of(index.search_keywords("first"))
        assert sorted(found) == sorted(["a", *{"add": ["new"], "upsert": ["b"]}.get(change, [])])
        assert (index.info().format_version, index.verify()) == (2, [])
    other.close()


def test_index_of_format_1_is_filtered_as_it_is(old):
    query = np.array([[0, 3, 2, 1.0]])

    assert ids_of(old.search(query, filter="n = 1")) == ["a"]
    assert ids_of(old.search(query, doc_ids=["b", "ü"])) == ["ü", "b"]
    assert old.info().format_version == 1


def test_refused_change_leaves_format_1(old):
    with pytest.raises(InputError):
        old.delete(filter="n =")

    assert old.info().format_version == 1
    with pytest.raises(IndexFormatError):
        old.search_keywords("first")


def test_index_of_format_1_is_coded_when_it_outgrows_an_exact_search(old, monkeypatch):
    with Index.open(old.path, backend="numpy") as other:
        assert len(other.search(np.eye(4))) == 3
        monkeypatch.setattr("mlx_colbert.index.settings.EXACT_TOKENS", 100)
        with Index.open(old.path, backend="numpy") as writer:
            writer.add(["new"], [unit(np.random.default_rng(0).standard_normal((150, 4)))])

        for index in (old, other):
            assert (len(index.search(np.eye(4))), index.info().coded_documents) == (4, 4)


def test_filter_whose_documents_are_rarely_near_finds_the_best_of_them(index, queries):
    few = SearchParams(n_probe=1, n_approximate=90, n_candidates=90)
    allowed = "n < 100"

    for query in queries[:10]:
        hits = index.search(query, 20, filter=allowed, params=few)
        best = index.search(query, 20, filter=allowed, params=EXACTLY)
        assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in best]
