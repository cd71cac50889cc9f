"""Documents whose rows another engine has coded, on their way into a new index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_colbert.checks import check_passages
from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.index.storage.codec import Bits, Codec
from mlx_colbert.index.storage.segment import BLOCK_ROWS
from mlx_colbert.index.writing.batch import unusable_rows
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.types import Array, CodedRows, as_array


@dataclass(frozen=True, eq=False)
class CodedImport:
    """Documents to take over; all that can be checked without reading the rows is checked.

    Attributes:
        codec: what decodes the rows.
        doc_ids: N distinct ids.
        lengths: (N,) int64, rows of each, >= 1.
        blocks: codes (n,) and residuals (n, D · nbits / 8) uint8 of the rows of all documents, in order.
        texts: N texts.
        metadata: N JSON objects, as text.
    """

    codec: Codec
    doc_ids: list[str]
    lengths: Array
    blocks: Iterable[tuple[Array, Array]]
    texts: Sequence[str | None]
    metadata: list[str | None]

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
        dim: int,
        nbits: Bits,
    ) -> CodedImport:
        """The documents, or the error of what is wrong with them.

        Raises:
            InputError: if an id, text, metadata, length, centroid or codeword cannot be stored.
            DuplicateIdError: if a doc_id is given twice.
            ShapeError: if the numbers of documents differ, or the codec has not the index's D and nbits.
        """
        lengths, centroids, codebook = map(as_array, (lengths, centroids, codebook))
        ids, texts, objects = check_passages(doc_ids, texts, metadata, lengths=lengths)
        if lengths.dtype.kind not in "iu" or not 1 <= lengths.min() <= lengths.max() < 1 << 31:
            raise InputError("lengths are not counts of rows, each of 1 or more.")
        arrays = {"centroids": (centroids, (len(centroids), dim)), "codebook": (codebook, (256, 8 // nbits))}
        for name, (array, shape) in arrays.items():
            if array.shape != shape or not len(array):
                raise ShapeError(f"{name} are {array.shape}, the index of {nbits} bits needs {shape}.")
            if unusable_rows(array).size:
                raise InputError(f"{name}: a number is not finite, or beyond float16.")
        codec = Codec.taken_over(nbits, centroids, codebook)
        return cls(codec, ids, lengths.astype(np.int64), blocks, texts, objects)

    def parts(self, n_tokens: int) -> Iterator[tuple[slice, Iterator[CodedRows]]]:
        """Consecutive documents of at most n_tokens rows, or one longer, with their rows.

        The rows of a part must be read before the next part.

        Raises:
            InputError: from the rows, if a block is not as described, or there are more or fewer rows.
        """
        rows = _Rows(self.codec, iter(self.blocks))
        for block in blocks(np.append(0, np.cumsum(self.lengths)), n_tokens):
            yield block, rows.take(int(self.lengths[block].sum()))
        rows.finish()


class _Rows:
    """Cuts a stream of blocks where the segments end."""

    def __init__(self, codec: Codec, blocks: Iterator[tuple[Array, Array]]) -> None:
        self._codec = codec
        self._blocks = blocks
        self._codes = np.zeros(0, np.int64)
        self._residuals = np.zeros((0, codec.residual_bytes), np.uint8)

    def take(self, n: int) -> Iterator[CodedRows]:
        """The next n rows."""
        while n:
            if not len(self._codes) and not self._advance():
                raise InputError(f"blocks end {n} rows before the documents do.")
            taken = min(n, BLOCK_ROWS, len(self._codes))
            yield self._codec.unit_coded(self._codes[:taken], self._residuals[:taken])
            self._codes, self._residuals = self._codes[taken:], self._residuals[taken:]
            n -= taken

    def finish(self) -> None:
        """Refuse rows after the last document's."""
        if len(self._codes) or self._advance():
            raise InputError("blocks have more rows than the documents.")

    def _advance(self) -> bool:
        """Whether there is a next block with rows."""
        for codes, residuals in self._blocks:
            shape, n_centroids = (len(codes), self._codec.residual_bytes), self._codec.n_centroids
            if residuals.shape != shape or residuals.dtype != np.uint8:
                raise ShapeError(f"residuals are {residuals.shape} {residuals.dtype}, not {shape} uint8.")
            if not len(codes):
                continue
            if codes.dtype.kind not in "iu" or not 0 <= codes.min() <= codes.max() < n_centroids:
                raise InputError(f"a code names none of the {n_centroids} centroids.")
            self._codes, self._residuals = codes, residuals
            return True
        return False
