"""Search over one snapshot of an index.

Select the passages → find the best k of the exact segments, ties included, and the candidates of the
compressed segments → compute the final scores, one passage at a time → query the catalog once: it orders ties
by doc_id and returns text and metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.documents import PassageContents, Selection, StoredPassage
from mlx_colbert.index.catalog.passages import Passages
from mlx_colbert.index.catalog.sources import Sources
from mlx_colbert.index.search.exact import Candidates, query_sizes, search_exactly
from mlx_colbert.index.search.final import final_scores
from mlx_colbert.index.search.params import SearchParams
from mlx_colbert.index.search.plaid import PlaidSearch
from mlx_colbert.index.storage.codec import Codec
from mlx_colbert.index.storage.codec_cache import CodecCache
from mlx_colbert.index.storage.records import SegmentRecord
from mlx_colbert.index.storage.segment import (
    CompressedSegment,
    ExactSegment,
    LiveSegment,
    Segment,
    of_kind,
    rows_of,
)
from mlx_colbert.index.storage.segment_files import open_segment
from mlx_colbert.kernels import SearchOps
from mlx_colbert.stages import stage
from mlx_colbert.types import Array, Hit, TokenEmbeddings


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The index after one commit.

    Attributes:
        segments: all segments, with their live passages.
        codec: the codec of the compressed segments.
    """

    segments: list[LiveSegment[Segment]]
    codec: Codec | None


