"""Final scores of the best candidates: one passage at a time, so that equal passages get equal scores.

The rounding of a matrix product depends on its shape, and so on the segment, the block and the other queries
in it. Here each product is of one query and one passage. numpy computes it for every backend.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlx_colbert.index.search.exact import Candidates
from mlx_colbert.index.storage.codec import Codec
from mlx_colbert.index.storage.segment import CompressedSegment, Segment, rows_of
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.kernels.half import widen
from mlx_colbert.kernels.threads import mapped
from mlx_colbert.types import Array

__all__ = ["final_scores"]

# Rows to read and decode at once: one passage at a time would cost more than the scores.
_CHUNK_ROWS = 8192


def final_scores(
    query: Array, found: Candidates, segments: Mapping[int, Segment], codec: Codec | None
) -> Candidates:
    """The same passages with their final scores.

    Args:
        query: (Q, D) of any float type.
        found: the passages.
        segments: the segments by number.
        codec: the codec of the compressed segments.

    Raises:
        IndexDamagedError: if a compressed row is damaged.
    """
    query = np.ascontiguousarray(query, np.float32)
    rotated = query if codec is None else codec.rotated(query)
    scores = np.empty(len(found.scores), np.float32)
    chunks: list[tuple[int, Array]] = []
    for number in sorted(set(found.segments.tolist())):
        positions = np.flatnonzero(found.segments == number)
        offsets = np.append(0, np.cumsum(segments[number].lengths[found.ordinals[positions]]))
        chunks += [(number, positions[block]) for block in blocks(offsets, _CHUNK_ROWS)]

    def score(chunk: tuple[int, Array]) -> None:
        number, positions = chunk
        segment, ordinals = segments[number], found.ordinals[positions]
        rows = _rows(segment, codec, ordinals)
        tokens = rotated if isinstance(segment, CompressedSegment) else query
        ends = np.cumsum(segment.lengths[ordinals])
        for position, passage in zip(positions, np.split(rows, ends[:-1]), strict=True):
            scores[position] = (tokens @ passage.T).max(axis=1).sum()

    for _ in mapped(score, chunks):
        pass
    return Candidates(scores, found.segments, found.ordinals)


def _rows(segment: Segment, codec: Codec | None, ordinals: Array) -> Array:
    """The vectors (n, D) float32 of some passages, in the axes of their storage."""
    rows = rows_of(segment, ordinals)
    if isinstance(segment, CompressedSegment):
        assert codec is not None
        return codec.decode_rotated(segment.rows(rows))
    half = segment.embeddings.vectors[rows]
    return widen(half, np.empty(half.shape, np.float32))
