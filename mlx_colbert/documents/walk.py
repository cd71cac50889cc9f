"""The files of a folder with their sizes and times, without those that are left out."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mlx_colbert.checks import is_text
from mlx_colbert.documents.ignore_rules import IGNORE_FILES, Rules
from mlx_colbert.documents.kinds import kind_of
from mlx_colbert.errors import InputError

__all__ = ["LINK_AWAY", "MARKS", "PROGRAM_FOLDERS", "FileState", "FolderFiles", "real_path_in", "walk"]

# What a link is, for people, if `real_path_in` gives no path for it.
LINK_AWAY = "link to a hidden file or out of the folder"
# Folders with files that programs made.
PROGRAM_FOLDERS = frozenset({"node_modules", "bower_components", "__pycache__", "site-packages"})
# What marks a folder as one that a program made, and what it is then.
MARKS = {
    "catalog.db": "index",
    "pyvenv.cfg": "virtual environment",
    # Programs mark folders of temporary files with it (bford.info/cachedir).
    "CACHEDIR.TAG": "cache",
}


class FileState(NamedTuple):
    """The state of a file, as its folder tells it."""

    n_bytes: int
    modified_ns: int


@dataclass
class FolderFiles:
    """The files of a folder and of the folders in it.

    Attributes:
        files: path of each file, seen from the folder, → its state. The order is that of the paths.
        folders: absolute path of each folder that was looked at, this one first.
        unlisted: path of each folder (with a slash at its end; empty for the folder itself) or file that
            cannot be looked at → the reason.
        passed_over: kind of what was left out → its number.
        is_missing: whether there is no such folder.
        is_empty: whether the folder has nothing in it, or only hidden files.
        rules: the digest of the rules that decided.
    """

    files: dict[str, FileState] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    unlisted: dict[str, str] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    is_missing: bool = False
    is_empty: bool = False
    rules: str = ""

    def may_have(self, path: str) -> bool:
        """Whether a file that was not found may still exist, because it cannot be looked at."""
        return any(
            path == place or not place or (place.endswith("/") and path.startswith(place))
            for place in self.unlisted
        )


def walk(folder: Path, rules: Rules, known: Container[str] = (), *, label: str = "") -> FolderFiles:
    """The files of a folder. Nothing is read but the files of rules.

    These are left out: hidden files, what .gitignore and the like leave out, files of kinds that are not
    read, links that lead out of the folder, links to folders, and folders that programs made. The folder
    itself is always looked at: somebody has named it.

    Args:
        folder: the folder, an absolute path without links.
        rules: more patterns, which are stronger.
        known: labels with paths of files that these rules are known not to leave out. This saves time.
        label: stands before the paths of this folder in `known`.
    """
    found = FolderFiles()
    try:
        top = _rules_above(folder, rules)
    except InputError as error:
        found.unlisted[""] = str(error)
        return found
    waiting = [("", top)]
    while waiting:
        prefix, here = waiting.pop()
        path = f"{folder}/{prefix}"
        try:
            with os.scandir(path) as listing:
                entries = list(listing)
        except OSError as error:
            # Removed meanwhile: then its files are gone.
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                found.unlisted[prefix] = f"{error.strerror or error}."
            elif not prefix:
                found.is_missing = True
            continue
        if not prefix:
            found.is_empty = all(entry.name.startswith(".") for entry in entries)
        waiting += _look_at(found, entries, prefix, path, here, known, label, folder)
    found.files = dict(sorted(found.files.items()))
    _leave_out_twins(found)
    found.rules = top.digest()
    return found


def _look_at(
    found: FolderFiles,
    entries: list[os.DirEntry[str]],
    prefix: str,
    path: str,
    rules: Rules,
    known: Container[str],
    label: str,
    root: Path,
) -> list[tuple[str, Rules]]:
    """Add the files of one folder to `found`; returns the folders in it, with their rules."""
    names = {entry.name for entry in entries}
    if prefix and (kind := next((kind for name, kind in MARKS.items() if name in names), None)):
        found.passed_over[kind] += 1
        return []
    try:
        rules = rules.within(path, names, prefix=prefix)
    except InputError as error:
        # Without its rules, files could be read that must not be.
        found.unlisted[prefix] = str(error)
        return []
    folders = []
    found.folders.append(path.rstrip("/"))
    for entry in entries:
        name = entry.name
        if name.startswith("."):
            continue
        place = prefix + name
        try:
            if label + place in known and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                found.files[place] = FileState(status.st_size, status.st_mtime_ns)
            elif entry.is_dir(follow_symlinks=False):
                if name in PROGRAM_FOLDERS:
                    found.passed_over[f"{name}/"] += 1
                elif rules.leave_out(f"{place}/"):
                    found.passed_over["ignored"] += 1
                else:
                    folders.append((f"{place}/", rules))
            elif _is_read(found, entry, place, rules) and (state := _state(found, entry, root)):
                found.files[place] = state
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                found.unlisted[place] = f"{error.strerror or error}."
    return folders


def _is_read(found: FolderFiles, entry: os.DirEntry[str], place: str, rules: Rules) -> bool:
    """Whether a file is read as passages, by its name. If not, this counts it."""
    if kind_of(entry.name) is None:
        is_folder = entry.is_symlink() and entry.is_dir()
        suffix = Path(entry.name).suffix.lower() or "no suffix"
        suffix = suffix if is_text(suffix) else "a suffix that is not UTF-8"
        found.passed_over["linked folder" if is_folder else suffix] += 1
    elif rules.leave_out(place):
        found.passed_over["ignored"] += 1
    elif not is_text(place):
        found.unlisted[place] = "The name is not UTF-8. Rename the file."
    else:
        return True
    return False


def _state(found: FolderFiles, entry: os.DirEntry[str], root: Path) -> FileState | None:
    """The state of a file. None, and a count, if it cannot be read."""
    # What a link shows may not be meant to be indexed: a folder may come from somebody else.
    if entry.is_symlink() and real_path_in(root, entry.path) is None:
        found.passed_over[LINK_AWAY] += 1
        return None
    if entry.is_symlink() and not Path(entry.path).exists():
        found.passed_over["link to nothing"] += 1
        return None
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode):
        found.passed_over["linked folder" if stat.S_ISDIR(status.st_mode) else "no regular file"] += 1
        return None
    return FileState(status.st_size, status.st_mtime_ns)


def _leave_out_twins(found: FolderFiles) -> None:
    """Leave out files whose names differ from that of another one only in how Unicode writes a letter.

    An index has one name for both.
    """
    others = [path for path in found.files if not path.isascii()]
    names = found.files.keys() - others if others else set()
    for path in others:
        name = unicodedata.normalize("NFC", path)
        if name in names:
            del found.files[path]
            found.unlisted[path] = "Another file has the same name in other Unicode signs. Rename one."
        names.add(name)


def real_path_in(folder: str | Path, path: str | Path) -> str | None:
    """The path of a file behind its links. None: it is out of a folder, or hidden in it."""
    root, real = f"{os.path.realpath(folder).rstrip('/')}/", os.path.realpath(path)
    if not real.startswith(root) or any(part.startswith(".") for part in real[len(root) :].split("/")):
        return None
    return real


def _rules_above(folder: Path, rules: Rules) -> Rules:
    """The rules with those of the folders above, up to the root of the git repository, if there is one.

    If those leave out the folder itself, they do not count.
    """
    given = rules
    root = next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)
    for parent in reversed(folder.parents):
        if parent.is_relative_to(root):
            names = {name for name in IGNORE_FILES if (parent / name).is_file()}
            rules = rules.within(str(parent), names, above=f"{folder.relative_to(parent)}/")
    return given if rules.leave_out_all() else rules
