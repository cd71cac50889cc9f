"""The import of passages that another engine has compressed, into a new index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.index.passage_checks import check_passages, check_sources
from mlx_colbert.index.storage.codec import Bits, Codec
from mlx_colbert.index.storage.segment import BLOCK_ROWS
from mlx_colbert.index.storage.vectors import unusable_rows
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.types import Array, CompressedRows, Source, as_array


@dataclass(frozen=True, eq=False)
class CompressedImport:
    """Passages to import. Everything is checked except their rows.

    Attributes:
        codec: the codec of the rows.
        doc_ids: N different ids.
        lengths: (N,) int64, the number of rows of each passage, >= 1.
        blocks: codes (n,) and residuals (n, D · nbits / 8) uint8 of the rows of all passages, in order.
        texts: N texts.
        metadata: N JSON objects, as text.
        sources: N sources.
    """

    codec: Codec
    doc_ids: list[str]
    lengths: Array
    blocks: Iterable[tuple[Array, Array]]
    texts: Sequence[str | None]
    metadata: list[str | None]
    sources: list[Source | None]

    @classmethod
    def check(
        cls,
        centroids: Array,
        codebook: Array,
        *,
        doc_ids: Iterable[str],
        lengths: Array,
        blocks: Iterable[tuple[Array, Array]],
        texts: Iterable[str | None] | None,
        metadata: Iterable[Mapping[str, Any] | None] | None,
        sources: Iterable[Source | None] | None,
        dim: int,
        nbits: Bits,
    ) -> CompressedImport:
        """The checked passages.

        Raises:
            InputError: if an id, text, metadata, length, centroid or codeword cannot be stored.
            DuplicateIdError: if a doc_id is given twice.
            ShapeError: if the numbers of passages differ, or the codec does not have the index's D and nbits.
        """
        lengths, centroids, codebook = map(as_array, (lengths, centroids, codebook))
        ids, texts, objects = check_passages(doc_ids, texts, metadata, lengths=lengths)
        if lengths.dtype.kind not in "iu" or not 1 <= lengths.min() <= lengths.max() < 1 << 31:
            raise InputError("lengths must be integers, each 1 or more: the number of rows of each passage.")
        arrays = {"centroids": (centroids, (len(centroids), dim)), "codebook": (codebook, (256, 8 // nbits))}
        for name, (array, shape) in arrays.items():
            if array.shape != shape or not len(array):
                raise ShapeError(f"{name} has shape {array.shape}. An index of {nbits} bits needs {shape}.")
            if unusable_rows(array).size:
                raise InputError(f"{name}: a number is not finite, or out of the range of float16.")
        codec = Codec.imported(nbits, centroids, codebook)
        listed = check_sources(ids, [None] * len(ids) if sources is None else sources)
        return cls(codec, ids, lengths.astype(np.int64), blocks, texts, objects, listed)

    def parts(self, n_tokens: int) -> Iterator[tuple[slice, Iterator[CompressedRows]]]:
        """Parts of consecutive passages with their rows, at most n_tokens rows each.

        A longer passage is a part of its own. Read the rows of a part before you take the next part.

        Raises:
            InputError: while rows are read, if a block is not valid, or there are too many or too few rows.
        """
        rows = _Rows(self.codec, iter(self.blocks))
        for block in blocks(np.append(0, np.cumsum(self.lengths)), n_tokens):
            yield block, rows.take(int(self.lengths[block].sum()))
        rows.finish()


class _Rows:
    """Divides a stream of blocks at the ends of segments."""

    def __init__(self, codec: Codec, blocks: Iterator[tuple[Array, Array]]) -> None:
        self._codec = codec
        self._blocks = blocks
        self._codes = np.zeros(0, np.int64)
        self._residuals = np.zeros((0, codec.residual_bytes), np.uint8)

    def take(self, n: int) -> Iterator[CompressedRows]:
        """The next n rows."""
        while n:
            if not len(self._codes) and not self._advance():
                raise InputError(f"blocks have too few rows. Missing: {n}.")
            taken = min(n, BLOCK_ROWS, len(self._codes))
            yield self._codec.imported_rows(self._codes[:taken], self._residuals[:taken])
            self._codes, self._residuals = self._codes[taken:], self._residuals[taken:]
            n -= taken

    def finish(self) -> None:
        """Raise an error if there are rows after those of the last passage."""
        if len(self._codes) or self._advance():
            raise InputError("blocks have more rows than the passages.")

    def _advance(self) -> bool:
        """Go to the next block with rows; returns whether there is one."""
        for codes, residuals in self._blocks:
            shape, n_centroids = (len(codes), self._codec.residual_bytes), self._codec.n_centroids
            if residuals.shape != shape or residuals.dtype != np.uint8:
                raise ShapeError(
                    f"residuals have shape {residuals.shape} and type {residuals.dtype}. "
                    f"Give {shape} and uint8."
                )
            if not len(codes):
                continue
            if codes.dtype.kind not in "iu" or not 0 <= codes.min() <= codes.max() < n_centroids:
                raise InputError(f"a code is not the number of one of the {n_centroids} centroids.")
            self._codes, self._residuals = codes, residuals
            return True
        return False
