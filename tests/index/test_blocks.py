"""Documents in portions of a bounded number of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.kernels.blocks import runs


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_runs_are_as_long_as_may_be_and_hold_each_document_once(lengths, n_rows):
    found = list(runs(np.append(0, np.cumsum(lengths, dtype=np.int64)), n_rows))

    assert [i for run in found for i in range(run.start, run.stop)] == list(range(len(lengths)))
    for run in found:
        assert sum(lengths[run]) <= n_rows or run.stop == run.start + 1
        # The next document would not have gone in.
        assert run.stop == len(lengths) or sum(lengths[run.start : run.stop + 1]) > n_rows
