"""The exceptions of this package.

::

    ColBERTError
    ├── ConfigError (ValueError)              a setting that is unknown, or out of range
    ├── InputError (ValueError)               an argument that cannot be used: k = 0, bad UTF-8
    │   ├── SeveralFoundError                 a name or an id that stands for several things
    │   └── DuplicateIdError                  a doc_id that is given twice or exists already
    ├── ShapeError (ValueError)               arrays whose shapes do not match
    ├── BackendError (ImportError)            a backend or an extra that is not installed
    │   └── MissingExtraError                 an extra that a kind of file needs
    ├── TargetExistsError (FileExistsError)   an output path that exists already
    ├── CollectionError (ValueError)          a collection that cannot be used
    │   ├── CollectionNotFoundError (FileNotFoundError)
    │   └── CollectionBusyError (TimeoutError)    another process is changing it
    ├── AssistantError (ValueError)           a file of another program that cannot be changed
    ├── BusyError (TimeoutError)              more requests than a server can take
    ├── DaemonError (RuntimeError)            a daemon that cannot be started, stopped or used
    ├── ServerError (RuntimeError)            an HTTP server that cannot be started
    ├── StoppingError (RuntimeError)          a process that takes no more work, because it ends
    ├── UnknownIdError (KeyError)             a doc_id that the index does not have
    ├── LanguageModelError (RuntimeError)     a language model that cannot be used, or fails
    ├── CheckpointError (ValueError)          a checkpoint that cannot be converted or loaded
    │   ├── CheckpointNotFoundError (FileNotFoundError)
    │   └── UnsafeCheckpointError             a checkpoint file that contains something forbidden
    └── IndexStoreError (ValueError)          an index folder that cannot be used
        ├── IndexNotFoundError (FileNotFoundError)
        ├── IndexDamagedError                 a file of the index is missing, short or altered
        ├── IndexFormatError                  a format that is too new, or too old for a call
        ├── IndexLockedError (TimeoutError)   another writer does not finish in time
        └── ModelMismatchError                vectors of another model

A message says what is wrong, where, and what to do. The parts are also attributes. Errors can be pickled.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Sequence

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Self

__all__ = [
    "AssistantError",
    "BackendError",
    "BusyError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ColBERTError",
    "CollectionBusyError",
    "CollectionError",
    "CollectionNotFoundError",
    "ConfigError",
    "DaemonError",
    "DuplicateIdError",
    "IndexDamagedError",
    "IndexFormatError",
    "IndexLockedError",
    "IndexNotFoundError",
    "IndexStoreError",
    "InputError",
    "LanguageModelError",
    "MissingExtraError",
    "ModelMismatchError",
    "ServerError",
    "SeveralFoundError",
    "ShapeError",
    "StoppingError",
    "TargetExistsError",
    "UnknownIdError",
    "UnsafeCheckpointError",
    "message_of",
    "said",
]


def said(error: BaseException) -> str:
    """What an error of another program says, as the end of a sentence of ours: a line without its dot.

    >>> said(ValueError("Data format error.")), said(KeyError())
    ('Data format error', 'KeyError')
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .")
    return line if len(line) <= 300 else f"{line[:299]}…"


def message_of(error: BaseException) -> str:
    """What an error says to people. Python puts a number before an error of the system.

    >>> message_of(PermissionError(13, "Permission denied", "notes/tea.md"))
    'notes/tea.md: Permission denied.'
    >>> message_of(MemoryError())
    'there is not enough memory.'
    """
    if isinstance(error, MemoryError):
        return f"there is not enough memory. {error}".rstrip()
    if isinstance(error, OSError) and not isinstance(error, ColBERTError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return f"{place}{error.strerror}."
    return str(error)


def _named(doc_ids: Sequence[str]) -> str:
    """The first ids, and the number of the others."""
    shown = ", ".join(reprlib.repr(doc_id) for doc_id in doc_ids[:5])
    return f"{shown} and {len(doc_ids) - 5} more" if len(doc_ids) > 5 else shown


def _listed(problems: Sequence[str]) -> list[str]:
    """The first problems, shortened, a line each: they may quote an untrusted file."""
    lines = [problem.replace("\n", " ") for problem in problems[:20]]
    shown = [line if len(line) <= 300 else line[:299] + "…" for line in lines]
    return [*shown, f"and {len(problems) - 20} more"] if len(problems) > 20 else shown


def _path(path: str | Path) -> Path:
    """The path of an error. A client of the daemon does not need the module."""
    from pathlib import Path

    return Path(path)


def _restored(kind: type[ColBERTError], message: str, attributes: dict[str, Any]) -> ColBERTError:
    """An unpickled error. Its own `__init__` takes other arguments, so this does not call it."""
    # Python allows only the `__new__` of the builtin base that sets the memory layout.
    builtin: Any = kind
    while builtin.__module__ != "builtins":
        builtin = builtin.__base__
    error: ColBERTError = builtin.__new__(kind)
    ColBERTError.__init__(error, message)
    vars(error).update(attributes)
    return error


class ColBERTError(Exception):
    """The base class of all exceptions of this package."""

    def __init__(self, message: str) -> None:
        # In each subclass the builtin base comes after this class.
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args[0], vars(self))


