"""What a collection consists of, without a look at its files: a few milliseconds for each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mlx_colbert.collection.place import Place
from mlx_colbert.collection.state import STATE_NAME, State
from mlx_colbert.collection.without_file import WITHOUT_FILE
from mlx_colbert.errors import ColBERTError, IndexNotFoundError, message_of
from mlx_colbert.index import Index

__all__ = ["Overview", "overview"]


@dataclass
class Overview:
    """What a collection consists of.

    Attributes:
        name: its name.
        path: the folder of its settings and its index.
        is_trusted: whether its settings are used.
        folders: label → path of each folder.
        model: the model of its settings. None: they are not valid.
        context: what the user has said about the whole of it.
        files: number of files in the index.
        passages: number of passages.
        documents: number of passages that come from no file.
        bytes: size of the index on the disk.
        n_failed: number of files that could not be read.
        waiting: name of an extra that is not installed → number of the files that wait for it.
        synced_at: when the last complete sync ended, in seconds since 1970. None: there was none.
        error: why it cannot be used. None: it can.
    """

    name: str
    path: str
    is_trusted: bool
    folders: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    context: str | None = None
    files: int = 0
    passages: int = 0
    documents: int = 0
    bytes: int = 0
    n_failed: int = 0
    waiting: dict[str, int] = field(default_factory=dict)
    synced_at: float | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The overview as a JSON object."""
        return dict(vars(self))


def overview(place: Place) -> Overview:
    """What the collection at a place consists of, as of the last sync."""
    found = Overview(place.name, str(place.path), place.is_trusted)
    try:
        settings = place.settings()
        found.folders, found.model = dict(settings.folders), settings.model
        found.context = settings.contexts.get("/")
        state = State.read(place.path / STATE_NAME)
        found.synced_at = state.synced_at
        found.n_failed = sum(bool(item.reason) and not item.extra for item in state.unread.values())
        found.waiting = dict(Counter(item.extra for item in state.unread.values() if item.extra))
        with Index.open(place.index_path, backend="numpy") as index:
            info = index.info()
            found.passages, found.bytes = info.passages, info.bytes
            found.files, found.documents = len(index.sources()), len(index.ids(filter=WITHOUT_FILE))
    except IndexNotFoundError:
        pass
    except (ColBERTError, OSError) as problem:
        found.error = message_of(problem)
    return found
