"""The programs with an assistant that this package can be installed in: one row for each.

The places and shapes are those that the programs document. All pages were read on 2026-11-28.
Where a program has a command that adds a server, the file is written all the same: so the program need not be
there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from mlx_colbert.assistants import jsonc, toml
from mlx_colbert.assistants.formats import Format
from mlx_colbert.assistants.settings_file import SettingsFile
from mlx_colbert.places import expanded

__all__ = ["HOSTS", "Host", "Machine", "Scope"]

Scope = Literal["user", "project"]

_JSONC = cast(Format, jsonc)
_TOML = cast(Format, toml)
# What a program replaces in texts of its settings.
_BRACES = re.compile(r"\$\{")
_DOLLAR = re.compile(r"\$[A-Za-z_{]")
_OPENCODE = re.compile(r"\{(env|file):")
# A folder of skills that Codex, Cursor, Gemini CLI, VS Code, Zed and OpenCode read.
_SKILLS = ".agents/skills"


class Machine(NamedTuple):
    """Where the files of a user are.

    Attributes:
        platform: as `sys.platform`.
        home: the home folder of the user.
        project: the folder of the project.
        variables: the environment.
    """

    platform: str
    home: Path
    project: Path
    variables: Mapping[str, str]

    def folder(self, variable: str, otherwise: Path) -> Path:
        """The folder of a variable, or another one."""
        given = self.variables.get(variable, "").strip()
        return expanded(given).absolute() if given else otherwise

    @property
    def config(self) -> Path:
        """The folder of settings on Linux, and of programs that use it in macOS too."""
        given = Path(self.variables.get("XDG_CONFIG_HOME", ""))
        return given if given.is_absolute() else self.home / ".config"

    @property
    def applications(self) -> Path:
        """The folder of the settings of desktop programs."""
        return self.home / "Library" / "Application Support" if self.platform == "darwin" else self.config


@dataclass(frozen=True)
class Host:
    """A program with an assistant.

    Attributes:
        title: its name for people.
        page: where its settings are documented.
        folder: its own folder. It exists after the program has run once.
        user: the files of the user's settings. The first one that exists is used, else the last one.
        project: the same in the folder of a project. Empty: it has no settings for projects.
        skills: whether it reads skills, and from where: the user's home folder, or its own folder.
        project_skills: the folder of skills in a project.
        format: the format of the files.
        places: the paths of keys to the object that has the servers. The first one that a file has is used,
            else the last one.
        shape: the form of an entry. "plain": command, args, env; "stdio": with a type; "local": command with
            all words.
        program: its command. None: it has none.
        replaces: what it replaces in texts. None: nothing.
    """

    title: str
    page: str
    folder: Callable[[Machine], Path]
    user: Callable[[Machine], tuple[Path, ...]]
    project: tuple[str, ...]
    skills: Callable[[Machine], Path] | None
    project_skills: str | None
    format: Format
    places: tuple[tuple[str, ...], ...]
    shape: Literal["plain", "stdio", "local"]
    program: str | None
    replaces: re.Pattern[str] | None = None

    def files(self, machine: Machine, scope: Scope) -> tuple[Path, ...]:
        """The files of its settings. Empty: it has none for that scope."""
        if scope == "user":
            return self.user(machine)
        return tuple(machine.project / name for name in self.project)

    def skills_folder(self, machine: Machine, scope: Scope) -> Path | None:
        """The folder of its skills. None: it reads none from files."""
        if scope == "user":
            return self.skills(machine) if self.skills else None
        return machine.project / self.project_skills if self.project_skills else None

    def is_present(self, machine: Machine) -> bool:
        """Whether it seems to be on this machine."""
        if self.folder(machine).is_dir():
            return True
        path = machine.variables.get("PATH", "")
        return self.program is not None and shutil.which(self.program, path=path) is not None

    @property
    def variables_key(self) -> str:
        """The key of the environment in an entry."""
        return "environment" if self.shape == "local" else "env"

    def entry(self, command: Sequence[str], variables: Mapping[str, str]) -> dict[str, Any]:
        """The entry that starts a command with variables in its environment."""
        environment = {self.variables_key: dict(variables)} if variables else {}
        if self.shape == "local":
            return {"type": "local", "command": list(command), **environment}
        kind = {"type": "stdio"} if self.shape == "stdio" else {}
        return {**kind, "command": command[0], "args": list(command[1:]), **environment}

    def started(self, entry: Mapping[str, Any]) -> str | None:
        """The program that an entry starts. None: the entry says none."""
        command = entry.get("command")
        if isinstance(command, list) and command:
            command = command[0]
        return command if isinstance(command, str) else None


def _claude(machine: Machine) -> Path:
    return machine.folder("CLAUDE_CONFIG_DIR", machine.home / ".claude")


def _claude_file(machine: Machine) -> tuple[Path, ...]:
    return (machine.folder("CLAUDE_CONFIG_DIR", machine.home) / ".claude.json",)


def _codex(machine: Machine) -> Path:
    return machine.folder("CODEX_HOME", machine.home / ".codex")


def _gemini(machine: Machine) -> Path:
    return machine.folder("GEMINI_CLI_HOME", machine.home) / ".gemini"


def _zed(machine: Machine) -> Path:
    # In macOS it reads no XDG_CONFIG_HOME.
    return (machine.home / ".config" if machine.platform == "darwin" else machine.config) / "zed"


def _lm_studio(machine: Machine) -> Path:
    """The folder of LM Studio. A file in the home folder says where it is, if it was moved."""
    otherwise = machine.home / ".lmstudio"
    with suppress(OSError, ValueError):
        pointer = (SettingsFile(machine.home / ".lmstudio-home-pointer").read() or b"").decode().strip()
        if Path(pointer).is_absolute() and Path(pointer).is_dir():
            otherwise = Path(pointer)
    return machine.folder("LMSTUDIO_HOME", otherwise)


def _in(folder: Callable[[Machine], Path], *names: str) -> Callable[[Machine], tuple[Path, ...]]:
    return lambda machine: tuple(folder(machine) / name for name in names)


def _shared_skills(machine: Machine) -> Path:
    return machine.home / _SKILLS


HOSTS = {
    "claude-code": Host(
        title="Claude Code",
        # And /skills, /settings (CLAUDE_CONFIG_DIR).
        page="https://code.claude.com/docs/en/mcp",
        folder=_claude,
        user=_claude_file,
        project=(".mcp.json",),
        skills=lambda machine: _claude(machine) / "skills",
        project_skills=".claude/skills",
        format=_JSONC,
        places=(("mcpServers",),),
        shape="stdio",
        program="claude",
        replaces=_BRACES,
    ),
    "claude-desktop": Host(
        title="Claude Desktop",
        page="https://modelcontextprotocol.io/docs/develop/connect-local-servers",
        folder=lambda machine: machine.applications / "Claude",
        user=_in(lambda machine: machine.applications / "Claude", "claude_desktop_config.json"),
        project=(),
        # It takes skills in its window alone.
        skills=None,
        project_skills=None,
        format=_JSONC,
        places=(("mcpServers",),),
        shape="plain",
        program=None,
    ),
    "codex": Host(
        title="Codex",
        # And /skills. The folder of a project must be trusted.
        page="https://developers.openai.com/codex/mcp",
        folder=_codex,
        user=_in(_codex, "config.toml"),
        project=(".codex/config.toml",),
        skills=_shared_skills,
        project_skills=_SKILLS,
        format=_TOML,
        places=(("mcp_servers",),),
        shape="plain",
        program="codex",
    ),
    "cursor": Host(
        title="Cursor",
        # And /skills.
        page="https://cursor.com/docs/mcp",
        folder=lambda machine: machine.home / ".cursor",
        user=_in(lambda machine: machine.home / ".cursor", "mcp.json"),
        project=(".cursor/mcp.json",),
        skills=_shared_skills,
        project_skills=_SKILLS,
        format=_JSONC,
        places=(("mcpServers",),),
        shape="stdio",
        program="cursor",
        replaces=_BRACES,
    ),
    "gemini": Host(
        title="Gemini CLI",
        # And /docs/cli/using-agent-skills.
        page="https://geminicli.com/docs/tools/mcp-server",
        folder=_gemini,
        user=_in(_gemini, "settings.json"),
        project=(".gemini/settings.json",),
        skills=lambda machine: _gemini(machine).parent / _SKILLS,
        project_skills=_SKILLS,
        format=_JSONC,
        places=(("mcpServers",),),
        shape="plain",
        program="gemini",
        replaces=_DOLLAR,
    ),
    "vscode": Host(
        title="VS Code",
        # And /docs/agent-customization/agent-skills.
        page="https://code.visualstudio.com/docs/agents/reference/mcp-configuration",
        folder=lambda machine: machine.applications / "Code",
        user=_in(lambda machine: machine.applications / "Code" / "User", "mcp.json"),
        project=(".vscode/mcp.json",),
        skills=_shared_skills,
        project_skills=_SKILLS,
        format=_JSONC,
        places=(("servers",),),
        shape="stdio",
        program="code",
        replaces=_BRACES,
    ),
    "zed": Host(
        title="Zed",
        # And /docs/ai/skills.
        page="https://zed.dev/docs/ai/mcp",
        folder=_zed,
        user=_in(_zed, "settings.json"),
        project=(".zed/settings.json",),
        skills=_shared_skills,
        project_skills=_SKILLS,
        format=_JSONC,
        places=(("context_servers",),),
        shape="plain",
        program="zed",
    ),
    "opencode": Host(
        title="OpenCode",
        # And /docs/migrate-v1: version 2 has `mcp.servers`, and reads the form of version 1 too. Version 1
        # refuses the form of version 2, so that is written only into files that have it.
        page="https://opencode.ai/docs/mcp-servers",
        folder=lambda machine: machine.config / "opencode",
        user=_in(lambda machine: machine.config / "opencode", "opencode.jsonc", "opencode.json"),
        project=("opencode.jsonc", "opencode.json"),
        skills=_shared_skills,
        project_skills=_SKILLS,
        format=_JSONC,
        places=(("mcp", "servers"), ("mcp",)),
        shape="local",
        program="opencode",
        replaces=_OPENCODE,
    ),
    "lm-studio": Host(
        title="LM Studio",
        page="https://lmstudio.ai/docs/app/mcp",
        folder=_lm_studio,
        user=lambda machine: (_lm_studio(machine) / "mcp.json",),
        project=(),
        skills=None,
        project_skills=None,
        format=_JSONC,
        places=(("mcpServers",),),
        shape="plain",
        program="lms",
        replaces=_BRACES,
    ),
}
