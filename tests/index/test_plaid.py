"""The kernels and stages of a search in the codec, against vectors that are decoded and compared."""

from __future__ import annotations

import numpy as np
import pytest
from clusters import clustered_documents, maxsim_by_hand, meanings, queries_from, unit

from mlx_colbert.index import Index, SearchParams
from mlx_colbert.index.search import plaid
from mlx_colbert.index.storage.codec import Codec, normal_codebook
from mlx_colbert.kernels import get_search_ops, numpy_search
from mlx_colbert.types import CompressedRows, TokenEmbeddings


def random_codec(rng, dim, nbits, n_centroids):
    """A codec of any centroids, with a rotation as it is trained with."""
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    levels = rng.integers(-127, 128, (n_centroids, dim)).astype(np.int8)
    steps = (rng.uniform(0.2, 1, n_centroids) / (75 * np.sqrt(dim))).astype(np.float32)
    return Codec(nbits, levels, steps, normal_codebook(nbits), rotation, 0.0)


class Documents:
    """Compressed documents of random rows: what a kernel reads, and what it all stands for."""

    def __init__(self, codec, rng, lengths):
        n = int(np.sum(lengths))
        self.codec = codec
        self.lengths = np.array(lengths, np.int64)
        self.compressed = CompressedRows(
            rng.integers(0, codec.n_centroids, n).astype(np.uint16),
            rng.integers(0, 256, (n, codec.residual_bytes)).astype(np.uint8),
            (rng.uniform(0, 0.5, n) / np.sqrt(codec.dim)).astype(np.float32),
            rng.uniform(0.5, 1.5, n).astype(np.float32),
        )

    def codes(self):
        return self.compressed.codes

    def rows(self, positions=None):
        if positions is None:
            return self.compressed
        assert np.all(np.diff(positions) > 0)
        columns = ("codes", "residuals", "scales", "gains")
        return CompressedRows(*(getattr(self.compressed, name)[positions] for name in columns))

    def scores(self, query, rows_that_count=None, floors=None):
        """MaxSim of a query (Q, D), not rotated, with each document, by some of its rows."""
        products = query.astype(np.float64) @ self.codec.decode(self.compressed).astype(np.float64).T
        if rows_that_count is not None:
            products[:, ~rows_that_count] = -np.inf
        found = np.stack(
            [part.max(axis=1) for part in np.split(products, np.cumsum(self.lengths)[:-1], axis=1)]
        )
        return (found if floors is None else np.maximum(found, floors)).sum(axis=1)


def scored(ops, documents, query, n_candidates, near=None):
    codec = documents.codec
    rotated = codec.rotated(query)
    similarities, *_ = ops.probe(rotated, ops.asarray(codec.centroids), codec.probe_weights, 1)
    near = near or (np.arange(codec.n_centroids), np.full(len(query), -1e9, np.float32))
    return ops.score_compressed(rotated, similarities, codec.codebook, documents, n_candidates, near)


LENGTHS = [3, 1, 40, 1, 7, 180, 32, 33, 5, 5, 1]


@pytest.mark.parametrize("dim", [48, 64, 96, 128, 384])
@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_scores_are_maxsim_of_the_decoded_rows(search_ops, dim, nbits):
    rng = np.random.default_rng(dim + nbits)
    documents = Documents(random_codec(rng, dim, nbits, 50), rng, LENGTHS)
    query = unit(rng.standard_normal((9, dim)))

    for n_candidates in (len(LENGTHS), 1000):
        scores = scored(search_ops, documents, query, n_candidates)
        assert (scores.dtype, scores.shape) == (np.float32, (len(LENGTHS),))
        # float32 sums of 9 × 384 products.
        np.testing.assert_allclose(scores, documents.scores(query), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [300], [1, 300]])
