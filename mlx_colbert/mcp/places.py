"""Where a passage is, and how fresh a collection is, in the words that the tools use."""

from __future__ import annotations

import time

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.state import STATE_NAME, State
from mlx_colbert.mcp.untrusted_text import one_line

__all__ = ["about", "cite", "headings", "synced", "when"]


def cite(hit: CollectionHit) -> str:
    """Where a passage is, as an assistant cites it: `/home/ann/bees.md:12-31`, `/home/ann/a.pdf, page 3`."""
    position = hit.position or {}
    place = hit.path or hit.source or hit.doc_id
    if lines := position.get("lines"):
        place += f":{lines[0]}" if lines[0] == lines[1] else f":{lines[0]}-{lines[1]}"
    others = [f"{key} {number}" for key, number in position.items() if key not in ("lines", "headings")]
    return one_line(", ".join([place, *others]))


def headings(hit: CollectionHit) -> str | None:
    """The headings above a passage: `Dance › Meaning`."""
    return one_line(" › ".join((hit.position or {}).get("headings", []))) or None


def about(hit: CollectionHit) -> str | None:
    """What the user has said about the file of a passage."""
    return one_line(" ".join(hit.context)) or None


def synced(collection: Collection) -> str | None:
    """When all files of a collection were last read."""
    return when(State.read(collection.place.path / STATE_NAME).synced_at)


def when(seconds: float | None) -> str | None:
    """A time of this machine, in seconds since 1970: `2024-05-31 18:00`."""
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
