"""Changes to an index. Each change is one transaction.

New vectors are exact at first. An index gets a codec when it is too large for an exact search. From then on,
vectors are compressed if more than a few thousand are added or merged together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_colbert.errors import (
    ColBERTError,
    DuplicateIdError,
    IndexLockedError,
    IndexStoreError,
    InputError,
    UnknownIdError,
)
from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.commits import NOTE_NAME
from mlx_colbert.index.catalog.database_errors import CATALOG_FILES, advice_for
from mlx_colbert.index.catalog.database_file import check_identity
from mlx_colbert.index.catalog.documents import PassageContents, Selection
from mlx_colbert.index.catalog.passages import PassageLocation, Passages
from mlx_colbert.index.catalog.sources import Sources
from mlx_colbert.index.storage.files import collect_garbage, remove
from mlx_colbert.index.storage.records import codec_folder, segment_folder
from mlx_colbert.index.writing import merge_policy
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.index.writing.compressed_import import CompressedImport
from mlx_colbert.index.writing.segment_writer import MEMORY_BYTES, SegmentWriter
from mlx_colbert.index.writing.source_changes import SourceChanges, SourceNames
from mlx_colbert.kernels import SearchOps
from mlx_colbert.progress import Progress, silent
from mlx_colbert.stages import stage
from mlx_colbert.types import Source


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
        self.catalog: Catalog = Catalog(root)
        self._contents = PassageContents(self.catalog)
        self._passages = Passages(self.catalog)
        self._sources = Sources(self.catalog)
        self._turn = threading.Lock()
        self._segments = SegmentWriter(self.catalog, ops)
        self._bulk_lock = threading.Lock()
        self._n_bulk = 0
        # The extent before the first change of a bulk.
        self._before_bulk: merge_policy.Extent | None = None

    def after_fork(self) -> None:
        """Make new locks in a forked process."""
        self._turn = threading.Lock()
        self._bulk_lock = threading.Lock()
        # Another thread may have been changing it during the fork.
        self._segments.forget_compressor()

    def close(self) -> None:
        """Close the catalog, after the end of a running change."""
        with self._turn:
            self.catalog.close()

    @stage("write the index")
    def add(self, batch: Batch, *, upsert: bool) -> None:
        """Add passages. With `upsert`, delete existing passages with the same ids in the same transaction.

        Raises:
            DuplicateIdError: without `upsert`, if a doc_id exists.
        """
        with self._change() as dropped:
            existing = self._passages.locate(batch.doc_ids)
            if existing and not upsert:
                raise DuplicateIdError.existing(existing, where=self._root)
            replaced = self._passages.delete(existing.values())
            self._sources.forget_content(replaced)
            dropped += self._drop_dead()
            dropped += self._segments.write(batch, merges=not self._n_bulk)
            self._sources.drop_unused(replaced)

    @stage("write the index")
    def replace_sources(self, changes: SourceChanges) -> int:
        """Replace the passages of sources; returns how many were deleted, without those that are replaced.

        Raises:
            UnknownIdError: if a passage is neither in the batch nor in the index. Then nothing is changed.
        """
        members, batch = changes.members, changes.batch
        new = dict.fromkeys([] if batch is None else batch.doc_ids)
        listed = {doc_id for positions in members.values() for doc_id in positions}
        with self._change() as dropped:
            gone = self._passages.locate(list(new))
            kept: dict[Source, dict[int, str | None]] = {}
            for source, positions in members.items():
                others = self._known([doc_id for doc_id in positions if doc_id not in new])
                kept[source] = {place.passage: positions[doc_id] for doc_id, place in others.items()}
                stored = self._sources.passages(source.uri)
                gone |= {doc_id: place for doc_id, place in stored.items() if doc_id not in listed}
            n_deleted = len(gone.keys() - new.keys())
            touched = self._passages.delete(gone.values())
            dropped += self._drop_dead()
            numbers = self._sources.put(members)
            for source, places in kept.items():
                touched |= self._sources.attach(numbers[source.uri], places)
            self._sources.forget_content(touched - set(numbers.values()))
            if batch is not None:
                dropped += self._segments.write(batch, merges=not self._n_bulk)
            self._sources.drop_unused(touched | set(numbers.values()))
        return n_deleted

    def rename_sources(self, renames: SourceNames) -> None:
        """Give sources other names, and their passages other ids. Vectors and texts do not change.

        Raises:
            UnknownIdError: if one of the old ids is not a passage of one of the sources.
            DuplicateIdError: if a new id exists.
            InputError: if there is no source with one of the uris.
        """
        sources, names = renames.sources, renames.doc_ids
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
                raise DuplicateIdError.existing(sorted(taken), where=self._root)
            if renames.metadata is not None:
                self._contents.set_metadata(
                    zip((members[doc_id].passage for doc_id in names), renames.metadata, strict=True)
                )
            # After the metadata: a change of these makes a source forget its content.
            self._sources.replace(numbers)
            self._passages.rename(names)

    def import_compressed(self, compressed_import: CompressedImport) -> None:
        """Add the codec and the passages of another engine to a new index.

        Raises:
            IndexStoreError: if the index has passages or a codec.
        """
        with self._change():
            if self.catalog.codec() or self.catalog.segments():
                raise IndexStoreError(self._root, "is not empty. Import into a new index.")
            self._segments.import_compressed(compressed_import)

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
        changed = self._passages.delete(found.values())
        self._sources.forget_content(changed)
        self._sources.drop_unused(changed)

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

    def compact(
        self,
        *,
        retrain: bool = False,
        memory_bytes: int = MEMORY_BYTES,
        progress: Progress = silent,
        erase_lost: bool = False,
    ) -> None:
        """Write the index as few segments without deleted passages. Compress it if it is large enough.

        If changes were lost, and with `erase_lost`, this erases the segments and codecs that belong to them.
        """
        with self._change(erase_lost=erase_lost) as dropped:
            dropped += self._segments.compact(retrain=retrain, memory_bytes=memory_bytes, progress=progress)
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
        outgrown = not is_compressed and self._segments.outgrown(n_tokens)
        if outgrown or n_changed * merge_policy.SMALL_PART > n_tokens:
            self.compact(progress=progress)
        elif merge_policy.unfinished(records, is_compressed=is_compressed):
            with self._change() as dropped:
                dropped += self._segments.merge_unfinished(progress)
            self._shorten_log()

    def _shorten_log(self) -> None:
        # Another thread may be writing now.
        if self._turn.acquire(blocking=False):
            try:
                self.catalog.shorten_log()
            finally:
                self._turn.release()

    @contextmanager
    def _change(self, *, erase_lost: bool = False) -> Iterator[list[Path]]:
        # The block appends the folders that its commit no longer needs.
        dropped: list[Path] = []
        self._take_turn()
        try:
            with self.catalog.folder() as folder:
                with self.catalog.write():
                    lost = self.catalog.lost_commits()
                    if lost is not None and not erase_lost:
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
            self._segments.forget_compressor()
            if isinstance(error, OSError) and not isinstance(error, ColBERTError):
                check_identity(self._root, self.catalog.identity)
                raise IndexStoreError(
                    self._root,
                    f"cannot be written: {error.strerror or error}. Nothing was changed. {advice_for(error)}",
                ) from error
            raise
        finally:
            self._turn.release()

    def _take_turn(self) -> None:
        timeout = self.catalog.lock_timeout_s
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
