"""A collection: folders of files, their settings, and an index that keeps up with them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mlx_colbert.collection.changes import Changes, File, changes, is_in_doubt
from mlx_colbert.collection.last_look import last_looks
from mlx_colbert.collection.opened_index import OpenedIndex
from mlx_colbert.collection.place import Place
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.collection.state import STATE_NAME, State
from mlx_colbert.collection.status import CollectionStatus
from mlx_colbert.collection.without_file import WITHOUT_FILE, carry_over
from mlx_colbert.counts import counted
from mlx_colbert.errors import (
    CollectionBusyError,
    IndexNotFoundError,
    ModelMismatchError,
)
from mlx_colbert.index import Index
from mlx_colbert.progress import Progress, silent
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.types import Source

if TYPE_CHECKING:
    from mlx_colbert.collection.freshness import Freshness
    from mlx_colbert.collection.sync import Plan, Syncer, SyncResult
    from mlx_colbert.kernels import Backend

__all__ = ["Collection"]


class Collection:
    """Folders of files with an index that keeps up with them.

    Attributes:
        place: its name, and where its settings and its index are.
        settings: its folders, patterns, model and contexts.

    >>> import tempfile
    >>> from mlx_colbert.collection.settings import CollectionSettings
    >>> with tempfile.TemporaryDirectory() as home:
    ...     _ = (Path(home) / "notes").mkdir(), Path(home, "notes", "tea.md").write_text("Steep it.")
    ...     model = str(Path("tests/data/checkpoints/pylate-bert").absolute())
    ...     settings = CollectionSettings(model=model).with_folder(Path(home, "notes"))
    ...     with Collection(Registry(home).create(settings), backend="numpy") as notes:
    ...         result = notes.sync()
    ...         print(notes.name, result.new, [hit.text for hit in notes.index.search_keywords("steep")])
    notes ['notes/tea.md'] ['Steep it.']
    """

    def __init__(self, place: Place, *, backend: Backend = "auto") -> None:
        """Use the collection at a place. Nothing is opened yet but its settings.

        Args:
            place: the place.
            backend: the kernels for searches and for the model.

        Raises:
            CollectionNotFoundError: if it has no settings.
            ConfigError: if they are not valid.
        """
        self.place = place
        self.settings: CollectionSettings = place.settings()
        self._opened = OpenedIndex(place, backend)

    @classmethod
    def open(cls, name: str, *, registry: Registry | None = None, backend: Backend = "auto") -> Self:
        """The collection with a name, or beside the files of a folder.

        Args:
            name: as for `Registry.find`.
            registry: where the collections are. None: the user's.
            backend: the kernels for searches and for the model.

        Raises:
            CollectionNotFoundError: if there is none.
            ConfigError: if its settings are not valid.
        """
        return cls((registry or Registry()).find(name), backend=backend)

    @property
    def name(self) -> str:
        """Its name."""
        return self.place.name

    @property
    def retriever(self) -> Retriever:
        """Its model and its index. The model is loaded at its first use: a keyword search needs none.

        Raises:
            CollectionNotFoundError: if there is no index yet.
            ModelMismatchError: if the index was made with another model than that of the settings.
            IndexStoreError: if the index cannot be used.
        """
        return self._opened.retriever(self._opened.path, self.settings, may_create=False)

    @property
    def index(self) -> Index:
        """Its index. The errors are those of `retriever`."""
        return self.retriever.index

    @property
    def is_without_text(self) -> bool:
        """Whether it has no index because the last complete sync found no text in its files."""
        return self._opened.is_without_text()

    def close(self) -> None:
        """Close its index."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Collection {self.name!r}: {', '.join(self.settings.folders.values()) or 'no folder'}>"

    def sync(
        self,
        *,
        dry_run: bool = False,
        prune: bool = False,
        rebuild: bool = False,
        progress: Progress | None = None,
        on_wait: Callable[[str], object] | None = None,
        wait_s: float = 0.0,
    ) -> SyncResult:
        """Bring the index in step with the files. Only new and changed passages are encoded.

        What was committed stays, also after an error, an interruption or a crash. The next run goes on.

        Args:
            dry_run: change nothing, and return what would be done.
            prune: delete the passages of a folder that is missing or empty. Otherwise they stay, because the
                folder may be on a disk that is not there now.
            rebuild: make the index again, with the model of the settings. The old one is used until then.
            progress: called with the stage "files" (the number that was read; from another thread),
                "encoding" (the number of passages, and about how many there are), "training" or "writing".
            on_wait: called with a sentence before this waits for another process. None: wait no longer than
                `wait_s`.
            wait_s: seconds to wait for another process without `on_wait`.

        Raises:
            CollectionBusyError: without `on_wait`, if another process goes on changing the collection.
            ModelMismatchError: without `rebuild`, if the index was made with another model.
            CheckpointError: if the model cannot be loaded.
            IndexStoreError: if the index cannot be used.
        """
        if dry_run:
            return self._survey(prune=prune, rebuild=rebuild)
        with self._changing(on_wait, wait_s):
            if not rebuild:
                return self._run(self._opened.path, prune=prune, progress=progress or silent)
            self._opened.begin_new(self.settings)
            result = self._run(self._opened.new_path, prune=prune, progress=progress or silent)
            old_path, new_path = self._opened.path, self._opened.new_path
            result.failed |= carry_over(old_path, new_path, lambda: self._retriever_at(new_path))
            self._opened.exchange()
            return result

    @contextmanager
    def writing(self, *, wait_s: float = 0.0) -> Iterator[Retriever]:
        """A block that changes passages which come from no file. A sync leaves them as they are.

        It has the model and the index, which is made if there is none.

        Args:
            wait_s: seconds to wait for another process that changes the collection.

        Raises:
            CollectionBusyError: if the other process goes on.
            ModelMismatchError: if the index was made with another model.
            CheckpointError: if the model cannot be loaded.
            IndexStoreError: if the index cannot be used.
        """
        with self._changing(None, wait_s):
            yield self._retriever_at(self._opened.path)

    def is_in_step(self) -> bool:
        """Whether the index is in step with the files, as far as their sizes and times tell.

        It is not if it has files of a folder that is missing or empty now.

        Another thread may search in the collection meanwhile.

        Raises:
            ModelMismatchError: if the index was made with another model.
            IndexStoreError: if the index cannot be used.
        """
        state = self._state()

        def look() -> tuple[bool, list[str]]:
            # The values are only compared. Those of a damaged source differ from those of its file.
            sources = self._opened.sources(self._opened.path, self.settings, verify=False)
            found = changes(self.settings, sources, state)
            is_same = not (found.pending(state) or found.vanished or found.missing)
            # What cannot be looked at may be there again, and an extra may be installed.
            is_all = not (found.unlisted or any(file.extra for file in state.unread.values()))
            return is_same, sorted(found.folders) if is_all else []

        basis = self.settings, state, self._opened.commit(self.settings)
        return last_looks.is_in_step(self.place.path, self.settings.folders.values(), basis, look)

    def refresh(self, limit_s: float = 1.0) -> Freshness:
        """Bring the index in step as far as that takes at most about `limit_s` seconds.

        Files are looked at first (size and time only). If nothing changed, that is all. What was moved or
        deleted is done before what must be encoded. Files for which there is no time wait.

        Args:
            limit_s: seconds for the work after the look at the files. The time to load the model is not
                counted.

        Raises:
            ModelMismatchError: if the index was made with another model.
            IndexStoreError: if the index cannot be used.
        """
        from mlx_colbert.collection.freshness import Freshness

        state, sources = self._state(), self._sources(self._opened.path)
        found = changes(self.settings, sources, state)
        n_waiting = len(found.pending(state)) + len(found.vanished)
        if not n_waiting or not sources:
            return Freshness(waiting=n_waiting, missing=found.missing)
        try:
            with self._changing(None):
                return replace(self._refresh(time.monotonic() + limit_s), missing=found.missing)
        except CollectionBusyError:
            return Freshness(waiting=n_waiting, busy=True, missing=found.missing)

    def status(self) -> CollectionStatus:
        """What it consists of, and how far its index is behind its files. No file is read."""
        from mlx_colbert.collection.sync import Plan, SyncResult

        path, state = self._opened.path, self._state()
        sources = self._sources(path)
        found = changes(self.settings, sources, state)
        result = SyncResult.of(found, Plan([], [], [], {}, []), state=state, paths=self._path_text)
        pending = found.pending(state)
        info, n_documents = None, 0
        with suppress(IndexNotFoundError), Index.open(path, backend="numpy") as index:
            info, n_documents = index.info(), len(index.ids(filter=WITHOUT_FILE))
        recorded = (info.model if info else None) or {}
        return CollectionStatus(
            self.name,
            str(self.place.path),
            self.place.is_trusted,
            self.settings.folders,
            self.settings.model,
            recorded.get("source"),
            len(sources),
            info.passages if info else 0,
            n_documents,
            info.bytes if info else 0,
            sum(file.uri not in sources for file in pending),
            sum(file.uri in sources and not is_in_doubt(sources[file.uri], file) for file in pending),
            len(found.vanished),
            found.missing,
            result.failed,
            result.waiting,
            state.synced_at,
        )

    def _survey(self, *, prune: bool, rebuild: bool) -> SyncResult:
        from mlx_colbert.collection.sync import SyncResult, planned

        path, state = self._opened.path, self._state()
        sources = {} if rebuild else self._sources(path)
        found = changes(self.settings, sources, state, prune=prune)
        return SyncResult.of(found, planned(found, sources), state=state, paths=self._path_text)

    def _run(self, path: Path, *, prune: bool, progress: Progress) -> SyncResult:
        """Bring an index in step with the files, under the lock."""
        from mlx_colbert.collection.sync import SyncResult, planned

        state, sources = self._state(), self._sources(path)
        is_new = path == self._opened.new_path
        if is_new:
            # What is known of the old index is not true of the new one.
            state.rules = ""
        found = changes(self.settings, sources, state, prune=prune)
        plan = planned(found, sources)
        syncer = self._syncer(path, state, progress)
        with self._recording(state, found):
            try:
                self._carry_out(syncer, plan, sources, path)
            except BaseException as error:
                if isinstance(error, ModelMismatchError):
                    error.add_note(
                        f"To make the index again: mlx-colbert sync --name {shlex.quote(self.name)} --rebuild"
                    )
                elif n_done := syncer.stats.passages:
                    error.add_note(
                        f"In the index now: {counted(n_done, 'passage')}. The next sync goes on from there."
                    )
                raise
            if not is_new:
                state.rules = "" if found.kept else found.rules
            state.synced_at = time.time()
        result = SyncResult.of(found, plan, state=state, paths=self._path_text)
        result.passages, result.unchanged = syncer.stats.passages, syncer.stats.unchanged
        return result

    def _carry_out(self, syncer: Syncer, plan: Plan, sources: Mapping[str, Source], path: Path) -> None:
        again: list[File] = []
        if sources:
            retriever = self._retriever_at(path)
            again = syncer.apply_names(retriever.store, plan)
        files = sorted([*plan.new, *plan.changed, *again], key=lambda file: file.uri)
        syncer.read(files, sources)

    def _refresh(self, deadline: float) -> Freshness:
        from mlx_colbert.collection.freshness import Freshness, encode_some
        from mlx_colbert.collection.sync import planned

        path = self._opened.path
        state, sources = self._state(), self._sources(path)
        found = changes(self.settings, sources, state)
        plan = planned(found, sources, deadline=deadline)
        pending = {file.uri for file in found.pending(state)}
        waiting = [file for file in (*plan.new, *plan.changed) if file.uri in pending]
        if not plan.is_complete:
            return Freshness(waiting=len(waiting) + len(found.vanished))
        n_all = len(waiting) + len(plan.touched) + len(plan.moved) + len(plan.vanished)
        syncer = self._syncer(path, state, silent)
        with self._recording(state, found):
            retriever = self._retriever_at(path)
            waiting += syncer.apply_names(retriever.store, plan)
            if waiting and time.monotonic() < deadline:
                begun = time.monotonic()
                _ = retriever.model
                deadline += time.monotonic() - begun
            waiting.sort(key=lambda file: file.state.n_bytes)
            left = encode_some(syncer, waiting, sources, deadline)
            if not left and not found.kept:
                state.rules = found.rules
        return Freshness(n_all - len(left), len(left))

    def _syncer(self, path: Path, state: State, progress: Progress) -> Syncer:
        # Not above: most searches find nothing that has changed.
        from mlx_colbert.collection.sync import Syncer

        return Syncer(
            lambda: self._retriever_at(path),
            state,
            max_file_bytes=self.settings.max_file_bytes,
            progress=progress,
        )

    @contextmanager
    def _changing(self, on_wait: Callable[[str], object] | None, wait_s: float = 0.0) -> Iterator[None]:
        """A block that has the lock. The settings are read again: they may have changed meanwhile."""
        with self.place.locked(on_wait=on_wait, wait_s=wait_s):
            self._opened.finish_exchange()
            self.settings = self.place.settings()
            yield

    @contextmanager
    def _recording(self, state: State, found: Changes) -> Iterator[None]:
        """A block that changes the index. The state is written at its end, also after an error."""
        path = self.place.path / STATE_NAME
        if state.rules and state.rules != found.rules:
            # The block may add files that only the new rules allow. If it is killed, no rules are known.
            state.rules = ""
            state.write(path)
        before = State(state.rules, dict(state.unread), state.synced_at)
        try:
            yield
        finally:
            state.unread = {uri: item for uri, item in state.unread.items() if uri in found.files}
            if state != before:
                state.write(path)

    def _state(self) -> State:
        return State.read(self.place.path / STATE_NAME)

    def _sources(self, path: Path) -> dict[str, Source]:
        return self._opened.sources(path, self.settings)

    def _retriever_at(self, path: Path) -> Retriever:
        return self._opened.retriever(path, self.settings, may_create=True)

    def _path_text(self, uri: str) -> str:
        return str(self.settings.path_of(uri) or uri)
