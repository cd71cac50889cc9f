"""Where one collection is, its settings, and its lock."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from mlx_colbert.collection.lock import Deed, locked
from mlx_colbert.collection.settings import SETTINGS_NAME, CollectionSettings, label_of, settings_bytes
from mlx_colbert.collection.trusted import settings_if_trusted
from mlx_colbert.errors import CollectionError, CollectionNotFoundError

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """Where a collection is.

    Attributes:
        name: its name.
        path: the folder with its settings and its index.
        beside: for a collection beside its files, the folder of these files. None for one of the user.
        is_trusted: whether its settings are used. The settings beside files are used after `trust`.
        trusted_path: for a collection beside its files, the file that records which settings are trusted.
        given: settings that are not written yet, for a dry run.
        is_new: whether the collection was made by the call that returned this.
    """

    name: str
    path: Path
    beside: Path | None = None
    is_trusted: bool = True
    trusted_path: Path | None = None
    given: CollectionSettings | None = None
    is_new: bool = field(default=False, compare=False)

    @property
    def settings_path(self) -> Path:
        """The file of its settings."""
        return self.path / SETTINGS_NAME

    @property
    def index_path(self) -> Path:
        """The folder of its index."""
        return self.path / "index"

    def settings(self) -> CollectionSettings:
        """Its settings. Those that the user does not trust are not read: the default is used in their place.

        Raises:
            ConfigError: if they are not valid.
            CollectionNotFoundError: if they do not exist.
            CollectionError: if there is a link, a pipe or a device in a collection beside files, or its
                settings were changed after the user trusted them.
            OSError: if they cannot be read.
        """
        if self.given is not None:
            return self.given
        if self.beside is not None:
            self.check_files()
            if not self.is_trusted:
                folder = os.path.realpath(self.beside)
                return CollectionSettings({label_of(Path(folder)): folder})
        try:
            data: bytes | None
            if self.trusted_path is None:
                data = settings_bytes(self.settings_path, follow_links=True)
            else:
                data = settings_if_trusted(self.trusted_path, self.settings_path)
        except FileNotFoundError as error:
            raise CollectionNotFoundError(self.name, f"has no settings at {self.settings_path}.") from error
        if data is None:
            reason = f"{self.settings_path} has changed. Read it, then run mlx-colbert trust {self.beside}."
            raise CollectionError(self.name, reason)
        return CollectionSettings.parse(data, str(self.settings_path), beside=self.beside)

    def check_files(self) -> None:
        """Raise an error if there is anything but files and folders in a collection beside files.

        Its folder may come from a stranger. What is written in it must not be written elsewhere, and a pipe
        must not be waited for.

        Raises:
            CollectionError: if there is a link, a pipe or a device.
        """
        if self.beside is not None and (found := _strange_file(self.path)):
            path, what = found
            reason = f"{path} is {what}. A collection beside files has only files and folders: remove it."
            raise CollectionError(self.name, reason)

    def locked(
        self,
        deed: Deed = "changing",
        *,
        on_wait: Callable[[str], object] | None = None,
        wait_s: float = 0.0,
    ) -> AbstractContextManager[None]:
        """A block that has a lock of the collection.

        Args:
            deed: what the lock is for. One process at a time may do it.
            on_wait: called with a sentence before this waits for another process. None: wait no longer than
                `wait_s`.
            wait_s: seconds to wait without `on_wait`.

        Raises:
            CollectionBusyError: without `on_wait`, if the lock is not free in time.
            CollectionError: if there is a link, a pipe or a device in a collection beside files.
            OSError: if the lock cannot be written.
        """
        self.check_files()
        return locked(self.path, self.name, deed=deed, on_wait=on_wait, wait_s=wait_s)


def _strange_file(folder: Path) -> tuple[Path, str] | None:
    """What is neither a file nor a folder in a folder, and what it is. None: there is no such thing."""
    if folder.is_symlink():
        return folder, "a link"
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                # Another process has removed it meanwhile.
                continue
            if stat.S_ISLNK(mode):
                return path, "a link"
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return path, "a pipe or a device"
    return None
