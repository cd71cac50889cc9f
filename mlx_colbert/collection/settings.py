"""The settings of a collection: a TOML file that people can read and edit."""

from __future__ import annotations

import os
import re
import tomllib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

from mlx_colbert.checks import is_text
from mlx_colbert.collection.files import MAX_BYTES, toml_text, write_file
from mlx_colbert.errors import ConfigError, InputError, said
from mlx_colbert.places import here
from mlx_colbert.regular_files import read_regular

__all__ = ["DEFAULT_MODEL", "SETTINGS_NAME", "CollectionSettings", "label_of", "settings_bytes"]

SETTINGS_NAME = "collection.toml"
DEFAULT_MODEL = "answerdotai/answerai-colbert-small-v1"
_HEADER = "# A collection of mlx-colbert. `mlx-colbert sync` reads this file.\n"
_BARE_KEY = re.compile("[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class CollectionSettings:
    """What a collection consists of, and how it is indexed."""

    # Label → absolute path of a folder. The names of its files in the index begin with the label.
    folders: Mapping[str, str] = field(default_factory=dict)
    # Patterns as in a .gitignore. If there are any, only files that match one are read.
    include: Sequence[str] = ()
    # Patterns as in a .gitignore. Files and folders that match one are left out.
    exclude: Sequence[str] = ()
    # A hub id or the path of a model folder.
    model: str = DEFAULT_MODEL
    # The size of the largest file that is read, in bytes. None: the limit of its kind.
    max_file_bytes: int | None = None
    # Label, or label and path of a file or folder, → a sentence about it. "/" is the whole collection.
    contexts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes, where: str, *, beside: Path | None = None) -> Self:
        """The settings in the bytes of a file.

        Args:
            data: the bytes.
            where: the name of the file in an error message.
            beside: the folder that relative paths of folders begin at. None: they are errors.

        Raises:
            ConfigError: if it is not TOML, or a key or a value is not valid.
        """
        if len(data) > MAX_BYTES:
            raise ConfigError(where, [f"has more than {MAX_BYTES:,} bytes"])
        try:
            values = tomllib.loads(data.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(where, [f"is not TOML: {said(error)}"]) from error
        known = ", ".join(sorted(item.name for item in fields(cls)))
        problems = []
        for key, value in values.items():
            if key not in known.split(", "):
                problems.append(f"unknown key {key!r:.80}. There are: {known}")
            elif problem := _problem(key, value):
                problems.append(problem)
        if problems:
            raise ConfigError(where, problems)
        settings = cls(**values)
        if len({unicodedata.normalize("NFC", label) for label in settings.folders}) < len(settings.folders):
            raise ConfigError(where, ["two folders have the same label in other Unicode signs"])
        folders = {label: _absolute(label, path, where, beside) for label, path in settings.folders.items()}
        return replace(settings, folders=folders)

    def write(self, path: Path) -> None:
        """Write them to a file, in one step.

        Raises:
            OSError: if the file cannot be written.
        """
        write_file(path, self.to_toml().encode())

    def to_toml(self) -> str:
        """The settings as TOML.

        >>> print(CollectionSettings({"notes": "/home/ann/notes"}, exclude=["*.log"]).to_toml())
        # A collection of mlx-colbert. `mlx-colbert sync` reads this file.
        model = "answerdotai/answerai-colbert-small-v1"
        exclude = ["*.log"]
        <BLANKLINE>
        [folders]
        notes = "/home/ann/notes"
        <BLANKLINE>
        """
        lines = [f"model = {toml_text(self.model)}"]
        lines += [
            f"{name} = [{', '.join(map(toml_text, patterns))}]"
            for name, patterns in (("include", self.include), ("exclude", self.exclude))
            if patterns
        ]
        if self.max_file_bytes is not None:
            lines.append(f"max_file_bytes = {self.max_file_bytes}")
        for name, table in (("folders", self.folders), ("contexts", self.contexts)):
            if table:
                lines += ["", f"[{name}]"]
                lines += [f"{_key(key)} = {toml_text(value)}" for key, value in table.items()]
        return _HEADER + "\n".join(lines) + "\n"

    def with_folder(self, folder: Path) -> Self:
        """The settings with one more folder. Its label is its name, with a number if the name is taken.

        Raises:
            InputError: if its path is not UTF-8.
        """
        path = os.path.realpath(folder)
        if not is_text(path):
            raise InputError(f"{path!r:.200}: the name of the folder is not UTF-8. Rename it.")
        if path in self.folders.values():
            return self
        name = label_of(Path(path))
        label, number = name, 1
        while label in self.folders:
            number += 1
            label = f"{name}-{number}"
        return replace(self, folders={**self.folders, label: path})

    def path_of(self, uri: str) -> Path | None:
        """The path of a file by its name in the index. None: it is not in a folder of the collection."""
        label, _, name = uri.partition("/")
        folder = self.folders.get(label)
        # The names in an index of a stranger may lead elsewhere.
        return None if folder is None or ".." in name.split("/") else Path(folder, name)

    def uri_of(self, path: Path) -> str | None:
        """The name in the index of a file or a folder. None: it is not in a folder of the collection."""
        if "\0" in str(path) or (not path.is_absolute() and here() is None):
            return None
        absolute = path.absolute()
        candidates = [absolute] if ".." not in absolute.parts else []
        is_up = absolute.name == ".."
        candidates.append(absolute.resolve() if is_up else absolute.parent.resolve() / absolute.name)
        for label, folder in self.folders.items():
            for candidate in candidates:
                if candidate.is_relative_to(folder):
                    name = candidate.relative_to(folder).as_posix()
                    return unicodedata.normalize("NFC", label if name == "." else f"{label}/{name}")
        return None

    def context_of(self, uri: str) -> list[str]:
        """The sentences about a file or folder and the folders above it, the widest first.

        >>> settings = CollectionSettings(contexts={"/": "Mine.", "notes/coop": "Minutes."})
        >>> settings.context_of("notes/coop/2019.md"), settings.context_of("notes/tea.md")
        (['Mine.', 'Minutes.'], ['Mine.'])
        """
        path = PurePosixPath(uri)
        above = ["/", *(str(parent) for parent in reversed(path.parents) if parent.name), str(path)]
        return [self.contexts[name] for name in above if name in self.contexts]


def settings_bytes(path: Path, *, follow_links: bool = False) -> bytes:
    """The bytes of a settings file. Of one that is too large only the beginning, which is not valid.

    Raises:
        OSError: if it cannot be read.
    """
    return read_regular(path, MAX_BYTES + 1, follow_links=follow_links)


def label_of(folder: Path) -> str:
    """The label of a folder: its name, without the signs that a uri or a TOML key must not have."""
    name = unicodedata.normalize("NFC", folder.name)
    return re.sub(r"[\x00-\x1f\x7f/\ud800-\udfff]", "_", name) or "files"


def _problem(key: str, value: Any) -> str | None:
    """Why a value is not valid for a key, or None."""
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "folders": (_is_table_of_texts, 'a table: label = "path of a folder"'),
        "include": (_is_list_of_texts, "a list of patterns in quotes"),
        "exclude": (_is_list_of_texts, "a list of patterns in quotes"),
        "model": (_is_filled_text, "a hub id or the path of a model folder, in quotes"),
        "max_file_bytes": (lambda n: type(n) is int and 1 <= n < 2**40, "a number of bytes, 1 or more"),
        "contexts": (_is_table_of_texts, 'a table: "path" = "sentence"'),
    }
    is_valid, wanted = checks[key]
    return None if is_valid(value) else f"{key} is {value!r:.80}; it must be {wanted}"


def _is_filled_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_filled_text, value))


def _is_table_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_filled_text, [*value, *value.values()]))


def _absolute(label: str, path: str, where: str, beside: Path | None) -> str:
    if "/" in label:
        raise ConfigError(where, [f"the label {label!r} of a folder has a slash"])
    if beside is not None:
        return os.path.realpath(beside / path)
    if not Path(path).is_absolute():
        raise ConfigError(where, [f"the path {path!r} of folder {label!r} does not begin with a slash"])
    return path


def _key(text: str) -> str:
    return text if _BARE_KEY.fullmatch(text) else toml_text(text)