@pytest.mark.parametrize(("n_centroids", "n_tokens"), [(1, 1), (1, 5), (70, 1)])
def test_single_rows_centroids_and_query_tokens_are_scored(search_ops, lengths, n_centroids, n_tokens):
    rng = np.random.default_rng(0)
    documents = Documents(random_codec(rng, 16, 4, n_centroids), rng, lengths)
    query = unit(rng.standard_normal((n_tokens, 16)))

    np.testing.assert_allclose(
        scored(search_ops, documents, query, 10), documents.scores(query), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
@pytest.mark.parametrize("n_candidates", [1, 4, 10])
def test_candidates_are_the_best_by_their_near_rows(search_ops, nbits, n_candidates):
    rng = np.random.default_rng(n_candidates)
    documents = Documents(random_codec(rng, 64, nbits, 50), rng, LENGTHS)
    query = unit(rng.standard_normal((6, 64)))
    centroids, floors = rng.choice(50, 20, replace=False), rng.uniform(-0.3, 0.3, 6).astype(np.float32)
    first = documents.scores(query, np.isin(documents.codes(), centroids), floors)
    wanted = np.argsort(-first)[:n_candidates]

    scores = scored(search_ops, documents, query, n_candidates, (centroids, floors))

    everything = documents.scores(query)
    found = np.isfinite(scores)
    assert found[wanted].all()
    np.testing.assert_allclose(scores[found], everything[found], rtol=1e-4, atol=1e-4)
    assert np.all(scores[~found] == -np.inf)
    if search_ops.name == "numpy":
        assert found.sum() == n_candidates


def test_candidates_are_chosen_where_no_row_is_near(search_ops):
    rng = np.random.default_rng(4)
    codec = random_codec(rng, 16, 4, 5)
    documents = Documents(codec, rng, [2, 1, 3])
    documents.compressed.codes[:] = [0, 0, 0, 1, 0, 0]
    query = unit(rng.standard_normal((2, 16)))

    nothing_near = scored(search_ops, documents, query, 2, (np.array([4]), np.zeros(2, np.float32)))
    one_near = scored(search_ops, documents, query, 1, (np.array([1]), np.full(2, -9, np.float32)))

    assert np.isfinite(nothing_near).sum() >= 2
    assert np.isfinite(one_near[2])


def test_of_equal_documents_as_many_as_asked_are_scored_and_score_the_same(search_ops):
    rng = np.random.default_rng(5)
    documents = Documents(random_codec(rng, 32, 4, 9), rng, [4] * 12)
    for column in (
        documents.compressed.codes,
        documents.compressed.residuals,
        documents.compressed.scales,
        documents.compressed.gains,
    ):
        column[:] = np.tile(column[:4], (12, 1) if column.ndim == 2 else 12)

    scores = scored(search_ops, documents, unit(rng.standard_normal((3, 32))), 5)

    assert np.isfinite(scores).sum() >= 5
    assert len(set(scores[np.isfinite(scores)].tolist())) == 1


def test_backends_score_alike():
    pytest.importorskip("mlx.core")
    rng = np.random.default_rng(6)
    documents = Documents(random_codec(rng, 96, 2, 300), rng, rng.integers(1, 200, 60))
    query = unit(rng.standard_normal((32, 96)))

    numpy_scores, mlx_scores = (
        scored(get_search_ops(name), documents, query, 60) for name in ("numpy", "mlx")
    )

    np.testing.assert_allclose(numpy_scores, mlx_scores, rtol=1e-5, atol=1e-4)


# (K, n_probe): numpy looks at blocks of centroids where there are many.
@pytest.mark.parametrize(
    ("n_centroids", "n_probe"),
    [(1, 1), (7, 1), (7, 7), (50, 49), (1000, 3), (5000, 32), (4097, 1), (3000, 3000), (2049, 128)],
)
def test_probe_takes_the_centroids_nearest_in_direction(search_ops, n_centroids, n_probe):
    rng = np.random.default_rng(n_centroids)
    centroids = rng.standard_normal((n_centroids, 8)).astype(np.float32)
    queries = unit(rng.standard_normal((5, 8)))
    weights = (1 / np.linalg.norm(centroids, axis=1)).astype(np.float32)

    similarities, probed, best = search_ops.probe(queries, search_ops.asarray(centroids), weights, n_probe)

    products = queries.astype(np.float64) @ centroids.T.astype(np.float64)
    np.testing.assert_allclose(np.array(similarities), products, rtol=1e-4, atol=1e-5)
    assert (probed.shape, probed.dtype, best.shape) == ((5, n_probe), np.int64, (5, n_probe))
    assert all(len(set(row)) == n_probe for row in probed.tolist())
    np.testing.assert_allclose(
        best, np.take_along_axis(products * weights, probed, axis=1), rtol=1e-4, atol=1e-5
    )
    expected = np.sort(products * weights, axis=1)[:, ::-1][:, :n_probe]
    np.testing.assert_allclose(np.sort(best, axis=1)[:, ::-1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nearest", [0, 1023, 1024, 2500, 4998])
def test_probe_misses_no_place(search_ops, nearest):
    rng = np.random.default_rng(nearest)
    centroids = unit(rng.standard_normal((4999, 8)))
    queries = np.stack([centroids[nearest], centroids[7]])

    _, probed, best = search_ops.probe(queries, search_ops.asarray(centroids), np.ones(4999, np.float32), 2)

    assert [nearest in probed[0], 7 in probed[1]] == [True, True]
    np.testing.assert_allclose(best.max(axis=1), 1, rtol=1e-6)


def test_probe_of_equal_centroids_takes_as_many_as_asked(search_ops):
    centroids = np.ones((600, 4), np.float32)

    _, probed, best = search_ops.probe(
        np.ones((2, 4), np.float32), search_ops.asarray(centroids), np.ones(600, np.float32), 20
    )

    assert [len(set(row)) for row in probed.tolist()] == [20, 20]
    assert np.all(best == 4)


# The stages


@pytest.fixture
def index(tmp_path, backend):
    rng = np.random.default_rng(0)
    documents = clustered_documents(rng, meanings(rng, 30, 16), 300)
    with Index.create(tmp_path / "index", 16, exact_tokens=0, backend=backend) as made:
        for part in (range(200), range(200, 300)):
            # Enough tokens in the second add as well to be compressed.
            rows = [np.tile(documents[i], (1 if part.start == 0 else 5, 1)) for i in part]
            made.add([f"d{i:03}" for i in part], rows)
        assert made.info().compressed_passages == 300
        yield made, queries_from(rng, documents, 9)


def hits_of(index, queries, **params):
    return [[hit.doc_id for hit in hits] for hits in index.search(queries, params=SearchParams(**params))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "params", [{}, {"exact": True}, {"n_probe": 2, "n_approximate": 30, "n_candidates": 12}]
)
def test_answers_do_not_depend_on_how_much_is_done_at_once(index, backend, monkeypatch, params):
    opened, queries = index
    at_once = hits_of(opened, queries, **params)

    monkeypatch.setattr(numpy_search, "_SCORED_ROWS", 50)
    monkeypatch.setattr(get_search_ops(backend), "maxsim_rows", 50)
    monkeypatch.setattr(plaid, "_PROBE_CELLS", 200)

    assert hits_of(opened, queries, **params) == at_once


def test_documents_without_a_probed_centroid_are_found_where_others_are_too_few(index):
    opened, queries = index

    (found,) = hits_of(opened, queries[:1], n_probe=1, n_approximate=1)
    few = opened.search(queries[0][:1], 250, params=SearchParams(n_probe=1, n_approximate=1, n_candidates=1))

    assert (len(found), len(few)) == (10, 250)


def test_stages_look_at_no_more_rows_than_they_say(index, monkeypatch):
    opened, queries = index
    seen = []
    score = opened._ops.score_compressed
    monkeypatch.setattr(
        opened._ops,
        "score_compressed",
        lambda *arguments: (seen.append(len(arguments[3].lengths)), score(*arguments))[1],
    )

    opened.search(queries, 5, params=SearchParams(n_probe=30, n_approximate=40, n_candidates=10))

    assert seen == [40] * len(queries)


def test_scores_are_of_rows_in_both_segments(index):
    opened, queries = index
    with opened._open.pool.searcher() as searcher, searcher.snapshot() as snapshot:
        decoded = [
            (part.segment.lengths, snapshot.codec.decode(part.segment.rows(slice(None))))
            for part in snapshot.segments
        ]
    rows = [part for lengths, vectors in decoded for part in TokenEmbeddings(vectors, lengths)]
    expected = {f"d{i:03}": maxsim_by_hand(queries[0], part) for i, part in enumerate(rows)}

    hits = opened.search(queries[0], 300)

    assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-4)
    assert {hit.doc_id[1] for hit in hits[:20]} == {"0", "1", "2"}
