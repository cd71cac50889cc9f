"""Which parts of a folder are never read: what programs made, and links to what the folder does not show."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["LINK_AWAY", "PROGRAM_FOLDERS", "real_path_in"]

# Folders with files that programs made.
PROGRAM_FOLDERS = frozenset({"node_modules", "bower_components", "__pycache__", "site-packages"})
# What a link is, for people, if `real_path_in` gives no path for it.
LINK_AWAY = "link to a hidden file or out of the folder"


def real_path_in(folder: str | Path, path: str | Path) -> str | None:
    """The path of a file behind its links. None: it is out of a folder, or hidden in it."""
    root, real = f"{os.path.realpath(folder).rstrip('/')}/", os.path.realpath(path)
    if not real.startswith(root) or any(part.startswith(".") for part in real[len(root) :].split("/")):
        return None
    return real
