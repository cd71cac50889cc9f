"""Numbers of things and lists of names, as text for people."""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["counted", "listed"]


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


def listed(names: Sequence[str], word: str) -> str:
    """Names as text, with a word such as "and" before the last one.

    >>> listed(["a"], "and"), listed(["a", "b"], "or"), listed(["a", "b", "c"], "and")
    ('a', 'a or b', 'a, b and c')
    """
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last
