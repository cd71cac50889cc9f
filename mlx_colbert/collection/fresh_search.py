"""A search in collections that are in step with their files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.search import Found, refreshed
from mlx_colbert.errors import ColBERTError

__all__ = ["found_in_step"]


def found_in_step(
    collections: Sequence[Collection], find: Callable[[], Found], limit_s: float = 1.0
) -> Found:
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
