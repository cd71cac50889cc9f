"""The files of launchd and systemd, and the commands that start and end what they describe."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_colbert.collection.service import Service, command_line
from mlx_colbert.errors import InputError

# What a shell, a unit file or XML may take for something else.
HARD = ["/a b/%n 100%", '/it\'s "so"', "/back\\slash\\", "/$HOME ${HOME}", "/<&>;#", "/é 猫"]


class Ran(list):
    """Records commands. Those that begin with a word of `failing` fail."""

    failing = ()

    def __call__(self, command):
        self.append(command)
        return not any(word in command for word in self.failing)


@pytest.fixture
def ran():
    return Ran()


@pytest.fixture
def service(tmp_path, ran):
    def make(platform, **variables):
        return Service(platform=platform, home=tmp_path, variables=variables, run=ran)

    return make


def words_of_unit(text):
    """The words of ExecStart as systemd reads them (man systemd.syntax, systemd.service)."""
    line = re.search("^ExecStart=(.*)$", text, re.MULTILINE)[1]
    words = re.findall(r'"((?:\\.|[^"\\])*)"', line)
    assert " ".join(f'"{word}"' for word in words) == line
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%").replace("$$", "$") for word in words]


def test_command_line_names_this_python_and_takes_no_module_from_the_current_folder():
    words = command_line(["notes", "-x"], backend="numpy")

    assert words[0] == sys.executable and Path(words[0]).is_absolute()
    assert words[1:] == ["-P", "-m", "mlx_colbert", "watch", "--backend", "numpy", "--", "notes", "-x"]
    assert command_line([])[-1] == "watch"


def test_agent_is_a_property_list_with_the_command_as_it_is(service):
    agent = service("darwin", MLX_COLBERT_HOME=HARD[0], HF_TOKEN="secret")
    agent.install(["/py thon", *HARD])

    values = plistlib.loads(agent.path.read_bytes())
    assert agent.path.parts[-3:] == ("Library", "LaunchAgents", f"{values['Label']}.plist")
    assert values["ProgramArguments"] == ["/py thon", *HARD]
    # No secret is written to a file.
    assert values["EnvironmentVariables"] == {"MLX_COLBERT_HOME": HARD[0]}
    assert values["KeepAlive"] == {"SuccessfulExit": False}
    assert values["ProcessType"] == "Background" and values["LowPriorityIO"] and values["Nice"] == 10
    assert values["StandardErrorPath"] == values["StandardOutPath"]


@pytest.mark.parametrize("program", ["/usr/bin/python", "/py thon%", *HARD[1:4]])
def test_unit_has_the_command_as_it_is(service, program):
    unit = service("linux", MLX_COLBERT_HOME='/a "b" 100%\\')
    unit.install([program, *HARD])

    text = unit.path.read_text()
    words = words_of_unit(text)
    assert words[-7:] == [program, *HARD]
    assert words[:-7] in ([], ["/bin/sh", "-c", 'exec "$@"', "sh"])
    assert 'Environment="MLX_COLBERT_HOME=/a \\"b\\" 100%%\\\\"\n' in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
@pytest.mark.parametrize("name", ["python", *(path[1:].replace("/", "") for path in HARD)])
def test_systemd_takes_the_unit(service, tmp_path, name):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / name
    program.symlink_to(sys.executable)
    unit = service("linux", MLX_COLBERT_HOME=HARD[1])
    unit.install([str(program), *HARD])

    (tmp_path / "run").mkdir(mode=0o700)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")},
    )
    # Units of the system may have problems of their own.
    ours = [line for line in checked.stderr.splitlines() if unit.path.name in line]
    assert (checked.returncode, ours) == (0, [])


def test_sh_runs_the_program_with_a_hard_name(service, tmp_path):
    program = tmp_path / 'it\'s "so" $HOME'
    program.symlink_to(sys.executable)
    unit = service("linux")
    unit.install([str(program), "-c", "import sys; print(sys.argv[1:])", *HARD])

    shown = subprocess.run(words_of_unit(unit.path.read_text()), capture_output=True, text=True, check=True)
    assert shown.stdout == f"{HARD}\n"


@pytest.mark.parametrize("platform", ["darwin", "linux"])
@pytest.mark.parametrize("text", ["/a\nb", "/a\0b", "/a\udcffb"])
def test_what_no_file_can_have_is_an_error(service, platform, text):
    with pytest.raises(InputError, match="a character that the file of a service cannot have"):
        service(platform).install(["/python", text])
    assert not service(platform).path.exists()


def test_agent_is_started_again_only_if_it_changed(service, ran):
    ran.failing = ("print",)
    target = f"gui/{os.getuid()}/mlx-colbert.watch"
    first = service("darwin").install(["/python", "a"])

    start = ["launchctl", "bootstrap", f"gui/{os.getuid()}", str(first.path)]
    assert ran == [["launchctl", "bootout", target], ["launchctl", "print", target], start]
    assert (first.is_changed, first.is_done, first.command) == (True, True, shlex.join(start))

    ran.clear()
    ran.failing = ()
    again = service("darwin").install(["/python", "a"])
    assert (again.is_changed, again.is_done) == (False, True)
    assert ran == [["launchctl", "print", target]]


def test_unit_is_started_again_only_if_it_changed(service, ran):
    assert service("linux").install(["/python", "a"]).is_changed
    assert [command[2] for command in ran] == ["daemon-reload", "enable", "restart"]

    ran.clear()
    again = service("linux").install(["/python", "a"])
    assert (again.is_changed, again.is_done) == (False, True)
    assert [command[2] for command in ran] == ["daemon-reload", "enable", "start"]
    assert service("linux").install(["/python", "b"]).is_changed


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_service_that_the_system_does_not_start_is_written_and_said(service, ran, platform):
    ran.failing = ("launchctl", "systemctl")

    done = service(platform).install(["/python"])

    assert done.path.exists() and not done.is_done
    assert done.command.startswith(("launchctl bootstrap ", "systemctl --user daemon-reload && "))


@pytest.mark.parametrize(("platform", "word"), [("darwin", "bootout"), ("linux", "disable")])
def test_uninstall_ends_it_and_removes_all(service, ran, platform, word, tmp_path):
    made = service(platform)
    made.install(["/python"])
    wanted = made.path.parent / "default.target.wants" / made.path.name
    if platform == "linux":
        wanted.parent.mkdir()
        wanted.symlink_to(made.path)
    ran.clear()

    done = made.uninstall()

    assert (done.is_changed, done.is_done) == (True, True)
    assert word in ran[0]
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    ran.clear()
    assert not made.uninstall().is_changed and ran == []


def test_units_are_where_the_user_has_settings(service, tmp_path):
    assert service("linux").path == tmp_path / ".config/systemd/user/mlx-colbert-watch.service"
    assert service("linux", XDG_CONFIG_HOME="/c").path == Path("/c/systemd/user/mlx-colbert-watch.service")
    # As the specification says, a relative path is passed over.
    assert service("linux", XDG_CONFIG_HOME="c").path.is_relative_to(tmp_path)


def test_relative_folders_of_the_environment_become_absolute(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unit = service("linux", MLX_COLBERT_HOME="here", HF_HUB_OFFLINE="1")
    unit.install(["/python"])

    text = unit.path.read_text()
    assert f'"MLX_COLBERT_HOME={tmp_path}/here"' in text and '"HF_HUB_OFFLINE=1"' in text


def test_service_reads_the_settings_that_the_user_has(service, tmp_path):
    config = tmp_path / "settings"
    unit = service("linux", XDG_CONFIG_HOME=str(config))
    unit.install(["/python"])

    assert f'"XDG_CONFIG_HOME={config}"' in unit.path.read_text()


def test_other_systems_are_an_error_that_says_what_to_do(service):
    with pytest.raises(InputError, match=r"this system \(win32\) has neither. Start `mlx-colbert watch`"):
        service("win32")
