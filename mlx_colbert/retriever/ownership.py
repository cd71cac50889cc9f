"""Keeps the passages of a source from being overwritten by another source that uses the same ids."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from mlx_colbert.documents.passage import Passage
from mlx_colbert.errors import DuplicateIdError, UnknownIdError
from mlx_colbert.store import Store

__all__ = ["Ownership"]


class Ownership:
    """The passages that would overwrite a different passage of another source.

    Files of rows often count their ids from 1. So two files can have the same ids by accident. A passage with
    the same text and metadata may move to another source, because nothing is lost.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # Uris of the old and the new source -> ids.
        self._taken: dict[tuple[str, str], list[str]] = {}

    def note(self, passage: Passage) -> None:
        """Look at a passage whose id the store has."""
        same = self._store.compare([passage.doc_id], [passage.text], [passage.metadata])
        if passage.source is None or same.get(passage.doc_id, True):
            return
        with suppress(UnknownIdError):  # another program has deleted it since then
            owner = self._store.get(passage.doc_id).source
            if owner is not None:
                self._taken.setdefault((owner, passage.source.uri), []).append(passage.doc_id)

    def check(self, replaced: Collection[str]) -> None:
        """Refuse what was noted, if the old source is not replaced too.

        Args:
            replaced: the uris of the sources whose passages are replaced.

        Raises:
            DuplicateIdError: if there is such a passage. The error names both sources.
        """
        for (owner, uri), doc_ids in self._taken.items():
            if owner not in replaced:
                reason = (
                    f"is a passage of {owner} in index {self._store.path}, but {uri} has another text or "
                    "metadata for it. Give it another id, or delete the old passage first (mlx-colbert "
                    "delete, Retriever.delete)."
                )
                raise DuplicateIdError(doc_ids, reason=reason)
