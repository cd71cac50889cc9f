"""A batch: passages to add, as the caller gives them, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.index.passage_checks import check_passages, check_positions, check_sources
from mlx_colbert.index.storage.segment import BLOCK_ROWS
from mlx_colbert.index.storage.vectors import UNUSABLE, unusable_rows
from mlx_colbert.types import Array, Position, Source, TokenEmbeddings, as_array, is_one_array, is_real


@dataclass(frozen=True, eq=False)
class Batch:
    """Passages to add. Everything is checked except the values of the vectors.

    Attributes:
        doc_ids: N different ids.
        embeddings: N arrays (n_tokens, D), as the caller gave them.
        lengths: (N,) int64, the number of token embeddings of each passage, >= 1.
        texts: N texts.
        metadata: N JSON objects, as text.
        sources: N sources.
        positions: N positions in the sources, as JSON text.
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
        """The checked batch.

        Raises:
            InputError: if there is nothing to add, an id or text is not valid text, a passage has no token
                embeddings, or metadata is not a JSON object.
            DuplicateIdError: if a doc_id is given twice.
            ShapeError: if the numbers of passages differ, or D is not `dim`.
        """
        if not isinstance(embeddings, TokenEmbeddings):
            rows = as_array(embeddings) if is_one_array(embeddings) else embeddings
            embeddings = [as_array(array, "embeddings of a passage") for array in rows]
        ids, texts, objects = check_passages(doc_ids, texts, metadata, embeddings=embeddings)
        lengths = _check_shapes(ids, embeddings, dim)
        nothing = [None] * len(ids)
        listed = check_sources(ids, nothing if sources is None else sources)
        places = check_positions(ids, nothing if positions is None else positions)
        return cls(ids, embeddings, lengths, texts, objects, listed, places)

    def blocks(self) -> Iterator[Array]:
        """The token embeddings of all passages, in order, as blocks (n, D) float16.

        Raises:
            InputError: if a value is not finite, or out of the range of float16.
        """
        last_rows = np.cumsum(self.lengths)
        start = 0
        for block in self._row_blocks():
            bad = unusable_rows(block)
            if bad.size:
                passage = int(np.searchsorted(last_rows, start + bad[0], side="right"))
                raise InputError(f"passage {self.doc_ids[passage]!r}: {UNUSABLE}")
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
        if not is_real(array):
            raise InputError(f"passage {doc_id!r}: embeddings are {array.dtype}, not real numbers.")
    if not lengths.all():
        raise InputError(f"passage {doc_ids[int(np.argmin(lengths))]!r}: has no token embeddings.")
    return lengths