class Searcher:
    """A reader of the index, for one thread at a time. It follows the commits of writers.

    Attributes:
        catalog: its connection to the catalog.
        contents: texts, metadata and keywords, over the same connection.
        passages: locations, over the same connection.
        sources: sources, over the same connection.
    """

    def __init__(self, root: Path, codecs: CodecCache) -> None:
        self._root = root
        self._codecs = codecs
        self.catalog: Catalog = Catalog(root)
        self.contents: PassageContents = PassageContents(self.catalog)
        self.passages: Passages = Passages(self.catalog)
        self.sources: Sources = Sources(self.catalog)
        self._version: tuple[int, int] | None = None
        self._snapshot = Snapshot([], None)

    def close(self) -> None:
        """Close the catalog and drop the memory maps."""
        self._snapshot = Snapshot([], None)
        self.catalog.close()

    @property
    def mapped(self) -> set[int]:
        """The numbers of the mapped segments."""
        return {part.segment.record.number for part in self._snapshot.segments}

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The latest commit. Inside the block the catalog answers from the same commit.

        Raises:
            IndexDamagedError: if a file of a live segment is missing or altered.
        """
        failed: tuple[int, int] | None = None
        while True:
            with self.catalog.read():
                version = self.catalog.version()
                try:
                    self._map(version)
                except IndexDamagedError:
                    # A writer may have merged the segment since. Try again with a newer snapshot.
                    if version == failed:
                        raise
                    failed = version
                    continue
                yield self._snapshot
                return

    @stage("search vectors")
    def search(
        self, ops: SearchOps, queries: TokenEmbeddings, *, k: int, params: SearchParams, selection: Selection
    ) -> list[list[Hit]]:
        """The k best selected passages for each query, ordered by score, then by doc_id.

        Args:
            ops: the kernels.
            queries: n queries with the D of the index, each with one token embedding or more.
            k: 1 or more.
            params: parameters for compressed segments.
            selection: the passages that may be found.
        """
        with self.snapshot() as snapshot:
            segments = self._selected(snapshot, selection)
            parts = [[part] for part in search_exactly(ops, queries, of_kind(segments, ExactSegment), k=k)]
            if compressed := of_kind(segments, CompressedSegment):
                more = self._compressed(ops, queries, compressed, k, params)
                for part, found in zip(parts, more, strict=True):
                    part.append(found)
            known = {part.segment.record.number: part.segment for part in segments}
            hits = []
            for query, size, part in zip(queries, query_sizes(queries), parts, strict=True):
                near = Candidates.best(part, k, size)
                found = final_scores(query, near, known, snapshot.codec)
                hits.append(self._hits(Candidates.best([found], k), k))
            return hits

    @stage("search words")
    def search_keywords(self, query: str, *, k: int, selection: Selection) -> list[Hit]:
        """The k best selected passages, ordered by the BM25 of their texts, then by doc_id."""
        with self.snapshot():
            rows = self.contents.by_keywords(query, selection, k)
            candidates = [(segment, ordinal, rank) for rank, (segment, ordinal, _) in enumerate(rows)]
            found = self.contents.top(candidates, k)
            return [
                _hit(rank, rows[position][2], passage)
                for rank, (position, passage) in enumerate(found, start=1)
            ]

    def embeddings(self, doc_ids: Sequence[str]) -> dict[str, Array]:
        """The token embeddings (n_tokens, D) float32 of each of these passages that the index has."""
        with self.snapshot() as snapshot:
            known = {part.segment.record.number: part.segment for part in snapshot.segments}
            found = {}
            for doc_id, location in self.passages.locate(doc_ids).items():
                segment = known.get(location.segment)
                if segment is None or not 0 <= location.ordinal < len(segment.lengths):
                    raise self.catalog.damaged("has a passage that is not in its segment")
                rows = rows_of(segment, np.array([location.ordinal]))
                if isinstance(segment, CompressedSegment):
                    assert snapshot.codec is not None
                    found[doc_id] = snapshot.codec.decode(segment.rows(rows))
                else:
                    found[doc_id] = segment.embeddings.vectors[rows].astype(np.float32)
            return found

    def _selected(self, snapshot: Snapshot, selection: Selection) -> list[LiveSegment[Segment]]:
        """The segments with a selected passage. Only selected passages are live in them."""
        if not selection:
            return [part for part in snapshot.segments if part.n_live]
        locations = self.contents.locations(selection)
        segments = []
        for part in snapshot.segments:
            chosen = locations[locations[:, 0] == part.segment.record.number, 1]
            if len(chosen):
                live = np.zeros(len(part.live), np.bool_)
                if chosen.min() < 0 or chosen.max() >= len(live):
                    raise self.catalog.damaged("has a passage that is not in its segment")
                live[chosen] = True
                live &= part.live
                if live.any():
                    segments.append(LiveSegment(part.segment, live, int(live.sum())))
        return segments

    def _compressed(
        self,
        ops: SearchOps,
        queries: TokenEmbeddings,
        segments: list[LiveSegment[CompressedSegment]],
        k: int,
        params: SearchParams,
    ) -> Iterator[Candidates]:
        """The candidates for each query in compressed segments."""
        codec = self._snapshot.codec
        assert codec is not None
        sizes = [len(part.live) for part in segments]
        ends = np.cumsum(sizes)
        numbers = np.array([part.segment.record.number for part in segments])
        search = PlaidSearch(ops, codec, self._codecs.centroids(codec), segments)
        for passages, scores in search.search(queries, k, params):
            if np.isnan(scores).any() or (scores == np.inf).any():
                raise IndexDamagedError(self._root, "has a vector that is not finite. Build the index again.")
            positions = np.searchsorted(ends, passages, side="right")
            ordinals = passages - (ends - sizes)[positions]
            scored = scores > -np.inf
            yield Candidates(scores[scored], numbers[positions][scored], ordinals[scored])

    def _map(self, version: tuple[int, int]) -> None:
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
        self, record: SegmentRecord, known: LiveSegment[Segment] | None, codec: Codec | None
    ) -> LiveSegment[Segment]:
        """A segment and its live passages. Its files stay mapped if an earlier commit had it."""
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
            raise self.catalog.damaged("does not have all passages of a segment")
        return [
            _hit(rank, found.scores[position], passage)
            for rank, (position, passage) in enumerate(rows, start=1)
        ]


def _hit(rank: int, score: float, passage: StoredPassage) -> Hit:
    place = passage.source, passage.position
    return Hit(rank, float(score), passage.doc_id, passage.text, passage.metadata, *place)
