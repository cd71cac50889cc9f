"""Search over one snapshot of an index.

Which documents may be found → the best k of each float16 segment, ties included, and the candidates of the
coded segments → one query to the catalog, which orders ties by doc_id and brings text and metadata.
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
from mlx_colbert.index.codec import Codec
from mlx_colbert.index.codec_cache import CodecCache
from mlx_colbert.index.contents import Contents, Selection
from mlx_colbert.index.params import SearchParams
from mlx_colbert.index.plaid import CodedView, PlaidSearch
from mlx_colbert.index.schema import CATALOG_NAME
from mlx_colbert.index.segment import (
    CodedSegment,
    ExactSegment,
    Segment,
    SegmentRecord,
    open_segment,
)
from mlx_colbert.types import Array, Hit, TokenEmbeddings

# Bounds the (query tokens, documents) float32 maxima that a kernel returns before they are summed: 128 MiB.
_MAX_SCORES = 1 << 25
# Where fewer than one document in this many may be found, only those are read.
_FEW = 4


@dataclass(frozen=True, eq=False)
class LiveSegment:
    """A segment as one snapshot sees it.

    Attributes:
        segment: the mapped files.
        live: (N,) bool, False for a document that is deleted, or may not be found.
        n_live: how many are True.
    """

    segment: Segment
    live: Array
    n_live: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The index as one commit left it.

    Attributes:
        segments: the live segments.
        codec: of those that are coded.
    """

    segments: list[LiveSegment]
    codec: Codec | None


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
        contents: texts, metadata and keywords over the same connection.
    """

    def __init__(self, root: Path, codecs: CodecCache) -> None:
        self._root = root
        self._codecs = codecs
        self.catalog = Catalog(root)
        self.contents = Contents(self.catalog)
        self._version: int | None = None
        self._snapshot = Snapshot([], None)

    def close(self) -> None:
        """Closes the catalog and drops the maps."""
        self._snapshot = Snapshot([], None)
        self.catalog.close()

    @property
    def mapped(self) -> set[int]:
        """The numbers of the segments that it has mapped."""
        return {part.segment.record.number for part in self._snapshot.segments}

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One commit; the catalog answers from the same commit inside the block.

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
                yield self._snapshot
                return

    def search(
        self, ops: Ops, queries: TokenEmbeddings, k: int, params: SearchParams, selection: Selection
    ) -> list[list[Hit]]:
        """The k best of the selected documents for each query, by score, then by doc_id.

        Args:
            ops: the kernels.
            queries: n queries of the index's D, each of one row or more.
            k: 1 or more.
            params: for coded segments.
            selection: which documents may be found.
        """
        with self.snapshot() as snapshot:
            segments = self._selected(snapshot, selection)
            parts = [[part] for part in _exact(ops, queries, segments, k)]
            for part, found in zip(parts, self._coded(ops, queries, segments, k, params), strict=False):
                part.append(found)
            return [self._hits(_merge(part, k), k) for part in parts]

    def search_keywords(self, query: str, k: int, selection: Selection) -> list[Hit]:
        """The k best of the selected documents by the BM25 of their texts, then by doc_id."""
        with self.snapshot():
            rows = self.contents.by_keywords(query, selection, k)
            places = [(segment, ordinal, rank) for rank, (segment, ordinal, _) in enumerate(rows)]
            found = self.contents.top(places, k)
            return [
                Hit(rank, float(rows[position][2]), doc_id, text, metadata)
                for rank, (position, doc_id, text, metadata) in enumerate(found, start=1)
            ]

    def _selected(self, snapshot: Snapshot, selection: Selection) -> list[LiveSegment]:
        """The segments that hold a selected document, with only those live."""
        if not selection:
            return [part for part in snapshot.segments if part.n_live]
        places = self.contents.places(selection)
        segments = []
        for part in snapshot.segments:
            chosen = places[places[:, 0] == part.segment.record.number, 1]
            if len(chosen):
                live = np.zeros(len(part.live), np.bool_)
                if chosen.min() < 0 or chosen.max() >= len(live):
                    raise self.catalog.damaged("names a document that its segment does not hold")
                live[chosen] = True
                live &= part.live
                if live.any():
                    segments.append(LiveSegment(part.segment, live, int(live.sum())))
        return segments

    def _coded(
        self, ops: Ops, queries: TokenEmbeddings, segments: list[LiveSegment], k: int, params: SearchParams
    ) -> Iterator[Candidates]:
        """The candidates of each query among coded segments; nothing where there are none."""
        codec = self._snapshot.codec
        views = [
            CodedView(part.segment, part.live, part.n_live)
            for part in segments
            if isinstance(part.segment, CodedSegment)
        ]
        if codec is None or not views:
            return
        ends = np.cumsum([len(view.allowed) for view in views])
        numbers = np.array([view.segment.record.number for view in views])
        search = PlaidSearch(ops, codec, self._codecs.centroids(codec), views)
        for documents, scores in search.search(queries, k, params):
            if np.isnan(scores).any() or (scores == np.inf).any():
                raise IndexDamagedError(self._root, "a vector in it is not finite. Build the index again.")
            at = np.searchsorted(ends, documents, side="right")
            ordinals = documents - (ends - [len(view.allowed) for view in views])[at]
            scored = scores > -np.inf
            yield Candidates(scores[scored], numbers[at][scored], ordinals[scored])

    def _map(self, version: int) -> None:
        if version == self._version:
            return
        codec = self._codecs.get(self.catalog.codec(), dim=self.catalog.settings.dim)
        known = {part.segment.record.number: part for part in self._snapshot.segments}
        segments = []
        for record in self.catalog.segments():
            part = known.get(record.number)
            if part is None or part.segment.record.n_deleted != record.n_deleted:
                part = self._live_segment(record, part, codec)
            segments.append(part)
        self._snapshot, self._version = Snapshot(segments, codec), version

    def _live_segment(
        self, record: SegmentRecord, known: LiveSegment | None, codec: Codec | None
    ) -> LiveSegment:
        """A segment with its deletions; its files stay mapped where an earlier commit knew it."""
        segment: Segment
        if known is None:
            segment = open_segment(self._root, record, dim=self.catalog.settings.dim, codec=codec)
        else:
            segment = replace(known.segment, record=record)
        live = np.ones(record.n_documents, np.bool_)
        live[self.catalog.deleted_ordinals(record)] = False
        return LiveSegment(segment, live, record.n_documents - record.n_deleted)

    def _hits(self, found: Candidates, k: int) -> list[Hit]:
        ranks = np.unique(-found.scores, return_inverse=True)[1]
        rows = self.contents.top(
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


def _exact(ops: Ops, queries: TokenEmbeddings, segments: list[LiveSegment], k: int) -> Iterator[Candidates]:
    """The candidates of each query in float16 segments: the k best, and all tied with the last."""
    exact = [(part, part.segment) for part in segments if isinstance(part.segment, ExactSegment)]
    largest = max((len(part.live) for part, _ in exact), default=1)
    n_tokens = max(1, _MAX_SCORES // largest)
    start = 0
    while start < len(queries):
        end = int(np.searchsorted(queries.offsets, queries.offsets[start] + n_tokens, side="right")) - 1
        end = max(end, start + 1)
        found: list[list[Candidates]] = [[] for _ in range(end - start)]
        for part, segment in exact:
            ordinals = np.flatnonzero(part.live)
            few = len(ordinals) * _FEW < len(part.live)
            documents = _taken(segment.embeddings, ordinals) if few else segment.embeddings
            scores = ops.maxsim(queries[start:end], documents)
            if not np.isfinite(scores).all():
                raise IndexDamagedError(
                    segment.path, "holds a vector that is not finite. Build the index again."
                )
            number = segment.record.number
            for query, row in enumerate(scores if few else scores[:, ordinals]):
                chosen = _at_least_kth(row, min(k, part.n_live))
                found[query].append(Candidates(row[chosen], np.full(len(chosen), number), ordinals[chosen]))
        yield from (_merge(parts, k) for parts in found)
        start = end


def _taken(embeddings: TokenEmbeddings, ordinals: Array) -> TokenEmbeddings:
    """Some documents, copied."""
    chosen = np.zeros(len(embeddings), np.bool_)
    chosen[ordinals] = True
    return TokenEmbeddings(
        embeddings.vectors[np.repeat(chosen, embeddings.lengths)], embeddings.lengths[ordinals]
    )


def _merge(parts: list[Candidates], k: int) -> Candidates:
    if not any(len(part.scores) for part in parts):
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
