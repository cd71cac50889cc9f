"""Where collections are: in the user's data folder, or in `.mlx-colbert/` beside their files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_colbert.collection.files import write_file
from mlx_colbert.collection.lock import locked
from mlx_colbert.collection.settings import SETTINGS_NAME, CollectionSettings, label_of, settings_bytes
from mlx_colbert.errors import CollectionError, CollectionNotFoundError, ConfigError, InputError
from mlx_colbert.places import data_folder, expanded

__all__ = ["LOCAL_FOLDER", "Place", "Registry", "check_name"]

# The folder of a collection beside its files.
LOCAL_FOLDER = ".mlx-colbert"
# A name is also the name of a folder, on any disk.
_NAME = re.compile(r"[^\W_](?:[\w .+-]{0,62}[\w+-])?")
_TRUSTED_NAME = "trusted.json"
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
    """

    name: str
    path: Path
    beside: Path | None = None
    is_trusted: bool = True
    trusted_path: Path | None = None
    given: CollectionSettings | None = None

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
            CollectionError: if there is a link in a collection beside files, or its settings were changed
                after the user trusted them.
            OSError: if they cannot be read.
        """
        if self.given is not None:
            return self.given
        if self.beside is not None:
            self.check_links()
            if not self.is_trusted:
                folder = os.path.realpath(self.beside)
                return CollectionSettings({label_of(Path(folder)): folder})
        try:
            data = settings_bytes(self.settings_path)
        except FileNotFoundError as error:
            raise CollectionNotFoundError(self.name, f"has no settings at {self.settings_path}.") from error
        if self.trusted_path is not None and not _is_trusted(self.trusted_path, self.path, data):
            reason = f"{self.settings_path} has changed. Read it, then run mlx-colbert trust {self.beside}."
            raise CollectionError(self.name, reason)
        return CollectionSettings.parse(data, str(self.settings_path), beside=self.beside)

    def check_links(self) -> None:
        """Raise an error if there is a link in a collection beside files.

        Its folder may come from a stranger. What is written in it must not be written elsewhere.

        Raises:
            CollectionError: if there is one.
        """
        if self.beside is not None and (link := _link_in(self.path)):
            reason = f"{link} is a link. A collection beside files has no links: remove it."
            raise CollectionError(self.name, reason)


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
        self.home = data_folder() if home is None else expanded(home).absolute()

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
        if name in (".", "..") or "/" in name:
            folder = expanded(name)
            if (folder / LOCAL_FOLDER / SETTINGS_NAME).is_file():
                return self._local(folder)
            raise CollectionNotFoundError(name, f"there is no {LOCAL_FOLDER}/{SETTINGS_NAME} in this folder.")
        return self.named(name)

    def named(self, name: str) -> Place:
        """The collection with a name, in any case. A path is no name.

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

    def create(self, settings: CollectionSettings, name: str | None = None) -> Place:
        """Make a collection.

        Args:
            settings: its settings.
            name: its name. None: the label of its first folder, with a number if that name is taken.

        Raises:
            InputError: if there is a collection of this name, or the name is not valid.
            OSError: if it cannot be written.
        """
        taken = {_folded(known) for known in self._names()}
        if name is None:
            first = next(iter(settings.folders), "")
            base = re.sub(r"[^\w .+-]|^[\W_]+", "-", unicodedata.normalize("NFC", first)).strip(" .-_")[:56]
            base, number = base or "files", 1
            name = base
            while _folded(name) in taken:
                number += 1
                name = f"{base}-{number}"
        name = check_name(name)
        if _folded(name) in taken:
            raise InputError(f"collection {name!r} exists already. Choose another name.")
        place = Place(name, self._collections / name)
        place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.write(place.settings_path)
        return place

    def create_local(self, folder: Path, settings: CollectionSettings) -> Place:
        """Make a collection in `.mlx-colbert/` in a folder. This user trusts it.

        Raises:
            OSError: if it cannot be written.
        """
        path = Path(os.path.realpath(folder)) / LOCAL_FOLDER
        path.mkdir(parents=True, exist_ok=True)
        settings.write(path / SETTINGS_NAME)
        if not (path / ".gitignore").exists():
            (path / ".gitignore").write_text(_GITIGNORE)
        return self.trust(path.parent)

    def save(self, place: Place, settings: CollectionSettings) -> None:
        """Write the settings of a collection.

        Raises:
            CollectionError: if the user does not trust it.
            OSError: if they cannot be written.
        """
        if not place.is_trusted:
            reason = f"you do not trust its settings. Read {place.settings_path}, then run mlx-colbert trust"
            raise CollectionError(place.name, f"{reason} {place.beside}.")
        settings.write(place.settings_path)
        if place.beside is not None:
            self.trust(place.beside)

    def trust(self, folder: Path) -> Place:
        """Trust the settings beside the files of a folder, as they are now.

        Raises:
            CollectionNotFoundError: if there are none.
            ConfigError: if they are not valid.
            OSError: if they cannot be read, or this cannot be recorded.
        """
        place = self._local(folder)
        try:
            data = settings_bytes(place.settings_path)
        except FileNotFoundError as error:
            raise CollectionNotFoundError(place.name, f"{place.settings_path} does not exist.") from error
        CollectionSettings.parse(data, str(place.settings_path), beside=place.beside)
        path = self.home / _TRUSTED_NAME
        trusted = {**_trusted(path), str(place.path): hashlib.sha256(data).hexdigest()}
        write_file(path, json.dumps(trusted, indent=1).encode())
        return replace(place, is_trusted=True)

    def rename(self, old: str, new: str) -> Place:
        """Give a collection another name.

        Raises:
            CollectionNotFoundError: if it does not exist.
            CollectionBusyError: if another process is changing it.
            InputError: if the new name is taken or not valid, or the collection is beside its files.
        """
        place = self.find(old)
        if place.beside is not None:
            raise InputError(f"collection {old}: has the name of its folder. Rename the folder.")
        new = check_name(new)
        if any(_folded(known) == _folded(new) and known != place.name for known in self._names()):
            raise InputError(f"collection {new!r} exists already. Choose another name.")
        with locked(place.path, place.name):
            place.path.rename(self._collections / new)
        return Place(new, self._collections / new)

    def remove(self, name: str, *, wait_s: float = 0.0) -> Place:
        """Remove a collection: its settings and its index. The files stay, but those that were uploaded.

        Args:
            name: as for `find`.
            wait_s: seconds to wait for another process that changes it.

        Raises:
            CollectionNotFoundError: if it does not exist.
            CollectionBusyError: if another process goes on changing it.
            CollectionError: if it is beside files, and there is a link in it.
            OSError: if it cannot be removed.
        """
        place = self.find(name)
        place.check_links()
        uploads = None
        with suppress(ConfigError, CollectionError, OSError):
            uploads = self.uploads_of(place)
        with locked(place.path, place.name, wait_s=wait_s):
            # In one step, so that nobody finds a part of it. A dot: it is no name of a collection.
            removed = place.path.with_name(f".removed-{os.getpid()}-{place.path.name}")
            place.path.rename(removed)
        shutil.rmtree(removed)
        if uploads is not None:
            shutil.rmtree(uploads, ignore_errors=True)
        # What a killed call has left. Not beside files: there it may be anything.
        for left in self._collections.glob(".removed-*"):
            shutil.rmtree(left, ignore_errors=True)
        return place

    def _names(self) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._collections) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and Path(entry.path, SETTINGS_NAME).is_file():
                    yield entry.name

    def _local(self, folder: Path) -> Place:
        beside = Path(os.path.realpath(folder))
        path = beside / LOCAL_FOLDER
        trusted_path = self.home / _TRUSTED_NAME
        is_trusted = False
        with suppress(OSError):
            is_trusted = _is_trusted(trusted_path, path, settings_bytes(path / SETTINGS_NAME))
        return Place(beside.name or "/", path, beside, is_trusted, trusted_path)

    def _local_above(self, start: Path) -> Place | None:
        for folder in (start.absolute(), *start.absolute().parents):
            if (folder / LOCAL_FOLDER / SETTINGS_NAME).is_file():
                return self._local(folder)
        return None


def _trusted(path: Path) -> dict[str, str]:
    """Path of a collection beside files → the hash of the settings that the user trusts."""
    try:
        values = json.loads(path.read_bytes())
        return {str(place): str(digest) for place, digest in values.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _is_trusted(trusted_path: Path, place: Path, data: bytes) -> bool:
    return _trusted(trusted_path).get(str(place)) == hashlib.sha256(data).hexdigest()


def _link_in(folder: Path) -> Path | None:
    """A link among the files of a folder, or the folder itself if it is one. None: there is none."""
    if folder.is_symlink():
        return folder
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (path := Path(parent, name)).is_symlink():
                return path
    return None


def _folded(name: str) -> str:
    """The same for names that a disk without case takes for one."""
    return unicodedata.normalize("NFC", name).casefold()
