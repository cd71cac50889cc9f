"""MaxSim scores, and the token matches that make up a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.kernels import Backend, get_search_ops
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.types import (
    Array,
    TokenEmbeddings,
    TokenMatch,
    as_array,
    is_one_array,
    is_one_text,
    is_real,
    pack_arrays,
)

__all__ = ["Embeddings", "checked", "explain", "maxsim", "maxsim_pairwise"]

# Ragged (packed, or one (n, D) array per text) or padded (N, L, D). Arrays of every kind that `as_array`
# reads are possible.
Embeddings: TypeAlias = TokenEmbeddings | Sequence[Array] | Array

# A unit row that was rounded to bfloat16 may be a little longer than 1, but not longer than this.
_MAX_LENGTH = 1.01


def ragged(
    embeddings: Embeddings, mask: Array | None = None, *, what: str = "embeddings", first: int = 0
) -> TokenEmbeddings:
    """Token embeddings without their padding.

    Args:
        embeddings: packed, or one (n_tokens, D) array per text, or padded (N, L, D).
        mask: (N, L) bool, True for real rows, False for padding. For padded embeddings only. None: all are
            real.
        what: their name in an error message.
        first: the number of the first text in an error message.

    Raises:
        ShapeError: if shapes do not fit, or a text has no rows.
    """
    if is_one_array(embeddings):
        embeddings = as_array(embeddings, what)
        if embeddings.ndim != 3:
            raise ShapeError(
                f"{what}: a single array must be padded (N, L, D), got {embeddings.shape}. "
                "Give a list of (n, D) arrays."
            )
        inside = np.ones(embeddings.shape[:2], bool) if mask is None else as_array(mask, "mask").astype(bool)
        if inside.shape != embeddings.shape[:2]:
            raise ShapeError(
                f"{what}: the mask has the shape {inside.shape}, the rows have {embeddings.shape[:2]}."
            )
        packed = TokenEmbeddings(embeddings[inside], inside.sum(axis=1))
    elif mask is not None:
        raise ShapeError(f"{what}: only a padded (N, L, D) array can have a mask. Leave the mask out.")
    else:
        packed = pack_arrays(embeddings)
    if len(packed) and int(packed.lengths.min()) < 1:
        raise ShapeError(f"{what}: text {first + int(packed.lengths.argmin())} has no token embeddings.")
    if not is_real(packed.vectors):
        raise ShapeError(f"{what} are {packed.vectors.dtype}, not real numbers.")
    if packed.vectors.dtype not in (np.float16, np.float32):
        packed = TokenEmbeddings(packed.vectors.astype(np.float32), packed.lengths)
    return packed


def several(embeddings: Embeddings) -> Embeddings:
    """A list with the array, if one (n, D) array is given. All other values are returned unchanged."""
    return [embeddings] if is_one_text(embeddings) else embeddings  # type: ignore[list-item]


def checked(embeddings: Embeddings, what: str) -> TokenEmbeddings:
    """Token embeddings of texts. One (n, D) array is one text.

    Raises:
        InputError: if such an array has rows longer than 1. Then its rows are probably one vector per text.
    """
    if is_one_text(embeddings):
        lengths = np.linalg.norm(as_array(embeddings, what).astype(np.float32), axis=1)
        if (lengths > _MAX_LENGTH).any():
            row = int((lengths > _MAX_LENGTH).argmax())
            raise InputError(
                f"{what}: row {row} has the length {lengths[row]:.2f}; a token embedding has at most 1. "
                "If each row is one text, give a list of (1, D) arrays with unit rows."
            )
    return ragged(several(embeddings), what=what)


def _check(queries: TokenEmbeddings, documents: TokenEmbeddings) -> None:
    if len(queries) and len(documents) and queries.dim != documents.dim:
        raise ShapeError(
            f"queries have D = {queries.dim}, documents have D = {documents.dim}. Encode both with one model."
        )


def _check_finite(scores: Array) -> None:
    """Refuse scores (n_queries, N) that are not finite: a value of their embeddings is NaN or infinite."""
    if not np.isfinite(scores).all():
        query, document = np.argwhere(~np.isfinite(scores))[0].tolist()
        raise InputError(
            f"query {query} or document {document} has a value that is NaN or infinite: "
            "their score is not a number."
        )


def maxsim(
    query: Embeddings,
    documents: Embeddings,
    *,
    query_mask: Array | None = None,
    document_mask: Array | None = None,
    backend: Backend = "auto",
) -> Array:
    """MaxSim of one query, or of many, with every document.

    For each query row, MaxSim takes the largest dot product with a row of the document. The score is their
    sum.

    Source: Khattab & Zaharia 2020, eq. 3.

    Args:
        query: one query (Q, D), finite; or many, ragged or padded (B, Q, D). Arrays may be numpy, MLX or
            torch arrays, nested lists, or objects with `__array__` or DLPack. bfloat16 is possible.
        documents: N documents, finite, ragged or padded (N, L, D).
        query_mask: (B, Q) bool for padded queries, True for real rows.
        document_mask: (N, L) bool for padded documents, True for real rows.
        backend: "auto", "mlx" or "numpy".

    Returns:
        (N,) float32 for one query, (B, N) for many. In [-Q, Q] for unit rows.

    Raises:
        ShapeError: if D differs, or a text has no rows.
        InputError: if a value is NaN.

    >>> query = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    >>> maxsim(query, [np.array([[1.0, 0.0]], np.float32), query], backend="numpy")
    array([1., 2.], dtype=float32)
    """
    single = is_one_text(query)
    queries = ragged(several(query), query_mask, what="queries")
    ops = get_search_ops(backend)

    def scored(texts: Embeddings, first: int = 0) -> Array:
        packed = ragged(texts, document_mask, what="documents", first=first)
        _check(queries, packed)
        if not len(queries) or not len(packed):
            return np.zeros((len(queries), len(packed)), np.float32)
        return ops.maxsim(queries, packed)

    if isinstance(documents, TokenEmbeddings) or is_one_array(documents):
        scores = scored(documents)
    else:
        # To pack all documents at once would take as long as to score them.
        arrays = list(documents)
        offsets = np.cumsum([0, *(len(array) if hasattr(array, "__len__") else 0 for array in arrays)])
        parts = list(blocks(offsets, ops.maxsim_rows)) or [slice(0)]
        found = ops.mapped(lambda part: scored(arrays[part], part.start or 0), parts)
        scores = np.concatenate(list(found), axis=1)
    _check_finite(scores)
    return scores[0] if single else scores


def maxsim_pairwise(queries: Embeddings, documents: Embeddings, *, backend: Backend = "auto") -> Array:
    """MaxSim of query i with document i: (N,) float32.

    Args:
        queries: token embeddings of N queries.
        documents: token embeddings of N documents.
        backend: "auto", "mlx" or "numpy".

    Raises:
        ShapeError: if there are not as many queries as documents, or D differs.
        InputError: if a value is NaN.
    """
    left, right = ragged(queries, what="queries"), ragged(documents, what="documents")
    _check(left, right)
    if len(left) != len(right):
        raise ShapeError(
            f"{counted(len(left), 'query', 'queries')}, but {counted(len(right), 'document')}. "
            "Give one document for each query."
        )
    ops = get_search_ops(backend)
    pairs = ((left[i : i + 1], right[i : i + 1]) for i in range(len(left)))
    scores = np.array([ops.maxsim(*pair)[0, 0] for pair in pairs], np.float32)
    _check_finite(np.diag(scores))
    return scores


def explain(
    query: Array, document: Array, query_tokens: Sequence[str], document_tokens: Sequence[str]
) -> list[TokenMatch]:
    """The document token that each query token matched, in query order. The similarities sum to MaxSim.

    Args:
        query: (Q, D).
        document: (L, D).
        query_tokens: Q texts.
        document_tokens: L texts.

    Raises:
        ShapeError: if D differs, or there are not as many texts as rows.
        InputError: if a value is NaN.

    >>> rows = np.eye(2, dtype=np.float32)
    >>> [match.document_token for match in explain(rows, rows[::-1], ["a", "b"], ["B", "A"])]
    ['A', 'B']
    """
    queries, documents = ragged([query], what="query"), ragged([document], what="document")
    _check(queries, documents)
    n_rows = len(queries.vectors), len(documents.vectors)
    if (len(query_tokens), len(document_tokens)) != n_rows:
        raise ShapeError(
            f"query and document have {n_rows[0]} and {counted(n_rows[1], 'row')}, but "
            f"{len(query_tokens)} and {counted(len(document_tokens), 'token')}. Give the text of one token "
            "for each row."
        )
    similarities = queries.vectors.astype(np.float32) @ documents.vectors.astype(np.float32).T
    _check_finite(similarities.sum(keepdims=True))
    best = similarities.argmax(axis=1)
    return [
        TokenMatch(token, document_tokens[column], int(column), float(similarities[row, column]))
        for row, (token, column) in enumerate(zip(query_tokens, best, strict=True))
    ]
