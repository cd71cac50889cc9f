"""Writes passages to a store: encodes and commits the new ones. After an error it says what was written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from mlx_colbert.documents.files import Unread, read_passages
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.sources import FolderLabels
from mlx_colbert.errors import DuplicateIdError, TargetExistsError
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.progress import Progress
from mlx_colbert.retriever.indexing import IndexingStats, compared, index_passages
from mlx_colbert.retriever.recorded_model import OTHERWISE
from mlx_colbert.store import Store
from mlx_colbert.types import Source

__all__ = ["DO_AGAIN", "PassageWriter"]

DO_AGAIN = "Do the same again to write the rest."
_COMPACT = "run the same command again, or compact it (mlx-colbert compact, Index.compact)"
_WAIT = "Wait until it ends. Then run the same command again: it adds what is missing."


class PassageWriter:
    """Writes passages to a store.

    Attributes:
        stats: the numbers of written passages, and the time that it took.
        unread: what was left out when files and folders were last read.
    """

    def __init__(self, store: Store, model: Callable[[], ColBERT]) -> None:
        self.stats = IndexingStats()
        self.unread = Unread()
        self._store = store
        self._model = model

    def add_files(self, paths: Sequence[str | Path], *, upsert: bool, alone: bool, progress: Progress) -> int:
        """Add the passages of files and folders; returns how many were read.

        Args:
            paths: files and folders.
            upsert: replace the old passages of these files.
            alone: raise an error if the store has passages that are not in these files.
            progress: called with the progress.

        Raises:
            InputError: if a file cannot be read as passages, or (DuplicateIdError) an id exists.
            TargetExistsError: with `alone`, if the store has other passages.
        """
        # Count first: another program may be adding the same passages.
        n_stored = len(self._store)
        known = {source.uri: source for source in self._store.sources()}
        labels = FolderLabels(
            {source.folder: source.uri.partition("/")[0] for source in known.values() if source.folder}
        )
        changed: list[str] = []
        replaced: set[Source] = set()
        total = n_unchanged = 0
        found = compared(self._store, self._read(paths, labels), by_source=upsert)
        for source, group in groupby(found, key=lambda pair: pair[0].source):
            n_before = total - n_unchanged
            for passage, unchanged in group:
                total += 1
                progress("reading", total, None)
                n_unchanged += unchanged is True
                if unchanged is False:
                    changed.append(passage.doc_id)
            is_same = total - n_unchanged == n_before
            if upsert and source is not None and not (is_same and known.get(source.uri) == source):
                replaced.add(source)
        if changed and not upsert:
            knows_model = "fingerprint" in (self._store.model or {})
            raise self.existing_error(changed, " with another text or metadata" if knows_model else "")
        n_others = n_stored - n_unchanged - len(changed)
        if alone and n_others > 0:
            what = f"{n_others:,} of its passages are not in these files. {OTHERWISE}"
            raise TargetExistsError(self._store.path, advice=what)
        # If there is nothing to write, this still finishes the compaction that a crash interrupted.
        is_done = n_unchanged == total and not replaced
        if is_done:
            self.stats += IndexingStats(unchanged=total)
        passages = iter(()) if is_done else self._read(paths, labels)
        try:
            self.write(passages, total, upsert=upsert, replaced=replaced, progress=progress, go_on=DO_AGAIN)
        except DuplicateIdError as error:
            # They were new or the same when the files were compared with the index.
            reason = f"another program added this to index {self._store.path} during this run. {_WAIT}"
            raise DuplicateIdError(error.doc_ids, reason=reason) from error
        return total

    def _read(self, paths: Sequence[str | Path], labels: FolderLabels) -> Iterator[Passage]:
        return read_passages(paths, fits=self._model().fits, unread=self.unread, labels=labels)

    def existing_error(self, doc_ids: Sequence[str], how: str = "") -> DuplicateIdError:
        """The error to raise for ids that the store has already. `how` says what differs."""
        advice = "Use upsert (mlx-colbert add --upsert) to replace it."
        return DuplicateIdError(doc_ids, reason=f"exists already in index {self._store.path}{how}. {advice}")

    def write(
        self,
        passages: Iterable[Passage],
        total: int,
        *,
        upsert: bool,
        replaced: Collection[Source] = (),
        progress: Progress,
        go_on: str,
    ) -> None:
        """Encode and commit passages.

        Args:
            passages: the passages. Those of one source must follow each other.
            total: the number of passages.
            upsert: replace passages whose ids exist.
            replaced: the sources whose other passages are deleted.
            progress: called with the progress.
            go_on: a sentence that says how to continue after an error.
        """
        n_done = 0

        def advance(stats: IndexingStats) -> None:
            nonlocal n_done
            self.stats += stats
            n_done += stats.passages + stats.unchanged

        try:
            index_passages(
                self._model(),
                self._store,
                passages,
                total,
                upsert=upsert,
                replaces=replaced.__contains__ if replaced else None,
                advance=advance,
                progress=progress,
            )
        except BaseException as error:
            if n_done == total and total:
                error.add_note(f"All {total:,} passages are in the index. It is not compacted: {_COMPACT}.")
            elif n_done:
                error.add_note(f"The first {n_done:,} of {total:,} passages are in the index. {go_on}")
            raise
