"""Watches collections in the background: a LaunchAgent in macOS, a unit of the user's systemd in Linux."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_colbert.collection.files import write_file
from mlx_colbert.errors import InputError
from mlx_colbert.own_command import kept_variables, own_command

__all__ = ["Installed", "Service", "command_line"]

LABEL = "mlx-colbert.watch"
UNIT = "mlx-colbert-watch.service"
# Seconds before a watcher that has crashed begins again.
_RESTART_S = 60
_NICENESS = 10
# Control characters, and bytes of names that are not UTF-8.
_UNWRITABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
# What systemd does not take in the path of a program, but in its arguments.
_NO_PROGRAM = re.compile(r"""[\\"'$]""")


def command_line(names: Sequence[str], *, backend: str = "auto") -> list[str]:
    """The command line that watches collections, with this Python.

    Args:
        names: the collections. Empty: all.
        backend: the kernels.
    """
    options = [] if backend == "auto" else ["--backend", backend]
    return own_command("watch", *options, *(["--", *names] if names else []))


def _quiet(command: Sequence[str]) -> bool:
    """Run a command; returns whether it succeeded."""
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(frozen=True)
class Installed:
    """What was done.

    Attributes:
        path: the file of the service.
        is_changed: whether it was written or removed.
        is_done: whether the system has started, or ended, the service.
        command: what does that, for the user's shell.
        log: how to read what the service says.
    """

    path: Path
    is_changed: bool
    is_done: bool
    command: str
    log: str


class Service:
    """The service of this user that watches collections.

    Attributes:
        path: its file.
    """

    def __init__(
        self,
        *,
        platform: str = sys.platform,
        home: Path | None = None,
        variables: Mapping[str, str] = os.environ,
        run: Callable[[Sequence[str]], bool] = _quiet,
    ) -> None:
        """Use the service of a system.

        Args:
            platform: as `sys.platform`.
            home: the home folder of the user. None: that of this process.
            variables: the environment. What decides where collections and models are is kept.
            run: runs a command; returns whether it succeeded.

        Raises:
            InputError: if the system has neither launchd nor systemd.
        """
        home = home or Path.home()
        self._variables = kept_variables(variables)
        self._run = run
        self._is_mac = platform == "darwin"
        if self._is_mac:
            self.path: Path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
            self._log_path = home / "Library" / "Logs" / "mlx-colbert-watch.log"
        elif platform.startswith("linux"):
            config = variables.get("XDG_CONFIG_HOME", "")
            folder = Path(config) if Path(config).is_absolute() else home / ".config"
            self.path = folder / "systemd" / "user" / UNIT
        else:
            raise InputError(
                f"--install knows launchd and systemd, and this system ({platform}) has neither. Start "
                "`mlx-colbert watch` in another way."
            )

    def install(self, command: Sequence[str]) -> Installed:
        """Write the file of the service and start it. What is so already stays.

        Args:
            command: the command line, with an absolute path.

        Raises:
            InputError: if a part of it cannot be written in such a file.
            OSError: if the file cannot be written.
        """
        for text in (*command, *self._variables.values()):
            if _UNWRITABLE.search(text):
                raise InputError(f"{text!r}: has a character that the file of a service cannot have.")
        data = self._agent(command) if self._is_mac else self._unit(command)
        is_changed = not (self.path.is_file() and self.path.read_bytes() == data)
        if is_changed:
            write_file(self.path, data)
        if self._is_mac:
            start = ["launchctl", "bootstrap", _domain(), str(self.path)]
            if is_changed:
                self._run(["launchctl", "bootout", f"{_domain()}/{LABEL}"])
            is_done = self._run(["launchctl", "print", f"{_domain()}/{LABEL}"]) or self._run(start)
            return self._done(is_changed, is_done, shlex.join(start))
        is_done = self._systemctl("daemon-reload") and self._systemctl("enable", UNIT)
        is_done = is_done and self._systemctl("restart" if is_changed else "start", UNIT)
        by_hand = f"systemctl --user daemon-reload && systemctl --user enable --now {UNIT}"
        return self._done(is_changed, is_done, by_hand)

    def uninstall(self) -> Installed:
        """End the service and remove its file.

        Raises:
            OSError: if the file cannot be removed.
        """
        if self._is_mac:
            stop = ["launchctl", "bootout", f"{_domain()}/{LABEL}"]
            by_hand = shlex.join(stop)
        else:
            stop = ["systemctl", "--user", "disable", "--now", UNIT]
            by_hand = f"systemctl --user stop {UNIT}"
        if not self.path.exists():
            return self._done(False, True, by_hand)
        is_done = self._run(stop)
        self.path.unlink()
        if not self._is_mac:
            # What `enable` makes. `disable` removes it, if it works.
            (self.path.parent / "default.target.wants" / UNIT).unlink(missing_ok=True)
            self._systemctl("daemon-reload")
        return self._done(True, is_done, by_hand)

    def _systemctl(self, *words: str) -> bool:
        return self._run(["systemctl", "--user", *words])

    def _done(self, is_changed: bool, is_done: bool, command: str) -> Installed:
        log = shlex.join(["tail", str(self._log_path)]) if self._is_mac else f"journalctl --user -u {UNIT}"
        return Installed(self.path, is_changed, is_done, command, log)

    def _agent(self, command: Sequence[str]) -> bytes:
        """A LaunchAgent (man launchd.plist)."""
        return plistlib.dumps(
            {
                "Label": LABEL,
                "ProgramArguments": list(command),
                "EnvironmentVariables": self._variables,
                "RunAtLoad": True,
                "KeepAlive": {"SuccessfulExit": False},
                "ThrottleInterval": _RESTART_S,
                "ProcessType": "Background",
                "LowPriorityIO": True,
                "Nice": _NICENESS,
                "StandardOutPath": str(self._log_path),
                "StandardErrorPath": str(self._log_path),
            }
        )

    def _unit(self, command: Sequence[str]) -> bytes:
        """A unit (man systemd.service)."""
        if _NO_PROGRAM.search(command[0]):
            command = ["/bin/sh", "-c", 'exec "$@"', "sh", *command]
        words = " ".join(_quoted(word).replace("$", "$$") for word in command)
        lines = [
            "[Unit]",
            "Description=mlx-colbert keeps collections in step with their files",
            "",
            "[Service]",
            f"ExecStart={words}",
            *(f"Environment={_quoted(f'{name}={value}')}" for name, value in self._variables.items()),
            "Restart=on-failure",
            f"RestartSec={_RESTART_S}",
            f"Nice={_NICENESS}",
            "CPUSchedulingPolicy=batch",
            "IOSchedulingClass=idle",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
        return "\n".join(lines).encode()


def _domain() -> str:
    return f"gui/{os.getuid()}"


def _quoted(text: str) -> str:
    """A word of a unit file (man systemd.syntax)."""
    for sign, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        text = text.replace(sign, written)
    return f'"{text}"'
