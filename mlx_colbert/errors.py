"""Every exception that this package raises on purpose.

::

    ColBERTError
    ├── ConfigError (ValueError)              a setting that is not understood, or out of range
    ├── InputError (ValueError)               an argument of the caller's: k = 0, empty input, bad UTF-8
    │   └── DuplicateIdError                  a doc_id that is given twice or exists already
    ├── ShapeError (ValueError)               arrays whose shapes do not belong together
    ├── BackendError (ImportError)            a backend or an extra that is not installed
    ├── TargetExistsError (FileExistsError)   an output that exists already
    ├── UnknownIdError (KeyError)             a doc_id that the index does not hold
    ├── CheckpointError (ValueError)          a checkpoint that cannot be converted or loaded
    │   ├── CheckpointNotFoundError (FileNotFoundError)
    │   └── UnsafeCheckpointError             a checkpoint file that asks for what it must not have
    └── IndexStoreError (ValueError)          an index folder that cannot be used
        ├── IndexNotFoundError (FileNotFoundError)
        ├── IndexDamagedError                 a file of the index is missing, short or altered
        ├── IndexFormatError                  written by a newer version, or too old for what is asked
        ├── IndexLockedError (TimeoutError)   another writer does not finish
        └── ModelMismatchError                vectors of another model

A message says what, with the value; where; and what to do. The parts are attributes as well.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "BackendError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ColBERTError",
    "ConfigError",
    "DuplicateIdError",
    "IndexDamagedError",
    "IndexFormatError",
    "IndexLockedError",
    "IndexNotFoundError",
    "IndexStoreError",
    "InputError",
    "ModelMismatchError",
    "ShapeError",
    "TargetExistsError",
    "UnknownIdError",
    "UnsafeCheckpointError",
]


def _named(doc_ids: Sequence[str]) -> str:
    """The first ids, and how many more there are."""
    shown = ", ".join(reprlib.repr(doc_id) for doc_id in doc_ids[:5])
    return f"{shown} and {len(doc_ids) - 5} more" if len(doc_ids) > 5 else shown


def _listed(problems: Sequence[str]) -> list[str]:
    """The first problems, shortened: what they quote may come from a file of a stranger's."""
    shown = [problem if len(problem) <= 300 else problem[:299] + "…" for problem in problems[:20]]
    return [*shown, f"and {len(problems) - 20} more"] if len(problems) > 20 else shown


class ColBERTError(Exception):
    """The root of this package's exceptions."""


class ConfigError(ColBERTError, ValueError):
    """A setting is not understood or out of range.

    Attributes:
        where: the file, or the name of the settings.
        problems: every problem found, one sentence each.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = list(problems)
        super().__init__(f"{where}: {'; '.join(_listed(self.problems))}.")


class InputError(ColBERTError, ValueError):
    """An argument given by the caller cannot be used."""


class DuplicateIdError(InputError):
    """A doc_id is given twice, or exists already.

    Attributes:
        doc_ids: the ids concerned.
    """

    def __init__(self, doc_ids: Sequence[str], *, reason: str) -> None:
        self.doc_ids = list(doc_ids)
        super().__init__(f"doc_id {_named(self.doc_ids)}: {reason}")


class ShapeError(ColBERTError, ValueError):
    """Arrays whose shapes do not belong together."""


class BackendError(ColBERTError, ImportError):
    """A backend or an extra is not installed."""


class TargetExistsError(ColBERTError, FileExistsError):
    """An output path exists already.

    Attributes:
        path: the path.
    """

    def __init__(self, path: str | Path, *, advice: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: exists already. {advice}")


class UnknownIdError(ColBERTError, KeyError):
    """A doc_id that the index does not hold.

    Attributes:
        doc_ids: the ids concerned.
    """

    def __init__(self, doc_ids: Sequence[str], *, where: str | Path) -> None:
        self.doc_ids = list(doc_ids)
        self.message = f"index {where}: has no passage {_named(self.doc_ids)}."
        super().__init__(self.message)

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, which would quote the whole sentence.
        return self.message


class CheckpointError(ColBERTError, ValueError):
    """A checkpoint cannot be converted or loaded.

    Attributes:
        where: the folder, the file or the hub id.
        problems: every problem found, one sentence each; the message shows the first 20.
    """

    def __init__(self, where: str | Path, problems: str | Sequence[str]) -> None:
        self.where = str(where)
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        shown = _listed(self.problems)
        text = shown[0] if len(shown) == 1 else "".join(f"\n  - {problem}" for problem in shown)
        super().__init__(f"checkpoint {where}: {text}")


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint at that path, or none of that name on the hub."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint file asks for what it must not have: a call, a path elsewhere, too much memory."""


class IndexStoreError(ColBERTError, ValueError):
    """An index folder cannot be used.

    Attributes:
        path: the index folder or the file in it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = Path(path)
        super().__init__(f"index {path}: {reason}")


class IndexNotFoundError(IndexStoreError, FileNotFoundError):
    """No index at that path."""


class IndexDamagedError(IndexStoreError):
    """A file of the index is missing, short or altered."""


class IndexFormatError(IndexStoreError):
    """The index was written by a newer version, or by an older one that lacks what is asked for."""


class IndexLockedError(IndexStoreError, TimeoutError):
    """Another writer, in this process or another, does not finish in time."""


class ModelMismatchError(IndexStoreError):
    """The index holds the vectors of another model."""
