"""The note: a file beside the catalog with the number of the last commit. It shows if commits were lost.

SQLite opens a database without its write-ahead log and reports no error, even if the log had commits. The
note is written and synced after a commit, and before the change is acknowledged. So its number may be lower
than the catalog's after a kill or a power loss. It is higher only if the catalog lost commits.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mlx_colbert.index.storage import files
from mlx_colbert.index.storage.files import numbered_folders

NOTE_NAME = "last-commit"
_DIGITS = 20
# No index has that many commits. Such a number is damage.
_LARGEST = 10**17


def read_note(root: Path) -> int | None:
    """The number in the note of an index folder, or None if there is no valid note."""
    try:
        with (root / NOTE_NAME).open("rb") as file:
            return _number(file.read(_DIGITS + 1))
    except OSError:
        return None


def write_note(root: Path, number: int, *, may_lower: bool = False) -> None:
    """Write the number of the last commit to the note, in place, and sync it.

    The length of a note never changes. If this creates the note, the caller must sync the folder.

    Args:
        root: the index folder.
        number: the number of a commit.
        may_lower: replace a higher number too. Another writer may have written the number of a later commit,
            because the write lock ends with the commit.
    """
    # The commit is valid without a note.
    with suppress(OSError):
        descriptor = os.open(root / NOTE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Some file systems have no such locks.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if may_lower or (_number(os.pread(descriptor, _DIGITS + 1, 0)) or 0) <= number:
                os.pwrite(descriptor, b"%0*d\n" % (_DIGITS, number), 0)
                files.sync(descriptor)
        finally:
            os.close(descriptor)


def _number(content: bytes) -> int | None:
    number = int(content) if re.fullmatch(rb"\d{%d}\n" % _DIGITS, content) else _LARGEST
    return number if number < _LARGEST else None


def lost_commits(root: Path, n_commits: int, last_numbers: Mapping[str, int]) -> str | None:
    """The end of a sentence that says which commits are missing, or None if no loss is known.

    Args:
        root: the index folder.
        n_commits: the number of the last commit in the catalog.
        last_numbers: the highest number that the catalog ever gave to a segment, and to a codec.
    """
    note = read_note(root)
    if note is not None and note <= n_commits:
        return None
    unknown = [name for name, kind, number in numbered_folders(root) if number > last_numbers.get(kind, 0)]
    if note is not None:
        n = note - n_commits
        missing = "the last change is missing" if n == 1 else f"the last {n:,} changes are missing"
    elif unknown:
        # Either commits were lost, or a change stopped before its commit. We cannot know which.
        missing = "changes may be missing"
    else:
        return None
    owned = f" Segments or codecs in the folder that belong to them: {len(unknown)}." if unknown else ""
    erased = " and erase these folders" if unknown else ""
    return (
        f"{missing}: catalog.db-wal was removed or replaced.{owned} Put the file back, or restore a backup. "
        f"To go on without them{erased}, use Index.compact(erase_lost=True) "
        "(mlx-colbert compact --erase-lost)."
    )
