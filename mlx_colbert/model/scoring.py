"""MaxSim, and what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.kernels import Backend, get_search_ops
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.types import Array, TokenEmbeddings, TokenMatch, as_array, is_one_text

__all__ = ["Embeddings", "checked", "explain", "maxsim", "maxsim_pairwise"]

# Ragged (packed, or one (n, D) array per text) or padded (N, L, D). An array may be of any kind that
# `as_array` takes.
Embeddings: TypeAlias = TokenEmbeddings | Sequence[Array] | Array

# Unit rows that were rounded to bfloat16 are not longer.
_MAX_LENGTH = 1.01


def ragged(
    embeddings: Embeddings, mask: Array | None = None, *, what: str = "embeddings", first: int = 0
) -> TokenEmbeddings:
    """Token embeddings without their padding.

    Args:
        embeddings: packed, or one (n_tokens, D) array per text, or padded (N, L, D).
        mask: (N, L) bool, True for the rows that count; for padded embeddings only. None: every row counts.
        what: their name in an error message.
        first: the number of the first text, in an error message.

    Raises:
        ShapeError: if shapes do not fit, or a text has no rows.
    """
    if hasattr(embeddings, "shape"):
        embeddings = as_array(embeddings, what)
        if embeddings.ndim != 3:
            raise ShapeError(
                f"{what}: an array must be padded (N, L, D), got {embeddings.shape}. "
                "Pass a list of (n, D) arrays."
            )
        inside = np.ones(embeddings.shape[:2], bool) if mask is None else as_array(mask, "mask").astype(bool)
        if inside.shape != embeddings.shape[:2]:
            raise ShapeError(
                f"{what}: the mask is {inside.shape}, but there are {embeddings.shape[:2]} rows."
            )
        packed = TokenEmbeddings(embeddings[inside], inside.sum(axis=1))
    elif mask is not None:
        raise ShapeError(f"{what}: a mask belongs to padded (N, L, D) arrays only.")
    else:
        packed = TokenEmbeddings.pack(embeddings)
    if len(packed) and int(packed.lengths.min()) < 1:
        raise ShapeError(f"{what}: text {first + int(packed.lengths.argmin())} has no token embeddings.")
    if packed.vectors.dtype.kind not in "fiu":
        raise ShapeError(f"{what} are {packed.vectors.dtype}, not real numbers.")
    if packed.vectors.dtype not in (np.float16, np.float32):
        packed = TokenEmbeddings(packed.vectors.astype(np.float32), packed.lengths)
    return packed


def several(embeddings: Embeddings) -> Embeddings:
    """One (n, D) array as a list of one; anything else as it is."""
    return [embeddings] if is_one_text(embeddings) else embeddings  # type: ignore[list-item]


def checked(embeddings: Embeddings, what: str) -> TokenEmbeddings:
    """Token embeddings of texts, one (n, D) array counting as one text.

    Raises:
        InputError: if such an array has the look of one vector per text: rows longer than 1.
    """
    if is_one_text(embeddings):
        lengths = np.linalg.norm(as_array(embeddings, what).astype(np.float32), axis=1)
        if (lengths > _MAX_LENGTH).any():
            row = int((lengths > _MAX_LENGTH).argmax())
            raise InputError(
                f"{what}: row {row} has the length {lengths[row]:.2f}, but a token embedding has at most 1. "
                "For one vector per text, give a list of (1, D) arrays with unit rows."
            )
    return ragged(several(embeddings), what=what)


def _check(queries: TokenEmbeddings, documents: TokenEmbeddings) -> None:
    if len(queries) and len(documents) and queries.dim != documents.dim:
        raise ShapeError(f"queries have {queries.dim} dimensions, documents {documents.dim}.")


def _check_finite(scores: Array) -> None:
    """Refuses embeddings by their scores (n_queries, N): a NaN in a row makes its scores NaN."""
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

    Each query row takes its largest dot product among the document's rows; these are summed.

    Source: Khattab & Zaharia 2020, eq. 3.

    Args:
        query: one query (Q, D), finite; or many, ragged or padded (B, Q, D). Arrays may be of numpy, MLX or
            torch, nested lists, or anything with `__array__` or DLPack; bfloat16 too.
        documents: N documents, finite, ragged or padded (N, L, D).
        query_mask: (B, Q) bool for padded queries.
        document_mask: (N, L) bool for padded documents; rows outside it never count.
        backend: whose kernels to use.

    Returns:
        (N,) float32 for one query, (B, N) for many. With unit rows in [-Q, Q].

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

    if isinstance(documents, TokenEmbeddings) or hasattr(documents, "shape"):
        scores = scored(documents)
    else:
        # To pack all at once would cost as much as to score them.
        arrays = list(documents)
        offsets = np.cumsum([0, *(len(array) if hasattr(array, "__len__") else 0 for array in arrays)])
        parts = list(blocks(offsets, ops.maxsim_rows)) or [slice(0)]
        found = ops.mapped(lambda part: scored(arrays[part], part.start or 0), parts)
        scores = np.concatenate(list(found), axis=1)
    _check_finite(scores)
    return scores[0] if single else scores


def maxsim_pairwise(queries: Embeddings, documents: Embeddings, *, backend: Backend = "auto") -> Array:
    """MaxSim of query i with document i: (N,) float32.

    Raises:
        ShapeError: if there are not as many queries as documents, or D differs.
        InputError: if a value is NaN.
    """
    left, right = ragged(queries, what="queries"), ragged(documents, what="documents")
    _check(left, right)
    if len(left) != len(right):
        raise ShapeError(f"{len(left)} queries cannot be paired with {len(right)} documents.")
    ops = get_search_ops(backend)
    pairs = ((left[i : i + 1], right[i : i + 1]) for i in range(len(left)))
    scores = np.array([ops.maxsim(*pair)[0, 0] for pair in pairs], np.float32)
    _check_finite(np.diag(scores))
    return scores


def explain(
    query: Array, document: Array, query_tokens: Sequence[str], document_tokens: Sequence[str]
) -> list[TokenMatch]:
    """The document token that each query token matched: MaxSim's summands, in query order.

    Args:
        query: (Q, D).
        document: (L, D).
        query_tokens: Q texts.
        document_tokens: L texts.

    Raises:
        ShapeError: if the arrays or the texts do not fit together.
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
            f"{n_rows[0]} and {n_rows[1]} rows do not fit "
            f"{len(query_tokens)} query tokens and {len(document_tokens)} document tokens."
        )
    similarities = queries.vectors.astype(np.float32) @ documents.vectors.astype(np.float32).T
    _check_finite(similarities.sum(keepdims=True))
    best = similarities.argmax(axis=1)
    return [
        TokenMatch(token, document_tokens[column], int(column), float(similarities[row, column]))
        for row, (token, column) in enumerate(zip(query_tokens, best, strict=True))
    ]
