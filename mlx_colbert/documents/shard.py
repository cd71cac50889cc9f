"""A shard: the part of the input that one machine reads, if several machines encode a collection."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from mlx_colbert.checks import check_whole
from mlx_colbert.errors import InputError
from mlx_colbert.types import Source

__all__ = ["Shard", "ShardInputs"]

# Consecutive lines of a file of rows that belong to one shard. Few enough to give each of 100 shards work in
# a file of 100,000 rows.
LINES_TOGETHER = 256
# No one has more machines, and a part of each is open during the merge.
_MAX_SHARDS = 4096


@dataclass(frozen=True)
class Shard:
    """One of n parts of an input. A file belongs to one shard. The rows of a file are shared out by line.

    What belongs to a shard depends on the name of a file and on a line of it alone. So a shard does not
    depend on other files, on the order of the inputs, or on what the other machines can read.

    >>> shards = [Shard(number, 3) for number in (1, 2, 3)]
    >>> [shard.has("notes/tea.md") for shard in shards].count(True)
    1

    Attributes:
        number: 1 to n.
        n: the number of shards.
    """

    number: int
    n: int

    def __post_init__(self) -> None:
        check_whole(self.n, "the number of shards", at_least=1)
        check_whole(self.number, "the number of the shard", at_least=1)
        if self.n > _MAX_SHARDS:
            raise InputError(f"the number of shards is {self.n}. Give {_MAX_SHARDS} or less.")
        if self.number > self.n:
            raise InputError(
                f"shard {self.number}/{self.n}: the first number is larger than the second. "
                f"Give 1/{self.n} to {self.n}/{self.n}."
            )

    @classmethod
    def of(cls, text: str) -> Self:
        """The shard of a text such as "3/16".

        Raises:
            InputError: if it is not two numbers of this kind.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None:
            raise InputError(f"shard {text!r} is not valid. Give two numbers such as 3/16.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.n}"

    def has(self, uri: str, line: int = 1) -> bool:
        """Whether a file belongs to this shard.

        Args:
            uri: the name of the file.
            line: for a file of rows, the first line of a row.
        """
        first = int.from_bytes(hashlib.sha256(uri.encode()).digest()[:8], "big")
        return (first + (line - 1) // LINES_TOGETHER) % self.n == self.number - 1


class ShardInputs:
    """The files of all shards, as they are found. It decides which of them this shard reads.

    Attributes:
        shard: the shard.
        files: the name of each file that was read → its number among all files, and its content hash.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.files: dict[str, tuple[int, str | None]] = {}
        self._n_files = 0
        self._digest = hashlib.sha256()

    @property
    def fingerprint(self) -> str:
        """The digest of the names and sizes of all files, in order. It is the same for all shards."""
        return self._digest.hexdigest()

    def takes(self, uri: str, n_bytes: int, *, has_rows: bool) -> bool:
        """Note the next file; returns whether the shard reads it. All shards read a file of rows."""
        self._digest.update(f"{n_bytes} {uri}\n".encode())
        self._n_files += 1
        return has_rows or self.shard.has(uri)

    def note(self, source: Source) -> None:
        """Note that the last file was read."""
        self.files[source.uri] = (self._n_files, source.content_hash)
