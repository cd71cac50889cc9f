"""Which segments are written again, and together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_colbert.index.storage.segment import COMPRESSED, EXACT, SegmentRecord
from mlx_colbert.index.writing.merge import Compressor, SegmentRows

# An add that would leave this many segments in its size class writes them as one: a row is written again
# about once per class.
FAN_OUT = 8
# Live tokens of the smallest class, 1 MiB at D = 128: to write that costs about as much as a commit's syncs,
# to scan seven of them a few milliseconds.
SMALLEST_TOKENS = 4096
# All but the residuals of a segment is in memory while it is written: some 100 MB for this many tokens.
LARGEST_TOKENS = 1 << 22
# A bulk that changed less than one row in so many leaves the other segments as they are.
SMALL_PART = 8


@dataclass(frozen=True)
class Extent:
    """How far an index went at some time.

    Attributes:
        last_segment: the highest number of a segment.
        n_deleted_tokens: vectors of deleted passages.
    """

    last_segment: int
    n_deleted_tokens: int

    @classmethod
    def of(cls, records: Sequence[SegmentRecord]) -> Extent:
        """How far an index of these segments goes."""
        return cls(
            max((record.number for record in records), default=0),
            sum(record.n_deleted_tokens for record in records),
        )

    def n_changed(self, records: Sequence[SegmentRecord]) -> int:
        """Vectors that were added or deleted since."""
        n_added = sum(record.n_tokens for record in records if record.number > self.last_segment)
        return n_added + max(0, Extent.of(records).n_deleted_tokens - self.n_deleted_tokens)


def unfinished(records: Sequence[SegmentRecord], *, is_compressed: bool) -> list[SegmentRecord]:
    """The segments whose vectors wait to be compressed, or that are too many in their size class."""
    # Larger ones may stay apart for good.
    small = [record for record in records if record.live_tokens * FAN_OUT <= LARGEST_TOKENS]
    sizes = Counter(_size_class(record.live_tokens) for record in small)
    crowded = [record for record in small if sizes[_size_class(record.live_tokens)] >= FAN_OUT]
    waiting = [r for r in records if r.storage == EXACT and r.live_tokens > SMALLEST_TOKENS]
    return [record for record in records if record in crowded or (is_compressed and record in waiting)]


def due_for_merge(records: Sequence[SegmentRecord], n_tokens: int) -> list[SegmentRecord]:
    """The segments to write again together with `n_tokens` new rows.

    With seven segments of its own size class they become one, which may join those of its class in turn.
    """
    merged: list[SegmentRecord] = []
    while True:
        size = _size_class(n_tokens)
        peers = [r for r in records if r not in merged and _size_class(r.live_tokens) == size]
        n_tokens += sum(record.live_tokens for record in peers)
        if len(peers) < FAN_OUT - 1 or n_tokens > LARGEST_TOKENS:
            return sorted(merged, key=lambda record: record.number)
        merged += peers


def _size_class(n_tokens: int) -> int:
    size, bound = 0, SMALLEST_TOKENS
    while n_tokens > bound:
        size, bound = size + 1, bound * FAN_OUT
    return size


def grouped(sources: Sequence[SegmentRows], compressor: Compressor | None) -> list[list[SegmentRows]]:
    """Segments to be written as one each, none of them larger than a segment may grow."""
    parts: list[list[SegmentRows]] = []
    size = LARGEST_TOKENS
    for source in sources:
        if size + source.record.live_tokens > LARGEST_TOKENS:
            parts.append([])
            size = 0
        parts[-1].append(source)
        size += source.record.live_tokens
    storage = EXACT if compressor is None else COMPRESSED
    done = compressor is None or compressor.keeps_codes
    return [
        group
        for group in parts
        if not (
            done and len(group) == 1 and group[0].record.storage == storage and not group[0].record.n_deleted
        )
    ]
