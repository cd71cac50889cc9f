"""Documents in blocks of a bounded number of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.kernels.blocks import blocks


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_blocks_are_as_long_as_may_be_and_hold_each_document_once(lengths, n_rows):
    found = list(blocks(np.append(0, np.cumsum(lengths, dtype=np.int64)), n_rows))

    assert [i for block in found for i in range(block.start, block.stop)] == list(range(len(lengths)))
    for block in found:
        assert sum(lengths[block]) <= n_rows or block.stop == block.start + 1
        # The next document would not have gone in.
        assert block.stop == len(lengths) or sum(lengths[block.start : block.stop + 1]) > n_rows
