"""Numbers of things, as text for people."""

from __future__ import annotations

__all__ = ["counted"]


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number and what is counted, in the right form.

    Args:
        n: the number.
        noun: one of the things. Words may stand before the noun.
        plural: several of them. None: the noun with an "s".

    >>> counted(1, "file"), counted(1_200, "new file"), counted(0, "query", "queries")
    ('1 file', '1,200 new files', '0 queries')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
