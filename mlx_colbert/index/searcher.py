"""Exact search over one snapshot of an index.

Scores of every document (n_queries, N) per segment → the best k of each, ties included → one query to the
catalog, which orders ties by doc_id and brings text and metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlx_colbert.backends import Ops
from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index.catalog import Catalog
from mlx_colbert.index.schema import CATALOG_NAME
from mlx_colbert.index.segment import Segment, SegmentRecord, open_segment
from mlx_colbert.types import Array, Hit, TokenEmbeddings

# Bounds the (query tokens, documents) float32 maxima that a kernel returns before they are summed: 128 MiB.
_MAX_SCORES = 1 << 25


@dataclass(frozen=True, eq=False)
class LiveSegment:
    """A segment as one snapshot sees it.

    Attributes:
        segment: the mapped files.
        live: (N,) bool, False for a deleted document.
        n_live: number of documents that are not deleted.
    """

    segment: Segment
    live: Array
    n_live: int


@dataclass(frozen=True, eq=False)
class Candidates:
    """Documents that may be among the best k of one query.

    Attributes:
        scores: (n,) float32.
        segments: (n,) int64, number of the segment of each.
        ordinals: (n,) int64, position of each in its segment.
    """

    scores: Array
    segments: Array
    ordinals: Array


class Searcher:
    """A reader of the index, for one thread at a time; it follows the commits of writers.

    Attributes:
        catalog: its connection.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.catalog = Catalog(root)
        self._version: int | None = None
        self._segments: dict[int, LiveSegment] = {}

    def close(self) -> None:
        """Closes the catalog and drops the maps."""
        self._segments.clear()
        self.catalog.close()

    @contextmanager
    def snapshot(self) -> Iterator[list[LiveSegment]]:
        """The live segments of one commit; the catalog answers from the same commit inside the block.

        Raises:
            IndexDamagedError: if a file of a live segment is missing or altered.
        """
        failed: int | None = None
        while True:
            with self.catalog.read():
                version = self.catalog.version()
                try:
                    self._map(version)
                except IndexDamagedError:
                    # A writer may have merged the segment away since: a newer snapshot tells.
                    if version == failed:
                        raise
                    failed = version
                    continue
                yield list(self._segments.values())
                return

    def search(self, ops: Ops, queries: TokenEmbeddings, k: int) -> list[list[Hit]]:
        """The k best documents of each query, by score, then by doc_id.

        Args:
            ops: the kernels.
            queries: n queries of the index's D, each of one row or more.
            k: 1 or more.
        """
        with self.snapshot() as segments:
            largest = max((len(live.live) for live in segments), default=1)
            n_tokens = max(1, _MAX_SCORES // largest)
            hits: list[list[Hit]] = []
            while len(hits) < len(queries):
                start = len(hits)
                end = np.searchsorted(queries.offsets, queries.offsets[start] + n_tokens, side="right")
                part = queries[start : max(int(end) - 1, start + 1)]
                hits += [self._hits(found, k) for found in _best(ops, part, segments, k)]
            return hits

    def _map(self, version: int) -> None:
        if version == self._version:
            return
        segments: dict[int, LiveSegment] = {}
        for record in self.catalog.segments():
            known = self._segments.get(record.number)
            if known is None or known.segment.record.n_deleted != record.n_deleted:
                known = self._live_segment(record, known)
            segments[record.number] = known
        self._segments, self._version = segments, version

    def _live_segment(self, record: SegmentRecord, known: LiveSegment | None) -> LiveSegment:
        """A segment with its deletions; its files stay mapped where an earlier commit knew it."""
        if known is None:
            segment = open_segment(self._root, record, dim=self.catalog.dim)
        else:
            segment = replace(known.segment, record=record)
        live = np.ones(record.n_documents, np.bool_)
        live[self.catalog.deleted_ordinals(record)] = False
        return LiveSegment(segment, live, record.n_documents - record.n_deleted)

    def _hits(self, found: Candidates, k: int) -> list[Hit]:
        ranks = np.unique(-found.scores, return_inverse=True)[1]
        rows = self.catalog.top(
            list(zip(found.segments.tolist(), found.ordinals.tolist(), ranks.tolist(), strict=True)), k
        )
        if len(rows) != min(k, len(ranks)):
            raise IndexDamagedError(
                self._root / CATALOG_NAME,
                "lacks a document of a segment. Restore it from a backup, or build it again.",
            )
        return [
            Hit(rank, float(found.scores[position]), doc_id, text, metadata)
            for rank, (position, doc_id, text, metadata) in enumerate(rows, start=1)
        ]


def _best(ops: Ops, queries: TokenEmbeddings, segments: list[LiveSegment], k: int) -> list[Candidates]:
    """The candidates of each query: the k best over all segments, and every document tied with the last."""
    parts: list[list[Candidates]] = [[] for _ in range(len(queries))]
    for live in segments:
        scores = ops.maxsim(queries, live.segment.embeddings)
        if not np.isfinite(scores).all():
            path = live.segment.path
            raise IndexDamagedError(path, "holds a vector that is not finite. Build the index again.")
        number = live.segment.record.number
        for query, row in enumerate(np.where(live.live, scores, -np.inf)):
            chosen = _at_least_kth(row, min(k, live.n_live))
            parts[query].append(Candidates(row[chosen], np.full(len(chosen), number), chosen))
    return [_merge(found, k) for found in parts]


def _merge(parts: list[Candidates], k: int) -> Candidates:
    if not parts:
        return Candidates(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    scores = np.concatenate([part.scores for part in parts])
    chosen = _at_least_kth(scores, min(k, len(scores)))
    segments = np.concatenate([part.segments for part in parts])
    ordinals = np.concatenate([part.ordinals for part in parts])
    return Candidates(scores[chosen], segments[chosen], ordinals[chosen])


def _at_least_kth(scores: Array, k: int) -> Array:
    """The positions (n,) of the scores that are not below the k-th best; n > k where there are ties."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= kth)
