"""Keeps collections in step with their files for as long as the process runs.

::

    the system tells of changes ──┐
    every few minutes ────────────┼──▶ a sync is due ──▶ Collection.sync ──▶ a WatchEvent
    settings, folders replaced ───┘

Events only say that something changed. A sync compares all files by sizes and times, so a lost event is found
by the next one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.file_events import FileEvents
from mlx_colbert.collection.place import Place
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.sync import SyncResult
from mlx_colbert.collection.watched import BLIND_CHECK_S, CHECK_S, Watched
from mlx_colbert.counts import counted
from mlx_colbert.errors import CollectionBusyError, CollectionError, CollectionNotFoundError
from mlx_colbert.model.kept import KeptModels, keeping
from mlx_colbert.progress import Progress, silent

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["WatchEvent", "Watcher"]

# Seconds between two looks at the settings and at the folders themselves. Nothing tells of a folder that is
# made again.
LOOK_S = 5.0
# Seconds that an unused model is kept. To load one takes about a second.
MODEL_IDLE_S = 300.0


@dataclass(frozen=True)
class WatchEvent:
    """Something that a watcher tells.

    Attributes:
        kind: "watching" when it begins with a collection, "synced" when it has done something, "problem" when
            something failed, "gone" when there is no such collection any more.
        collection: its name. Empty: this is about all.
        result: for "synced", what was done.
        error: for "problem", why. The watcher tries again by itself.
        folders: for "watching", the folders.
        time: when, in seconds since 1970.
    """

    kind: Literal["watching", "synced", "problem", "gone"]
    collection: str
    result: SyncResult | None = None
    error: Exception | None = None
    folders: tuple[str, ...] = ()
    time: float = field(default_factory=time.time)


class Watcher:
    """Keeps collections in step with their files.

    >>> import tempfile
    >>> from mlx_colbert.collection.settings import CollectionSettings
    >>> with tempfile.TemporaryDirectory() as home:
    ...     _ = (Path(home) / "notes").mkdir(), Path(home, "notes", "tea.md").write_text("Steep it.")
    ...     model = str(Path("tests/data/checkpoints/pylate-bert").absolute())
    ...     settings = CollectionSettings(model=model).with_folder(Path(home, "notes"))
    ...     _ = Registry(home).create(settings)
    ...     events = Watcher(Registry(home), backend="numpy").run()
    ...     print(next(events).kind, next(events).result.new)
    ...     events.close()
    watching ['notes/tea.md']
    """

    def __init__(
        self,
        registry: Registry,
        names: Sequence[str] = (),
        *,
        near: Path | None = None,
        backend: Backend = "auto",
        progress: Callable[[str], AbstractContextManager[Progress]] = lambda name: nullcontext(silent),
        events: FileEvents | None = None,
        models: KeptModels | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to watch. `run` begins.

        Args:
            registry: where the collections are.
            names: the collections, as for `Registry.find`. None: all, also those that are made later.
            near: without names, also the collection beside the files of this folder.
            backend: the kernels for the model.
            progress: called with the name of a collection when its sync begins; gives the progress callback.
            events: tells of changes. None: the system does.
            models: keeps the models, and lets go of those that nobody uses. None: its own.
            clock: the time in seconds, which never goes back.
        """
        self._registry = registry
        self._names = names
        self._near = near
        self._backend: Backend = backend
        self._progress = progress
        self._events = events or FileEvents()
        self._clock = clock
        self._models = models or KeptModels(clock=clock)
        self._watched: dict[Path, Watched] = {}
        self._own = os.path.realpath(registry.home / "collections") + "/"
        self._look_at = clock()
        # Whether a followed folder is another one now.
        self._is_stale = False
        self._unfollowed = ""
        self._follow_again_at = clock()

    def run(self) -> Generator[WatchEvent]:
        """Watch until the iterator is closed or an exception ends it, such as KeyboardInterrupt.

        What goes wrong with a collection is told once, and tried again after growing waits.

        Raises:
            CollectionNotFoundError: if there is no collection of a name.
            CollectionBusyError: if other processes watch all of the collections already.
        """
        try:
            self._begin()
            if not self._watched:
                error = CollectionNotFoundError(
                    "", "There is no collection yet. Make one: mlx-colbert sync FOLDER."
                )
                yield WatchEvent("problem", "", error=error)
            while True:
                if self._clock() >= self._look_at:
                    yield from self._look()
                for watched in list(self._watched.values()):
                    if watched.due <= self._clock():
                        yield from self._sync(watched)
                yield from self._follow()
                self._models.drop_idle(MODEL_IDLE_S)
                self._wait()
        finally:
            self.close()

    def close(self) -> None:
        """Let others watch the collections, and let the model go."""
        self._events.close()
        self._models.drop_idle(0)
        for watched in self._watched.values():
            watched.close()
        self._watched = {}

    def _places(self) -> list[Place]:
        if self._names:
            return [self._registry.find(name) for name in self._names]
        return self._registry.list(near=self._near)

    def _begin(self) -> None:
        """Find the collections. That another process watches one is an error only if there is no other."""
        self._watched = {place.path: Watched(place, self._clock) for place in self._places()}
        busy = []
        for watched in self._watched.values():
            try:
                watched.lock()
                watched.close()
            except CollectionBusyError as error:
                busy.append(error)
            except (CollectionError, OSError):
                # It is told when it is tried again.
                pass
        if busy and len(busy) == len(self._watched):
            raise busy[0]

    def _look(self) -> Iterator[WatchEvent]:
        """Notice collections that were made, removed or changed, and folders that were replaced."""
        self._look_at = self._clock() + LOOK_S
        places = {place.path: place for place in self._places_now()}
        for path, watched in list(self._watched.items()):
            if places.get(path) != watched.place:
                watched.close()
                del self._watched[path]
                if path not in places:
                    yield WatchEvent("gone", watched.place.name)
        for path, place in places.items():
            if path not in self._watched:
                self._watched[path] = Watched(place, self._clock)
        # `any` would stop at the first.
        if sum([watched.look() for watched in self._watched.values()]):
            self._is_stale = True

    def _places_now(self) -> list[Place]:
        try:
            if not self._names:
                return self._places()
        except OSError:
            return [watched.place for watched in self._watched.values()]
        places = []
        for name in self._names:
            try:
                places.append(self._registry.find(name))
            except (CollectionNotFoundError, OSError):
                continue
        return places

    def _sync(self, watched: Watched) -> Iterator[WatchEvent]:
        place = watched.place
        watched.begin()
        try:
            is_first = watched.lock()
            if is_first:
                yield WatchEvent("watching", place.name, folders=tuple(watched.roots))
            with (
                keeping(self._models),
                Collection(place, backend=self._backend) as collection,
                self._progress(place.name) as progress,
            ):
                result = collection.sync(progress=progress)
        # Whatever happens to one collection, the others stay in step, and this one is tried again.
        except Exception as error:
            # The memory may be needed, or the model may be another one now.
            self._models.drop_idle(0)
            if place.settings_path.exists() and watched.failed(error, f"{type(error).__name__}: {error}"):
                yield WatchEvent("problem", place.name, error=error)
            return
        if watched.succeeded(result):
            yield WatchEvent("synced", place.name, result=result)

    def _follow(self) -> Iterator[WatchEvent]:
        """Have the system tell of changes in the folders that there are now."""
        if self._unfollowed and self._clock() < self._follow_again_at:
            return
        roots = {root for watched in self._watched.values() for root in watched.roots}
        folders = {folder for watched in self._watched.values() for folder in watched.folders}
        try:
            self._events.follow(roots, folders, anew=self._is_stale)
            self._is_stale = False
            problem = ""
        except OSError as error:
            problem = str(error)
        for watched in self._watched.values():
            watched.is_followed = not problem
        if problem and problem != self._unfollowed:
            reason = (
                f"the system cannot tell of changes in {counted(len(roots | folders), 'folder')} "
                f"({problem}). So all files are looked at every {BLIND_CHECK_S:.0f} s. In Linux, raise "
                "fs.inotify.max_user_watches."
            )
            yield WatchEvent("problem", "", error=OSError(reason))
        self._unfollowed = problem
        self._follow_again_at = self._clock() + CHECK_S

    def _wait(self) -> None:
        times = [self._look_at, *(watched.due for watched in self._watched.values())]
        changed = self._events.wait(max(min(times) - self._clock(), 0.0))
        if changed is not None:
            # The settings and indexes of collections may lie in a folder that is watched.
            changed = {path for path in changed if not path.startswith(self._own)}
        for watched in self._watched.values():
            if changed is None or watched.concerned(changed):
                watched.changed()
                if changed and not self._events.whole_trees and watched.lost(changed):
                    self._is_stale = True
