"""Writes passages to a store: encodes and commits the new ones. After an error it says what was written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import TYPE_CHECKING

from mlx_colbert.counts import counted
from mlx_colbert.documents.unread import Unread
from mlx_colbert.errors import DuplicateIdError, TargetExistsError
from mlx_colbert.progress import Progress
from mlx_colbert.retriever import reading
from mlx_colbert.retriever.indexing import Found, IndexingStats, compared, in_bulk, index_passages
from mlx_colbert.retriever.ownership import Ownership
from mlx_colbert.retriever.reading import ReadFiles, memory_of
from mlx_colbert.retriever.recorded_model import OTHERWISE
from mlx_colbert.store import Store
from mlx_colbert.types import Source

if TYPE_CHECKING:
    from mlx_colbert.model.colbert import ColBERT

__all__ = ["DO_AGAIN", "PassageWriter", "interruption_told"]

DO_AGAIN = "Do the same again to write the rest."
_COMPACT = "run the same command again, or compact it (mlx-colbert compact, Index.compact)"
_WAIT = "Wait until it ends. Then run the same command again: it adds what is missing."


@contextmanager
def interruption_told(stats: Callable[[], IndexingStats] = IndexingStats) -> Iterator[None]:
    """A block that writes. If Ctrl-C ends it before anything is written, a note on the exception says so.

    Args:
        stats: the numbers of what was written. Without it, the block writes nothing.
    """
    before = stats()
    try:
        yield
    except KeyboardInterrupt as error:
        if stats() == before:
            error.add_note("Nothing was written yet. The same command (or call) starts from the beginning.")
        raise


@dataclass
class _Changes:
    """What differs between files and a store.

    Attributes:
        found: the passages of changed files, as `compared` returns them.
        later: the uris of changed files whose passages need too much memory. They are read again.
        replaced: the sources whose other passages are deleted.
        differing: the ids of passages that the store has with another text or metadata.
        n_unchanged: the number of passages that the store has already.
        n_skipped: those of them that are in files without any change.
    """

    found: list[Found] = field(default_factory=list)
    later: set[str] = field(default_factory=set)
    replaced: set[Source] = field(default_factory=set)
    differing: list[str] = field(default_factory=list)
    n_unchanged: int = 0
    n_skipped: int = 0
    _n_bytes: int = 0

    def add_file(
        self,
        source: Source,
        group: Iterable[Found],
        *,
        stored: Source | None,
        upsert: bool,
        ownership: Ownership,
    ) -> None:
        """Note the passages of a file.

        Args:
            source: the file.
            group: its passages.
            stored: the source as the store has it.
            upsert: whether its old passages are replaced.
            ownership: receives the passages that differ from those of the store.
        """
        n_before, n_bytes, n_same, count = len(self.found), 0, 0, 0
        is_kept = not self.later
        for passage, unchanged in group:
            count += 1
            n_same += unchanged is True
            if unchanged is False:
                self.differing.append(passage.doc_id)
                ownership.note(passage)
            if is_kept:
                n_bytes += memory_of(passage)
                self.found.append((passage, unchanged))
                if self._n_bytes + n_bytes > reading.KEPT_BYTES:
                    is_kept = False
                    del self.found[n_before:]
        self.n_unchanged += n_same
        if upsert and not (n_same == count and source == stored):
            self.replaced.add(source)
        elif n_same == count:
            self.n_skipped += count
            del self.found[n_before:]
            return
        if is_kept:
            self._n_bytes += n_bytes
        else:
            self.later.add(source.uri)


class PassageWriter:
    """Writes passages to a store.

    Attributes:
        stats: the numbers of written passages, and the time that it took.
        unread: what was left out when files and folders were last read.
    """

    def __init__(self, store: Store, model: Callable[[], ColBERT]) -> None:
        self.stats: IndexingStats = IndexingStats()
        self.unread: Unread = Unread()
        self._store = store
        self._model = model

    def add_files(self, files: ReadFiles, *, upsert: bool, alone: bool, progress: Progress) -> int:
        """Add the passages of files and folders; returns how many were read.

        Args:
            files: the files and folders.
            upsert: replace the old passages of these files.
            alone: raise an error if the store has passages that are not in these files.
            progress: called with the progress.

        Raises:
            InputError: if a file cannot be read as passages, or (DuplicateIdError) an id exists.
            TargetExistsError: with `alone`, if the store has other passages.
        """
        self.unread = files.unread
        # Count first: another program may be adding the same passages.
        n_stored = len(self._store)
        changes = _Changes(n_unchanged=files.n_known, n_skipped=files.n_known)
        ownership = Ownership(self._store)
        found = compared(self._store, files.passages(self._fits, progress), by_source=upsert)
        for source, group in groupby(found, key=lambda pair: pair[0].source):
            if source is not None:
                stored = files.sources.get(source.uri)
                changes.add_file(source, group, stored=stored, upsert=upsert, ownership=ownership)
        ownership.check(files.uris)
        if changes.differing and not upsert:
            knows_model = "fingerprint" in (self._store.model or {})
            raise DuplicateIdError.existing(
                changes.differing,
                where=self._store.path,
                how=" with another text or metadata" if knows_model else "",
            )
        n_others = n_stored - changes.n_unchanged - len(changes.differing)
        if alone and n_others > 0:
            what = f"It has {counted(n_others, 'passage')} that these files do not have. {OTHERWISE}"
            raise TargetExistsError(self._store.path, advice=what)
        total = files.n_read
        self.stats += IndexingStats(unchanged=changes.n_skipped)
        if upsert and files.blank:
            n_deleted = self._store.replace_sources({source: {} for source in files.blank})
            self.stats += IndexingStats(deleted=n_deleted)
        if changes.n_skipped == total:
            # There is nothing to write. This finishes the compaction that a crash interrupted.
            try:
                with in_bulk(self._store, total, progress):
                    return total
            except BaseException as error:
                _note_done(error, total, total, DO_AGAIN)
                raise
        later = compared(self._store, files.again(changes.later, self._fits), by_source=upsert)
        try:
            self.write(
                chain(_taken(changes.found), later),
                total,
                n_done=changes.n_skipped,
                upsert=upsert,
                replaced=changes.replaced,
                progress=progress,
                go_on=DO_AGAIN,
            )
        except DuplicateIdError as error:
            # They were new or the same when the files were compared with the index.
            reason = f"another program added this to index {self._store.path} during this run. {_WAIT}"
            raise DuplicateIdError(error.doc_ids, reason=reason) from error
        return total

    def _fits(self, text: str) -> bool:
        return self._model().fits(text)

    def write(
        self,
        found: Iterable[Found],
        total: int,
        *,
        n_done: int = 0,
        upsert: bool,
        replaced: Collection[Source] = (),
        progress: Progress,
        go_on: str,
    ) -> None:
        """Encode and commit passages.

        Args:
            found: the passages, as `compared` returns them. Those of one source must follow each other.
            total: the number of all passages.
            n_done: how many of these need no write and are not in `found`.
            upsert: replace passages whose ids exist.
            replaced: the sources whose other passages are deleted.
            progress: called with the progress.
            go_on: a sentence that says how to continue after an error.
        """
        n_before = n_done

        def advance(stats: IndexingStats) -> None:
            nonlocal n_done
            self.stats += stats
            n_done += stats.passages + stats.unchanged

        try:
            index_passages(
                self._model(),
                self._store,
                found,
                total,
                n_done=n_before,
                upsert=upsert,
                replaced=replaced,
                advance=advance,
                progress=progress,
            )
        except BaseException as error:
            _note_done(error, n_done, total, go_on)
            raise


def _note_done(error: BaseException, n_done: int, total: int, go_on: str) -> None:
    """Note on an error how many passages are in the index."""
    if n_done == total and total:
        error.add_note(f"All is in the index: {counted(total, 'passage')}. It is not compacted: {_COMPACT}.")
    elif n_done:
        error.add_note(f"The first {n_done:,} of {counted(total, 'passage')} are in the index. {go_on}")


def _taken(found: list[Found]) -> Iterator[Found]:
    """The items of a list. Each is removed, so that its memory is free."""
    found.reverse()
    while found:
        yield found.pop()
