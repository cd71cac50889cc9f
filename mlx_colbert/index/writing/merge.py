"""Rows on their way into another segment: sampled, decoded, coded."""

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
from mlx_colbert.index.storage.segment import CompressedSegment, Segment, SegmentRecord
from mlx_colbert.kernels import SearchOps
from mlx_colbert.types import Array, CodedRows

# Rows coded at a time: enough for each coarse centre's product, 16 MiB of float32 at D = 128.
_CODE_ROWS = 32768
# Rows looked at to see whether new centroids are needed.
_OUTLIER_SAMPLE = 65536
_SEED = 42


@dataclass(frozen=True, eq=False)
class SegmentRows:
    """The live rows of a segment.

    Attributes:
        segment: its mapped files.
        live: (N,) bool, False for a deleted document.
        codec: what decodes the segment, if it is coded.
    """

    segment: Segment
    live: Array
    codec: Codec | None

    @property
    def record(self) -> SegmentRecord:
        """What the catalog says of the segment."""
        return self.segment.record

    @property
    def is_compressed(self) -> bool:
        """Whether its rows are codes."""
        return isinstance(self.segment, CompressedSegment)

    @property
    def lengths(self) -> Array:
        """Rows of each live document."""
        lengths: Array = self.segment.lengths[self.live]
        return lengths

    def rows(self) -> Iterator[Array]:
        """Blocks (n, D) of the rows, decoded where they are coded."""
        if isinstance(self.segment, CompressedSegment):
            assert self.codec is not None
            yield from (self.codec.decode(block) for block in self.segment.live_rows(self.live))
        else:
            yield from self.segment.live_rows(self.live)


@dataclass(frozen=True, eq=False)
class Compressor:
    """Codes rows in one codec.

    Attributes:
        codec: the codec.
        assigner: of its centroids.
        keeps_codes: whether rows that are coded are in this codec, or in the one that it extends.
    """

    codec: Codec
    assigner: Assigner
    keeps_codes: bool

    @classmethod
    def build(cls, ops: SearchOps, codec: Codec) -> Compressor:
        """What codes rows in a codec."""
        return cls(codec, Assigner.build(ops, codec.centroids), True)

    def coded(
        self, ops: SearchOps, sources: Sequence[SegmentRows], new: Iterable[Array]
    ) -> Iterator[CodedRows]:
        """The rows of segments and then new ones (n, D), coded."""
        for source in sources:
            if self.keeps_codes and isinstance(source.segment, CompressedSegment):
                yield from source.segment.live_rows(source.live)
            else:
                yield from self._encoded(ops, source.rows())
        yield from self._encoded(ops, new)

    def _encoded(self, ops: SearchOps, blocks: Iterable[Array]) -> Iterator[CodedRows]:
        for rows in _regrouped(blocks):
            yield self.codec.encode(ops, self.assigner, rows)

    def extension(
        self, ops: SearchOps, sources: Sequence[SegmentRows], *, new: Iterable[Array], n_new: int
    ) -> Codec | None:
        """The codec with more centroids, if many of the float16 and the new rows lie far from all it has.

        Args:
            ops: the kernels.
            sources: segments, of which the float16 ones count.
            new: arrays (n, D).
            n_new: their rows together.
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
) -> Codec:
    """A codec for the rows of segments and new ones, n_tokens together.

    The sample that it is trained on, and what that takes besides, stays within about memory_bytes.
    """
    n_centroids = n_centroids_for(n_tokens)
    n_rows = SAMPLE_PER_CENTROID * n_centroids
    sample = _sample(sources, new, n_tokens, lambda dim: min(n_rows, memory_bytes // (6 * dim)))
    return train_codec(ops, sample, n_centroids=n_centroids, nbits=nbits)


def _sample(
    sources: Sequence[SegmentRows], new: Iterable[Array], n_tokens: int, n_rows: Callable[[int], int]
) -> Array:
    """About n_rows(D) of the rows, at random, the same ones every time: (n, D) float16, at unit length."""
    rng = np.random.default_rng(_SEED)
    parts: list[Array] = []
    for block in chain(*(source.rows() for source in sources), new):
        chosen = rng.random(len(block)) * n_tokens < n_rows(block.shape[1])
        # What a long row was decoded to may be beyond float16.
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
