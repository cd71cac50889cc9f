"""Splits documents into blocks with a limited number of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mlx_colbert.types import Array

__all__ = ["blocks"]


def blocks(offsets: Array, n_rows: int) -> Iterator[slice]:
    """Slices of consecutive documents. A block has at most n_rows rows, or one document with more rows.

    Args:
        offsets: (N + 1,) int64, the first row of each document, and the end of the last document.
        n_rows: the most rows of a block.

    >>> [(block.start, block.stop) for block in blocks(np.array([0, 2, 4, 9, 10]), 5)]
    [(0, 2), (2, 3), (3, 4)]
    """
    start, n_documents = 0, len(offsets) - 1
    while start < n_documents:
        stop = int(np.searchsorted(offsets, offsets[start] + n_rows, side="right")) - 1
        stop = max(stop, start + 1)
        yield slice(start, stop)
        start = stop
