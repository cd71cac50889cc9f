"""What a collection remembers between two runs, beside its index. Without it, more is read again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from mlx_colbert.collection.files import write_file
from mlx_colbert.regular_files import read_regular

__all__ = ["STATE_NAME", "State", "UnreadFile"]

STATE_NAME = "state.json"
# That of 100,000 files that could not be read. A larger one is damaged.
_MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class UnreadFile:
    """A file that gave no passages.

    Attributes:
        n_bytes: its size then.
        modified_ns: the time of its last change then.
        reason: why. Empty: there is no text in it.
        extra: the extra of this package that it waits for. None: it waits for none.
        is_final: whether it is not read again until it changes. A locked file is read again, for example.
    """

    n_bytes: int
    modified_ns: int
    reason: str = ""
    extra: str | None = None
    is_final: bool = True


@dataclass
class State:
    """What the last run has left.

    Attributes:
        rules: the digest of the rules that all files of the index satisfy. Empty: it is not known.
        unread: uri of each file that gave no passages.
        synced_at: when the last complete run ended, in seconds since 1970. None: there was none.
    """

    rules: str = ""
    unread: dict[str, UnreadFile] = field(default_factory=dict)
    synced_at: float | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The state in a file. It is empty if there is no such file, or if it is damaged."""
        try:
            values = json.loads(read_regular(path, _MOST_BYTES))
            unread = {str(uri): UnreadFile(**item) for uri, item in values["unread"].items()}
            synced_at = values["synced_at"]
            return cls(str(values["rules"]), unread, None if synced_at is None else float(synced_at))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls()

    def write(self, path: Path) -> None:
        """Write it to a file, in one step.

        Raises:
            OSError: if the file cannot be written.
        """
        write_file(path, json.dumps(asdict(self), ensure_ascii=False, indent=1).encode())
