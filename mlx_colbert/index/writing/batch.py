"""What callers hand to the index, checked: a batch of passages, doc_ids, queries."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mlx_colbert.checks import check_source, is_text, metadata_text, position_text
from mlx_colbert.errors import DuplicateIdError, InputError, ShapeError
from mlx_colbert.index.storage.segment import BLOCK_ROWS
from mlx_colbert.types import Array, Position, Source, TokenEmbeddings

T = TypeVar("T")

_FLOAT16_MAX = float(np.finfo(np.float16).max)
_UNUSABLE = f"a vector is not finite, or beyond float16 (±{_FLOAT16_MAX:g})."


@dataclass(frozen=True, eq=False)
class Batch:
    """Passages to add; all that can be checked without reading the vectors is checked.

    Attributes:
        doc_ids: N distinct ids.
        embeddings: N arrays (n_tokens, D), as the caller gave them.
        lengths: (N,) int64, rows of each, >= 1.
        texts: N texts.
        metadata: N JSON objects, as text.
        sources: N sources.
        positions: N positions in them, as JSON.
    """

    doc_ids: list[str]
    embeddings: Sequence[Array]
    lengths: Array
    texts: Sequence[str | None]
    metadata: list[str | None]
    sources: list[Source | None]
    positions: list[str | None]

    @classmethod
    def check(
        cls,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[Array],
        *,
        texts: Iterable[str | None] | None,
        metadata: Iterable[Mapping[str, Any] | None] | None,
        sources: Iterable[Source | None] | None = None,
        positions: Iterable[Position | None] | None = None,
        dim: int,
    ) -> Batch:
        """The batch, or the error of what is wrong with it.

        Raises:
            InputError: if there is nothing to add, an id or text is not valid text, a passage has no rows or
                metadata is not a JSON object.
            DuplicateIdError: if a doc_id is given twice.
            ShapeError: if the numbers of passages differ, or D is not `dim`.
        """
        if not isinstance(embeddings, TokenEmbeddings):
            embeddings = [_array(array) for array in embeddings]
        ids, texts, objects = check_passages(doc_ids, texts, metadata, embeddings=embeddings)
        lengths = _check_shapes(ids, embeddings, dim)
        listed: list[Source | None] = (
            [None] * len(ids) if sources is None else _one_each(ids, sources, "sources")
        )
        for doc_id, source in zip(ids, listed, strict=True):
            if source is not None:
                check_source(source, f"the source of passage {doc_id!r}")
        places: list[Position | None] = (
            [None] * len(ids) if positions is None else _one_each(ids, positions, "positions")
        )
        return cls(ids, embeddings, lengths, texts, objects, listed, check_positions(ids, places))

    def blocks(self) -> Iterator[Array]:
        """Blocks (n, D) float16 that hold the rows of all passages, in order.

        Raises:
            InputError: if a value is not finite, or beyond float16.
        """
        last_rows = np.cumsum(self.lengths)
        start = 0
        for block in self._row_blocks():
            bad = unusable_rows(block)
            if bad.size:
                passage = int(np.searchsorted(last_rows, start + bad[0], side="right"))
                raise InputError(f"passage {self.doc_ids[passage]!r}: {_UNUSABLE}")
            start += len(block)
            yield block.astype(np.float16)

    def _row_blocks(self) -> Iterator[Array]:
        if isinstance(self.embeddings, TokenEmbeddings):
            vectors = self.embeddings.vectors
            yield from (vectors[start : start + BLOCK_ROWS] for start in range(0, len(vectors), BLOCK_ROWS))
            return
        waiting: list[Array] = []
        n_waiting = 0
        for array in self.embeddings:
            waiting.append(array)
            n_waiting += len(array)
            if n_waiting >= BLOCK_ROWS:
                yield np.concatenate(waiting)
                waiting, n_waiting = [], 0
        if waiting:
            yield np.concatenate(waiting)


def check_passages(
    doc_ids: Iterable[str],
    texts: Iterable[str | None] | None,
    metadata: Iterable[Mapping[str, Any] | None] | None,
    **others: Sized,
) -> tuple[list[str], list[str | None], list[str | None]]:
    """Ids, texts and metadata (JSON) of passages to add.

    Raises:
        InputError: if there is nothing to add, or an id, text or metadata cannot be stored.
        DuplicateIdError: if a doc_id is given twice.
        ShapeError: if there are more or fewer texts, metadata or others than ids.
    """
    ids = check_doc_ids(doc_ids)
    if not ids:
        raise InputError("nothing to add: no doc_ids were given.")
    twice = [doc_id for doc_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise DuplicateIdError(twice, reason="given twice in one call.")
    texts = [None] * len(ids) if texts is None else list(texts)
    for name, values in {**others, "texts": texts}.items():
        if len(values) != len(ids):
            raise ShapeError(f"{len(ids)} doc_ids, but {len(values)} {name}: give one per passage.")
    for doc_id, text in zip(ids, texts, strict=True):
        if text is not None and not is_text(text):
            raise InputError(f"text of passage {doc_id!r}: not a str that UTF-8 can encode.")
    return ids, texts, check_metadata(ids, [None] * len(ids) if metadata is None else metadata)


def check_doc_ids(doc_ids: Iterable[str]) -> list[str]:
    """The ids as a list.

    Raises:
        InputError: if it is one str, or an id is empty or not text.
    """
    if isinstance(doc_ids, str):
        raise InputError(f"doc_ids must be a list of str, not the one str {doc_ids!r}.")
    ids = list(doc_ids)
    for doc_id in ids:
        if not is_text(doc_id) or not doc_id:
            raise InputError(f"doc_id {doc_id!r}: not a non-empty str that UTF-8 can encode.")
    return ids


def check_whole(value: int, name: str) -> int:
    """The value as an int.

    Raises:
        InputError: if it is no integer.
    """
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise InputError(f"{name} is {value!r}, not an integer.")


def check_k(k: int) -> int:
    """How many hits are wanted, at most as many as SQLite counts.

    Raises:
        InputError: if k is not an integer of 1 or more.
    """
    k = check_whole(k, "k")
    if k < 1:
        raise InputError(f"k is {k}, not 1 or more.")
    # More than any index holds.
    return min(k, 2**31)


def check_metadata(doc_ids: Sequence[str], metadata: Iterable[Mapping[str, Any] | None]) -> list[str | None]:
    """The metadata of passages as JSON text.

    Raises:
        ShapeError: if there are more or fewer of them than doc_ids.
        InputError: if one is not a JSON object.
    """
    objects = _one_each(doc_ids, metadata, "metadata")
    return [_to_json(doc_id, value) for doc_id, value in zip(doc_ids, objects, strict=True)]


def check_positions(doc_ids: Iterable[str], positions: Iterable[Position | None]) -> list[str | None]:
    """The positions of passages as JSON text.

    Raises:
        InputError: if one is not a `Position`.
    """
    return [
        None if position is None else position_text(position, f"the position of passage {doc_id!r}")
        for doc_id, position in zip(doc_ids, positions, strict=True)
    ]


def check_queries(arrays: TokenEmbeddings | Iterable[Array], *, dim: int) -> TokenEmbeddings:
    """The queries, packed.

    Raises:
        ShapeError: if D is not `dim`.
        InputError: if a query has no rows, or a value is not finite or beyond float16.
    """
    queries = TokenEmbeddings.pack(arrays, dim=dim)
    if queries.dim != dim:
        raise ShapeError(f"queries have D = {queries.dim}, the index has D = {dim}.")
    if not _is_real(queries.vectors):
        raise InputError(f"queries are {queries.vectors.dtype}, not real numbers.")
    if not queries.lengths.all():
        raise InputError(f"query {int(np.argmin(queries.lengths))}: has no token embeddings.")
    if len(queries) and (bad := unusable_rows(queries.vectors)).size:
        number = int(np.searchsorted(queries.offsets, bad[0], side="right")) - 1
        raise InputError(f"query {number}: {_UNUSABLE}")
    return queries


def unusable_rows(vectors: Array) -> Array:
    """The numbers of the rows that float16 cannot hold: not finite, or out of range.

    Args:
        vectors: (n, D) real.

    >>> unusable_rows(np.array([[1.0], [float("nan")], [70000.0]]))
    array([1, 2])
    """
    # A NaN makes either comparison false.
    if vectors.max() <= _FLOAT16_MAX and vectors.min() >= -_FLOAT16_MAX:
        return np.zeros(0, np.int64)
    return np.flatnonzero(~((vectors <= _FLOAT16_MAX) & (vectors >= -_FLOAT16_MAX)).all(axis=1))


def _check_shapes(doc_ids: Sequence[str], embeddings: Sequence[Array], dim: int) -> Array:
    if isinstance(embeddings, TokenEmbeddings):
        parts: Iterable[tuple[str, Array]] = [("all", embeddings.vectors)]
        lengths = embeddings.lengths.astype(np.int64)
    else:
        parts = zip(doc_ids, embeddings, strict=True)
        lengths = np.array([len(array) if array.ndim else 0 for array in embeddings], np.int64)
    for doc_id, array in parts:
        if array.ndim != 2 or array.shape[1] != dim:
            raise ShapeError(
                f"passage {doc_id!r}: embeddings have shape {array.shape}, the index needs (n, {dim})."
            )
        if not _is_real(array):
            raise InputError(f"passage {doc_id!r}: embeddings are {array.dtype}, not real numbers.")
    if not lengths.all():
        raise InputError(f"passage {doc_ids[int(np.argmin(lengths))]!r}: has no token embeddings.")
    return lengths


def _one_each(doc_ids: Sequence[str], values: Iterable[T], name: str) -> list[T]:
    listed = list(values)
    if len(listed) != len(doc_ids):
        raise ShapeError(f"{len(doc_ids)} doc_ids, but {len(listed)} {name}: give one per passage.")
    return listed


def _array(rows: Any) -> Array:
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise ShapeError(f"embeddings of a passage are not a (n, D) array: {error}.") from error


def _is_real(vectors: Array) -> bool:
    return vectors.dtype.kind in "fiu"


def _to_json(doc_id: str, value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else metadata_text(value, f"metadata of passage {doc_id!r}")
