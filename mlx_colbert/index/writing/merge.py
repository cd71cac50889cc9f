"""Moves rows into a new segment: samples, decodes and compresses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mlx_colbert.index.storage.codec import (
    SAMPLE_PER_CENTROID,
    Bits,
    Codec,
    n_centroids_for,
    train_codec,
    unit_rows,
)
from mlx_colbert.index.storage.kmeans import Assigner
from mlx_colbert.index.storage.records import SegmentRecord
from mlx_colbert.index.storage.segment import CompressedSegment, Segment
from mlx_colbert.kernels import SearchOps
from mlx_colbert.progress import Part
from mlx_colbert.types import Array, CompressedRows

# Rows to compress at a time: enough for a product per coarse centre, 16 MiB of float32 at D = 128.
_CODE_ROWS = 32768
# Rows to sample to find out if new centroids are needed.
_OUTLIER_SAMPLE = 65536
_SEED = 42


@dataclass(frozen=True, eq=False)
class SegmentRows:
    """The live rows of a segment.

    Attributes:
        segment: its mapped files.
        live: (N,) bool, False for a deleted passage.
        codec: the codec of the segment, if it is compressed.
    """

    segment: Segment
    live: Array
    codec: Codec | None

    @property
    def record(self) -> SegmentRecord:
        """The segment's row in the catalog."""
        return self.segment.record

    @property
    def is_compressed(self) -> bool:
        """Whether the segment is compressed."""
        return isinstance(self.segment, CompressedSegment)

    @property
    def lengths(self) -> Array:
        """The number of rows of each live passage."""
        lengths: Array = self.segment.lengths[self.live]
        return lengths

    def rows(self) -> Iterator[Array]:
        """The rows as blocks (n, D), decoded if they are compressed."""
        if isinstance(self.segment, CompressedSegment):
            assert self.codec is not None
            yield from (self.codec.decode(block) for block in self.segment.live_rows(self.live))
        else:
            yield from self.segment.live_rows(self.live)


@dataclass(frozen=True, eq=False)
class Compressor:
    """Compresses rows with one codec.

    Attributes:
        codec: the codec.
        assigner: the assigner of its centroids.
        keeps_codes: whether compressed rows can stay as they are, because they use this codec or the one
            that it extends.
    """

    codec: Codec
    assigner: Assigner
    keeps_codes: bool

    @classmethod
    def build(cls, ops: SearchOps, codec: Codec) -> Compressor:
        """The compressor of a codec."""
        return cls(codec, Assigner.build(ops, codec.centroids), True)

    def compressed(
        self, ops: SearchOps, sources: Sequence[SegmentRows], new: Iterable[Array]
    ) -> Iterator[CompressedRows]:
        """The compressed rows of segments, and then of new arrays (n, D)."""
        for source in sources:
            if self.keeps_codes and isinstance(source.segment, CompressedSegment):
                yield from source.segment.live_rows(source.live)
            else:
                yield from self._encoded(ops, source.rows())
        yield from self._encoded(ops, new)

    def _encoded(self, ops: SearchOps, blocks: Iterable[Array]) -> Iterator[CompressedRows]:
        for rows in _regrouped(blocks):
            yield self.codec.encode(ops, self.assigner, rows)

    def extension(
        self, ops: SearchOps, sources: Sequence[SegmentRows], *, new: Iterable[Array], n_new: int
    ) -> Codec | None:
        """The codec with more centroids, if many of the exact rows are far from all of its centroids.

        Args:
            ops: the kernels.
            sources: the segments. Only the exact ones are used.
            new: new rows, as arrays (n, D).
            n_new: the number of new rows.
        """
        exact = [source for source in sources if not source.is_compressed]
        n_tokens = sum(source.record.live_tokens for source in exact) + n_new
        if n_tokens == 0 or not self.codec.is_extensible:
            return None
        sample = _sample(exact, new, n_tokens, lambda _: _OUTLIER_SAMPLE)
        outliers = self.codec.outliers(ops, self.assigner, sample)
        if not self.codec.needs_centroids(len(outliers), len(sample)):
            return None
        return self.codec.extended(ops, outliers)


def train(
    ops: SearchOps,
    sources: Sequence[SegmentRows],
    *,
    new: Iterable[Array],
    n_tokens: int,
    nbits: Bits,
    memory_bytes: int,
    told: Part,
) -> Codec:
    """A new codec for the rows of segments and new rows, n_tokens in total.

    The training needs about memory_bytes at most. `told` is called again and again meanwhile.
    """
    n_centroids = n_centroids_for(n_tokens)
    n_rows = SAMPLE_PER_CENTROID * n_centroids
    sample = _sample(sources, new, n_tokens, lambda dim: min(n_rows, memory_bytes // (6 * dim)))
    return train_codec(ops, sample, n_centroids=n_centroids, nbits=nbits, overwrite=True, told=told)


def _sample(
    sources: Sequence[SegmentRows], new: Iterable[Array], n_tokens: int, n_rows: Callable[[int], int]
) -> Array:
    """About n_rows(D) random rows, the same ones each time: (n, D) float16, at unit length."""
    rng = np.random.default_rng(_SEED)
    parts: list[Array] = []
    for block in chain(*(source.rows() for source in sources), new):
        chosen = rng.random(len(block)) * n_tokens < n_rows(block.shape[1])
        # A long decoded row may be out of the range of float16.
        parts.append(unit_rows(block[chosen].astype(np.float32)).astype(np.float16))
    return np.concatenate(parts)


def _regrouped(blocks: Iterable[Array]) -> Iterator[Array]:
    """The same rows in larger blocks."""
    waiting: list[Array] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= _CODE_ROWS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
