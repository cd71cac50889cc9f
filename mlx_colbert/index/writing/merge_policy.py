"""The choice of the segments to merge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_colbert.index.storage.records import COMPRESSED, EXACT, SegmentRecord
from mlx_colbert.index.writing.merge import Compressor, SegmentRows

# An add that would leave this many segments in its size class writes them as one segment. So a row is written
# again about once per class.
FAN_OUT = 8
# Live tokens of the smallest class, 1 MiB at D = 128. To write that much costs about as much as the syncs of
# a commit, and to scan seven such segments costs a few milliseconds.
SMALLEST_TOKENS = 4096
# A writer keeps all of a segment but its residuals in memory: about 100 MB for this many tokens.
LARGEST_TOKENS = 1 << 22
# A bulk that changed less than one row in this many does not change the other segments.
SMALL_PART = 8


@dataclass(frozen=True)
class Extent:
    """The extent of an index at one moment.

    Attributes:
        last_segment: the highest number of a segment.
        n_deleted_tokens: the number of vectors of deleted passages.
    """

    last_segment: int
    n_deleted_tokens: int

    @classmethod
    def of(cls, records: Sequence[SegmentRecord]) -> Extent:
        """The extent of an index with these segments."""
        return cls(
            max((record.number for record in records), default=0),
            sum(record.n_deleted_tokens for record in records),
        )

    def n_changed(self, records: Sequence[SegmentRecord]) -> int:
        """The number of vectors that were added or deleted since then."""
        n_added = sum(record.n_tokens for record in records if record.number > self.last_segment)
        return n_added + max(0, Extent.of(records).n_deleted_tokens - self.n_deleted_tokens)


def unfinished(records: Sequence[SegmentRecord], *, is_compressed: bool) -> list[SegmentRecord]:
    """The segments that still need compression, or that are too many in their size class."""
    # Larger segments need no merge.
    small = [record for record in records if record.live_tokens * FAN_OUT <= LARGEST_TOKENS]
    sizes = Counter(_size_class(record.live_tokens) for record in small)
    crowded = [record for record in small if sizes[_size_class(record.live_tokens)] >= FAN_OUT]
    waiting = [r for r in records if r.storage == EXACT and r.live_tokens > SMALLEST_TOKENS]
    return [record for record in records if record in crowded or (is_compressed and record in waiting)]


def due_for_merge(records: Sequence[SegmentRecord], n_tokens: int) -> list[SegmentRecord]:
    """The segments to merge with `n_tokens` new rows.

    New rows and seven segments of the same size class become one segment. That one may then be merged with
    seven segments of its own class.
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
    """Groups of segments to write as one segment each. No group is larger than LARGEST_TOKENS."""
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
