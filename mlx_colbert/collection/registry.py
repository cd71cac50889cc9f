"""Where collections are: in the user's data folder, or in `.mlx-colbert/` beside their files."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mlx_colbert.collection.files import write_file
from mlx_colbert.collection.lock import shared_lock
from mlx_colbert.collection.place import Place
from mlx_colbert.collection.settings import SETTINGS_NAME, CollectionSettings, settings_bytes
from mlx_colbert.collection.trusted import TRUSTED_NAME, record_trusted, settings_if_trusted, write_trusted
from mlx_colbert.errors import CollectionError, CollectionNotFoundError, ConfigError, InputError
from mlx_colbert.places import data_folder, expanded

__all__ = ["LOCAL_FOLDER", "Registry", "check_name"]

# The folder of a collection beside its files.
LOCAL_FOLDER = ".mlx-colbert"
# The settings beside files while their collection is being removed.
_REMOVED_NAME = "removed.toml"
# A name is also the name of a folder, on any disk.
_NAME = re.compile(r"[^\W_](?:[\w .+-]{0,62}[\w+-])?")
_GITIGNORE = "# Only the settings are for others.\n*\n!collection.toml\n"


def check_name(name: str) -> str:
    """The name of a collection in its Unicode form NFC.

    Raises:
        InputError: if it cannot be the name of a collection.
    """
    name = unicodedata.normalize("NFC", name)
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r:.80} cannot be the name of a collection. Give up to 64 letters, digits, spaces and "
            ". + - _ that begin with a letter or a digit and do not end with a space or a dot."
        )
    return name


class Registry:
    """The collections of a user.

    Attributes:
        home: the folder of all of them.
    """

    def __init__(self, home: str | Path | None = None) -> None:
        """Use the collections in a folder.

        Args:
            home: the folder. None: MLX_COLBERT_HOME, or the place that the system has for the user's data.
        """
        self.home: Path = data_folder() if home is None else expanded(home).absolute()

    @property
    def uploads(self) -> Path:
        """The folder of the files that were uploaded. It has a folder for each collection of them."""
        return Path(os.path.realpath(self.home)) / "uploads"

    def uploads_of(self, place: Place) -> Path | None:
        """The folder of the uploaded files of a collection. None: it has none.

        Raises:
            ConfigError: if the settings of the collection are not valid.
            CollectionError: if they cannot be used.
            OSError: if they cannot be read.
        """
        folders = map(Path, place.settings().folders.values()) if place.beside is None else ()
        return next((folder for folder in folders if folder.parent == self.uploads), None)

    @property
    def _collections(self) -> Path:
        return self.home / "collections"

    @property
    def _trusted_path(self) -> Path:
        return self.home / TRUSTED_NAME

    def list(self, *, near: Path | None = None) -> list[Place]:
        """All collections by name.

        Args:
            near: also the collection beside the files of this folder, or of the nearest folder above it that
                has one. None: only those of the user.
        """
        places = [Place(name, self._collections / name) for name in sorted(self._names())]
        if near is not None and (local := self._local_above(near)) is not None:
            places.append(local)
        return places

    def find(self, name: str) -> Place:
        """The collection with a name, or beside the files of a folder.

        Args:
            name: a name in any case, or a path with a slash, or ".".

        Raises:
            CollectionNotFoundError: if there is none. The message names those that exist.
        """
        if _is_path(name):
            folder = expanded(name)
            if (folder / LOCAL_FOLDER / SETTINGS_NAME).is_file():
                return self._local(folder)
            raise CollectionNotFoundError(name, f"there is no {LOCAL_FOLDER}/{SETTINGS_NAME} in this folder.")
        return self.named(name)

    def named(self, name: str) -> Place:
        """The collection with a name, in any case. A path is not a name.

        Raises:
            CollectionNotFoundError: if there is none. The message names those that exist.
        """
        wanted = _folded(name)
        for known in self._names():
            if _folded(known) == wanted:
                return Place(known, self._collections / known)
        names = ", ".join(sorted(self._names())) or "none yet. Make one with mlx-colbert sync FOLDER"
        raise CollectionNotFoundError(name, f"does not exist. There are: {names}.")

    def containing(self, folder: Path) -> Place | None:
        """The collection that a folder, or a folder above it, belongs to. None: there is none."""
        path = Path(os.path.realpath(folder))
        if (path / LOCAL_FOLDER / SETTINGS_NAME).is_file():
            return self._local(path)
        for place in self.list():
            with suppress(ConfigError, CollectionError, OSError):
                if any(path.is_relative_to(root) for root in place.settings().folders.values()):
                    return place
        return None

    def create(
        self,
        settings: CollectionSettings,
        name: str | None = None,
        *,
        on_taken: Callable[[str], object] | None = None,
    ) -> Place:
        """Make a collection.

        Args:
            settings: its settings.
            name: its name. None: the label of its first folder, with a number if that name is taken.
            on_taken: called with a sentence if it is.

        Raises:
            InputError: if there is a collection of this name, or the name is not valid.
            OSError: if it cannot be written.
        """
        with shared_lock(self.home):
            name = check_name(self.free_name(settings, on_taken) if name is None else name)
            if any(_folded(known) == _folded(name) for known in self._names()):
                raise InputError(f"collection {name!r} exists already. Choose another name.")
            place = Place(name, self._collections / name)
            place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            settings.write(place.settings_path)
        return place

    def free_name(self, settings: CollectionSettings, on_taken: Callable[[str], object] | None = None) -> str:
        """The label of the first folder, as the name of a new collection. With a number if it is taken.

        Args:
            settings: those of the new collection.
            on_taken: called with a sentence if the name is taken.
        """
        taken = {_folded(known): known for known in self._names()}
        first = unicodedata.normalize("NFC", next(iter(settings.folders), ""))
        base = re.sub(r"[^\w .+-]|^[\W_]+", "-", first).strip(" .-_")[:56] or "files"
        name, number = base, 1
        while _folded(name) in taken:
            number += 1
            name = f"{base}-{number}"
        if number > 1 and on_taken is not None:
            holder = Place(taken[_folded(base)], self._collections / taken[_folded(base)])
            folders: list[str] = []
            # Its settings may be wrong. That is told when they are used.
            with suppress(ConfigError, CollectionError, OSError):
                folders = [*holder.settings().folders.values()]
            by = f" by {folders[0]}" if folders else ""
            on_taken(f"The name {base} is taken{by}, so this one is {name}.")
        return name

    def create_local(self, folder: Path, settings: CollectionSettings) -> Place:
        """Make a collection in `.mlx-colbert/` in a folder. This user trusts it.

        Raises:
            OSError: if it cannot be written.
        """
        place = self._local(folder)
        place.check_files()
        with shared_lock(self.home):
            if _is_half_removed(place.path):
                _remove_beside_files(place.path)
            place.path.mkdir(parents=True, exist_ok=True)
            write_trusted(self._trusted_path, place.settings_path, settings.to_toml().encode())
            if not (place.path / ".gitignore").exists():
                write_file(place.path / ".gitignore", _GITIGNORE.encode())
        return replace(place, is_trusted=True)

    def change(
        self, place: Place, edit: Callable[[CollectionSettings], CollectionSettings]
    ) -> CollectionSettings:
        """Change the settings of a collection; returns them. Nobody else changes them meanwhile.

        Args:
            place: the collection.
            edit: returns the new settings for those that there are.

        Raises:
            CollectionError: if the user does not trust it.
            OSError: if they cannot be written.
        """
        if not place.is_trusted:
            reason = f"you do not trust its settings. Read {place.settings_path}, then run mlx-colbert trust"
            raise CollectionError(place.name, f"{reason} {place.beside}.")
        with shared_lock(self.home):
            old = place.settings()
            new = edit(old)
            if new != old and place.beside is None:
                new.write(place.settings_path)
            elif new != old:
                write_trusted(self._trusted_path, place.settings_path, new.to_toml().encode())
        return new

    def trust(self, folder: Path) -> Place:
        """Trust the settings beside the files of a folder, as they are now.

        Raises:
            CollectionNotFoundError: if there are none.
            CollectionError: if there is a link, a pipe or a device beside them.
            ConfigError: if they are not valid.
            OSError: if they cannot be read, or this cannot be recorded.
        """
        place = self._local(folder)
        place.check_files()
        try:
            data = settings_bytes(place.settings_path)
        except FileNotFoundError as error:
            raise CollectionNotFoundError(place.name, f"{place.settings_path} does not exist.") from error
        CollectionSettings.parse(data, str(place.settings_path), beside=place.beside)
        with shared_lock(self.home):
            record_trusted(self._trusted_path, place.settings_path, data)
        return replace(place, is_trusted=True)

    def rename(self, old: str, new: str) -> Place:
        """Give a collection another name.

        Raises:
            CollectionNotFoundError: if it does not exist.
            CollectionBusyError: if another process is changing it.
            CollectionError: if there is a folder of the new name that is not a collection.
            InputError: if the new name is taken or not valid, or the collection is beside its files.
        """
        with shared_lock(self.home):
            place = self.find(old)
            if place.beside is not None:
                raise InputError(f"collection {old}: has the name of its folder. Rename the folder.")
            target = self._collections / check_name(new)
            new = target.name
            if any(_folded(known) == _folded(new) and known != place.name for known in self._names()):
                raise InputError(f"collection {new!r} exists already. Choose another name.")
            if target.exists() and not target.samefile(place.path):
                # What somebody put there. A disk without case may have the old name here.
                reason = f"{target} exists, and has no {SETTINGS_NAME}. Remove it, or choose another name."
                raise CollectionError(new, reason)
            with place.locked():
                place.path.rename(target)
        return Place(new, target)

    def removable(self, name: str) -> Place:
        """The collection that `remove` removes: as `find`, or one that is half removed.

        Raises:
            CollectionNotFoundError: if it does not exist.
        """
        half_removed = _is_path(name) and _is_half_removed(expanded(name) / LOCAL_FOLDER)
        return self._local(expanded(name)) if half_removed else self.find(name)

    def remove(self, name: str, *, wait_s: float = 0.0) -> Place:
        """Remove a collection: its settings and its index. The files stay, but those that were uploaded.

        If this is killed, the same call goes on. So does a new collection in its place.

        Args:
            name: as for `find`.
            wait_s: seconds to wait for another process that changes it.

        Raises:
            CollectionNotFoundError: if it does not exist.
            CollectionBusyError: if another process goes on changing it.
            CollectionError: if it is beside files, and there is a link, a pipe or a device in it.
            OSError: if it cannot be removed.
        """
        with shared_lock(self.home):
            place = self.removable(name)
            uploads = None
            with suppress(ConfigError, CollectionError, OSError):
                uploads = self.uploads_of(place)
            # It is gone in one step, so that nobody finds a part of it.
            with place.locked(wait_s=wait_s):
                if place.beside is None:
                    # A dot: it is no name of a collection.
                    place.path.rename(place.path.with_name(f".removed-{os.getpid()}-{place.path.name}"))
                else:
                    # Nothing of another name may be left beside the files of a user.
                    if not _is_half_removed(place.path):
                        place.settings_path.rename(place.path / _REMOVED_NAME)
                    _remove_beside_files(place.path)
            if uploads is not None:
                shutil.rmtree(uploads, ignore_errors=True)
            # With what a killed call has left.
            for left in self._collections.glob(".removed-*"):
                shutil.rmtree(left)
        return place

    def _names(self) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._collections) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and Path(entry.path, SETTINGS_NAME).is_file():
                    yield entry.name

    def _local(self, folder: Path) -> Place:
        beside = Path(os.path.realpath(folder))
        path = beside / LOCAL_FOLDER
        trusts = False
        # Nothing is read behind a link, before the check of all files.
        with suppress(OSError):
            if not path.is_symlink():
                trusts = settings_if_trusted(self._trusted_path, path / SETTINGS_NAME) is not None
        return Place(beside.name or "/", path, beside, trusts, self._trusted_path)

    def _local_above(self, start: Path) -> Place | None:
        for folder in (start.absolute(), *start.absolute().parents):
            if (folder / LOCAL_FOLDER / SETTINGS_NAME).is_file():
                return self._local(folder)
        return None


def _is_path(name: str) -> bool:
    """Whether this is the path of a folder, and no name of a collection."""
    return name in (".", "..") or "/" in name


def _is_half_removed(path: Path) -> bool:
    """Whether a removal of the collection beside files was killed."""
    return (path / _REMOVED_NAME).is_file() and not (path / SETTINGS_NAME).exists()


def _remove_beside_files(path: Path) -> None:
    """Remove the folder of a collection beside files. The file that says so is removed as the last one."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _REMOVED_NAME:
            entry.unlink()
    # With a lock that another process has made again meanwhile.
    shutil.rmtree(path)


def _folded(name: str) -> str:
    """The same for names that a disk without case takes for one."""
    return unicodedata.normalize("NFC", name).casefold()
