"""What a collection consists of, and how far its index is behind its files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CollectionStatus", "missing_text"]

_KEYS = {"n_files": "files", "n_passages": "passages", "n_documents": "documents", "n_bytes": "bytes"}


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
        n_documents: number of them that come from no file. They were added one by one.
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
    n_documents: int
    n_bytes: int
    new: int
    changed: int
    vanished: int
    missing: Mapping[str, int]
    failed: Mapping[str, str]
    waiting: Mapping[str, int]
    synced_at: float | None

    def to_dict(self) -> dict[str, Any]:
        """The status as a JSON object. A fact has the same name as in that of an `Overview`."""
        return {_KEYS.get(name, name): value for name, value in vars(self).items()}


def missing_text(name: str, folder: str, n_files: int) -> str:
    """That a folder is missing or empty, what the index still has of it, and what to do.

    Args:
        name: the name of the collection.
        folder: the path of the folder.
        n_files: number of its files in the index.
    """
    verb = "is" if n_files == 1 else "are"
    return (
        f"the folder {folder} is missing or empty; {n_files:,} of its files {verb} still in the index. "
        f"If they are gone for good: mlx-colbert sync --name {shlex.quote(name)} --prune"
    )
