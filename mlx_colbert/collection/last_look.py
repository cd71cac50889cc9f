"""What the last look at the files of a collection saw. The next one only asks whether that is still so.

A look compares every file with the index. The answer depends on the settings, on what the last run has left,
on the commit of the index, and on what the system tells of the folders and files. If all of that is as it
was, so is the answer. To ask takes half of the time of a look.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from mlx_colbert.documents.ignore_rules import IGNORE_FILES
from mlx_colbert.documents.kinds import kind_of

__all__ = ["LastLooks", "last_looks"]

# Collections that are remembered, and the most folders of one. A folder takes about 200 bytes.
_MOST_COLLECTIONS = 64
_MOST_FOLDERS = 20_000
# A file may change twice within one tick of the clock of its disk. Nothing that changed so shortly before is
# remembered. It is 2 s for FAT, 1 s for HFS+, some milliseconds for others.
_TICK_NS = 2_000_000_000


class _Seen(NamedTuple):
    """What a look saw when all was in step.

    Attributes:
        basis: what else the answer depends on.
        folders: the folders that it looked at.
        mark: a hash of all that the system told of them. None: it was not asked.
    """

    basis: object
    folders: list[str]
    mark: int | None


class LastLooks:
    """The last look of each collection, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[Path, _Seen] = {}

    def is_in_step(
        self, place: Path, roots: Iterable[str], basis: object, look: Callable[[], tuple[bool, list[str]]]
    ) -> bool:
        """Whether a collection is in step with its files.

        Args:
            place: where the collection is.
            roots: the folders of the collection.
            basis: all that the answer depends on besides folders and files: a value with `==`.
            look: looks at the files; returns the answer, and all folders that it looked at. None of them: the
                answer depends on more than the basis and what these folders tell.
        """
        with self._lock:
            seen = self._seen.get(place)
        mark = None
        if seen is not None and seen.basis == basis:
            mark = _mark(roots, seen.folders)
            if mark is not None and mark == seen.mark:
                return True
        # After the mark. So a change between the two is one that the next mark shows.
        answer, folders = look()
        with self._lock:
            self._seen.pop(place, None)
            # A folder of the collection that is not there may come.
            if answer and len(folders) <= _MOST_FOLDERS and set(roots) <= set(folders):
                is_same = seen is not None and seen.folders == folders
                self._seen[place] = _Seen(basis, folders, mark if is_same else None)
                if len(self._seen) > _MOST_COLLECTIONS:
                    del self._seen[next(iter(self._seen))]
        return answer


last_looks = LastLooks()


def _mark(roots: Iterable[str], folders: list[str]) -> int | None:
    """A hash of what the system tells of folders, of what is in them, and of the rules above them.

    None: it cannot be told, or something has just changed and may change again without a sign.
    """
    now, latest = time.time_ns(), 0
    parts: list[object] = []
    # Endings of names of files that are read.
    endings = set(IGNORE_FILES)
    try:
        for folder in folders:
            latest = max(latest, _add_files(parts, folder, endings))
        for root in roots:
            for folder in (root, *map(str, Path(root).parents)):
                parts.append(os.path.lexists(f"{folder}/.git"))
                for name in IGNORE_FILES:
                    if os.path.lexists(path := f"{folder}/{name}"):
                        latest = max(latest, _add_target(parts, path))
    except OSError:
        return None
    return hash(tuple(parts)) if latest < now - _TICK_NS else None


def _add_files(parts: list[object], folder: str, endings: set[str]) -> int:
    """Add what the system tells of the files of a folder; returns when the latest of them changed."""
    latest = 0
    with os.scandir(folder) as listing:
        for entry in listing:
            name = entry.name
            if name[0] == "." and name not in IGNORE_FILES:
                continue
            if entry.is_dir(follow_symlinks=False):
                parts.append(f"{name}/")
                continue
            ending = name[name.rfind(".") :]
            if ending not in endings:
                if kind_of(name) is None:
                    # It may change all the time, as a log does.
                    parts.append(name)
                    continue
                endings.add(ending)
            status = entry.stat(follow_symlinks=False)
            # Unlike the time of the content, this one also tells of an exchange of files.
            changed = status.st_ctime_ns
            if changed > latest:
                latest = changed
            parts.append((name, status.st_size, status.st_mtime_ns, changed))
            if stat.S_ISLNK(status.st_mode):
                latest = max(latest, _add_target(parts, entry.path))
    return latest


def _add_target(parts: list[object], path: str) -> int:
    """Add what the system tells of a file, behind links; returns when that changed (ns since 1970)."""
    parts.append(os.path.realpath(path))
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return 0
    parts.append((status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return status.st_ctime_ns
