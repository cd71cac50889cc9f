"""k-means: the nearest centroid of a vector, and centroids that are worth as much as plain Lloyd's."""

from __future__ import annotations

import numpy as np
import pytest
from clusters import meanings, spread
from codebooks import train_codebook
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.index.storage.kmeans import (
    Assigner,
    _shares,
    nearest_centroid,
    train_centroids,
)


def squared_distances(vectors, centroids):
    vectors, centroids = vectors.astype(np.float64), centroids.astype(np.float64)
    products = vectors @ centroids.T
    return (vectors**2).sum(axis=1)[:, None] - 2 * products + (centroids**2).sum(axis=1)


def distortion(vectors, centroids):
    return squared_distances(vectors, centroids).min(axis=1).mean()


def clustered(n, dim=16, n_clusters=300, seed=0):
    rng = np.random.default_rng(seed)
    return spread(rng, meanings(rng, n_clusters, dim)[rng.integers(0, n_clusters, n)], 0.4)


def plain_lloyd(vectors, n_centroids):
    rng = np.random.default_rng(0)
    centroids = vectors[np.sort(rng.choice(len(vectors), n_centroids, replace=False))]
    for _ in range(4):
        codes = squared_distances(vectors, centroids).argmin(axis=1)
        for code in np.unique(codes):
            centroids[code] = vectors[codes == code].mean(axis=0)
    return centroids


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("n", "dim", "k"), [(1, 4, 1), (50, 8, 7), (300, 33, 100), (5, 3, 40), (70, 1, 16)])
def test_nearest_is_at_the_least_distance(search_ops, n, dim, k, dtype):
    rng = np.random.default_rng(n)
    vectors = rng.standard_normal((n, dim)).astype(dtype)
    centroids = rng.standard_normal((k, dim)).astype(np.float32)

    codes = nearest_centroid(search_ops, vectors, centroids)

    distances = squared_distances(vectors, centroids)
    assert codes.dtype == np.int64
    # Two centroids may be as near within float32.
    np.testing.assert_allclose(distances[np.arange(n), codes], distances.min(axis=1), atol=1e-5)


def test_nearest_takes_many_vectors_in_blocks(search_ops, monkeypatch):
    monkeypatch.setattr(search_ops, "_MAXSIM_CELLS", 640)
    vectors, centroids = clustered(1000), clustered(10, seed=1)

    codes = nearest_centroid(search_ops, vectors, centroids)

    assert codes.tolist() == squared_distances(vectors, centroids).argmin(axis=1).tolist()


def test_bias_is_added_to_each_centroids_similarity(search_ops):
    vectors = np.array([[1, 0], [0, 1], [1, 1]], np.float32)

    codes = search_ops.nearest(vectors, np.eye(2, dtype=np.float32), np.array([0.0, 0.5], np.float32))

    assert codes.tolist() == [0, 1, 1]


def test_no_vectors_have_no_nearest_centroid(search_ops):
    assert (
        nearest_centroid(search_ops, np.zeros((0, 4), np.float32), np.eye(4, dtype=np.float32)).tolist() == []
    )


@pytest.mark.slow
def test_two_steps_find_the_nearest_centroid_nearly_always(search_ops):
    centroids, vectors = clustered(4000, n_clusters=500), clustered(2000, n_clusters=500)
    assigner = Assigner.build(search_ops, centroids)

    codes = assigner.assign(search_ops, vectors)

    distances = squared_distances(vectors, centroids)
    assert len(assigner.coarse) > 0
    assert np.mean(codes == distances.argmin(axis=1)) >= 0.9
    assert distances[np.arange(2000), codes].mean() <= 1.02 * distances.min(axis=1).mean()


def test_assigner_takes_many_vectors_in_blocks(search_ops, monkeypatch):
    assigner = Assigner.build(search_ops, clustered(1100))
    vectors = clustered(500, seed=3)
    at_once = assigner.assign(search_ops, vectors)

    monkeypatch.setattr("mlx_colbert.index.storage.kmeans._BLOCK_ROWS", 64)

    assert np.mean(assigner.assign(search_ops, vectors) == at_once) >= 0.99


