"""One collection that is watched: when it is looked at next, and what concerns it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from mlx_colbert.collection.place import Place
from mlx_colbert.collection.sync import SyncResult
from mlx_colbert.documents.ignore_rules import IGNORE_FILES
from mlx_colbert.documents.kinds import kind_of
from mlx_colbert.documents.walk import PROGRAM_FOLDERS
from mlx_colbert.errors import ColBERTError, CollectionBusyError

__all__ = ["BLIND_CHECK_S", "CHECK_S", "Watched"]

# All times in seconds. Between two syncs, so that a storm of changes is a few syncs: twice as long as the
# last sync, so that most of the time is free, but not longer than a person waits.
_REST_S = 1.0
_REST_SHARE = 2.0
_LONGEST_REST_AFTER_WORK_S = 5.0
# The longest rest of a collection whose changes are of no consequence: a log that is left out, for example.
_LONGEST_REST_S = 60.0
# A file that changed within two seconds before it was read is in doubt. One more look settles it.
_SETTLED_S = 3.0
# Files are looked at again without any event: events may be lost, and network drives tell none of what other
# machines do. A look at many files is rarer, so that it takes at most one part in so many of the time.
CHECK_S = 300.0
_CHECK_SHARE = 200.0
# Where nothing tells of changes.
BLIND_CHECK_S = 30.0
# After an error: twice as long each time.
_FIRST_RETRY_S = 10.0
_LONGEST_RETRY_S = 600.0


class Watched:
    """A collection that is watched.

    Attributes:
        place: where it is.
        due: the time of the next sync.
        folders: absolute path of each folder whose files matter.
        is_followed: whether the system tells of its changes.
        result: what the last sync did. None: there was none, or it failed.
    """

    def __init__(self, place: Place, clock: Callable[[], float]) -> None:
        self.place = place
        self.due: float = clock()
        self.folders: set[str] = set()
        self.is_followed = True
        self.result: SyncResult | None = None
        self._clock = clock
        self._lock = ExitStack()
        self._is_locked = False
        self._begun = self._ended = clock()
        self._rest_s = _REST_S
        self._retry_s = 0.0
        # No file that was read is in doubt after this time.
        self._settled_at = clock()
        # Whether an event asked for the sync.
        self._is_event = False
        # The last problem that was told.
        self._problem = ""
        self._stamp: object = None
        self._roots: dict[str, object] = {}

    @property
    def roots(self) -> list[str]:
        """The folders of its settings, as they were when these were read."""
        return list(self._roots)

    def lock(self) -> bool:
        """Become its only watcher; returns whether it was not so before.

        Raises:
            CollectionBusyError: if another process watches it.
            CollectionError: if there is a link, a pipe or a device in a collection beside files.
            OSError: if the lock cannot be written.
        """
        if self._is_locked:
            return False
        self._lock.enter_context(self.place.locked("watching"))
        self._is_locked = True
        return True

    def close(self) -> None:
        """Let another process watch it."""
        self._lock.close()
        self._is_locked = False

    def look(self) -> bool:
        """Look at the settings and the folders themselves. If one was replaced, a sync is due.

        Returns:
            Whether a folder has appeared, vanished or been replaced: then what was followed is gone.
        """
        stamp = _stamp(self.place.settings_path)
        if stamp != self._stamp:
            self._stamp = stamp
            self._roots = dict.fromkeys(self._folders_of_settings())
            self.folders = {path for path in self.folders if any(_is_in(path, root) for root in self._roots)}
            self._due_now()
        replaced = False
        for root, before in self._roots.items():
            now = _identity(root)
            if now != before:
                self._roots[root] = now
                replaced = True
        if replaced:
            self.folders = set()
            self._due_now()
        return replaced

    def _folders_of_settings(self) -> list[str]:
        with suppress(ColBERTError, OSError):
            return list(self.place.settings().folders.values())
        # The sync says what is wrong with the settings.
        return []

    def _due_now(self) -> None:
        self.due = self._clock()
        self._retry_s = 0.0
        self._rest_s = _REST_S

    def concerned(self, paths: Iterable[str]) -> bool:
        """Whether one of these paths may be a file that is read, or a folder with such files."""
        return any(self._concerns(path) for path in paths)

    def _concerns(self, path: str) -> bool:
        if path in self.folders or path in self._roots:
            return True
        root = next((root for root in self._roots if _is_in(path, root)), None)
        if root is None:
            return False
        *above, name = path[len(root.rstrip("/")) + 1 :].split("/")
        if any(part.startswith(".") or part in PROGRAM_FOLDERS for part in above):
            return False
        if name in IGNORE_FILES:
            return True
        is_left_out = name.startswith(".") or name in PROGRAM_FOLDERS
        # A folder that was deleted is one of `folders`.
        return not is_left_out and (kind_of(name) is not None or Path(path).is_dir())

    def lost(self, paths: set[str]) -> bool:
        """Whether a folder itself is among these paths. Then it may be another one of the same name now."""
        is_lost = not self.folders.isdisjoint(paths)
        if is_lost:
            # So that the next sync is followed by one more.
            self.folders = set()
        return is_lost

    def changed(self) -> None:
        """Note that files may have changed."""
        self._is_event = True
        if not self._retry_s:
            self.due = min(self.due, max(self._clock(), self._ended + self._rest_s))

    def begin(self) -> None:
        """Note that a sync begins."""
        self._begun = self._clock()

    def succeeded(self, result: SyncResult) -> bool:
        """Note what a sync has done, and when the next one is due.

        Returns:
            Whether there is something to tell.
        """
        before, self.result = self.result, result
        self._problem = ""
        self._retry_s = 0.0
        self._ended = self._clock()
        took_s = self._ended - self._begun
        did = bool(result.new or result.changed or result.moved or result.deleted)
        check_s = CHECK_S if self.is_followed else BLIND_CHECK_S
        if did:
            self._rest_s = min(max(_REST_S, _REST_SHARE * took_s), _LONGEST_REST_AFTER_WORK_S)
            self._settled_at = self._ended + max(_SETTLED_S, self._rest_s)
        else:
            self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S) if self._is_event else _REST_S
            check_s = max(check_s, _CHECK_SHARE * took_s)
        self.due = self._ended + check_s
        if result.folders != self.folders:
            # What changed in a new folder before it was followed is found by one more sync.
            self.folders = result.folders
            self.due = self._ended + self._rest_s
        if self._ended < self._settled_at:
            self.due = min(self.due, self._settled_at)
        self._is_event = False
        differs = before is None or (before.failed, before.missing, before.waiting) != (
            result.failed,
            result.missing,
            result.waiting,
        )
        return did or differs

    def failed(self, error: Exception, message: str) -> bool:
        """Note that a sync failed, and when the next one is due.

        Returns:
            Whether to tell it: an error is told once.
        """
        self._ended = self._clock()
        self._retry_s = min(max(2 * self._retry_s, _FIRST_RETRY_S), _LONGEST_RETRY_S)
        self.due = self._ended + self._retry_s
        # A search, or a sync, of another process is not worth a word if it ends soon.
        is_brief = isinstance(error, CollectionBusyError) and self._is_locked
        if message == self._problem or (is_brief and self._retry_s == _FIRST_RETRY_S):
            return False
        self._problem, self.result = message, None
        return True


def _is_in(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _identity(path: str) -> object:
    try:
        status = os.stat(path)  # noqa: PTH116 - these are strings
    except OSError:
        return ()
    return status.st_dev, status.st_ino
