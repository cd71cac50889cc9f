"""Reads modules.json: the parts of a sentence-transformers or PyLate checkpoint, and their folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mlx_colbert.errors import CheckpointError, UnsafeCheckpointError
from mlx_colbert.untrusted import read_json, shown

__all__ = ["Module", "read_modules"]

# Plain, short names that every file system allows. No hidden names, no "." and "..".
_PLACE = re.compile(r"(\w[\w. -]{0,99}(/\w[\w. -]{0,99}){0,3}/?)?", re.ASCII)

# The longest chain known has 6. The files of each are read.
MAX_MODULES = 100


@dataclass(frozen=True)
class Module:
    """One entry of modules.json.

    Attributes:
        kind: last part of the class name, "Dense" for example. The whole name if the class is not one of
            sentence-transformers or PyLate.
        place: its folder within the checkpoint: "" or "1_Dense/", for example.
        folder: the same folder on this machine.
    """

    kind: str
    place: str
    folder: Path


def read_modules(folder: Path) -> list[Module]:
    """The entries of modules.json, in order. An empty list if there is no such file.

    Raises:
        UnsafeCheckpointError: if the folder of an entry is outside the checkpoint, or there are too many.
        CheckpointError: if an entry is malformed.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    modules: list[Module] = []
    entries = read_json(path, kind=list)
    if len(entries) > MAX_MODULES:
        raise UnsafeCheckpointError(path, f"has {len(entries)} entries, more than {MAX_MODULES}. Refused.")
    for entry in entries:
        kind, place = (entry.get("type"), entry.get("path", "")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(place, str):
            raise CheckpointError(path, f"entry {shown(entry)} has no type or path.")
        if not _PLACE.fullmatch(place):
            raise UnsafeCheckpointError(path, f"path {shown(place)} is not within the checkpoint. Refused.")
        # A class of the repository's own code may have the name Transformer or Dense too.
        is_known = kind.startswith(("sentence_transformers.", "pylate."))
        name = kind.rsplit(".", 1)[-1] if is_known else kind[:200]
        modules.append(Module(name, f"{place.rstrip('/')}/" if place else "", folder / place))
    return modules
