"""Brings collections in step with their files for a search, mostly while the search runs."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.status import missing_text
from mlx_colbert.counts import counted
from mlx_colbert.errors import ColBERTError, message_of

__all__ = ["found_in_step", "refreshed"]


class _Noted(Protocol):
    """What has notes for the user."""

    notes: list[str]


_Found = TypeVar("_Found", bound=_Noted)


def refreshed(collections: Sequence[Collection], limit_s: float = 1.0) -> list[str]:
    """Bring collections in step with their files as far as time allows; returns what is not in step.

    Args:
        collections: the collections.
        limit_s: seconds for all of them together.

    Returns:
        A sentence for each collection that is not in step, and for each folder that is missing or empty
        while the index has files of it.
    """
    deadline = time.monotonic() + limit_s
    notes = []
    for collection in collections:
        name = collection.name
        try:
            fresh = collection.refresh(max(deadline - time.monotonic(), 0.05))
        except (ColBERTError, OSError) as error:
            notes.append(f"{name}: could not look for changed files: {message_of(error)}")
            continue
        if fresh.waiting:
            files = counted(fresh.waiting, "file")
            why = (
                "It is being changed now."
                if fresh.busy
                else f"Run: mlx-colbert sync --name {shlex.quote(name)}"
            )
            notes.append(f"{name}: {files} not in step with the index. {why}")
        for folder, n_files in fresh.missing.items():
            notes.append(f"{name}: {missing_text(name, folder, n_files)}")
    return notes


def found_in_step(
    collections: Sequence[Collection], find: Callable[[], _Found], limit_s: float = 1.0
) -> _Found:
    """What a search finds after the collections were brought in step with their files, as far as time allows.

    The look at the files and the search run at the same time. If the look finds a change, what the search
    found is dropped, and it is called again after the change is in the index.

    Args:
        collections: the collections.
        find: searches in them.
        limit_s: as for `refreshed`.

    Raises:
        ColBERTError: from `find`.
    """
    look = _Look(collections)
    look.start()
    found = None
    try:
        found = find()
    except ColBERTError:
        # The next call raises it again, unless the changed files mend it.
        pass
    look.join()
    if look.is_in_step:
        return found or find()
    notes = refreshed(collections, limit_s)
    found = find()
    found.notes += notes
    return found


class _Look(threading.Thread):
    """The look at the files of collections.

    Attributes:
        is_in_step: after its end, whether all collections are in step.
    """

    def __init__(self, collections: Sequence[Collection]) -> None:
        # If the look hangs, as at a disk that does not answer, Ctrl-C ends the process.
        super().__init__(name="mlx-colbert-look", daemon=True)
        self.is_in_step = False
        self._collections = collections

    def run(self) -> None:
        """Look at the files."""
        try:
            self.is_in_step = all([collection.is_in_step() for collection in self._collections])
        except Exception:
            # `refreshed` meets it again, with values that were verified, and tells it.
            self.is_in_step = False
