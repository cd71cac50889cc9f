"""The location of a store as messages show it."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["shown_location"]


def shown_location(location: str | Path) -> str | Path:
    """A location without the name, password and keys that a URL may have.

    >>> shown_location("https://ann:secret@host:6333/notes?api-key=secret")
    'https://host:6333/notes'
    """
    if "://" not in str(location):
        return location
    return re.sub(r"[?#].*", "", re.sub(r"://[^/]*@", "://", str(location)), flags=re.DOTALL)
