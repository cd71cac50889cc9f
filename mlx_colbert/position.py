"""The place of a passage in its source, as text for people and for models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["headings_text", "place_text"]


def place_text(name: str, position: Mapping[str, Any] | None) -> str:
    """The source of a passage and its place there.

    Args:
        name: the source.
        position: a `Position`. None: it is not known.

    >>> place_text("notes/bees.md", {"lines": [12, 31], "headings": ["Dance"]})
    'notes/bees.md:12-31'
    >>> place_text("report.pdf", {"page": 3})
    'report.pdf, page 3'
    """
    position = position or {}
    if lines := position.get("lines"):
        name += f":{lines[0]}" if lines[0] == lines[1] else f":{lines[0]}-{lines[1]}"
    others = [f"{key} {position[key]}" for key in ("page", "slide", "cell", "row") if key in position]
    return ", ".join([name, *others])


def headings_text(position: Mapping[str, Any] | None) -> str:
    """The headings above a passage, the widest first; empty if there are none.

    >>> headings_text({"headings": ["Dance", "Meaning"]})
    'Dance › Meaning'
    """
    return " › ".join((position or {}).get("headings") or ())
