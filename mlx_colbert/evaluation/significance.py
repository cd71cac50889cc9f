"""Confidence intervals and paired tests. Everything is seeded: the same values give the same results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mlx_colbert.errors import InputError
from mlx_colbert.types import Array

__all__ = ["Comparison", "Estimate", "compared", "estimated"]

# With 10,000 samples, the ends of an interval and a p-value near 0.05 vary by about 0.002.
_N_SAMPLES = 10_000
_SEED = 42
# Values that are drawn at a time: 8 MB of numbers.
_VALUES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Estimate:
    """A mean over queries, and the interval that has it in 95 of 100 samples of queries.

    Attributes:
        mean: the mean.
        low: 2.5 % of the means of resampled queries are below.
        high: 2.5 % are above.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How one system differs from another on the same queries.

    Attributes:
        difference: the mean of the differences of all queries, with its interval.
        p_value: the probability of such a difference, or a larger one of either sign, if it is chance which
            of the two systems got which value of a query.
        n_better: queries for which the value is larger.
        n_worse: queries for which it is smaller.
    """

    difference: Estimate
    p_value: float
    n_better: int
    n_worse: int

    def to_dict(self) -> dict[str, float]:
        """The comparison as a JSON object."""
        counts = {"p_value": self.p_value, "n_better": self.n_better, "n_worse": self.n_worse}
        return {
            "difference": self.difference.mean,
            "low": self.difference.low,
            "high": self.difference.high,
        } | counts


def estimated(values: Mapping[str, float] | Array) -> Estimate:
    """The mean of the values of queries, with a 95 % bootstrap interval (percentiles, 10,000 samples).

    Args:
        values: a value for each query.

    Raises:
        InputError: if there is no value.

    >>> estimated(np.array([0.0, 1.0, 1.0, 1.0])).mean
    0.75
    """
    numbers = _numbers(values)
    if not len(numbers):
        raise InputError("there are no values to estimate a mean of. Give at least one.")
    rng = np.random.default_rng(_SEED)
    means = [
        numbers[rng.integers(0, len(numbers), (n, len(numbers)))].mean(axis=1) for n in _blocks(len(numbers))
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(float(numbers.mean()), float(low), float(high))


def compared(values: Mapping[str, float], others: Mapping[str, float]) -> Comparison:
    """The comparison of two systems by their values of the same queries.

    The p-value is that of a paired randomisation test of the mean difference, two-sided, with 10,000 random
    exchanges. It is never 0: the smallest is 1 / 10,001. It is for one comparison: who makes many comparisons
    and shows the best should divide 0.05 by their number.

    Source: Smucker, Allan & Carterette 2007.

    Args:
        values: query → value of the system.
        others: query → value of the other system.

    Raises:
        InputError: if the queries differ, or there are none.

    >>> compared({"q1": 1.0, "q2": 0.5}, {"q1": 0.0, "q2": 0.5}).difference.mean
    0.5
    """
    if values.keys() != others.keys():
        raise InputError("the two systems have values of different queries. Compare the same queries.")
    gaps = np.array([values[query] - others[query] for query in values])
    difference = estimated(gaps)
    rng = np.random.default_rng(_SEED)
    # Equal up to rounding counts as equal, or the test would depend on the order of a sum.
    least = abs(gaps.sum()) - 1e-9
    # A bit for each query: whether its values are exchanged.
    n_bytes = -(-len(gaps) // 8)
    n_as_large = 0
    for n in _blocks(len(gaps)):
        exchanged = np.unpackbits(rng.integers(0, 256, (n, n_bytes), np.uint8), axis=1, count=len(gaps))
        n_as_large += int((abs(gaps.sum() - 2 * (exchanged @ gaps)) >= least).sum())
    p_value = (n_as_large + 1) / (_N_SAMPLES + 1)
    return Comparison(difference, p_value, int((gaps > 0).sum()), int((gaps < 0).sum()))


def _numbers(values: Mapping[str, float] | Array) -> Array:
    return np.array(list(values.values())) if isinstance(values, Mapping) else np.asarray(values)


def _blocks(n_values: int) -> Iterator[int]:
    """The numbers of samples to draw at a time."""
    at_once = max(_VALUES_AT_ONCE // n_values, 1)
    for start in range(0, _N_SAMPLES, at_once):
        yield min(at_once, _N_SAMPLES - start)
