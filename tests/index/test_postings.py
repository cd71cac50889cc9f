"""Posting lists, and the estimates from them, against dicts of sets."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_colbert.index.storage.postings import Postings, estimate


def random_codes(rng, lengths, n_centroids):
    """Codes of documents, a list each; few centroids make many documents share one, and repeat their own."""
    return [rng.integers(0, n_centroids, n).tolist() for n in lengths]


def postings_of(documents, dtype=np.uint16):
    codes = np.array([code for document in documents for code in document], dtype)
    return Postings.build(codes, np.array([len(document) for document in documents], np.int64))


def documents_by_code(documents):
    return {
        code: [i for i, document in enumerate(documents) if code in document]
        for code in {code for document in documents for code in document}
    }


@pytest.mark.parametrize("lengths", [[1], [1] * 9, [5, 1, 30, 2], [40] * 20])
@pytest.mark.parametrize("n_centroids", [1, 3, 200])
def test_postings_name_each_document_once_per_code(lengths, n_centroids):
    documents = random_codes(np.random.default_rng(sum(lengths)), lengths, n_centroids)
    expected = documents_by_code(documents)

    postings = postings_of(documents)

    assert postings.codes.tolist() == sorted(expected)
    assert postings.counts.tolist() == [len(expected[code]) for code in sorted(expected)]
    assert postings.ordinals.tolist() == [i for code in sorted(expected) for i in expected[code]]


def test_find_gives_the_documents_of_each_code_in_the_order_asked():
    documents = [[3, 5, 3], [5], [9, 3], [200]]
    postings = postings_of(documents, np.uint8)

    ordinals, counts = postings.find(np.array([5, 0, 3, 255, 200, 5, 4]))

    assert counts.tolist() == [2, 0, 2, 0, 1, 2, 0]
    assert ordinals.tolist() == [0, 1, 0, 2, 3, 0, 1]
    assert (ordinals.dtype, counts.dtype) == (np.int64, np.int64)


def test_codes_that_do_not_occur_have_no_documents():
    ordinals, counts = postings_of([[7], [7]]).find(np.array([0, 6, 8, 60_000]))

    assert (ordinals.tolist(), counts.tolist()) == ([], [0, 0, 0, 0])


@pytest.mark.parametrize(("n", "name"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65_537, "uint32")])
def test_ordinals_take_the_smallest_type(n, name):
    postings = Postings.build(np.zeros(n, np.uint8), np.ones(n, np.int64))

    assert postings.ordinals.dtype == np.dtype(name)
    assert np.array_equal(postings.find(np.array([0]))[0], np.arange(n))


def estimated_by_hand(segments, allowed, probed, scores):
    found = {}
    base = 0
    for documents, may in zip(segments, allowed, strict=True):
        for i, document in enumerate(documents):
            if (may is None or may[i]) and set(document) & set(probed.ravel().tolist()):
                found[base + i] = sum(
                    max(
                        [score for code, score in zip(token, row, strict=True) if code in document],
                        default=min(row),
                    )
                    for token, row in zip(probed.tolist(), scores.tolist(), strict=True)
                )
        base += len(documents)
    return found


def random_probes(rng, n_tokens, n_probe, n_centroids):
    probed = np.array([rng.choice(n_centroids, n_probe, replace=False) for _ in range(n_tokens)])
    # Few distinct values, some negative: similarities tie.
    return probed, rng.integers(-4, 5, probed.shape).astype(np.float32) / 4


@pytest.mark.parametrize("seed", range(8))
def test_estimate_is_the_best_probed_similarity_or_the_least(seed):
    rng = np.random.default_rng(seed)
    segments = [random_codes(rng, rng.integers(1, 12, n), 40) for n in (30, 1, 12)]
    allowed = [None, np.array([True]), rng.random(12) < 0.5]
    probed, scores = random_probes(rng, 1 + seed, 3, 60)

    documents, estimates = estimate(
        [postings_of(part) for part in segments], allowed, probed=probed, scores=scores
    )

    expected = estimated_by_hand(segments, allowed, probed, scores)
    assert documents.tolist() == sorted(expected)
    # Sums of quarters are exact.
    assert estimates.tolist() == [expected[i] for i in sorted(expected)]
    assert estimates.dtype == np.float32


def test_estimate_that_probes_every_centroid_is_maxsim_by_centroids():
    rng = np.random.default_rng(0)
    segments = [random_codes(rng, rng.integers(1, 9, 25), 10)]
    similarities = rng.standard_normal((4, 10)).astype(np.float32)
    probed = np.tile(np.arange(10), (4, 1))

    documents, estimates = estimate([postings_of(segments[0])], [None], probed=probed, scores=similarities)

    assert documents.tolist() == list(range(25))
    expected = [similarities[:, document].max(axis=1).sum() for document in segments[0]]
    np.testing.assert_allclose(estimates, expected, rtol=1e-6)


def test_no_document_at_the_probed_centroids_gives_none():
    probed, scores = np.array([[1, 2]]), np.ones((1, 2), np.float32)

    for allowed, documents in ((None, [[3], [4, 5]]), (np.zeros(2, np.bool_), [[1], [2]])):
        found, estimates = estimate([postings_of(documents)], [allowed], probed=probed, scores=scores)
        assert (found.tolist(), estimates.tolist()) == ([], [])
