from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_colbert import TokenEmbeddings
from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.model import pooling
from mlx_colbert.model.pooling import pool, ward_labels

CASES = [(factor, protected) for factor in (2, 3, 4, 8) for protected in (0, 1, 2)]


@pytest.fixture(scope="module")
def reference(data):
    return dict(np.load(data / "pooling" / "pylate.npz"))


def unit_rows(seed, n, dim=8):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pool_one(rows, *args, **options):
    return pool(TokenEmbeddings.pack([rows]), *args, **options)[0]


def groups(labels):
    return {tuple(np.flatnonzero(labels == label)) for label in set(labels)}


def naive_ward(distances, n_clusters):
    """Ward by its definition, O(n³): always the nearest two of all clusters."""
    squares = np.triu(distances.astype(np.float64), 1) ** 2
    squares += squares.T
    np.fill_diagonal(squares, np.inf)
    members = [(i,) for i in range(len(squares))]
    while len(members) > n_clusters:
        i, j = sorted(np.unravel_index(squares.argmin(), squares.shape))
        n = np.array([len(member) for member in members])
        row = (n + n[i]) * squares[i] + (n + n[j]) * squares[j] - n * squares[i, j]
        squares[i] = squares[:, i] = row / (n + n[i] + n[j])
        squares[i, i] = np.inf
        squares = np.delete(np.delete(squares, j, 0), j, 1)
        members[i] = tuple(sorted(members[i] + members.pop(j)))
    return set(members)


@pytest.mark.parametrize(("factor", "protected"), CASES)
def test_rows_are_those_of_pylate(reference, factor, protected):
    texts = TokenEmbeddings(reference["vectors"], reference["lengths"])
    pooled = pool(texts, factor, protected_tokens=protected)
    assert pooled.lengths.tolist() == reference[f"row_lengths-{factor}-{protected}"].tolist()
    # The order in which a cluster's rows are summed.
    np.testing.assert_allclose(pooled.vectors, reference[f"rows-{factor}-{protected}"], atol=1e-6)


