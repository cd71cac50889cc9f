"""A collection: folders of files, their settings, and an index that keeps up with them."""

from __future__ import annotations

import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mlx_colbert.collection.changes import Changes, File, changes
from mlx_colbert.collection.lock import locked
from mlx_colbert.collection.registry import Place, Registry
from mlx_colbert.collection.state import STATE_NAME, State
from mlx_colbert.collection.sync import BYTES_PER_PASSAGE, Plan, Syncer, SyncResult, planned
from mlx_colbert.errors import (
    CollectionBusyError,
    CollectionNotFoundError,
    IndexNotFoundError,
    IndexStoreError,
    ModelMismatchError,
)
from mlx_colbert.index import Index
from mlx_colbert.progress import Progress, silent
from mlx_colbert.retriever.recorded_model import recorded_model
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.types import Source

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["Collection", "CollectionStatus", "Freshness"]

# The passages that a refresh encodes first. Then it knows how long they take.
_FIRST_PASSAGES = 8


@dataclass(frozen=True)
class Freshness:
    """What a refresh has done.

    Attributes:
        updated: number of files that are in step now, and were not before.
        waiting: number of files that are still not in step.
        busy: whether another process is changing the collection. Then nothing was done.
    """

    updated: int = 0
    waiting: int = 0
    busy: bool = False


