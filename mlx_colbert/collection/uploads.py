"""Collections of files that programs upload. Their folders are in the user's data folder."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.place import Place
from mlx_colbert.collection.registry import Registry, check_name
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.documents.kinds import KINDS, Kind, kind_of
from mlx_colbert.documents.walk import MARKS, PROGRAM_FOLDERS
from mlx_colbert.errors import CollectionError, InputError

__all__ = ["Upload", "create_uploads", "delete_upload", "uploading"]

_MOST_BYTES, _MOST_NAME_BYTES, _MOST_FOLDERS = 1000, 200, 16
# What Windows has for devices. Such a file could not be copied there.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
# The folder of files that are not whole yet, and the age at which one was left by a crash.
_INCOMING = ".incoming"
_LEFT_S = 24 * 3600.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def create_uploads(registry: Registry, name: str, settings: CollectionSettings) -> Place:
    """Make a collection of files that are uploaded.

    Args:
        registry: where the collections are.
        name: its name.
        settings: its settings, without a folder.

    Raises:
        InputError: if the name is taken or not valid.
        OSError: if it cannot be written.
    """
    name = check_name(name)
    registry.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder, number = registry.uploads / name, 1
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            break
        number += 1
        folder = registry.uploads / f"{name}-{number}"
    try:
        return registry.create(settings.with_folder(folder), name)
    except BaseException:
        folder.rmdir()
        raise


class Upload:
    """A file that is being uploaded. Until `commit`, nobody sees it.

    Attributes:
        path: its path in the folder.
        max_bytes: the most bytes that it may have.
    """

    def __init__(self, folder: Path, path: str, kind: Kind, max_bytes: int | None) -> None:
        self.path = path
        self.max_bytes: int = kind.max_bytes if max_bytes is None else max_bytes
        self._root = os.open(folder, _FOLDER)
        self._n_bytes = 0
        self._name = secrets.token_hex(16)
        incoming = folder.parent / _INCOMING
        try:
            incoming.mkdir(exist_ok=True, mode=0o700)
            _remove_left(incoming)
            self._incoming = os.open(incoming, _FOLDER)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.open(self._name, flags, 0o600, dir_fd=self._incoming)
            except BaseException:
                os.close(self._incoming)
                raise
        except BaseException:
            os.close(self._root)
            raise

    def write(self, data: bytes) -> None:
        """Add bytes to the file.

        Raises:
            InputError: if it becomes too large to be read.
            OSError: if they cannot be written.
        """
        self._n_bytes += len(data)
        if self._n_bytes > self.max_bytes:
            raise InputError(f"{self.path}: has more than {self.max_bytes:,} bytes, so it would not be read.")
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def commit(self) -> None:
        """Put the file in its place. It is durable, and replaces one with this path.

        Raises:
            InputError: if there is a folder with this path, or no folder in place of one above it.
            OSError: if it cannot be written.
        """
        os.fsync(self._file)
        *folders, name = self.path.split("/")
        with _folder_in(self._root, folders, self.path, make=True) as place:
            try:
                os.replace(self._name, name, src_dir_fd=self._incoming, dst_dir_fd=place)
            except IsADirectoryError as error:
                raise InputError(f"{self.path}: is a folder. Choose another name.") from error
            os.fsync(place)

    def close(self) -> None:
        """Let go of the file. Without `commit`, nothing of it is left."""
        with suppress(OSError):
            os.unlink(self._name, dir_fd=self._incoming)
        for descriptor in (self._file, self._incoming, self._root):
            os.close(descriptor)


@contextmanager
def uploading(registry: Registry, collection: Collection, path: str) -> Iterator[Upload]:
    """A block that uploads a file into a collection: `write` its bytes, then `commit`.

    Args:
        registry: where the collections are.
        collection: a collection of `create_uploads`.
        path: the path of the file in its folder, with slashes.

    Raises:
        InputError: if the path cannot be used, or no such file is read.
        CollectionError: if the collection is not one of uploads.
        OSError: if the file cannot be written.
    """
    path, kind = _checked_path(path)
    upload = Upload(_uploads_of(registry, collection), path, kind, collection.settings.max_file_bytes)
    try:
        yield upload
    finally:
        upload.close()


def delete_upload(registry: Registry, collection: Collection, path: str) -> None:
    """Delete a file that was uploaded.

    Args:
        registry: where the collections are.
        collection: as for `uploading`.
        path: as for `uploading`.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if the path cannot be used.
        CollectionError: if the collection is not one of uploads.
        OSError: if it cannot be deleted.
    """
    path, _ = _checked_path(path)
    root = os.open(_uploads_of(registry, collection), _FOLDER)
    try:
        *folders, name = path.split("/")
        with _folder_in(root, folders, path, make=False) as place:
            os.unlink(name, dir_fd=place)
            os.fsync(place)
    finally:
        os.close(root)


def _uploads_of(registry: Registry, collection: Collection) -> Path:
    folder = registry.uploads_of(collection.place)
    if folder is None:
        reason = "does not take uploads: its files are in folders of the user. Change them there."
        raise CollectionError(collection.name, reason)
    return folder


def _checked_path(path: str) -> tuple[str, Kind]:
    """The path of a file that will be read, in the Unicode form NFC, and the kind of the file."""
    path = unicodedata.normalize("NFC", path)
    parts = path.split("/")
    problem = None
    if len(path.encode(errors="replace")) > _MOST_BYTES or len(parts) > _MOST_FOLDERS:
        problem = f"is too long. Give up to {_MOST_BYTES:,} bytes and {_MOST_FOLDERS} folders."
    else:
        problem = next(filter(None, map(_problem_of_name, parts)), None)
    if problem is not None:
        raise InputError(f"{path!r:.200}: {problem}")
    kind = kind_of(parts[-1])
    if kind is None:
        suffixes = ", ".join(kind.suffixes[0] for kind in KINDS)
        raise InputError(f"{path!r:.200}: files of this kind are not read. Give a file such as {suffixes}.")
    return path, kind


def _problem_of_name(name: str) -> str | None:
    """Why a file or a folder cannot have a name. None: it can."""
    if name in ("", ".", ".."):
        return "is not a path in the folder. Give names with slashes between them."
    if name.startswith("."):
        return "is hidden, so it would not be read."
    if len(name.encode(errors="replace")) > _MOST_NAME_BYTES:
        return f"has a name of more than {_MOST_NAME_BYTES} bytes."
    if any(
        unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") or sign in '\\:*?"<>|\ufffd'
        for sign in name
    ):
        return "has a sign that names of files cannot have everywhere."
    if name[0].isspace() or name[-1].isspace() or name.endswith("."):
        return "has a name with a space or a dot at its edge."
    if _DEVICES.fullmatch(name):
        return "has the name of a device of Windows."
    if name in PROGRAM_FOLDERS or name in MARKS:
        return f"has the name {name!r}, which would keep its folder from being read."
    return None


@contextmanager
def _folder_in(root: int, folders: list[str], path: str, *, make: bool) -> Iterator[int]:
    """A block with the descriptor of a folder. No link is followed."""
    place = os.dup(root)
    try:
        for name in folders:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=place)
                    os.fsync(place)
            try:
                inner = os.open(name, _FOLDER, dir_fd=place)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise InputError(f"{path}: {name!r} is a file, not a folder. Choose another name.") from error
            os.close(place)
            place = inner
        yield place
    finally:
        os.close(place)


def _remove_left(incoming: Path) -> None:
    """Remove what a crash has left."""
    with suppress(OSError):
        for entry in os.scandir(incoming):
            if entry.stat(follow_symlinks=False).st_mtime < time.time() - _LEFT_S:
                Path(entry.path).unlink()
