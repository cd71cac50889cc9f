"""What the tools say of a passage, and how fresh a collection is: each in one line."""

from __future__ import annotations

import time

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.state import STATE_NAME, State
from mlx_colbert.mcp.untrusted_text import one_line
from mlx_colbert.position import headings_text, place_text

__all__ = ["about", "cite", "headings", "synced", "when"]


def cite(hit: CollectionHit) -> str:
    """Where a passage is, as an assistant cites it: `/home/ann/bees.md:12-31`, `/home/ann/a.pdf, page 3`."""
    return one_line(place_text(hit.path or hit.source or hit.doc_id, hit.position))


def headings(hit: CollectionHit) -> str | None:
    """The headings above a passage: `Dance › Meaning`."""
    return one_line(headings_text(hit.position)) or None


def about(hit: CollectionHit) -> str | None:
    """What the user has said about the file of a passage."""
    return one_line(" ".join(hit.context)) or None


def synced(collection: Collection) -> str | None:
    """When all files of a collection were last read."""
    return when(State.read(collection.place.path / STATE_NAME).synced_at)


def when(seconds: float | None) -> str | None:
    """A time of this machine, in seconds since 1970: `2024-05-31 18:00`."""
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
