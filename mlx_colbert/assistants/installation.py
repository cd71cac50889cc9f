"""Puts the MCP server into the settings of a program with an assistant, and takes it out again."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_colbert.assistants.hosts import HOSTS, Host, Machine, Scope
from mlx_colbert.assistants.settings_file import Content, SettingsFile
from mlx_colbert.assistants.settings_text import SettingsText
from mlx_colbert.assistants.skill import install_skill, skill_path, uninstall_skill
from mlx_colbert.errors import AssistantError, InputError
from mlx_colbert.own_command import VARIABLES, kept_variables, own_command
from mlx_colbert.places import here

__all__ = ["Assistants", "HostState", "Outcome", "server_command"]

# Control characters, and bytes of names that are not UTF-8.
_UNWRITABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")


def server_command(collections: Sequence[str] = (), *, allow_write: bool = False) -> list[str]:
    """The command line of the MCP server, with this Python.

    Args:
        collections: the collections that it has. None: all.
        allow_write: whether it may write.

    Raises:
        InputError: if this Python is in a folder that may be cleared at any time.
    """
    _check_python()
    names = [word for name in collections for word in ("-c", name)]
    return own_command("mcp", *names, *(["--allow-write"] if allow_write else []))


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be done.

    Attributes:
        host: the name of the program.
        path: the file of its settings.
        change: "written", "unchanged", "removed" or "absent".
        backup: the file as it was without the entry. None: there is no such file.
        entry: the entry with the keys that lead to it, in the format of the file. None: there is no entry.
        skill: the file of the skill. None: the program reads no skills from files.
        skill_change: "written", "unchanged", "kept", "removed" or "absent". None: there is no skill.
    """

    host: str
    path: Path
    change: str
    backup: Path | None = None
    entry: str | None = None
    skill: Path | None = None
    skill_change: str | None = None


@dataclass(frozen=True)
class HostState:
    """A program with an assistant, on this machine.

    Attributes:
        host: its name.
        title: its name for people.
        path: the file of its settings.
        is_present: whether the program seems to be here.
        is_installed: whether our entry is in its settings.
        problem: why the entry does not work, or the file cannot be read. None: all is well.
    """

    host: str
    title: str
    path: Path
    is_present: bool
    is_installed: bool
    problem: str | None = None


