"""The queries of a search, as the caller gives them, and their checks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.index.storage.vectors import UNUSABLE, unusable_rows
from mlx_colbert.types import Array, TokenEmbeddings, is_real, pack_arrays


def check_queries(arrays: TokenEmbeddings | Iterable[Array], *, dim: int) -> TokenEmbeddings:
    """The queries, packed.

    Raises:
        ShapeError: if D is not `dim`.
        InputError: if a query has no token embeddings, or a value is not finite or out of the range of
            float16.
    """
    queries = pack_arrays(arrays, dim=dim)
    if queries.dim != dim:
        raise ShapeError(f"queries have D = {queries.dim}, the index has D = {dim}.")
    if not is_real(queries.vectors):
        raise InputError(f"queries are {queries.vectors.dtype}, not real numbers.")
    if not queries.lengths.all():
        raise InputError(f"query {int(np.argmin(queries.lengths))}: has no token embeddings.")
    if len(queries) and (bad := unusable_rows(queries.vectors)).size:
        number = int(np.searchsorted(queries.offsets, bad[0], side="right")) - 1
        raise InputError(f"query {number}: {UNUSABLE}")
    return queries
