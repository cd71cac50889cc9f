"""Intervals and paired tests: by hand, by exact enumeration, and with the same result each time."""

import itertools

import numpy as np
import pytest

from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.significance import compared, estimated


def test_interval_is_about_that_of_the_normal_distribution():
    values = np.random.default_rng(0).random(400)

    found = estimated(values)

    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.003)
    assert found.high == pytest.approx(values.mean() + half, abs=0.003)


def test_interval_of_equal_values_is_a_point():
    found = estimated({"q1": 0.5, "q2": 0.5})

    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_same_values_give_the_same_results():
    left = dict(enumerate(np.random.default_rng(1).random(50)))
    right = dict(enumerate(np.random.default_rng(2).random(50)))

    assert estimated(left) == estimated(left)
    assert compared(left, right) == compared(left, right)


def test_p_value_is_that_of_all_exchanges():
    gaps = np.array([0.3, 0.1, 0.25, -0.05, 0.4, 0.2, -0.1, 0.15])
    sums = [abs(np.dot(signs, gaps)) for signs in itertools.product([1, -1], repeat=8)]
    expected = np.mean(np.array(sums) >= abs(gaps.sum()) - 1e-9)

    found = compared(dict(enumerate(gaps)), dict.fromkeys(range(8), 0.0))

    assert found.p_value == pytest.approx(expected, abs=0.01)
    assert (found.n_better, found.n_worse) == (6, 2)
    assert found.difference.mean == pytest.approx(gaps.mean())


def nearly_equal_systems(n, gap):
    """The values of two systems on n queries: correlated, in [0, 1], many of them equal."""
    rng = np.random.default_rng(n)
    left = np.round(rng.random(n), 1)
    right = np.clip(left - gap + np.where(rng.random(n) < 0.5, 0, rng.normal(0, 0.2, n)), 0, 1)
    return left, right


@pytest.mark.parametrize(("n", "gap"), [(12, 0.0), (60, 0.03), (300, 0.01)])
def test_p_value_is_that_of_scipy(n, gap):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    left, right = nearly_equal_systems(n, gap)

    found = compared(dict(enumerate(left)), dict(enumerate(right)))

    # With 12 queries scipy takes all 4,096 exchanges, else 50,000 at random.
    expected = stats.permutation_test(
        (left, right),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=50_000,
        rng=np.random.default_rng(0),
    )
    # Two standard deviations of a share of 10,000 are 0.01 at most; both are random.
    assert 0.001 < expected.pvalue < 0.999
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.015)


@pytest.mark.parametrize(("n", "gap"), [(12, 0.0), (60, 0.03), (300, 0.01)])
def test_intervals_are_those_of_scipy(n, gap):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    left, right = nearly_equal_systems(n, gap)

    found = estimated(left), compared(dict(enumerate(left)), dict(enumerate(right))).difference

    for ours, numbers in zip(found, (left, left - right), strict=True):
        theirs = stats.bootstrap(
            (numbers,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        error = numbers.std() / np.sqrt(n)
        assert ours.mean == pytest.approx(numbers.mean())
        assert ours.low == pytest.approx(theirs.low, abs=0.1 * error)
        assert ours.high == pytest.approx(theirs.high, abs=0.1 * error)


def test_difference_of_equal_systems_is_chance():
    values = {"q1": 0.3, "q2": 0.9}

    found = compared(values, values)

    assert (found.p_value, found.difference.mean, found.n_better, found.n_worse) == (1.0, 0.0, 0, 0)


def test_clear_difference_has_the_smallest_p_value_and_it_is_not_zero():
    found = compared(dict.fromkeys(range(100), 1.0), dict.fromkeys(range(100), 0.0))

    assert found.p_value == pytest.approx(1 / 10_001)


def test_exchanged_systems_have_the_same_p_value():
    left = dict(enumerate(np.random.default_rng(1).random(30)))
    right = dict(enumerate(np.random.default_rng(2).random(30)))

    there, back = compared(left, right), compared(right, left)

    assert there.p_value == back.p_value
    assert (there.n_better, there.n_worse) == (back.n_worse, back.n_better)
    assert there.difference.mean == pytest.approx(-back.difference.mean)


def test_different_queries_are_refused():
    with pytest.raises(InputError, match="values of different queries"):
        compared({"q1": 1.0}, {"q2": 1.0})
    with pytest.raises(InputError, match="no values"):
        estimated({})
