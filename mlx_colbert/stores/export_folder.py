"""The folder of an export: parts that are written one after the other, and a file that says what it is.

A part has its name only when it is complete and synced. So the same export continues after a kill: it leaves
the parts out that are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mlx_colbert.errors import IndexStoreError, TargetExistsError, said
from mlx_colbert.index.storage.files import sync, sync_folder

__all__ = ["STATE_NAME", "ExportFolder", "read_state"]

STATE_NAME = "export.json"
_UNFINISHED = ".tmp"


class ExportFolder:
    """A new export, or one that was interrupted.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        """Begin an export, or continue it.

        Args:
            path: a folder that does not exist, is empty, or has the same export, not complete.
            state: what the export is, as a JSON object. The same export has the same state.

        Raises:
            TargetExistsError: if anything else is there.
            IndexStoreError: if the folder cannot be written.
        """
        self.path = path
        self._state = state
        try:
            present = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
            if path.exists() and not path.is_dir():
                raise TargetExistsError(path, advice="Choose a path that does not exist.")
            if present - {STATE_NAME + _UNFINISHED}:
                self._check(present)
            else:
                path.mkdir(parents=True, exist_ok=True)
                self._write_state(complete=False)
        except OSError as error:
            if isinstance(error, TargetExistsError):
                raise
            raise IndexStoreError(path, f"cannot be written: {said(error)}.") from error

    def _check(self, present: set[str]) -> None:
        found = read_state(self.path) if STATE_NAME in present else None
        if found is None:
            raise TargetExistsError(self.path, advice="Choose a path that does not exist.")
        if found.pop("complete", True):
            raise TargetExistsError(self.path, advice="The export in it is complete. Choose another path.")
        if found != self._state:
            advice = "It has a part of another export, or the index has changed since. Remove it first."
            raise TargetExistsError(self.path, advice=advice)

    def has(self, name: str) -> bool:
        """Whether a part is complete."""
        return (self.path / name).is_file()

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """Write a part, completely or not at all.

        Args:
            name: its path in the folder.
            fill: writes its content to a file.

        Raises:
            IndexStoreError: if it cannot be written.
        """
        path = self.path / name
        unfinished = path.with_name(path.name + _UNFINISHED)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                fill(file)
                file.flush()
                sync(file.fileno())
            unfinished.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise IndexStoreError(path, f"cannot be written: {said(error)}.") from error

    def finish(self) -> None:
        """Record that the export is complete."""
        self._write_state(complete=True)

    def _write_state(self, *, complete: bool) -> None:
        text = json.dumps(self._state | {"complete": complete}, indent=1, ensure_ascii=False)
        self.write(STATE_NAME, lambda file: file.write(text.encode()))


def read_state(path: Path) -> dict[str, Any] | None:
    """What the export in a folder is. None: there is no export that can be read.

    The key "complete" says whether it is complete.
    """
    try:
        state = json.loads((path / STATE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None