@pytest.mark.parametrize(("factor", "protected"), CASES)
def test_clusters_are_those_of_pylate(reference, factor, protected):
    texts = TokenEmbeddings(reference["vectors"], reference["lengths"])
    sources = TokenEmbeddings(reference[f"sources-{factor}-{protected}"][:, None], texts.lengths)
    for rows, into in zip(texts, sources, strict=True):
        rows, into = rows[protected:], into[protected:, 0] - protected
        n_clusters = max(len(rows) // factor, 1)
        if n_clusters < len(rows):
            assert ward_labels(1 - rows @ rows.T, n_clusters).tolist() == into.tolist()


def test_ties_are_broken_as_scipy_breaks_them(reference):
    for distances, labels in zip(reference["tied"], reference["tied_labels"], strict=True):
        for n_clusters, expected in enumerate(labels, start=1):
            assert ward_labels(distances, n_clusters).tolist() == expected.tolist()


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), fraction=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_clusters_are_those_of_the_naive_algorithm(seed, n, fraction):
    distances = np.random.default_rng(seed).random((n, n))
    n_clusters = 1 + int(fraction * (n - 1))
    assert groups(ward_labels(distances, n_clusters)) == naive_ward(distances, n_clusters)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40), factor=st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_rows_are_the_means_of_the_naive_clusters(seed, n, factor):
    rows = unit_rows(seed, n)
    inner = rows[1:]
    members = naive_ward(np.maximum(1 - inner @ inner.T, 0), max(len(inner) // factor, 1))
    means = sorted(inner[list(member)].mean(axis=0).tolist() for member in members)
    pooled = pool_one(rows, factor)
    assert pooled[0].tolist() == rows[0].tolist()
    np.testing.assert_allclose(sorted(pooled[1:].tolist()), means, atol=1e-6)


@given(
    picks=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    factor=st.integers(2, 6),
    protected=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_repeated_tokens_give_a_clustering(picks, factor, protected):
    rows = np.vstack([np.eye(4, dtype=np.float32), np.full((1, 4), 0.5, np.float32)])[picks]
    pooled = pool_one(rows, factor, protected_tokens=protected)
    inner = max(len(rows) - protected, 0)
    assert min(inner, 1) <= len(pooled) - min(protected, len(rows)) <= max(inner // factor, 1)
    # A mean is zero in no component that none of its rows has, and no longer than they are.
    assert np.isfinite(pooled).all()
    assert (np.linalg.norm(pooled, axis=1) <= 1 + 1e-6).all()
    assert ((pooled != 0).any(axis=0) == (rows != 0).any(axis=0)).all()


@given(values=st.lists(st.integers(0, 3), min_size=1, max_size=30), n_clusters=st.integers(1, 35))
@settings(max_examples=150, deadline=None)
def test_labels_are_dense_whatever_ties(values, n_clusters):
    points = np.array(values, np.float64)
    labels = ward_labels(np.abs(points[:, None] - points), n_clusters)
    assert labels.shape == points.shape
    assert sorted(set(labels.tolist())) == list(range(labels.max() + 1))
    assert labels.max() < n_clusters


def test_twins_become_one_row_each():
    rows = unit_rows(3, 5)
    pooled = pool_one(np.tile(rows, (4, 1)), 4, protected_tokens=0)
    np.testing.assert_allclose(sorted(pooled.tolist()), sorted(rows.tolist()), atol=1e-6)


def test_merges_that_tie_at_the_cut_are_all_made():
    points = np.array([0.0, 0.0, 5.0, 5.0, 9.0, 9.0])
    labels = ward_labels(np.abs(points[:, None] - points), 5)
    assert groups(labels) == {(0, 1), (2, 3), (4, 5)}


def test_point_is_labelled_after_its_sibling():
    points = np.array([9.0, 0.0, 1.0, 4.0])
    distances = np.abs(points[:, None] - points)
    assert ward_labels(distances, 3).tolist() == [2, 0, 0, 1]
    assert ward_labels(distances, 4).tolist() == [0, 1, 2, 3]
    assert ward_labels(distances, 9).tolist() == [0, 1, 2, 3]


def test_merge_rounded_nearer_than_a_link_does_not_break_the_chain(monkeypatch):
    exact, rng = pooling._merged, np.random.default_rng(4)
    monkeypatch.setattr(pooling, "_merged", lambda *args: exact(*args) * rng.uniform(0.2, 1, 60))
    points = rng.random((60, 2))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    for n_clusters in range(1, 60):
        labels = ward_labels(distances, n_clusters)
        assert sorted(set(labels.tolist())) == list(range(n_clusters))


def test_factor_one_returns_the_embeddings_themselves():
    embeddings = TokenEmbeddings.pack([unit_rows(0, 5).astype(np.float16)])
    assert pool(embeddings, 1) is embeddings


@pytest.mark.parametrize(
    ("n", "protected", "expected"), [(0, 1, 0), (1, 1, 1), (2, 1, 2), (2, 0, 1), (3, 1, 2), (3, 5, 3)]
)
def test_short_text_keeps_what_cannot_be_merged(n, protected, expected):
    rows = unit_rows(1, n)
    pooled = pool_one(rows, 2, protected_tokens=protected)
    assert len(pooled) == expected
    if expected == n:
        np.testing.assert_array_equal(pooled, rows)


def test_factor_beyond_the_length_leaves_one_mean():
    rows = unit_rows(2, 6)
    expected = [rows[0], rows[1:].mean(axis=0)]
    np.testing.assert_allclose(pool_one(rows, 100), expected, atol=1e-6)


def test_each_text_is_pooled_by_itself():
    texts = TokenEmbeddings.pack([unit_rows(seed, n) for seed, n in enumerate((4, 0, 30, 1, 9))])
    pooled = pool(texts, 3)
    assert len(pooled) == 5
    for text, result in zip(texts, pooled, strict=True):
        np.testing.assert_array_equal(result, pool_one(text, 3))


def test_no_texts_give_no_texts():
    pooled = pool(TokenEmbeddings.pack([], dim=8), 2)
    assert (len(pooled), pooled.dim) == (0, 8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type_is_pooled_in_float32(dtype):
    rows = unit_rows(5, 40).astype(dtype)
    pooled = pool_one(rows, 2)
    assert pooled.dtype == np.float32
    np.testing.assert_array_equal(pooled, pool_one(rows.astype(np.float32), 2))


def test_pooling_leaves_its_input_alone():
    rows = unit_rows(6, 20)
    before = rows.copy()
    pool_one(rows, 2)[:] = 0
    pool_one(rows[:1], 2)[:] = 0
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("scale", [0, 1e-3, 30, 1e15])
def test_rows_of_any_length_give_numbers(scale):
    rows = unit_rows(7, 20) * np.float32(scale)
    rows[4] = 0
    pooled = pool_one(rows, 2)
    assert 2 <= len(pooled) <= 10
    assert np.isfinite(pooled).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_rows_without_finite_dot_products_are_refused(value):
    rows = unit_rows(8, 6)
    rows[3, 2] = value
    with pytest.raises(InputError, match="text 1 has rows whose dot product is not finite"):
        pool(TokenEmbeddings(np.concatenate([unit_rows(9, 4), rows]), np.array([4, 6])), 2)


@pytest.mark.parametrize("factor", [0, -1, 1.5, 2.0, True, "2", None])
def test_bad_pool_factor_is_refused(factor):
    with pytest.raises(InputError, match="pool_factor is"):
        pool(TokenEmbeddings.pack([unit_rows(0, 3)]), factor)


@pytest.mark.parametrize("protected", [-1, 0.5, None])
def test_bad_protected_tokens_are_refused(protected):
    with pytest.raises(InputError, match="protected_tokens is"):
        pool(TokenEmbeddings.pack([unit_rows(0, 3)]), 2, protected_tokens=protected)


def test_rows_that_are_no_numbers_are_refused():
    with pytest.raises(ShapeError, match="not real numbers"):
        pool(TokenEmbeddings(np.ones((3, 2), complex), np.array([3])), 2)


@pytest.mark.parametrize("n", [61, 100, 121])
def test_long_text_is_pooled_in_equal_parts(n, monkeypatch):
    rows = unit_rows(3, n + 1)
    whole = pool_one(rows[: 60 + 1], 2)
    monkeypatch.setattr(pooling, "_MAX_ROWS", 60)
    parts = [pool_one(part, 2, protected_tokens=0) for part in np.array_split(rows[1:], -(-n // 60))]
    np.testing.assert_array_equal(pool_one(rows, 2), np.concatenate([rows[:1], *parts]))
    # A text that fits is pooled as before.
    np.testing.assert_array_equal(pool_one(rows[: 60 + 1], 2), whole)


@pytest.mark.slow
def test_memory_of_pooling_is_bounded_for_a_text_of_any_length(monkeypatch):
    monkeypatch.setattr(pooling, "_MAX_ROWS", 128)
    peaks = []
    for n in (4_000, 8_000):
        rows = unit_rows(4, n, dim=16)
        tracemalloc.start()
        pool_one(rows, 2)
        peaks.append(tracemalloc.get_traced_memory()[1] / rows.nbytes)
        tracemalloc.stop()
    # Not so much as one matrix of the distances of all rows.
    assert max(peaks) < 8
