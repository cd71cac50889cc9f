"""Files as sources: the name of a file in an index, and the hash that shows whether its content changed."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mlx_colbert.types import Source

__all__ = ["FolderLabels", "content_hash", "passage_rules"]

# The version of the rules that turn a file into passages. Each content hash names it. Raise it with every
# change of these rules (decoding, splitting, rows), so that files with the same bytes are read again.
RULES_VERSION = 3


def passage_rules() -> str:
    """The name of the rules that turn a file into passages here. With the extra "code" they are others."""
    return f"{RULES_VERSION}+code" if _has_grammars() else str(RULES_VERSION)


@cache
def _has_grammars() -> bool:
    return find_spec("tree_sitter") is not None


def content_hash(sha256: str) -> str:
    """The content hash of a source. Equal hashes mean equal passages.

    Args:
        sha256: the digest of all bytes of the file, in hexadecimal digits.
    """
    return f"sha256:{sha256}/{passage_rules()}"


class FolderLabels:
    """Short labels of folders. The name of a file in an index begins with the label of its folder.

    The label is the name of the folder. A number follows if another folder has this name: `notes`, `notes-2`.
    The innermost folder with a label names a file. The name is the same if the file or its folder was given,
    and if the path was relative or absolute.

    >>> labels = FolderLabels({"/home/ann/notes": "notes"})
    >>> labels.uri(Path("/home/ann/notes/sub"), "a.md"), labels.uri(Path("/srv/notes"), "b.md")
    ('notes/sub/a.md', 'notes-2/b.md')
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        """Start with the labels of an index: absolute path of a folder → label."""
        self._labels = dict(known or {})

    def uri(self, folder: Path, name: str) -> str:
        """The name of a file in an index.

        Args:
            folder: the folder that was given, or the folder of the file that was given.
            name: path of the file in the folder, with slashes.
        """
        return self._place(folder, name)[1]

    def source(self, folder: Path, name: str, status: os.stat_result, sha256: str) -> Source:
        """The source for a file.

        Args:
            folder: as for `uri`.
            name: as for `uri`.
            status: the status of the file when it was read.
            sha256: the digest of all its bytes, in hexadecimal digits.
        """
        root, uri = self._place(folder, name)
        return Source(uri, root, content_hash(sha256), status.st_mtime_ns, status.st_size)

    def _place(self, folder: Path, name: str) -> tuple[str, str]:
        """The folder with a label that contains a file, and the name of the file."""
        path = Path(os.path.realpath(folder)) / name
        parents = map(str, path.parents)
        root = next((parent for parent in parents if parent in self._labels), None)
        if root is None:
            root = os.path.realpath(folder)
            self._labels[root] = self._new_label(root)
        relative = path.relative_to(root).as_posix()
        # On macOS, the letters in file names are decomposed.
        return root, unicodedata.normalize("NFC", f"{self._labels[root]}/{relative}")

    def _new_label(self, folder: str) -> str:
        name = unicodedata.normalize("NFC", Path(folder).name) or "files"
        taken, label, number = set(self._labels.values()), name, 1
        while label in taken:
            number += 1
            label = f"{name}-{number}"
        return label
