"""Brings the index of a collection in step with its files. Each step is one transaction or a few.

::

    walk ── compare sizes and times ── hash ──▶ touched, moved     new names, nothing is encoded
                                          ├───▶ vanished           deleted
                                          └───▶ new, changed       read, cut, encoded: a window at a time
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from mlx_colbert.collection.changes import Changes, File, Hashed, hashed
from mlx_colbert.collection.reading import moved_ids, own_metadata, read_passages_of
from mlx_colbert.collection.state import State
from mlx_colbert.documents.passage import Passage, encoded_text
from mlx_colbert.documents.walk import FileState
from mlx_colbert.progress import Progress, silent
from mlx_colbert.retriever.indexing import IndexingStats, compared, index_passages
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.store import Store
from mlx_colbert.types import Position, Source

__all__ = ["BYTES_PER_PASSAGE", "Plan", "SyncResult", "Syncer", "planned"]

# About the number of bytes of a text that become a passage: 120 words.
BYTES_PER_PASSAGE = 700


@dataclass(frozen=True)
class Plan:
    """What has to be done.

    Attributes:
        new: files that the index does not have.
        changed: files with another content.
        touched: the new sources of files with the same content.
        moved: uri of a source → the source that it becomes.
        vanished: sources to delete.
        is_complete: whether there was enough time to find what was moved.
    """

    new: list[File]
    changed: list[File]
    touched: list[Source]
    moved: dict[str, Source]
    vanished: list[Source]
    is_complete: bool = True

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.touched or self.moved or self.vanished)


def planned(found: Changes, sources: Mapping[str, Source], *, deadline: float | None = None) -> Plan:
    """What has to be done after a comparison of sizes and times. This reads files that may have been moved.

    Args:
        found: the comparison.
        sources: uri → source of the index.
        deadline: the value of `time.monotonic` to stop at. Then only new and changed files are named.
    """
    content = hashed(found, sources, deadline=deadline)
    vanished = [source for source in found.vanished if source.uri not in content.moved]
    if not content.is_complete:
        content, vanished = Hashed(is_complete=False), []
    done = content.same | {source.uri for source in content.moved.values()}
    rest = [file for file in found.suspects if file.uri not in done]
    return Plan(
        [file for file in rest if file.uri not in sources],
        [file for file in rest if file.uri in sources],
        content.touched,
        content.moved,
        vanished,
        content.is_complete,
    )


@dataclass
class SyncResult:
    """What a run has done, or would do.

    Attributes:
        n_files: number of files of the collection.
        new: names of the files that are new.
        changed: names of the files that changed.
        moved: old name → new name.
        touched: number of files with a new time and the same content.
        deleted: names of the files that do not exist any more.
        passages: number of passages that were encoded.
        unchanged: number of passages of changed files that were not encoded.
        empty: number of files that have no text in them.
        failed: path of each file or folder that could not be read → the reason. Some are of earlier runs.
        waiting: name of an extra that is not installed → number of the files that wait for it.
        missing: path of each folder that is missing or empty → number of its files in the index.
        kept: number of files that are in the index and cannot be looked at now.
        passed_over: kind of what was left out → its number.
        folders: absolute path of each folder that was looked at.
    """

    n_files: int = 0
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    touched: int = 0
    deleted: list[str] = field(default_factory=list)
    passages: int = 0
    unchanged: int = 0
    empty: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)
    missing: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    folders: set[str] = field(default_factory=set)

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object, without the folders."""
        values = dict(vars(self))
        n_files, skipped = values.pop("n_files"), values.pop("passed_over")
        del values["folders"]
        return {
            "files": n_files,
            **values,
            "waiting": dict(self.waiting),
            "skipped": dict(skipped.most_common()),
        }

    @classmethod
    def of(cls, found: Changes, plan: Plan, *, state: State, paths: Callable[[str], str]) -> SyncResult:
        """The result of a plan that is carried out in full.

        Args:
            found: the comparison of sizes and times.
            plan: the plan.
            state: what the run has left.
            paths: the path of a file by its uri.
        """
        unread = {uri: item for uri, item in state.unread.items() if item.reason and uri in found.files}
        return cls(
            len(found.files),
            [file.uri for file in plan.new if file.uri not in state.unread],
            [file.uri for file in plan.changed if file.uri not in unread],
            {uri: source.uri for uri, source in plan.moved.items()},
            len(plan.touched),
            [source.uri for source in plan.vanished],
            empty=sum(uri in found.files and not item.reason for uri, item in state.unread.items()),
            failed={
                **found.unlisted,
                **{paths(uri): item.reason for uri, item in unread.items() if not item.extra},
            },
            waiting=Counter(item.extra for item in unread.values() if item.extra),
            missing=found.missing,
            kept=found.kept,
            passed_over=found.passed_over,
            folders=found.folders,
        )


