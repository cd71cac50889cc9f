"""Writes new segments: added passages, merges of old segments, and the codec for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from mlx_colbert.counts import counted
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.passages import PassageRow, Passages
from mlx_colbert.index.catalog.sources import Sources
from mlx_colbert.index.storage.codec import Codec, n_centroids_for
from mlx_colbert.index.storage.codec_files import open_codec, write_codec
from mlx_colbert.index.storage.records import COMPRESSED, EXACT, SegmentRecord, codec_folder, segment_folder
from mlx_colbert.index.storage.segment_files import open_segment, write_compressed, write_exact
from mlx_colbert.index.writing import merge_policy
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.index.writing.compressed_import import CompressedImport
from mlx_colbert.index.writing.merge import Compressor, SegmentRows, train
from mlx_colbert.kernels import SearchOps
from mlx_colbert.progress import Progress, silent
from mlx_colbert.types import Array, Source

# A new codec is trained when an index needs this many times the centroids that it has.
_RETRAIN_GROWTH = 4
MEMORY_BYTES = 1 << 30

_Block = TypeVar("_Block")


class SegmentWriter:
    """Writes segments and codecs, and names them in the catalog. Use it within a transaction of the catalog.

    Methods that return paths return the folders that are not needed after the commit.
    """

    def __init__(self, catalog: Catalog, ops: SearchOps) -> None:
        self._catalog = catalog
        self._root = catalog.root
        self._ops = ops
        self._passages = Passages(catalog)
        self._sources = Sources(catalog)
        self._compressor: tuple[int, Compressor] | None = None

    def forget_compressor(self) -> None:
        """Forget the compressor of the last change. That change may have been undone."""
        self._compressor = None

    def outgrown(self, n_tokens: int) -> bool:
        """Whether an index of that many tokens should be compressed."""
        exact_tokens = self._catalog.settings.exact_tokens
        return exact_tokens is not None and n_tokens > exact_tokens

    def _grown(self, codec: Codec, n_tokens: int) -> bool:
        # The codec of another engine is kept until the caller asks for a new one.
        ideal = n_centroids_for(n_tokens)
        return len(codec.rotation) > 0 and ideal >= _RETRAIN_GROWTH * codec.n_centroids

    def write(self, batch: Batch, *, merges: bool) -> list[Path]:
        """Write a batch, with `merges` together with other segments if due; returns old folders."""
        if not merges:
            return self._rewrite([], batch, None)
        records = self._catalog.segments()
        n_new = int(batch.lengths.sum())
        n_tokens = n_new + sum(record.live_tokens for record in records)
        is_compressed = self._catalog.codec() is not None
        if not is_compressed and self.outgrown(n_tokens):
            sources = [self._source(record) for record in records]
            trained, dropped = self._train(sources, batch.blocks(), n_tokens, MEMORY_BYTES)
            dropped += self._rewrite_all(sources, trained)
            return dropped + self._rewrite([], batch, trained)
        sources = [self._source(record) for record in merge_policy.due_for_merge(records, n_new)]
        compressor, dropped = self._compressor_for(sources, batch.blocks(), n_new)
        return dropped + self._rewrite(sources, batch, compressor)

    def compact(self, *, retrain: bool, memory_bytes: int, progress: Progress) -> list[Path]:
        """Write all segments again, without deleted passages. Compress them if the index is large enough."""
        sources = [self._source(record) for record in self._catalog.segments()]
        n_tokens = sum(source.record.live_tokens for source in sources)
        compressor = self._current_compressor()
        trains = (
            self.outgrown(n_tokens)
            if compressor is None
            else retrain or self._grown(compressor.codec, n_tokens)
        )
        dropped: list[Path] = []
        if sources and trains:
            compressor, dropped = self._train(sources, [], n_tokens, memory_bytes, progress)
        elif sources and compressor is not None:
            compressor, dropped = self._extended(compressor, sources, [], 0)
        return dropped + self._rewrite_all(sources, compressor, progress)

    def merge_unfinished(self, progress: Progress) -> list[Path]:
        """Merge and compress the segments that were added without merging."""
        is_compressed = self._catalog.codec() is not None
        found = merge_policy.unfinished(self._catalog.segments(), is_compressed=is_compressed)
        sources = [self._source(record) for record in found]
        compressor, dropped = self._compressor_for(sources, [], 0)
        return dropped + self._rewrite_all(sources, compressor, progress)

    def _compressor_for(
        self, sources: Sequence[SegmentRows], new: Iterable[Array], n_new: int
    ) -> tuple[Compressor | None, list[Path]]:
        """The compressor for a merge of segments and new rows, or None if they stay exact; old folders."""
        compressor = self._current_compressor()
        n_tokens = n_new + sum(source.record.live_tokens for source in sources)
        # Compressed rows stay compressed: to decode and compress them again would lose precision.
        has_codes = any(source.is_compressed for source in sources)
        if compressor is None or (n_tokens <= merge_policy.SMALLEST_TOKENS and not has_codes):
            return None, []
        return self._extended(compressor, sources, new, n_new)

    def _rewrite_all(
        self, sources: Sequence[SegmentRows], compressor: Compressor | None, progress: Progress = silent
    ) -> list[Path]:
        """Write segments again as few segments as possible; returns the folders of the old ones."""
        groups = merge_policy.grouped(sources, compressor)
        total = sum(source.record.live_tokens for group in groups for source in group)
        written = _counted(progress, total)
        dropped: list[Path] = []
        for group in groups:
            dropped += self._rewrite(group, None, compressor, written)
        return dropped

    def _rewrite(
        self,
        sources: Sequence[SegmentRows],
        batch: Batch | None,
        compressor: Compressor | None,
        written: Callable[[int], object] = lambda n_rows: None,
    ) -> list[Path]:
        """Write segments and a batch to one new segment; returns the folders of the old segments."""
        lengths = np.concatenate(
            [source.lengths for source in sources] + ([] if batch is None else [batch.lengths])
        )
        storage = EXACT if compressor is None else COMPRESSED
        number, label = self._catalog.new_segment(
            storage, n_documents=len(lengths), n_tokens=int(lengths.sum())
        )
        n_moved = 0
        for source in sources:
            n_documents = self._passages.move(source.record.number, number, first_ordinal=n_moved)
            if n_documents != len(source.lengths):
                raise self._catalog.damaged(
                    f"has {counted(n_documents, 'passage')} for segment {source.record.number}, "
                    f"whose files have {len(source.lengths)}"
                )
            n_moved += n_documents
            self._catalog.drop_segment(source.record.number)
        if batch is not None:
            self._passages.insert(number, self._passage_rows(batch), first_ordinal=n_moved)
        new = [] if batch is None else batch.blocks()
        if compressor is None:
            rows_of_all = chain(*(source.rows() for source in sources), new)
            dim = self._catalog.settings.dim
            blocks = _told(rows_of_all, len, written)
            files = write_exact(self._root, number, label, lengths=lengths, blocks=blocks, dim=dim)
        else:
            rows = compressor.compressed(self._ops, sources, new)
            compressed = _told(rows, lambda block: len(block.codes), written)
            files = write_compressed(
                self._root, number, label, lengths=lengths, blocks=compressed, codec=compressor.codec
            )
        self._catalog.insert_files(number, files)
        return [segment_folder(self._root, source.record.number) for source in sources]

    def _passage_rows(self, batch: Batch) -> list[PassageRow]:
        sources = self._source_numbers(batch.sources)
        columns = (batch.texts, batch.metadata, sources, batch.positions)
        rows = zip(batch.doc_ids, batch.lengths.tolist(), *columns, strict=True)
        return [PassageRow(*row) for row in rows]

    def _source_numbers(self, sources: Sequence[Source | None]) -> list[int | None]:
        """Write the sources, and return the number of each."""
        numbers = self._sources.put(dict.fromkeys(source for source in sources if source is not None))
        return [None if source is None else numbers[source.uri] for source in sources]

    def _source(self, record: SegmentRecord) -> SegmentRows:
        # Check first: damaged rows that are written again would get a new, valid checksum.
        record.folder(self._root).check_contents()
        live = np.ones(record.n_documents, np.bool_)
        live[self._catalog.deleted_ordinals(record)] = False
        compressor = self._current_compressor() if record.storage == COMPRESSED else None
        codec = None if compressor is None else compressor.codec
        return SegmentRows(
            open_segment(self._root, record, dim=self._catalog.settings.dim, codec=codec), live, codec
        )

    def _current_compressor(self) -> Compressor | None:
        """The compressor for the codec of the index, or None if the index has no codec."""
        record = self._catalog.codec()
        if record is None:
            return None
        if self._compressor is None or self._compressor[0] != record.number:
            # As for rows: a damaged codec would damage the rows that it decodes, and its extensions.
            record.folder(self._root).check_contents()
            codec = open_codec(self._root, record, dim=self._catalog.settings.dim)
            self._compressor = (record.number, Compressor.build(self._ops, codec))
        return self._compressor[1]

    def _train(
        self,
        sources: Sequence[SegmentRows],
        new: Iterable[Array],
        n_tokens: int,
        memory_bytes: int,
        progress: Progress = silent,
    ) -> tuple[Compressor, list[Path]]:
        """Train and install a codec for all rows; returns its compressor, and the folder of the old codec."""
        nbits = self._catalog.settings.nbits

        def told(part: float) -> None:
            progress("training", round(part * n_tokens), n_tokens)

        told(0)
        codec = train(
            self._ops,
            sources,
            new=new,
            n_tokens=n_tokens,
            nbits=nbits,
            memory_bytes=memory_bytes,
            told=told,
        )
        compressor, dropped = self._install(codec)
        return replace(compressor, keeps_codes=False), dropped

    def _extended(
        self, compressor: Compressor, sources: Sequence[SegmentRows], new: Iterable[Array], n_new: int
    ) -> tuple[Compressor, list[Path]]:
        """Add centroids to the codec if the rows need them; returns the compressor, and an old folder."""
        extension = compressor.extension(self._ops, sources, new=new, n_new=n_new)
        return (compressor, []) if extension is None else self._install(extension)

    def _install(self, codec: Codec) -> tuple[Compressor, list[Path]]:
        """Make this the codec of the index; returns its compressor, and the folder of the old codec."""
        before = self._catalog.codec()
        number, label = self._catalog.new_codec(
            codec.nbits, n_centroids=codec.n_centroids, outlier_distance=codec.outlier_distance
        )
        self._catalog.insert_codec_files(number, write_codec(self._root, number, label, codec))
        self._compressor = (number, Compressor.build(self._ops, codec))
        return self._compressor[1], [] if before is None else [codec_folder(self._root, before.number)]

    def import_compressed(self, compressed_import: CompressedImport) -> None:
        """Add the codec and the passages of another engine to an empty index."""
        self._install(compressed_import.codec)
        sources = self._source_numbers(compressed_import.sources)
        for part, rows in compressed_import.parts(merge_policy.LARGEST_TOKENS):
            lengths = compressed_import.lengths[part]
            number, label = self._catalog.new_segment(
                COMPRESSED, n_documents=len(lengths), n_tokens=int(lengths.sum())
            )
            columns = (
                compressed_import.doc_ids,
                compressed_import.lengths.tolist(),
                compressed_import.texts,
                compressed_import.metadata,
                sources,
            )
            passages = [PassageRow(*row) for row in zip(*(c[part] for c in columns), strict=True)]
            self._passages.insert(number, passages, first_ordinal=0)
            files = write_compressed(
                self._root, number, label, lengths=lengths, blocks=rows, codec=compressed_import.codec
            )
            self._catalog.insert_files(number, files)


def _counted(progress: Progress, total: int) -> Callable[[int], None]:
    """A function to call with each number of written rows. It reports the progress up to `total`."""
    done = 0

    def written(n_rows: int) -> None:
        nonlocal done
        done += n_rows
        progress("writing", done, total)

    return written


def _told(
    blocks: Iterable[_Block], size: Callable[[_Block], int], written: Callable[[int], object]
) -> Iterator[_Block]:
    """The same blocks. After each one is written, this reports its number of rows."""
    for block in blocks:
        yield block
        written(size(block))
