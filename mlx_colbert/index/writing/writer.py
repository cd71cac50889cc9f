"""Changes to an index. Each change is one transaction.

New vectors are exact at first. An index gets a codec when it is too large for an exact search. From then on,
vectors are compressed if more than a few thousand are added or merged together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from mlx_colbert.errors import (
    ColBERTError,
    DuplicateIdError,
    IndexLockedError,
    IndexStoreError,
    InputError,
    UnknownIdError,
)
from mlx_colbert.index.catalog import database_errors
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.commits import NOTE_NAME
from mlx_colbert.index.catalog.database_errors import CATALOG_FILES
from mlx_colbert.index.catalog.database_file import check_identity
from mlx_colbert.index.catalog.documents import PassageContents, Selection
from mlx_colbert.index.catalog.passages import PassageLocation, PassageRow, Passages
from mlx_colbert.index.catalog.sources import Sources
from mlx_colbert.index.storage.codec import Codec, codec_folder, n_centroids_for, open_codec, write_codec
from mlx_colbert.index.storage.files import collect_garbage, remove
from mlx_colbert.index.storage.segment import (
    COMPRESSED,
    EXACT,
    SegmentRecord,
    open_segment,
    segment_folder,
    write_compressed,
    write_exact,
)
from mlx_colbert.index.writing import merge_policy
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.index.writing.coded_import import CodedImport
from mlx_colbert.index.writing.merge import Compressor, SegmentRows, train
from mlx_colbert.kernels import SearchOps
from mlx_colbert.progress import Progress, silent
from mlx_colbert.types import Array, Source

# A new codec is trained when an index needs this many times the centroids that it has.
_RETRAIN_GROWTH = 4
MEMORY_BYTES = 1 << 30

_Block = TypeVar("_Block")


class Writer:
    """Changes an index. Only one thread of one process writes at a time; the others wait.

    Attributes:
        catalog: its connection to the catalog.

    Raises:
        IndexLockedError: from every method, if another writer does not finish in time.
        IndexStoreError: from every method, if the folder cannot be written. Then nothing is changed.
    """

    def __init__(self, root: Path, ops: SearchOps) -> None:
        self._root = root
        self._ops = ops
        self.catalog = Catalog(root)
        self._contents = PassageContents(self.catalog)
        self._passages = Passages(self.catalog)
        self._sources = Sources(self.catalog)
        self._turn = threading.Lock()
        self._compressor: tuple[int, Compressor] | None = None
        self._bulk_lock = threading.Lock()
        self._n_bulk = 0
        # The extent before the first change of a bulk.
        self._before_bulk: merge_policy.Extent | None = None

    def after_fork(self) -> None:
        """Make new locks in a forked process."""
        self._turn = threading.Lock()
        self._bulk_lock = threading.Lock()
        # Another thread may have been changing it during the fork.
        self._compressor = None

    def close(self) -> None:
        """Close the catalog, after the end of a running change."""
        with self._turn:
            self.catalog.close()

    def add(self, batch: Batch, *, upsert: bool) -> None:
        """Add passages. With `upsert`, delete existing passages with the same ids in the same transaction.

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
        """Replace the passages of sources.

        Args:
            members: for each source the ids of all its passages, with their positions (JSON).
            batch: the passages among them that are new or changed.

        Raises:
            UnknownIdError: if one of the other passages is not in the index. Then nothing is changed.
        """
        new = [] if batch is None else batch.doc_ids
        listed = {doc_id for positions in members.values() for doc_id in positions}
        with self._change() as dropped:
            gone = self._passages.locate(new)
            kept: dict[Source, dict[int, str | None]] = {}
            for source, positions in members.items():
                others = self._known([doc_id for doc_id in positions if doc_id not in set(new)])
                kept[source] = {place.passage: positions[doc_id] for doc_id, place in others.items()}
                stored = self._sources.passages(source.uri)
                gone |= {doc_id: place for doc_id, place in stored.items() if doc_id not in listed}
            touched = self._passages.delete(gone.values())
            dropped += self._drop_dead()
            numbers = self._sources.put(members)
            for source, places in kept.items():
                touched |= self._sources.attach(numbers[source.uri], places)
            if batch is not None:
                dropped += self._write(batch)
            self._sources.drop_unused(touched | set(numbers.values()))

    def rename_sources(
        self, sources: Mapping[str, Source], names: Mapping[str, str], metadata: Sequence[str | None] | None
    ) -> None:
        """Give sources other names, and their passages other ids. Vectors and texts do not change.

        Args:
            sources: present uri → what the source becomes. If that is the uri of another source that is not
                renamed, the passages of that one are deleted.
            names: old id → new id.
            metadata: for each of these passages its new metadata (JSON). None: they stay.

        Raises:
            UnknownIdError: if one of the old ids is not a passage of one of the sources.
            DuplicateIdError: if a new id exists.
            InputError: if there is no source with one of the uris.
        """
        with self._change() as dropped:
            members: dict[str, PassageLocation] = {}
            numbers: dict[int, Source] = {}
            for uri, source in sources.items():
                number = self._sources.number(uri)
                if number is None:
                    raise InputError(f"source {uri!r}: no passage of index {self._root} has it.")
                numbers[number] = source
                members |= self._sources.passages(uri)
            if unknown := [doc_id for doc_id in names if doc_id not in members]:
                raise UnknownIdError(unknown, where=self._root)
            for source in sources.values():
                if source.uri not in sources:
                    self._delete(self._sources.passages(source.uri))
            dropped += self._drop_dead()
            taken = self._passages.locate(list(names.values())).keys() - names.keys()
            if taken:
                raise DuplicateIdError(sorted(taken), reason="exists already.")
            self._sources.replace(numbers)
            self._passages.rename(names)
            if metadata is not None:
                self._contents.set_metadata(
                    zip((members[doc_id].passage for doc_id in names), metadata, strict=True)
                )

    def take_over(self, coded_import: CodedImport) -> None:
        """Add the codec and the passages of another engine to a new index."""
        with self._change():
            if self.catalog.codec() or self.catalog.segments():
                raise IndexStoreError(self._root, "is not empty. Import into a new index.")
            self._install(coded_import.codec)
            for part, rows in coded_import.parts(merge_policy.LARGEST_TOKENS):
                lengths = coded_import.lengths[part]
                number, label = self.catalog.new_segment(
                    COMPRESSED, n_documents=len(lengths), n_tokens=int(lengths.sum())
                )
                columns = (
                    coded_import.doc_ids,
                    coded_import.lengths.tolist(),
                    coded_import.texts,
                    coded_import.metadata,
                )
                passages = [PassageRow(*row) for row in zip(*(c[part] for c in columns), strict=True)]
                self._passages.insert(number, passages, first_ordinal=0)
                files = write_compressed(
                    self._root, number, label, lengths=lengths, blocks=rows, codec=coded_import.codec
                )
                self.catalog.insert_files(number, files)

    def remove_if_empty(self, *, keep_folder: bool) -> None:
        """Remove the files of the index, if it has no passages and no change of it was lost.

        Writers that wait get an error that says that the index was removed.
        """
        self._take_turn()
        try:
            with self.catalog.folder() as folder, self.catalog.locked():
                if self.catalog.n_passages() or self.catalog.lost_commits():
                    return
                collect_garbage(folder, ())
                # Remove the catalog first, so that others notice that the index was removed.
                for name in (*CATALOG_FILES, NOTE_NAME):
                    remove(folder, name)
        finally:
            self._turn.release()
        if not keep_folder:
            with suppress(OSError):
                # The folder stays if other files are in it.
                self._root.rmdir()

    def delete(self, doc_ids: Sequence[str]) -> None:
        """Delete passages.

        Raises:
            UnknownIdError: if one of them is not in the index. Then nothing is deleted.
        """
        with self._change() as dropped:
            self._delete(self._known(doc_ids))
            dropped += self._drop_dead()

    def delete_selected(self, selection: Selection) -> int:
        """Delete the selected passages; returns how many."""
        with self._change() as dropped:
            found = self._passages.locate(self._contents.doc_ids(selection))
            self._delete(found)
            dropped += self._drop_dead()
        return len(found)

    def delete_source(self, uri: str) -> int:
        """Delete the passages of a source; returns how many."""
        with self._change() as dropped:
            found = self._sources.passages(uri)
            self._delete(found)
            dropped += self._drop_dead()
        return len(found)

    def _delete(self, found: Mapping[str, PassageLocation]) -> None:
        self._sources.drop_unused(self._passages.delete(found.values()))

    def update_metadata(self, doc_ids: Sequence[str], metadata: Sequence[str | None]) -> None:
        """Replace the metadata (JSON) of passages.

        Raises:
            UnknownIdError: if one of them is not in the index. Then nothing is changed.
        """
        with self._change():
            found = self._known(doc_ids)
            self._contents.set_metadata(
                (found[doc_id].passage, value) for doc_id, value in zip(doc_ids, metadata, strict=True)
            )

    def compact(self, *, retrain: bool, memory_bytes: int, progress: Progress = silent) -> None:
        """Write the index as few segments without deleted passages. Compress it if it is large enough.

        If changes were lost, this removes their remaining files, and the index continues without them.
        """
        self._compact(retrain=retrain, memory_bytes=memory_bytes, progress=progress, accepts_loss=True)

    def _compact(self, *, retrain: bool, memory_bytes: int, progress: Progress, accepts_loss: bool) -> None:
        with self._change(accepts_loss=accepts_loss) as dropped:
            sources = [self._source(record) for record in self.catalog.segments()]
            n_tokens = sum(source.record.live_tokens for source in sources)
            compressor = self._current_compressor()
            trains = (
                self._outgrown(n_tokens)
                if compressor is None
                else retrain or self._grown(compressor.codec, n_tokens)
            )
            if sources and trains:
                progress("training", 0, n_tokens)
                compressor, old = self._train(sources, [], n_tokens, memory_bytes)
                dropped += old
                progress("training", n_tokens, n_tokens)
            elif sources and compressor is not None:
                compressor, old = self._extended(compressor, sources, [], 0)
                dropped += old
            dropped += self._rewrite_all(sources, compressor, progress)
        self._shorten_log()

    @contextmanager
    def bulk(self, *, progress: Progress = silent) -> Iterator[None]:
        """A block that adds without merging. The end of the outermost block merges and compresses."""
        with self._bulk_lock:
            self._n_bulk += 1
        try:
            yield
        finally:
            with self._bulk_lock:
                self._n_bulk -= 1
                outermost = self._n_bulk == 0
                before = self._before_bulk
                if outermost:
                    self._before_bulk = None
        if outermost:
            self._finish_bulk(before, progress)

    def _finish_bulk(self, before: merge_policy.Extent | None, progress: Progress) -> None:
        """Merge and compress what the bulk added. Unchanged segments stay, because they may be large."""
        with self.catalog.read():
            records = self.catalog.segments()
            is_compressed = self.catalog.codec() is not None
        n_tokens = sum(record.live_tokens for record in records)
        n_changed = 0 if before is None else before.n_changed(records)
        if (not is_compressed and self._outgrown(n_tokens)) or n_changed * merge_policy.SMALL_PART > n_tokens:
            self._compact(retrain=False, memory_bytes=MEMORY_BYTES, progress=progress, accepts_loss=False)
        elif merge_policy.unfinished(records, is_compressed=is_compressed):
            with self._change() as dropped:
                is_compressed = self.catalog.codec() is not None
                found = merge_policy.unfinished(self.catalog.segments(), is_compressed=is_compressed)
                sources = [self._source(record) for record in found]
                compressor, old = self._compressor_for(sources, [], 0)
                dropped += old + self._rewrite_all(sources, compressor, progress)
            self._shorten_log()

    def _shorten_log(self) -> None:
        # Another thread may be writing now.
        if self._turn.acquire(blocking=False):
            try:
                self.catalog.shorten_log()
            finally:
                self._turn.release()

    @contextmanager
    def _change(self, *, accepts_loss: bool = False) -> Iterator[list[Path]]:
        # The block appends the folders that its commit no longer needs.
        dropped: list[Path] = []
        self._take_turn()
        try:
            with self.catalog.folder() as folder:
                with self.catalog.write():
                    lost = self.catalog.lost_commits()
                    if lost is not None and not accepts_loss:
                        raise lost
                    self.catalog.start_note()
                    collect_garbage(folder, self._live_folders())
                    if self._n_bulk and self._before_bulk is None:
                        self._before_bulk = merge_policy.Extent.of(self.catalog.segments())
                    yield dropped
                # If this fails, the next writer removes the rest.
                for path in dropped:
                    remove(folder, path.name)
        except BaseException as error:
            self._compressor = None
            if isinstance(error, OSError) and not isinstance(error, ColBERTError):
                check_identity(self._root, self.catalog.identity)
                raise IndexStoreError(
                    self._root,
                    f"cannot be written: {error.strerror or error}. Nothing was changed. Check the disk.",
                ) from error
            raise
        finally:
            self._turn.release()

    def _take_turn(self) -> None:
        timeout = database_errors.LOCK_TIMEOUT_S
        if not self._turn.acquire(timeout=timeout):
            raise IndexLockedError(
                self._root,
                f"another thread did not finish writing within {timeout:g} s. Try again later.",
            )

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
        # The codec of another engine is kept until the caller asks for a new one.
        ideal = n_centroids_for(n_tokens)
        return len(codec.rotation) > 0 and ideal >= _RETRAIN_GROWTH * codec.n_centroids

    def _write(self, batch: Batch) -> list[Path]:
        """Write a batch, merged with other segments if due; returns the folders of the old segments."""
        if self._n_bulk:
            return self._rewrite([], batch, None)
        records = self.catalog.segments()
        n_new = int(batch.lengths.sum())
        n_tokens = n_new + sum(record.live_tokens for record in records)
        is_compressed = self.catalog.codec() is not None
        if not is_compressed and self._outgrown(n_tokens):
            sources = [self._source(record) for record in records]
            trained, dropped = self._train(sources, batch.blocks(), n_tokens, MEMORY_BYTES)
            dropped += self._rewrite_all(sources, trained)
            return dropped + self._rewrite([], batch, trained)
        sources = [self._source(record) for record in merge_policy.due_for_merge(records, n_new)]
        compressor, dropped = self._compressor_for(sources, batch.blocks(), n_new)
        return dropped + self._rewrite(sources, batch, compressor)

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
        number, label = self.catalog.new_segment(
            storage, n_documents=len(lengths), n_tokens=int(lengths.sum())
        )
        n_moved = 0
        for source in sources:
            n_documents = self._passages.move(source.record.number, number, first_ordinal=n_moved)
            if n_documents != len(source.lengths):
                raise self.catalog.damaged(
                    f"has {n_documents} passages for segment {source.record.number}, "
                    f"whose files have {len(source.lengths)}"
                )
            n_moved += n_documents
            self.catalog.drop_segment(source.record.number)
        if batch is not None:
            self._passages.insert(number, self._passage_rows(batch), first_ordinal=n_moved)
        new = [] if batch is None else batch.blocks()
        if compressor is None:
            rows_of_all = chain(*(source.rows() for source in sources), new)
            dim = self.catalog.settings.dim
            blocks = _told(rows_of_all, len, written)
            files = write_exact(self._root, number, label, lengths=lengths, blocks=blocks, dim=dim)
        else:
            rows = compressor.compressed(self._ops, sources, new)
            compressed = _told(rows, lambda block: len(block.codes), written)
            files = write_compressed(
                self._root, number, label, lengths=lengths, blocks=compressed, codec=compressor.codec
            )
        self.catalog.insert_files(number, files)
        return [segment_folder(self._root, source.record.number) for source in sources]

    def _passage_rows(self, batch: Batch) -> list[PassageRow]:
        numbers = self._sources.put(dict.fromkeys(source for source in batch.sources if source is not None))
        sources = [None if source is None else numbers[source.uri] for source in batch.sources]
        columns = (batch.texts, batch.metadata, sources, batch.positions)
        rows = zip(batch.doc_ids, batch.lengths.tolist(), *columns, strict=True)
        return [PassageRow(*row) for row in rows]

    def _source(self, record: SegmentRecord) -> SegmentRows:
        # Check first: damaged rows that are written again would get a new, valid checksum.
        record.folder(self._root).check_contents()
        live = np.ones(record.n_documents, np.bool_)
        live[self.catalog.deleted_ordinals(record)] = False
        compressor = self._current_compressor() if record.storage == COMPRESSED else None
        codec = None if compressor is None else compressor.codec
        return SegmentRows(
            open_segment(self._root, record, dim=self.catalog.settings.dim, codec=codec), live, codec
        )

    def _current_compressor(self) -> Compressor | None:
        """The compressor for the codec of the index, or None if the index has no codec."""
        record = self.catalog.codec()
        if record is None:
            return None
        if self._compressor is None or self._compressor[0] != record.number:
            # As for rows: a damaged codec would damage the rows that it decodes, and its extensions.
            record.folder(self._root).check_contents()
            codec = open_codec(self._root, record, dim=self.catalog.settings.dim)
            self._compressor = (record.number, Compressor.build(self._ops, codec))
        return self._compressor[1]

    def _train(
        self, sources: Sequence[SegmentRows], new: Iterable[Array], n_tokens: int, memory_bytes: int
    ) -> tuple[Compressor, list[Path]]:
        """Train and install a codec for all rows; returns its compressor, and the folder of the old codec."""
        nbits = self.catalog.settings.nbits
        codec = train(self._ops, sources, new=new, n_tokens=n_tokens, nbits=nbits, memory_bytes=memory_bytes)
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
        before = self.catalog.codec()
        number, label = self.catalog.new_codec(
            codec.nbits, n_centroids=codec.n_centroids, outlier_distance=codec.outlier_distance
        )
        self.catalog.insert_codec_files(number, write_codec(self._root, number, label, codec))
        self._compressor = (number, Compressor.build(self._ops, codec))
        return self._compressor[1], [] if before is None else [codec_folder(self._root, before.number)]


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
