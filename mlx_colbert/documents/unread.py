"""What was left out when files and folders were read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mlx_colbert.errors import MissingExtraError

__all__ = ["Unread"]


@dataclass
class Unread:
    """The files that were left out when files and folders were read.

    Attributes:
        files: path of each file or folder that could not be read -> the reason.
        kinds: suffix or kind of the files that were passed over in folders -> their number.
        waiting: name of an extra of this package that is not installed -> the number of files that need it.
        blank_rows: the number of rows without a text in files of rows.
    """

    files: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    blank_rows: int = 0

    def clear(self) -> None:
        """Remove all entries, before files are read again."""
        self.files.clear()
        self.kinds.clear()
        self.waiting.clear()
        self.blank_rows = 0

    def note(self, path: Path, error: Exception) -> None:
        """Note that a file or a folder cannot be read, and why."""
        if isinstance(error, MissingExtraError):
            self.waiting[error.extra] += 1
            return
        system = error.strerror if isinstance(error, OSError) else None
        self.files[str(path)] = f"{system}." if system else str(error).removeprefix(f"{path}: ")
