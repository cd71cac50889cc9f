"""What the system tells of changed files. It says that something changed, never what is in step now."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

__all__ = ["FileEvents"]

# Milliseconds. Changes are told when nothing more was changed for one step, or when they have been gathered
# for so long. The system is asked at each step; a short step would cost a battery.
_STEP_MS = 500
_GATHER_MS = 5000


class FileEvents:
    """The changes in some folders.

    In Linux each folder is watched by itself, so folders that are left out (node_modules, a link to the
    root) cost nothing. macOS watches whole trees.

    Attributes:
        whole_trees: whether a folder is watched with all that is in it, whichever that is.
    """

    def __init__(self, *, whole_trees: bool = sys.platform == "darwin") -> None:
        self.whole_trees = whole_trees
        self._paths: set[str] = set()
        self._notify: RustNotify | None = None
        # What was told before the folders were others. None: anything.
        self._early: set[str] | None = set()

    def follow(self, roots: Iterable[str], folders: Iterable[str], *, anew: bool = False) -> None:
        """Follow these folders from now on. What was changed before is still told.

        Args:
            roots: the folders of collections.
            folders: all folders whose files matter: the roots and those in them.
            anew: a folder may have been replaced by another one of the same name.

        Raises:
            OSError: if the system cannot follow so many folders. Then none is followed.
        """
        paths = set(roots) if self.whole_trees else {*roots, *folders}
        if self._notify is not None and paths == self._paths and not anew:
            return
        old, self._notify, self._paths = self._notify, None, paths
        try:
            self._notify = _notify(paths, self.whole_trees)
        finally:
            if old is not None:
                told = _changed(old, 1, 1, 1)
                self._early = None if told is None or self._early is None else self._early | told
                old.close()

    def wait(self, limit_s: float) -> set[str] | None:
        """Wait for changes, at most for about so many seconds.

        Returns:
            The paths of what was changed. None: the system has lost count, so anything may have changed.

        Raises:
            KeyboardInterrupt: if a signal handler has raised an exception.
        """
        if self._early or self._early is None:
            early, self._early = self._early, set()
            return early
        if self._notify is None:
            time.sleep(limit_s)
            return set()
        changed = _changed(self._notify, _GATHER_MS, _STEP_MS, max(int(limit_s * 1000), 1))
        if changed is None:
            # The next call of `follow` begins again.
            self.close()
        return changed

    def close(self) -> None:
        """Follow nothing any more."""
        if self._notify is not None:
            self._notify.close()
            self._notify = None


def _notify(paths: Iterable[str], whole_trees: bool) -> RustNotify:
    # Folders are removed at any moment. Only the last try passes over every error, also that of a limit.
    for ignores_errors in (False, False, True):
        there = sorted(path for path in paths if os.access(path, os.R_OK))
        try:
            return RustNotify(there, False, False, 0, whole_trees, ignores_errors)
        except (FileNotFoundError, PermissionError):
            continue
        except WatchfilesRustInternalError as error:
            raise OSError(str(error)) from error
    raise AssertionError


def _changed(notify: RustNotify, gather_ms: int, step_ms: int, limit_ms: int) -> set[str] | None:
    try:
        found = notify.watch(gather_ms, step_ms, limit_ms, None)
    except WatchfilesRustInternalError:
        # For example, a file whose name is not UTF-8. It would be told again and again.
        return None
    if found == "signal":
        raise KeyboardInterrupt
    return set() if isinstance(found, str) else {path for _, path in found}