@dataclass(frozen=True)
class CollectionStatus:
    """What a collection consists of.

    Attributes:
        name: its name.
        path: the folder of its settings and its index.
        is_trusted: whether its settings are used.
        folders: label → path of each folder.
        model: the model of its settings.
        index_model: the model of its index. None: there is no index yet.
        n_files: number of files in the index.
        n_passages: number of passages.
        n_bytes: size of the index on the disk.
        new: number of files that are not in the index yet.
        changed: number of files whose size or time changed.
        vanished: number of files that are in the index and do not exist any more.
        missing: path of each folder that is missing or empty → number of its files in the index.
        failed: path of each file that could not be read → the reason.
        waiting: name of an extra that is not installed → number of the files that wait for it.
        synced_at: when the last complete sync ended, in seconds since 1970. None: there was none.
    """

    name: str
    path: str
    is_trusted: bool
    folders: Mapping[str, str]
    model: str
    index_model: str | None
    n_files: int
    n_passages: int
    n_bytes: int
    new: int
    changed: int
    vanished: int
    missing: Mapping[str, int]
    failed: Mapping[str, str]
    waiting: Mapping[str, int]
    synced_at: float | None


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

        Raises:
            CollectionNotFoundError: if it has no settings.
            ConfigError: if they are not valid.
        """
        self.place = place
        self.settings = place.settings()
        self._backend = backend
        self._retriever: Retriever | None = None

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
        if self._retriever is None:
            self._retriever = self._opened(self.place.index_path)
        return self._retriever

    @property
    def index(self) -> Index:
        """Its index. The errors are those of `retriever`."""
        return self.retriever.index

    def close(self) -> None:
        """Close its index."""
        retriever, self._retriever = self._retriever, None
        if retriever is not None:
            retriever.close()

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
            on_wait: called with a sentence before this waits for another process. None: do not wait.

        Raises:
            CollectionBusyError: without `on_wait`, if another process is changing the collection.
            ModelMismatchError: without `rebuild`, if the index was made with another model.
            CheckpointError: if the model cannot be loaded.
            IndexStoreError: if the index cannot be used.
        """
        if dry_run:
            return self._survey(prune=prune, rebuild=rebuild)
        with self._changing(on_wait):
            path = self.place.path / "index.new" if rebuild else self.place.index_path
            if rebuild:
                self._drop_other_model(path)
            result = self._run(path, prune=prune, progress=progress or silent)
            if rebuild:
                self._exchange(path)
        return result

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
        state, sources = self._state(), self._sources(self.place.index_path)
        found = changes(self.settings, sources, state)
        n_waiting = len(self._pending(found, state)) + len(found.vanished)
        if not n_waiting or not sources:
            return Freshness(waiting=n_waiting)
        try:
            with self._changing(None):
                return self._refresh(time.monotonic() + limit_s)
        except CollectionBusyError:
            return Freshness(waiting=n_waiting, busy=True)

    def status(self) -> CollectionStatus:
        """What it consists of, and how far its index is behind its files. No file is read."""
        path, state = self.place.index_path, self._state()
        sources = self._sources(path)
        found = changes(self.settings, sources, state)
        result = SyncResult.of(found, Plan([], [], [], {}, []), state=state, paths=self._path_text)
        pending = self._pending(found, state)
        info = None
        with suppress(IndexNotFoundError), Index.open(path, backend="numpy") as index:
            info = index.info()
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
            info.bytes if info else 0,
            sum(file.uri not in sources for file in pending),
            sum(file.uri in sources for file in pending),
            len(found.vanished),
            found.missing,
            result.failed,
            result.waiting,
            state.synced_at,
        )

    def path_of(self, uri: str) -> Path | None:
        """The path of a file by its name in the index. None: its folder is not one of the collection."""
        label, _, name = uri.partition("/")
        folder = self.settings.folders.get(label)
        return None if folder is None else Path(folder, name)

    def uri_of(self, path: Path) -> str | None:
        """The name in the index of a file or a folder. None: it is in no folder of the collection."""
        absolute = path.absolute()
        for label, folder in self.settings.folders.items():
            for candidate in (absolute, absolute.parent.resolve() / absolute.name):
                if candidate.is_relative_to(folder):
                    name = candidate.relative_to(folder).as_posix()
                    return unicodedata.normalize("NFC", label if name == "." else f"{label}/{name}")
        return None

    def _survey(self, *, prune: bool, rebuild: bool) -> SyncResult:
        path, state = self.place.index_path, self._state()
        sources = {} if rebuild else self._sources(path)
        found = changes(self.settings, sources, state, prune=prune)
        return SyncResult.of(found, planned(found, sources), state=state, paths=self._path_text)

    def _run(self, path: Path, *, prune: bool, progress: Progress) -> SyncResult:
        """Bring an index in step with the files, under the lock."""
        state, sources = self._state(), self._sources(path)
        found = changes(self.settings, sources, state, prune=prune)
        plan = planned(found, sources)
        syncer = self._syncer(path, state, progress)
        with self._recording(state, found):
            try:
                self._carry_out(syncer, plan, sources, path)
            except BaseException as error:
                if isinstance(error, ModelMismatchError):
                    error.add_note(
                        f"To make the index again: mlx-colbert sync --name {self.name!r} --rebuild"
                    )
                elif n_done := syncer.stats.passages:
                    error.add_note(f"{n_done:,} passages are in the index. The next sync goes on from there.")
                raise
            state.rules = found.rules
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
        path = self.place.index_path
        state, sources = self._state(), self._sources(path)
        found = changes(self.settings, sources, state)
        plan = planned(found, sources, deadline=deadline)
        pending = {file.uri for file in self._pending(found, state)}
        waiting = [file for file in (*plan.new, *plan.changed) if file.uri in pending]
        if not plan.is_complete:
            return Freshness(waiting=len(waiting) + len(found.vanished))
        n_all = len(waiting) + len(plan.touched) + len(plan.moved) + len(plan.vanished)
        syncer = self._syncer(path, state, silent)
        with self._recording(state, found):
            waiting += syncer.apply_names(self._retriever_at(path).store, plan)
            waiting.sort(key=lambda file: file.state.n_bytes)
            left = self._encode_some(syncer, waiting, sources, deadline)
            if not left:
                state.rules = found.rules
        return Freshness(n_all - len(left), len(left))

    def _encode_some(
        self, syncer: Syncer, files: list[File], sources: Mapping[str, Source], deadline: float
    ) -> list[File]:
        """Encode files in portions until a time; returns those that are left."""
        portion = _FIRST_PASSAGES
        while files and time.monotonic() < deadline:
            n_files = n_passages = 0
            while n_files < len(files) and n_passages < portion:
                n_passages += 1 + files[n_files].state.n_bytes // BYTES_PER_PASSAGE
                n_files += 1
            if n_passages > 2 * portion:
                n_files -= 1
            if not n_files:
                break
            if sources and any(file.state.n_bytes for file in files):
                # Loaded before the clock runs.
                loading = time.monotonic()
                _ = self.retriever.model
                deadline += time.monotonic() - loading
            begun = time.monotonic()
            syncer.read(files[:n_files], sources)
            files = files[n_files:]
            per_s = max(n_passages, 1) / max(time.monotonic() - begun, 1e-3)
            portion = max(1, int(per_s * max(deadline - time.monotonic(), 0)))
        return files

    def _pending(self, found: Changes, state: State) -> list[File]:
        """The suspects without those that could not be read the last time and look as they did then."""
        return [
            file
            for file in found.suspects
            if (unread := state.unread.get(file.uri)) is None
            or unread.is_final
            or (unread.n_bytes, unread.modified_ns) != file.state
        ]

    def _syncer(self, path: Path, state: State, progress: Progress) -> Syncer:
        return Syncer(
            lambda: self._retriever_at(path),
            state,
            max_bytes=self.settings.max_file_bytes,
            progress=progress,
        )

    @contextmanager
    def _changing(self, on_wait: Callable[[str], object] | None) -> Iterator[None]:
        """A block that has the lock. The settings are read again: they may have changed meanwhile."""
        with locked(self.place.path, self.name, on_wait=on_wait):
            self._finish_exchange()
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
        """The sources of an index by their uris. None if there is no index."""
        try:
            retriever = self._retriever_at(path, may_create=False)
        except CollectionNotFoundError:
            return {}
        return {source.uri: source for source in retriever.store.sources()}

    def _retriever_at(self, path: Path, *, may_create: bool = True) -> Retriever:
        """The model and the index at a path. The index is made if there is none."""
        if self._retriever is not None and self._retriever.store.path != path.absolute():
            self.close()
        if self._retriever is None:
            try:
                self._retriever = self._opened(path)
            except CollectionNotFoundError:
                if not may_create:
                    raise
                self._retriever = Retriever.create(path, self.settings.model, backend=self._backend)
        return self._retriever

    def _opened(self, path: Path) -> Retriever:
        try:
            store = Index.open(path, backend=self._backend)
        except IndexNotFoundError as error:
            reason = f"has no index yet. Run mlx-colbert sync --name {self.name!r}."
            raise CollectionNotFoundError(self.name, reason) from error
        try:
            self._check_model(store)
            # With the revision that the index records. A stranger's index may not choose one.
            model = None if self.place.is_trusted else self.settings.model
            return Retriever(recorded_model(store, model, self._backend), store)
        except BaseException:
            store.close()
            raise

    def _check_model(self, store: Index) -> None:
        """Raise an error if the index records another model than that of the settings."""
        recorded = (store.model or {}).get("source")
        if recorded == self._model_source():
            return
        if not self.place.is_trusted:
            raise ModelMismatchError(
                store.path,
                f"was made with the model {recorded!r}. You do not trust {self.place.settings_path}, so "
                f"{self.settings.model!r} is used. Read that file, then run mlx-colbert trust "
                f"{self.place.beside}.",
            )
        raise ModelMismatchError(
            store.path,
            f"was made with the model {recorded!r}, but the settings of collection {self.name} have "
            f"{self.settings.model!r}. Run mlx-colbert sync --name {self.name!r} --rebuild, or change "
            f"{self.place.settings_path}.",
        )

    def _model_source(self) -> str:
        """The model of the settings, as an index records it."""
        folder = Path(self.settings.model)
        return str(folder.resolve()) if folder.is_dir() else self.settings.model

    def _path_text(self, uri: str) -> str:
        return str(self.path_of(uri) or uri)

    def _drop_other_model(self, path: Path) -> None:
        """Remove an index that an interrupted rebuild began with another model."""
        try:
            _ = self._retriever_at(path, may_create=False).model
        except CollectionNotFoundError:
            pass
        except IndexStoreError:
            self.close()
            shutil.rmtree(path)

    def _exchange(self, new: Path) -> None:
        """Put a new index in the place of the old one."""
        self.close()
        old = self.place.path / "index.old"
        shutil.rmtree(old, ignore_errors=True)
        if new.exists():
            if self.place.index_path.exists():
                self.place.index_path.rename(old)
            new.rename(self.place.index_path)
        shutil.rmtree(old, ignore_errors=True)

    def _finish_exchange(self) -> None:
        """Finish the exchange of an index that was killed between its two steps."""
        old, new = self.place.path / "index.old", self.place.path / "index.new"
        if old.exists() and new.exists() and not self.place.index_path.exists():
            new.rename(self.place.index_path)
        shutil.rmtree(old, ignore_errors=True)