@pytest.mark.parametrize("k", [20, 1100])
def test_same_sample_and_seed_give_the_same_centroids(search_ops, k):
    sample = clustered(2000)

    first, again, other = (train_centroids(search_ops, sample, k, seed=seed) for seed in (1, 1, 2))

    assert first.shape == (k, 16)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_one_centroid_is_the_mean(search_ops, dtype):
    sample = clustered(500).astype(dtype)

    centroids = train_centroids(search_ops, sample, 1, seed=0)

    assert centroids.dtype == np.float32
    np.testing.assert_allclose(centroids, sample.astype(np.float64).mean(axis=0)[None], atol=1e-6)


@pytest.mark.parametrize("k", [30, 31, 5000])
def test_no_more_centroids_than_points_which_they_are_then(search_ops, k):
    sample = clustered(30)

    assert np.array_equal(train_centroids(search_ops, sample, k, seed=0), sample)


def test_one_point_is_its_own_centroid(search_ops):
    assert train_centroids(search_ops, np.ones((1, 3), np.float16), 7, seed=0).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(("n", "k"), [(300, 10), (3000, 1200)])
def test_identical_points_share_centroids_without_gaps_or_nan(search_ops, n, k):
    distinct = np.array([[1, 0, 2], [0, 3, 0], [-1, 0, 0]], np.float32)
    sample = np.tile(distinct, (n // 3, 1))

    centroids = train_centroids(search_ops, sample, k, seed=0)

    assert centroids.shape == (k, 3)
    assert {tuple(row) for row in centroids.tolist()} == {tuple(row) for row in distinct.tolist()}


def test_few_centroids_are_those_of_plain_lloyd(search_ops):
    sample = clustered(4000, n_clusters=50)

    centroids = train_centroids(search_ops, sample, 50, seed=0)

    # Sums of some 80 float32 numbers; a point halfway between two centroids may go to either.
    np.testing.assert_allclose(
        distortion(sample, centroids), distortion(sample, plain_lloyd(sample, 50)), rtol=1e-4
    )


@pytest.mark.slow
def test_two_levels_are_worth_as_much_as_plain_lloyd(search_ops):
    sample = clustered(9000, n_clusters=400)

    in_two_levels = distortion(sample, train_centroids(search_ops, sample, 1200, seed=0))

    assert in_two_levels <= 1.05 * distortion(sample, plain_lloyd(sample, 1200))


@pytest.mark.parametrize("k", [20, 1100])
def test_training_tells_after_each_round_which_part_of_it_is_done(search_ops, k):
    told = []
    train_centroids(search_ops, clustered(2000), k, seed=0, told=told.append)
    assert told == sorted(told) and len(told) >= 4
    # Groups that get no centroid are not counted.
    assert told[0] <= 0.25 and 0.95 <= told[-1] <= 1


def test_codebook_of_four_levels_is_that_of_lloyd_and_max(search_ops):
    points = np.random.default_rng(0).standard_normal((20_000, 1)).astype(np.float32)

    words = np.sort(train_codebook(search_ops, points, points[:4]).ravel())

    # Max 1960, table I: the best four levels for a normal source.
    np.testing.assert_allclose(words, [-1.510, -0.4528, 0.4528, 1.510], atol=0.05)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.data())
def test_groups_share_all_centroids_and_none_gets_more_than_its_points(sizes, data):
    if sum(sizes) < 2:
        return
    n_centroids = data.draw(st.integers(1, sum(sizes) - 1))

    shares = _shares(sizes, n_centroids)

    assert sum(shares) == n_centroids
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert all(
        abs(share - size * n_centroids / sum(sizes)) < 1 for share, size in zip(shares, sizes, strict=True)
    )