class Assistants:
    """The programs with an assistant on a machine."""

    def __init__(self, machine: Machine | None = None) -> None:
        """Use the files of a user.

        Args:
            machine: where they are. None: where this process has them.

        Raises:
            InputError: if the system is neither macOS nor Linux.
        """
        if machine is None:
            machine = Machine(sys.platform, Path.home(), here() or Path(), os.environ)
        if machine.platform != "darwin" and not machine.platform.startswith("linux"):
            raise InputError(f"install knows the files of macOS and Linux, not those of {machine.platform}.")
        self._machine = machine

    def states(self, scope: Scope = "user") -> list[HostState]:
        """All programs that have settings of a scope."""
        return [self._state(name, scope) for name, host in HOSTS.items() if host.files(self._machine, scope)]

    def install(
        self, name: str, command: Sequence[str], *, scope: Scope = "user", is_dry: bool = False
    ) -> Outcome:
        """Put the server into the settings of a program. An entry of ours is replaced.

        Args:
            name: the program, a key of `HOSTS`.
            command: the command line of the server, with an absolute path.
            scope: whose settings.
            is_dry: only say what would be done.

        Raises:
            InputError: if the program has no settings of that scope, or would change a part of the command.
            AssistantError: if the file cannot be read or changed. It stays as it was.
            OSError: if a file cannot be read or written.
        """
        host, file = self._file(name, scope)
        skill, skill_change = self._skill(host, scope), None
        variables = kept_variables(self._machine.variables)
        _check_texts(name, host, (*command, *variables.values()))
        entry = host.entry(command, variables)
        keys: tuple[str, ...] = ()
        written: dict[str, Any] = {}
        is_new = False

        def changed(before: bytes | None) -> Content:
            nonlocal keys, written, is_new
            text, is_new = SettingsText.read(file, before), before is None
            keys, found = text.find(host)
            written = _merged(found, entry, host.variables_key)
            if found == written:
                return Content(before)
            return Content(text.put(host, keys, written), before if found is None else None)

        is_changed = _would_change(file, changed) if is_dry else file.change(changed)
        if is_changed and is_new and not is_dry:
            # It is of a file that somebody has removed.
            file.backup_path.unlink(missing_ok=True)
        if skill is not None:
            skill_change = install_skill(skill, is_dry=is_dry)
        shown = host.format.put("", keys, written)
        outcome = Outcome(
            name, file.path, "written" if is_changed else "unchanged", None, shown, skill, skill_change
        )
        return replace(outcome, backup=file.backup_path if file.read_backup() is not None else None)

    def uninstall(self, name: str, *, scope: Scope = "user", is_dry: bool = False) -> Outcome:
        """Take the server out of the settings of a program. If nothing else changed, the old bytes are back.

        Args:
            name: the program, a key of `HOSTS`.
            scope: whose settings.
            is_dry: only say what would be done.

        Raises:
            InputError: if the program has no settings of that scope.
            AssistantError: if the file cannot be read or changed. It stays as it was.
            OSError: if a file cannot be read, written or removed.
        """
        host, file = self._file(name, scope)
        skill, skill_change = self._skill(host, scope), None
        backup = file.read_backup()

        def changed(before: bytes | None) -> Content:
            text = SettingsText.read(file, before)
            keys, found = text.find(host)
            return Content(before if found is None else text.without(host, keys, found, backup))

        is_changed = _would_change(file, changed) if is_dry else file.change(changed)
        if is_changed and not is_dry:
            file.backup_path.unlink(missing_ok=True)
        if skill is not None:
            is_shared = self._is_skill_needed(name, skill, scope)
            skill_change = "unchanged" if is_shared else uninstall_skill(skill, is_dry=is_dry)
        return Outcome(
            name, file.path, "removed" if is_changed else "absent", None, None, skill, skill_change
        )

    def _file(self, name: str, scope: Scope) -> tuple[Host, SettingsFile]:
        """A program, and the file of its settings: one that has our entry, else one that exists."""
        if name not in HOSTS:
            raise InputError(f"{name!r:.80} is not known. Give one of {', '.join(HOSTS)}.")
        host = HOSTS[name]
        files = [SettingsFile(path) for path in host.files(self._machine, scope)]
        if not files:
            raise InputError(f"{host.title} has no settings for a project. Leave --scope out.")
        if scope == "project":
            for file in files:
                self._check_inside(file.path)
        if len(files) > 1:
            found = {file: file.read() for file in files}
            for file, data in found.items():
                if SettingsText.read(file, data).find(host)[1] is not None:
                    return host, file
            files = [file for file, data in found.items() if data is not None] or files[-1:]
        return host, files[0]

    def _skill(self, host: Host, scope: Scope) -> Path | None:
        folder = host.skills_folder(self._machine, scope)
        if folder is None:
            return None
        if scope == "project":
            self._check_inside(skill_path(folder))
        return skill_path(folder)

    def _check_inside(self, path: Path) -> None:
        """Raise an error for a file of a project that is elsewhere. The project may come from a stranger."""
        project = Path(os.path.realpath(self._machine.project))
        if not Path(os.path.realpath(path)).is_relative_to(project):
            raise AssistantError(path, "leads out of the project by a link. Remove the link.")

    def _is_skill_needed(self, name: str, skill: Path, scope: Scope) -> bool:
        """Whether another program that has our entry reads the same skill."""
        others = [
            other for other, host in HOSTS.items() if other != name and self._skill(host, scope) == skill
        ]
        return any(self._state(other, scope).is_installed for other in others)

    def _state(self, name: str, scope: Scope) -> HostState:
        host = HOSTS[name]
        state = HostState(name, host.title, host.files(self._machine, scope)[-1], False, False)
        state = replace(state, is_present=host.is_present(self._machine))
        try:
            _, file = self._file(name, scope)
            _, found = SettingsText.read(file, file.read()).find(host)
        except AssistantError as error:
            return replace(state, path=error.path, problem=error.reason)
        except OSError as error:
            return replace(state, problem=f"{error.strerror}.")
        state = replace(state, path=file.path, is_installed=found is not None)
        program = None if found is None else host.started(found)
        if program is not None and Path(program).is_absolute() and not Path(program).exists():
            state = replace(state, problem=f"{program} does not exist. Install again.")
        return state


def _merged(found: Mapping[str, Any] | None, entry: Mapping[str, Any], variables_key: str) -> dict[str, Any]:
    """An entry with what the user has added to the one that is there, such as a time limit."""
    if found is None or "command" not in found:
        # An entry without a command is of another kind, such as an address.
        return dict(entry)
    merged = {**found, **entry}
    there = found.get(variables_key)
    foreign = (
        {key: text for key, text in there.items() if key not in VARIABLES} if isinstance(there, dict) else {}
    )
    merged[variables_key] = {**foreign, **entry.get(variables_key, {})}
    if not merged[variables_key]:
        del merged[variables_key]
    return merged


def _would_change(file: SettingsFile, changed: Callable[[bytes | None], Content]) -> bool:
    before = file.read()
    return changed(before).data != before


def _check_texts(name: str, host: Host, texts: Sequence[str]) -> None:
    """Raise an error for a text that the program would not read as it is."""
    for text in texts:
        if _UNWRITABLE.search(text):
            raise InputError(f"{text!r}: has a character that settings cannot have.")
        if host.replaces is not None and (match := host.replaces.search(text)):
            raise InputError(
                f"{text!r}: {host.title} would take {match[0]!r} for a variable. Use a path without it."
            )


def _check_python() -> None:
    """Raise an error if this Python may be gone tomorrow.

    `uvx` and `pipx run` make environments in their caches. The cache of uv has a CACHEDIR.TAG. An environment
    may have one, too, so only the folders above it are looked at.
    """
    if not sys.executable:
        raise InputError("this process does not know its Python, so no other program can start it.")
    prefix = Path(sys.prefix)
    is_of_uvx = any((folder / "CACHEDIR.TAG").exists() for folder in prefix.parents)
    is_of_pipx = "pipx" in prefix.parts and not {".cache", "Caches"}.isdisjoint(prefix.parts)
    if is_of_uvx or is_of_pipx:
        raise InputError(
            f"{prefix}: this environment is temporary, so an entry with its Python would fail soon. First "
            "run: uv tool install 'mlx-colbert[mcp]', or pipx install 'mlx-colbert[mcp]'"
        )
