"""The record of a part: the file in the index of a shard that says which shard it has, and of which input."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from mlx_colbert.checks import check_whole
from mlx_colbert.documents.shard import Shard, ShardInputs
from mlx_colbert.errors import IndexDamagedError, InputError, TargetExistsError

__all__ = ["RECORD_NAME", "PartRecord"]

RECORD_NAME = "shard.json"


@dataclass(frozen=True)
class PartRecord:
    """What a part is.

    Attributes:
        number: the number of its shard, 1 to n.
        n: the number of shards.
        inputs: the fingerprint of the names and sizes of all files.
        exact_tokens: the setting of the merged index. A part itself stays exact.
        passages: the number of its passages. None: it is not complete.
        files: the name of each of its files → its number among all files, and its content hash.
    """

    number: int
    n: int
    inputs: str
    exact_tokens: int | None
    passages: int | None = None
    files: dict[str, tuple[int, str | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: ShardInputs, exact_tokens: int | None) -> Self:
        """The record of a part that is not complete."""
        return cls(inputs.shard.number, inputs.shard.n, inputs.fingerprint, exact_tokens)

    @property
    def shard(self) -> Shard:
        """The shard."""
        return Shard(self.number, self.n)

    def begin(self, folder: Path, *, is_new: bool) -> None:
        """Write the record into an index. An older one must be of the same shard, input and settings.

        Args:
            folder: the index.
            is_new: whether the index has no passages.

        Raises:
            TargetExistsError: if the index is not a part, or another one.
            IndexDamagedError: if the older record is damaged.
        """
        older = type(self).read(folder)
        if older is None and not is_new:
            raise TargetExistsError(folder, advice=f"It is not a part of a shard. {_OTHER_PATH}")
        if older is not None:
            if older.shard != self.shard or older.exact_tokens != self.exact_tokens:
                what = f"It has shard {older.shard}, exact_tokens {older.exact_tokens}"
                ours = f"shard {self.shard}, exact_tokens {self.exact_tokens}"
                raise TargetExistsError(folder, advice=f"{what}, not {ours}. {_OTHER_PATH}")
            if older.inputs != self.inputs and not is_new:
                what = "It was made from other files: a name or a size is not the same."
                raise TargetExistsError(folder, advice=f"{what} {_OTHER_PATH}")
        self._write(folder)

    def complete(self, folder: Path, *, passages: int, files: dict[str, tuple[int, str | None]]) -> None:
        """Write that the part is complete."""
        replace(self, passages=passages, files=files)._write(folder)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in an index. None if it has none.

        Raises:
            IndexDamagedError: if it cannot be read.
        """
        try:
            values = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
            record = cls(**values)
            _ = record.shard
            files = {name: (number, content) for name, (number, content) in record.files.items()}
            record = replace(record, files=files)
            for count in (record.exact_tokens, record.passages, *(number for number, _ in files.values())):
                if count is not None:
                    check_whole(count, "a number", at_least=0)
        except FileNotFoundError:
            return None
        except (AttributeError, InputError, OSError, TypeError, ValueError) as error:
            reason = f"{RECORD_NAME} cannot be read. Remove this part, and make it again."
            raise IndexDamagedError(folder, reason) from error
        return record

    def _write(self, folder: Path) -> None:
        beside = folder / f".{RECORD_NAME}.{os.getpid()}"
        try:
            with beside.open("w", encoding="utf-8") as file:
                json.dump(asdict(self), file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(folder / RECORD_NAME)
        finally:
            beside.unlink(missing_ok=True)


_OTHER_PATH = "Remove it, or choose another path."
