"""The number of the last commit, noted beside the catalog: it tells whether the catalog has lost some.

SQLite opens a database without its write-ahead log as if nothing had ever been in it. The note is written
after a commit and not synced. So it may be behind the catalog, for example after a loss of power; it is never
before it, unless the catalog lost commits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mlx_colbert.index.storage.files import numbered_folders

NOTE_NAME = "last-commit"
_DIGITS = 20


def read_note(root: Path) -> int | None:
    """The number of the last commit that was noted in an index folder, or None."""
    try:
        with (root / NOTE_NAME).open("rb") as file:
            content = file.read(_DIGITS + 1)
    except OSError:
        return None
    return int(content) if re.fullmatch(rb"\d{%d}\n" % _DIGITS, content) else None


def write_note(root: Path, number: int) -> None:
    """Notes the number of the last commit, in place: a note of another length is no note."""
    # The commit stands without it.
    with suppress(OSError):
        descriptor = os.open(root / NOTE_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(descriptor, b"%0*d\n" % (_DIGITS, number), 0)
        finally:
            os.close(descriptor)


def lost_commits(root: Path, n_commits: int, last_numbers: Mapping[str, int]) -> str | None:
    """What is missing from a catalog, as the end of a sentence about it; None if nothing is known to be.

    Args:
        root: the index folder.
        n_commits: number of its last commit, as the catalog says it.
        last_numbers: the highest number that the catalog has ever given to a segment, and to a codec.
    """
    note = read_note(root)
    if note is not None and note <= n_commits:
        return None
    unknown = [name for name, kind, number in numbered_folders(root) if number > last_numbers.get(kind, 0)]
    if note is not None:
        n = note - n_commits
        missing = "the last change is missing" if n == 1 else f"the last {n:,} changes are missing"
    elif unknown:
        # Either they were lost, or a change was cut short before it was committed: nothing tells which.
        missing = "changes may be missing"
    else:
        return None
    held = f" {len(unknown)} segments or codecs in the folder belong to them." if unknown else ""
    return (
        f"{missing}: catalog.db-wal was removed or replaced.{held} Put the file back, or restore a backup. "
        "To go on without them, use Index.compact (mlx-colbert compact)."
    )
