"""Equal documents get equal scores, wherever they lie and whatever is searched beside them."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_colbert.index import Index, SearchParams

DIM = 128
RANDOM = np.random.default_rng(5)


def unit(*shape: int) -> np.ndarray:
    rows = RANDOM.standard_normal((*shape, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def build(path, backend, *, exact_tokens, n_adds):
    """Equal documents among others of many lengths, in one segment or several; they match the queries best."""
    twin, queries = unit(37), [unit(n) for n in (32, 5, 17)]
    for query in queries:
        twin[: len(query)] += 0.5 * query
    twin /= np.linalg.norm(twin, axis=1, keepdims=True)
    index = Index.create(path, DIM, exact_tokens=exact_tokens, backend=backend)
    for number in range(n_adds):
        others = [unit(int(n)) for n in RANDOM.integers(3, 90, 11 + 40 * (number == 0))]
        ids = [f"other-{number}-{position}" for position in range(len(others))]
        for place in (2 * number, 7 + number):
            others.insert(place, twin)
            ids.insert(place, f"twin-{9 - number}-{place}")
        index.add(ids, others)
    return index, queries


@pytest.fixture
def exact(tmp_path, backend):
    index, queries = build(tmp_path / "index", backend, exact_tokens=None, n_adds=4)
    with index:
        yield index, queries


@pytest.fixture(params=[None, 0], ids=["exact", "compressed"])
def filled(request, tmp_path, backend):
    # In one segment, equal passages are compressed to equal rows.
    n_adds = 4 if request.param is None else 1
    index, queries = build(tmp_path / "index", backend, exact_tokens=request.param, n_adds=n_adds)
    with index:
        yield index, queries


def twins(index, query, k):
    hits = index.search(query, k)
    return [(hit.doc_id, hit.score) for hit in hits if hit.doc_id.startswith("twin")]


def test_equal_documents_have_equal_scores_and_are_ordered_by_their_ids(filled):
    index, queries = filled
    for query in queries:
        found = twins(index, query, 60)
        assert len({score for _, score in found}) == 1
        assert [doc_id for doc_id, _ in found] == sorted(doc_id for doc_id, _ in found)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 8])
def test_first_of_equal_documents_are_those_of_the_first_ids(filled, k):
    index, queries = filled
    for query in queries:
        assert twins(index, query, k) == twins(index, query, 60)[:k]


def test_compaction_leaves_scores_and_order_of_an_exact_index(exact):
    index, queries = exact
    before = index.search(queries, 30)
    assert index.info().segments > 1
    index.compact()
    assert index.info().segments == 1
    assert index.search(queries, 30) == before


def test_batch_of_queries_scores_as_each_query_alone(filled):
    index, queries = filled
    together = index.search(queries, 20, params=SearchParams(exact=True))
    alone = [index.search(query, 20, params=SearchParams(exact=True)) for query in queries]
    assert together == alone


def test_document_scores_the_same_whatever_may_be_found_beside_it(filled):
    index, queries = filled
    everything = {hit.doc_id: hit.score for hit in index.search(queries[0], 20)}
    for doc_id, score in everything.items():
        (hit,) = index.search(queries[0], 1, doc_ids=[doc_id])
        assert hit.score == score
