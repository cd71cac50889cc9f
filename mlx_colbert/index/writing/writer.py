"""Changes to an index: one transaction each.

New vectors are stored as float16. They are compressed when they merge, or come, as more than a few thousand,
once the index has a codec; and it gets one when it has outgrown an exact search.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from mlx_colbert.errors import (
    ColBERTError,
    DuplicateIdError,
    IndexLockedError,
    IndexStoreError,
    UnknownIdError,
)
from mlx_colbert.index.catalog import schema
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.documents import Contents, Selection
from mlx_colbert.index.catalog.passages import PassageLocation, PassageRow, Passages
from mlx_colbert.index.catalog.sources import Sources
from mlx_colbert.index.storage.codec import Codec, codec_folder, n_centroids_for, open_codec, write_codec
from mlx_colbert.index.storage.files import collect_garbage
from mlx_colbert.index.storage.segment import (
    COMPRESSED,
    EXACT,
    SegmentRecord,
    open_segment,
    segment_folder,
    write_coded,
    write_exact,
)
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.index.writing.coded_import import Takeover
from mlx_colbert.index.writing.merge import Coder, SegmentRows, train
from mlx_colbert.kernels import Ops
from mlx_colbert.types import Array, Source

# An add that would leave this many segments in its size class writes them as one: a row is written again
# about once per class.
_FAN_OUT = 8
# Live tokens of the smallest class, 1 MiB at D = 128: to write that costs about as much as a commit's syncs,
# to scan seven of them a few milliseconds.
_SMALLEST_TOKENS = 4096
# All but the residuals of a segment is in memory while it is written: some 100 MB for this many tokens.
_LARGEST_TOKENS = 1 << 22
# A codec is trained anew when an index should have this many times its centroids.
_RETRAIN_GROWTH = 4
MEMORY_BYTES = 1 << 30


class Writer:
    """Changes an index; threads and processes take turns.

    Attributes:
        catalog: its connection.

    Raises:
        IndexLockedError: from every method, if another writer does not finish in time.
        IndexStoreError: from every method, if the folder cannot be written; nothing is changed then.
    """

    def __init__(self, root: Path, ops: Ops) -> None:
        self._root = root
        self._ops = ops
        self.catalog = Catalog(root)
        self._contents = Contents(self.catalog)
        self._passages = Passages(self.catalog)
        self._sources = Sources(self.catalog)
        self._turn = threading.Lock()
        self._coder: tuple[int, Coder] | None = None
        self._bulk_lock = threading.Lock()
        self._n_bulk = 0
        self._changed_in_bulk = False

    def close(self) -> None:
        """Closes the catalog, after a change that is under way."""
        with self._turn:
            self.catalog.close()

    def add(self, batch: Batch, *, upsert: bool) -> None:
        """Adds passages; with `upsert`, those that exist are deleted in the same transaction.

        Raises:
            DuplicateIdError: without `upsert`, if a doc_id exists.
        """
        with self._change() as dropped:
            existing = self._passages.locate(batch.doc_ids)
            if existing and not upsert:
                raise DuplicateIdError(list(existing), reason="exists already. Use upsert to replace it.")
            replaced = self._passages.delete(existing.values())
            dropped += self._drop_dead()
            dropped += self._write(batch)
            self._sources.drop_unused(replaced)

    def replace_sources(
        self, members: Mapping[Source, Mapping[str, str | None]], batch: Batch | None
    ) -> None:
        """Replaces what came from sources.

        Args:
            members: of each source the ids of all its passages, with their positions (JSON).
            batch: those of them that are new or changed.

        Raises:
            UnknownIdError: if another of the passages is not in the index; nothing is changed then.
        """
        new = [] if batch is None else batch.doc_ids
        listed = {doc_id for positions in members.values() for doc_id in positions}
        with self._change() as dropped:
            gone = self._passages.locate(new)
            kept: dict[Source, dict[int, str | None]] = {}
            for source, positions in members.items():
                others = self._known([doc_id for doc_id in positions if doc_id not in set(new)])
                kept[source] = {place.passage: positions[doc_id] for doc_id, place in others.items()}
                held = self._sources.passages(source.uri)
                gone |= {doc_id: place for doc_id, place in held.items() if doc_id not in listed}
            touched = self._passages.delete(gone.values())
            dropped += self._drop_dead()
            numbers = self._sources.put(members)
            for source, places in kept.items():
                touched |= self._sources.attach(numbers[source.uri], places)
            if batch is not None:
                dropped += self._write(batch)
            self._sources.drop_unused(touched | set(numbers.values()))

    def take_over(self, takeover: Takeover) -> None:
        """Installs the codec of another engine and adds its passages, to an index that has neither."""
        with self._change():
            if self.catalog.codec() or self.catalog.segments():
                raise IndexStoreError(self._root, "is not new: only a new one takes over another's rows.")
            self._install(takeover.codec)
            for part, rows in takeover.parts(_LARGEST_TOKENS):
                lengths = takeover.lengths[part]
                number, label = self.catalog.new_segment(
                    COMPRESSED, n_documents=len(lengths), n_tokens=int(lengths.sum())
                )
                columns = (takeover.doc_ids, takeover.lengths.tolist(), takeover.texts, takeover.metadata)
                passages = [PassageRow(*row) for row in zip(*(c[part] for c in columns), strict=True)]
                self._passages.insert(number, passages, first_ordinal=0)
                files = write_coded(
                    self._root, number, label, lengths=lengths, blocks=rows, codec=takeover.codec
                )
                self.catalog.insert_files(number, files)

    def delete(self, doc_ids: Sequence[str]) -> None:
        """Deletes passages.

        Raises:
            UnknownIdError: if the index does not hold one of them; nothing is deleted then.
        """
        with self._change() as dropped:
            self._delete(self._known(doc_ids))
            dropped += self._drop_dead()

    def delete_selected(self, selection: Selection) -> int:
        """Deletes the selected passages; how many there were."""
        with self._change() as dropped:
            found = self._passages.locate(self._contents.doc_ids(selection))
            self._delete(found)
            dropped += self._drop_dead()
        return len(found)

    def delete_source(self, uri: str) -> int:
        """Deletes the passages that came from a source; how many there were."""
        with self._change() as dropped:
            found = self._sources.passages(uri)
            self._delete(found)
            dropped += self._drop_dead()
        return len(found)

    def _delete(self, found: Mapping[str, PassageLocation]) -> None:
        self._sources.drop_unused(self._passages.delete(found.values()))

    def update_metadata(self, doc_ids: Sequence[str], metadata: Sequence[str | None]) -> None:
        """Replaces the metadata (JSON) of passages.

        Raises:
            UnknownIdError: if the index does not hold one of them; nothing is changed then.
        """
        with self._change():
            found = self._known(doc_ids)
            self._contents.set_metadata(
                (found[doc_id].passage, value) for doc_id, value in zip(doc_ids, metadata, strict=True)
            )

    def compact(self, *, retrain: bool, memory_bytes: int) -> None:
        """Writes the index as few segments without deleted passages, compressed if it is large enough."""
        with self._change() as dropped:
            sources = [self._source(record) for record in self.catalog.segments()]
            n_tokens = sum(source.record.live_tokens for source in sources)
            coder = self._current_coder()
            trains = (
                self._outgrown(n_tokens) if coder is None else retrain or self._grown(coder.codec, n_tokens)
            )
            if sources and trains:
                coder, old = self._train(sources, [], n_tokens, memory_bytes)
                dropped += old
            elif sources and coder is not None:
                coder, old = self._extended(coder, sources, [], 0)
                dropped += old
            for group in _groups(sources, coder):
                dropped += self._rewrite(group, None, coder)
        # Another thread of this writer may have begun.
        if self._turn.acquire(blocking=False):
            try:
                self.catalog.shorten_log()
            finally:
                self._turn.release()

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """New rows stay float16 and segments apart; the end of the outermost block compacts them."""
        with self._bulk_lock:
            self._n_bulk += 1
        try:
            yield
        finally:
            with self._bulk_lock:
                self._n_bulk -= 1
                outermost = self._n_bulk == 0
                changed = self._changed_in_bulk
                if outermost:
                    self._changed_in_bulk = False
        if outermost and (changed or self._is_unfinished()):
            self.compact(retrain=False, memory_bytes=MEMORY_BYTES)

    def _is_unfinished(self) -> bool:
        """Whether vectors wait to be compressed or segments to be merged, after a bulk that was cut short."""
        records = self.catalog.segments()
        if self.catalog.codec() is None:
            if self._outgrown(sum(record.live_tokens for record in records)):
                return True
        elif any(record.storage == EXACT and record.live_tokens > _SMALLEST_TOKENS for record in records):
            return True
        # Larger ones may stay apart for good.
        small = [record for record in records if record.live_tokens * _FAN_OUT <= _LARGEST_TOKENS]
        classes = Counter(_size_class(record.live_tokens) for record in small)
        return max(classes.values(), default=0) >= _FAN_OUT

    @contextmanager
    def _change(self) -> Iterator[list[Path]]:
        # The block appends the folders that its commit drops.
        dropped: list[Path] = []
        if not self._turn.acquire(timeout=schema.LOCK_TIMEOUT_S):
            raise IndexLockedError(
                self._root,
                f"another thread did not finish writing within {schema.LOCK_TIMEOUT_S:g} s. Try again later.",
            )
        try:
            with self.catalog.write():
                collect_garbage(self._root, self._live_folders())
                yield dropped
                self._changed_in_bulk = self._n_bulk > 0
            # Whatever is left of them if this fails is collected by the next writer.
            for folder in dropped:
                shutil.rmtree(folder, ignore_errors=True)
        except BaseException as error:
            self._coder = None
            if isinstance(error, OSError) and not isinstance(error, ColBERTError):
                raise IndexStoreError(
                    self._root,
                    f"cannot be written: {error.strerror or error}. Nothing was changed. Check the disk.",
                ) from error
            raise
        finally:
            self._turn.release()

    def _live_folders(self) -> set[str]:
        names = {segment_folder(self._root, record.number).name for record in self.catalog.segments()}
        codec = self.catalog.codec()
        return names if codec is None else names | {codec_folder(self._root, codec.number).name}

    def _known(self, doc_ids: Sequence[str]) -> dict[str, PassageLocation]:
        found = self._passages.locate(doc_ids)
        unknown = [doc_id for doc_id in doc_ids if doc_id not in found]
        if unknown:
            raise UnknownIdError(unknown, where=self._root)
        return found

    def _drop_dead(self) -> list[Path]:
        dead = [record.number for record in self.catalog.segments() if record.n_deleted == record.n_documents]
        for number in dead:
            self.catalog.drop_segment(number)
        return [segment_folder(self._root, number) for number in dead]

    def _outgrown(self, n_tokens: int) -> bool:
        """Whether an index of that many tokens should be compressed."""
        exact_tokens = self.catalog.settings.exact_tokens
        return exact_tokens is not None and n_tokens > exact_tokens

    def _grown(self, codec: Codec, n_tokens: int) -> bool:
        # A codec that was taken over from another engine is kept until someone asks.
        ideal = n_centroids_for(n_tokens)
        return len(codec.rotation) > 0 and ideal >= _RETRAIN_GROWTH * codec.n_centroids

    def _write(self, batch: Batch) -> list[Path]:
        """Writes a batch and the segments due for merging; returns the folders of what was merged."""
        if self._n_bulk:
            return self._rewrite([], batch, None)
        records = self.catalog.segments()
        n_new = int(batch.lengths.sum())
        n_tokens = n_new + sum(record.live_tokens for record in records)
        is_coded = self.catalog.codec() is not None
        if not is_coded and self._outgrown(n_tokens):
            sources = [self._source(record) for record in records]
            coder, dropped = self._train(sources, batch.blocks(), n_tokens, MEMORY_BYTES)
            for group in _groups(sources, coder):
                dropped += self._rewrite(group, None, coder)
            return dropped + self._rewrite([], batch, coder)
        sources = [self._source(record) for record in due_for_merge(records, n_new)]
        n_tokens = n_new + sum(source.record.live_tokens for source in sources)
        # What is coded stays so: to decode it and code it again later would lose some of it.
        has_codes = any(source.is_coded for source in sources)
        if not is_coded or (n_tokens <= _SMALLEST_TOKENS and not has_codes):
            return self._rewrite(sources, batch, None)
        current = self._current_coder()
        assert current is not None
        coder, dropped = self._extended(current, sources, batch.blocks(), n_new)
        return dropped + self._rewrite(sources, batch, coder)

    def _rewrite(
        self, sources: Sequence[SegmentRows], batch: Batch | None, coder: Coder | None
    ) -> list[Path]:
        """Writes segments and a batch to one new segment; returns the folders of those segments."""
        lengths = np.concatenate(
            [source.lengths for source in sources] + ([] if batch is None else [batch.lengths])
        )
        storage = EXACT if coder is None else COMPRESSED
        number, label = self.catalog.new_segment(
            storage, n_documents=len(lengths), n_tokens=int(lengths.sum())
        )
        n_moved = 0
        for source in sources:
            n_documents = self._passages.move(source.record.number, number, first_ordinal=n_moved)
            if n_documents != len(source.lengths):
                raise self.catalog.damaged(
                    f"names {n_documents} passages of segment {source.record.number}, "
                    f"which has {len(source.lengths)}"
                )
            n_moved += n_documents
            self.catalog.drop_segment(source.record.number)
        if batch is not None:
            self._passages.insert(number, self._passage_rows(batch), first_ordinal=n_moved)
        new = [] if batch is None else batch.blocks()
        if coder is None:
            blocks = chain(*(source.rows() for source in sources), new)
            dim = self.catalog.settings.dim
            files = write_exact(self._root, number, label, lengths=lengths, blocks=blocks, dim=dim)
        else:
            coded = coder.coded(self._ops, sources, new)
            files = write_coded(self._root, number, label, lengths=lengths, blocks=coded, codec=coder.codec)
        self.catalog.insert_files(number, files)
        return [segment_folder(self._root, source.record.number) for source in sources]

    def _passage_rows(self, batch: Batch) -> list[PassageRow]:
        numbers = self._sources.put(dict.fromkeys(source for source in batch.sources if source is not None))
        sources = [None if source is None else numbers[source.uri] for source in batch.sources]
        columns = (batch.texts, batch.metadata, sources, batch.positions)
        rows = zip(batch.doc_ids, batch.lengths.tolist(), *columns, strict=True)
        return [PassageRow(*row) for row in rows]

    def _source(self, record: SegmentRecord) -> SegmentRows:
        # Writing damaged rows again would give them a new, valid checksum.
        record.folder(self._root).check_contents()
        live = np.ones(record.n_documents, np.bool_)
        live[self.catalog.deleted_ordinals(record)] = False
        coder = self._current_coder() if record.storage == COMPRESSED else None
        codec = None if coder is None else coder.codec
        return SegmentRows(
            open_segment(self._root, record, dim=self.catalog.settings.dim, codec=codec), live, codec
        )

    def _current_coder(self) -> Coder | None:
        """What codes rows in the codec of the index, or None where it has none."""
        record = self.catalog.codec()
        if record is None:
            return None
        if self._coder is None or self._coder[0] != record.number:
            # As with rows: a codec that is extended, or decodes rows, would pass its damage on.
            record.folder(self._root).check_contents()
            codec = open_codec(self._root, record, dim=self.catalog.settings.dim)
            self._coder = (record.number, Coder.build(self._ops, codec))
        return self._coder[1]

    def _train(
        self, sources: Sequence[SegmentRows], new: Iterable[Array], n_tokens: int, memory_bytes: int
    ) -> tuple[Coder, list[Path]]:
        """A codec for all rows, and the folder of the one before."""
        nbits = self.catalog.settings.nbits
        codec = train(self._ops, sources, new=new, n_tokens=n_tokens, nbits=nbits, memory_bytes=memory_bytes)
        coder, dropped = self._install(codec)
        return replace(coder, keeps_codes=False), dropped

    def _extended(
        self, coder: Coder, sources: Sequence[SegmentRows], new: Iterable[Array], n_new: int
    ) -> tuple[Coder, list[Path]]:
        """What codes segments and new rows, with centroids for those far from all; and a dropped folder."""
        extension = coder.extension(self._ops, sources, new=new, n_new=n_new)
        return (coder, []) if extension is None else self._install(extension)

    def _install(self, codec: Codec) -> tuple[Coder, list[Path]]:
        """Makes a codec that of the index."""
        before = self.catalog.codec()
        number, label = self.catalog.new_codec(
            codec.nbits, n_centroids=codec.n_centroids, outlier_distance=codec.outlier_distance
        )
        self.catalog.insert_codec_files(number, write_codec(self._root, number, label, codec))
        self._coder = (number, Coder.build(self._ops, codec))
        return self._coder[1], [] if before is None else [codec_folder(self._root, before.number)]


def due_for_merge(records: Sequence[SegmentRecord], n_tokens: int) -> list[SegmentRecord]:
    """The segments to write again together with `n_tokens` new rows.

    With seven segments of its own size class they become one, which may join those of its class in turn.
    """
    merged: list[SegmentRecord] = []
    while True:
        size = _size_class(n_tokens)
        peers = [r for r in records if r not in merged and _size_class(r.live_tokens) == size]
        n_tokens += sum(record.live_tokens for record in peers)
        if len(peers) < _FAN_OUT - 1 or n_tokens > _LARGEST_TOKENS:
            return sorted(merged, key=lambda record: record.number)
        merged += peers


def _size_class(n_tokens: int) -> int:
    size, bound = 0, _SMALLEST_TOKENS
    while n_tokens > bound:
        size, bound = size + 1, bound * _FAN_OUT
    return size


def _groups(sources: Sequence[SegmentRows], coder: Coder | None) -> list[list[SegmentRows]]:
    """Segments to be written as one each, none of them larger than a segment may grow."""
    groups: list[list[SegmentRows]] = []
    size = _LARGEST_TOKENS
    for source in sources:
        if size + source.record.live_tokens > _LARGEST_TOKENS:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.record.live_tokens
    storage = EXACT if coder is None else COMPRESSED
    done = coder is None or coder.keeps_codes
    return [
        group
        for group in groups
        if not (
            done and len(group) == 1 and group[0].record.storage == storage and not group[0].record.n_deleted
        )
    ]