class ConfigError(ColBERTError, ValueError):
    """A setting is unknown or out of range.

    Attributes:
        where: the file, or the name of the settings.
        problems: every problem found, one sentence each.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems: list[str] = list(problems)
        text = "; ".join(_listed(self.problems)).rstrip(".")
        super().__init__(f"{where}: {text}" if text.endswith("?") else f"{where}: {text}.")


class InputError(ColBERTError, ValueError):
    """An argument of the caller cannot be used."""


class SeveralFoundError(InputError):
    """A name or an id stands for several things.

    Attributes:
        collections: the collections that have one. Empty: one collection has all of them.
    """

    def __init__(self, message: str, collections: Sequence[str]) -> None:
        self.collections: list[str] = list(collections)
        super().__init__(message)


class DuplicateIdError(InputError):
    """A doc_id is given twice, or exists already.

    Attributes:
        doc_ids: the ids concerned.
    """

    def __init__(self, doc_ids: Sequence[str], *, reason: str) -> None:
        self.doc_ids: list[str] = list(doc_ids)
        super().__init__(f"doc_id {_named(self.doc_ids)}: {reason}")

    @classmethod
    def existing(cls, doc_ids: Iterable[str], *, where: str | Path, how: str = "") -> Self:
        """The error for ids that an index has already. `how` says what differs."""
        advice = "Use upsert (mlx-colbert add --upsert) to replace it."
        return cls(list(doc_ids), reason=f"exists already in index {where}{how}. {advice}")


class ShapeError(ColBERTError, ValueError):
    """Arrays have shapes that do not match."""


class BackendError(ColBERTError, ImportError):
    """A backend or an extra is not installed."""


class MissingExtraError(BackendError):
    """An extra of this package is not installed.

    Attributes:
        extra: the name of the extra.
    """

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs the extra '{extra}'. Run: pip install 'mlx-colbert[{extra}]'")


class TargetExistsError(ColBERTError, FileExistsError):
    """An output path exists already.

    Attributes:
        path: the path.
    """

    def __init__(self, path: str | Path, *, advice: str) -> None:
        self.path: Path = _path(path)
        super().__init__(f"{path}: exists already. {advice}")


class CollectionError(ColBERTError, ValueError):
    """A collection cannot be used.

    Attributes:
        name: its name. Empty: the reason is about no certain one.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(f"collection {name}: {reason}" if name else reason)


class CollectionNotFoundError(CollectionError, FileNotFoundError):
    """There is no collection with that name."""


class CollectionBusyError(CollectionError, TimeoutError):
    """Another process is changing the collection."""


class UnknownIdError(ColBERTError, KeyError):
    """The index has no passage with that doc_id, or the collection no such document.

    Attributes:
        doc_ids: the ids concerned.
    """

    def __init__(
        self, doc_ids: Sequence[str], *, where: str | Path, holder: str = "index", what: str = "passage"
    ) -> None:
        self.doc_ids: list[str] = list(doc_ids)
        self.message: str = f"{holder} {where}: has no {what} {_named(self.doc_ids)}."
        super().__init__(self.message)

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, so it would put the sentence in quotes.
        return self.message


class CheckpointError(ColBERTError, ValueError):
    """A checkpoint cannot be converted or loaded.

    Attributes:
        where: the folder, the file or the hub id.
        problems: every problem found, one sentence each; the message shows the first 20.
    """

    def __init__(self, where: str | Path, problems: str | Sequence[str]) -> None:
        self.where: str = str(where)
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        shown = _listed(self.problems)
        text = shown[0] if len(shown) == 1 else "".join(f"\n  - {problem}" for problem in shown)
        super().__init__(f"checkpoint {where}: {text}")


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint at that path, or no repository with that name on the hub."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint file contains something forbidden: a call, a path outside, too much memory."""


class AssistantError(ColBERTError, ValueError):
    """A file of a program that mlx-colbert is installed in cannot be changed. It stays as it was.

    Attributes:
        path: the file.
        reason: what is wrong, and what to do.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path: Path = _path(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class BusyError(ColBERTError, TimeoutError):
    """There is no place for another request.

    Attributes:
        n_waiting: number of requests that wait.
        retry_after_s: seconds after which there should be a place.
    """

    def __init__(self, n_waiting: int, retry_after_s: float) -> None:
        self.n_waiting = n_waiting
        self.retry_after_s = retry_after_s
        super().__init__(
            f"the server is busy: {n_waiting:,} requests wait already. Try again in {retry_after_s:.0f} s."
        )


class DaemonError(ColBERTError, RuntimeError):
    """The daemon cannot be started, stopped or used.

    Attributes:
        path: its folder, or the file concerned.
        reason: what is wrong, and what to do.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path: Path = _path(path)
        self.reason = reason
        super().__init__(f"daemon {path}: {reason}")


class ServerError(ColBERTError, RuntimeError):
    """An HTTP server cannot be started.

    Attributes:
        where: its address.
        reason: what is wrong, and what to do.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"server {where}: {reason}")


class StoppingError(ColBERTError, RuntimeError):
    """This process is being stopped, so it begins no more work.

    Attributes:
        what: the work.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what}: this process is being stopped. Try again when it has started again.")


class LanguageModelError(ColBERTError, RuntimeError):
    """A language model cannot be used, or it fails while it writes.

    Attributes:
        where: the folder or hub id of the model, or the URL of its server.
        reason: what is wrong, and what to do.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"language model {where}: {reason}")


class IndexStoreError(ColBERTError, ValueError):
    """An index folder cannot be used.

    Attributes:
        path: the index folder or the file in it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path: Path = _path(path)
        super().__init__(f"index {path}: {reason}")


class IndexNotFoundError(IndexStoreError, FileNotFoundError):
    """There is no index at that path."""


class IndexDamagedError(IndexStoreError):
    """A file of the index is missing, short or altered."""


class IndexFormatError(IndexStoreError):
    """The format of the index is too new for this version, or too old for this call."""


class IndexLockedError(IndexStoreError, TimeoutError):
    """Another writer, in this or another process, does not finish in time."""


class ModelMismatchError(IndexStoreError):
    """The index has the vectors of another model."""