class Syncer:
    """Carries out a plan.

    Attributes:
        stats: the numbers of written passages.
    """

    def __init__(
        self,
        retriever: Callable[[], Retriever],
        state: State,
        *,
        max_file_bytes: int | None,
        progress: Progress = silent,
    ) -> None:
        """Prepare it.

        Args:
            retriever: the model and the index. It is called when something must be encoded.
            state: receives the files that give no passages.
            max_file_bytes: the size of the largest file that is read. None: the limit of its kind.
            progress: called with "files" and their number, in another thread, and with "encoding", the
                number of passages, and about how many there are.
        """
        self.stats: IndexingStats = IndexingStats()
        self._retriever = retriever
        self._state = state
        self._max_file_bytes = max_file_bytes
        self._progress = progress
        # Bytes of all files, and the bytes and passages of those that were read.
        self._n_bytes = self._n_read = self._n_passages = 0
        # The sources that were read: their other passages are deleted.
        self._replaced: set[Source] = set()
        # Sources whose passages are no longer in their files.
        self._emptied: list[Source] = []

    def apply_names(self, store: Store, plan: Plan) -> list[File]:
        """Give the files that were touched or moved their new names, and delete the files that vanished.

        Returns:
            The files that must be read, because their passages could not be moved.
        """
        renamed = {source.uri: source for source in plan.touched}
        names: dict[str, str] = {}
        metadata: list[Mapping[str, object] | None] = []
        again: list[File] = []
        gone = list(plan.vanished)
        for uri, source in plan.moved.items():
            passages = list(store.passages(doc_ids=store.passages_of(uri)))
            texts = {item.doc_id: encoded_text(item.text or "", item.position) for item in passages}
            ids = moved_ids(uri, source.uri, texts)
            if ids is None:
                again.append(_file_of(source))
                gone.append(Source(uri))
                continue
            renamed[uri] = source
            names |= ids
            metadata += [
                {**(item.metadata or {}), **own_metadata(source.uri, str((item.metadata or {}).get("kind")))}
                for item in passages
            ]
        if gone:
            store.replace_sources({source: {} for source in gone})
        if renamed:
            store.rename_sources(renamed, names, metadata)
        return again

    def read(self, files: Sequence[File], sources: Mapping[str, Source]) -> None:
        """Read, encode and commit files.

        Args:
            files: the files.
            sources: uri → source of the index.
        """
        self._n_bytes = sum(file.state.n_bytes for file in files)
        self._n_read = self._n_passages = 0
        self._replaced.clear()
        passages = self._passages(files, sources)
        first = next(passages, None)
        # Only now a model is needed, unless the first file has already used it.
        if first is not None:
            retriever = self._retriever()
            index_passages(
                retriever.model,
                retriever.store,
                compared(retriever.store, chain([first], passages), by_source=True),
                1 + self._n_bytes // BYTES_PER_PASSAGE,
                upsert=True,
                replaced=self._replaced,
                advance=self._advance,
                progress=self._told,
            )
        self._forget(sources)

    def _passages(self, files: Iterable[File], sources: Mapping[str, Source]) -> Iterator[Passage]:
        """The passages of files. What gives none is noted."""
        files = list(files)
        for n_read, file in enumerate(files, start=1):
            known = sources.get(file.uri)
            found = read_passages_of(
                file,
                fits=lambda text: self._retriever().model.fits(text),
                max_file_bytes=self._max_file_bytes,
                known_hash=None if known is None else known.content_hash,
            )
            self._state.unread.pop(file.uri, None)
            if found.unread is not None:
                self._state.unread[file.uri] = found.unread
            if not found.passages and found.source is not None and known is not None:
                self._emptied.append(found.source)
            self._n_read += file.state.n_bytes
            self._n_passages += len(found.passages)
            self._progress("files", n_read, len(files))
            if found.passages and found.source is not None:
                self._replaced.add(found.source)
            yield from found.passages

    def _told(self, stage: str, done: int, total: int | None) -> None:
        """Report the progress. The number of passages is estimated from the files that were read."""
        if stage == "encoding":
            total = max(done, round(self._n_passages * self._n_bytes / max(self._n_read, 1)))
        self._progress(stage, done, total)

    def _advance(self, stats: IndexingStats) -> None:
        self.stats += stats

    def _forget(self, sources: Mapping[str, Source]) -> None:
        """Delete the passages of files that have none now. A file with its old content gets its new time."""
        same = {
            source.uri: source
            for source in self._emptied
            if sources[source.uri].content_hash == source.content_hash
        }
        gone: dict[Source, dict[str, Position | None]] = {
            source: {} for source in self._emptied if source.uri not in same
        }
        self._emptied = []
        if same or gone:
            store = self._retriever().store
            if same:
                store.rename_sources(same)
            if gone:
                store.replace_sources(gone)


def _file_of(source: Source) -> File:
    state = FileState(source.n_bytes or 0, source.modified_ns or 0)
    return File(source.uri, source.folder or "", source.uri.partition("/")[2], state)
