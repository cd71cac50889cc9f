"""What is wrong with a checkpoint, collected so that one error lists all of it."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_colbert.untrusted import shown

__all__ = ["Problems"]


class Problems(list[str]):
    """Sentences, and the settings that the caller wants ignored.

    Args:
        ignored: names of settings that are not reported where they are not understood.

    Attributes:
        ignored: the same names.
        met: those of them that were not understood.
        n_unknown: settings that were not understood and were reported.
    """

    def __init__(self, ignored: Iterable[str] = ()) -> None:
        super().__init__()
        self.ignored: frozenset[str] = frozenset(ignored)
        self.met: set[str] = set()
        self.n_unknown: int = 0

    def unknown(self, file: str, key: str, value: object) -> None:
        """Report a setting that is not understood, unless it is to be ignored."""
        if key in self.ignored:
            self.met.add(key)
        else:
            self.n_unknown += 1
            self.append(f"{file}: {key!r} = {shown(value)} is not understood")
