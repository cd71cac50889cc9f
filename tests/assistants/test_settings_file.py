"""Settings in hostile files, links, locked folders, and under the hands of other programs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from mlx_colbert.assistants import settings_file
from mlx_colbert.assistants.hosts import Machine
from mlx_colbert.assistants.installation import Assistants
from mlx_colbert.errors import AssistantError

COMMAND = ["/python", "mcp"]
SETTINGS = b'{"mcpServers": {"a": {"command": "x"}}}\n'


@pytest.fixture
def home(tmp_path):
    (tmp_path / ".cursor").mkdir()
    (tmp_path / ".codex").mkdir()
    return tmp_path


@pytest.fixture
def path(home):
    return home / ".cursor/mcp.json"


@pytest.fixture
def assistants(home):
    return Assistants(Machine("linux", home, home, {}))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x81", "is not UTF-8 \\(byte 0\\)"),
        (b'\xef\xbb\xbf{"a\xff": 1}', "is not UTF-8 \\(byte 6\\)"),
        ("{}".encode("utf-16"), "is not UTF-8"),
        (b"\x00\x01\x02", "is not valid JSON: in line 1, there must be an object"),
        (b"[1]", "there must be an object"),
        (b'{"a": 1}\n{"b": 2}', "in line 2, there is something after the end of the object"),
        (b'{"a": 1,\n "b": }', "in line 2, there must be a value"),
        (b'{"a": 1\n "b": 2}', "in line 2, there must be a comma or }"),
        (b"{'a': 1}", "there must be a key in double quotes"),
        (b'{"a" 1}', "there must be a colon"),
        (b'{"a": "x\n"}', "there must be a value"),
        (b'{"a": 1', "there must be a comma or }"),
        (b'{"a": 1 /* open', "there must be a comma or }"),
        (b'{"a": [1}', "there must be a comma or ]"),
        (b'{"\\x": 1}', "the key is not a JSON string"),
        (b"[" * 1_000_000, "there must be an object"),
        (b'{"a":' * 200_000, "there must be a value"),
        (b'{"mcpServers": [1]}', "the value of 'mcpServers' is not an object"),
        (b'{"mcpServers": null}', "the value of 'mcpServers' is not an object"),
        (
            b'{"mcpServers": {"mlx-colbert": 1}}',
            "mcpServers.mlx-colbert is not the entry of a server. Remove it",
        ),
        (b'{"mcpServers": {}, "mcpServers": {}}', "has the key 'mcpServers' twice"),
        (b'{"mcpServers": {"mlx-colbert": {}, "mlx-colbert": {}}}', "has the key 'mlx-colbert' twice"),
        (b'{"mcpServers": {"a": ' + b"[" * 9999 + b"]" * 9999 + b"}}", "the value cannot be read"),
    ],
)
def test_file_that_cannot_be_read_is_an_error_and_stays(data, reason, assistants, path):
    path.write_bytes(data)

    with pytest.raises(AssistantError, match=reason) as raised:
        assistants.install("cursor", COMMAND)
    assert str(raised.value).startswith(f"{path}: ")
    # It cannot take out what is not there.
    with suppress(AssistantError):
        assert assistants.uninstall("cursor").change == "absent"
    assert (path.read_bytes(), names(path.parent)) == (data, ["mcp.json"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a = [", "is not valid TOML"),
        (b"a = 1\na = 2\n", "is not valid TOML"),
        (b"mcp_servers = 1\n", "the value of mcp_servers is not a table"),
        (b"[[mcp_servers]]\na = 1\n", "the value of mcp_servers is not a table"),
        (b"[mcp_servers]\nmlx-colbert = 1\n", "is not the entry of a server"),
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_toml_that_cannot_be_read_is_an_error_and_stays(data, reason, assistants, home):
    path = home / ".codex/config.toml"
    path.write_bytes(data)

    with pytest.raises(AssistantError, match=reason):
        assistants.install("codex", COMMAND)
    assert (path.read_bytes(), names(path.parent)) == (data, ["config.toml"])


def test_deep_settings_beside_ours_are_no_problem(assistants, path):
    deep = b'{"a": ' + b'[{"b": ' * 5_000 + b"1" + b"}]" * 5_000 + b"}"
    path.write_bytes(deep)

    assistants.install("cursor", COMMAND)
    assert path.read_bytes().startswith(deep[:-1])
    assistants.uninstall("cursor")

    assert path.read_bytes() == deep


def test_huge_file_is_refused_and_not_read(assistants, path):
    with path.open("wb") as stream:
        stream.truncate(1 << 30)

    with pytest.raises(AssistantError, match="has more than 64 MB"):
        assistants.install("cursor", COMMAND)
    assert path.stat().st_size == 1 << 30


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "device"])
def test_what_is_no_file_is_an_error(kind, assistants, path):
    {
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()

    with pytest.raises(AssistantError, match=r"is not a file|a link that leads to itself"):
        assistants.install("cursor", COMMAND)
    assert names(path.parent) == ["mcp.json"]
    # The list of programs says it too.
    assert [state.problem for state in assistants.states() if state.host == "cursor"] != [None]


def test_link_into_a_folder_of_dotfiles_stays_a_link(assistants, home, path):
    target = home / "dotfiles/cursor.json"
    target.parent.mkdir()
    target.write_bytes(SETTINGS)
    path.symlink_to("../dotfiles/cursor.json")

    done = assistants.install("cursor", COMMAND)

    assert path.is_symlink() and b"mlx-colbert" in target.read_bytes()
    # The backup is no part of the dotfiles.
    assert done.backup.parent == path.parent and names(target.parent) == ["cursor.json"]
    assistants.uninstall("cursor")
    assert path.is_symlink() and target.read_bytes() == SETTINGS
    assert names(path.parent) == ["mcp.json"]


def test_link_to_a_file_that_is_not_there_yet_makes_that_file(assistants, home, path):
    path.symlink_to(home / "dotfiles/cursor.json")

    assistants.install("cursor", COMMAND)

    assert path.is_symlink() and b"mlx-colbert" in (home / "dotfiles/cursor.json").read_bytes()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_file_and_backup_keep_the_mode(mode, assistants, path):
    path.write_bytes(SETTINGS)
    path.chmod(mode)

    done = assistants.install("cursor", COMMAND)

    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, done.backup)] == [mode, mode]
    assistants.uninstall("cursor")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")
def test_file_keeps_its_owner(assistants, path):
    path.write_bytes(SETTINGS)
    os.chown(path, 65534, 65534)

    done = assistants.install("cursor", COMMAND)

    assert {(file.stat().st_uid, file.stat().st_gid) for file in (path, done.backup)} == {(65534, 65534)}


# Installs as a user who is not root, who may write anywhere.
UNPRIVILEGED = """
import os, sys
from pathlib import Path
from mlx_colbert.assistants.hosts import Machine
from mlx_colbert.assistants.installation import Assistants
if os.geteuid() == 0:
    os.setuid(65534)
home = Path(sys.argv[1])
try:
    Assistants(Machine("linux", home, home, {})).install("cursor", ["/python", "mcp"])
except PermissionError as error:
    print("denied", error.filename)
"""


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_read_only_stays_as_it_is(is_folder):
    # pytest's own tmp_path is closed to the other user that root becomes, for whom permissions count.
    with tempfile.TemporaryDirectory() as folder:
        home = os.path.realpath(folder)
        path = Path(home, ".cursor", "mcp.json")
        path.parent.mkdir()
        path.write_bytes(SETTINGS)
        Path(home).chmod(0o755)
        path.chmod(0o644 if is_folder else 0o444)
        path.parent.chmod(0o555 if is_folder else 0o777)

        command = [sys.executable, "-c", UNPRIVILEGED, home]
        done = subprocess.run(command, capture_output=True, text=True, check=True)

        path.parent.chmod(0o755)
        assert done.stdout.startswith(f"denied {path.parent}")
        assert (path.read_bytes(), names(path.parent)) == (SETTINGS, ["mcp.json"])


# Kills itself at the call of a chosen function of the system: the backup or the file is renamed.
KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_colbert.assistants.hosts import Machine
from mlx_colbert.assistants.installation import Assistants
home, n_before = Path(sys.argv[1]), int(sys.argv[2])
replace = Path.replace
def dying(self, target):
    global n_before
    if n_before == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    n_before -= 1
    return replace(self, target)
Path.replace = dying
Assistants(Machine("linux", home, home, {})).install("cursor", ["/python", "mcp"])
"""


@pytest.mark.parametrize("n_renamed", [0, 1])
def test_killed_install_leaves_the_old_file_and_the_next_one_works(n_renamed, assistants, home, path):
    path.write_bytes(SETTINGS)
    words = [sys.executable, "-c", KILLED, str(home), str(n_renamed)]

    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL

    assert path.read_bytes() == SETTINGS
    done = assistants.install("cursor", COMMAND)
    assert done.backup.read_bytes() == SETTINGS
    # What the killed process left was replaced.
    assert names(path.parent) == ["mcp.json", "mcp.json.before-mlx-colbert"]
    assistants.uninstall("cursor")
    assert (path.read_bytes(), names(path.parent)) == (SETTINGS, ["mcp.json"])


def test_change_of_another_program_is_not_lost(assistants, path, monkeypatch):
    path.write_bytes(SETTINGS)
    real_read, others = settings_file._read, [b'{"b": 1}', b'{"b": 2}']

    def read(given):
        # The program writes between our reading and our renaming.
        data = real_read(given)
        if others and given == path and path.with_name(".mcp.json.mlx-colbert-new").exists():
            path.write_bytes(others.pop())
            return path.read_bytes()
        return data

    monkeypatch.setattr(settings_file, "_read", read)

    assistants.install("cursor", COMMAND)

    assert (
        json.loads(path.read_text()).keys() == {"b", "mcpServers"} and json.loads(path.read_text())["b"] == 1
    )


def test_program_that_writes_all_the_time_is_named_as_the_reason(assistants, path, monkeypatch):
    path.write_bytes(SETTINGS)
    real_read, count = settings_file._read, iter(range(10**6))

    def read(given):
        if given == path:
            path.write_bytes(b'{"b": %d}' % next(count))
        return real_read(given)

    monkeypatch.setattr(settings_file, "_read", read)

    with pytest.raises(AssistantError, match=r"another program keeps changing it. End that program"):
        assistants.install("cursor", COMMAND)
    assert b"mlx-colbert" not in path.read_bytes()


@pytest.mark.slow
def test_installs_at_once_lose_nothing(home):
    """Eight processes write one file, each an entry of its own."""
    code = """
import sys
from pathlib import Path
from mlx_colbert.assistants import jsonc
from mlx_colbert.assistants.settings_file import Content, SettingsFile
def changed(before):
    return Content(jsonc.put((before or b"").decode(), ("mcpServers", sys.argv[2]), {"command": "x"}).encode())
sys.stdin.readline()
SettingsFile(Path(sys.argv[1])).change(changed)
"""
    path = home / "new/mcp.json"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), f"s{n}"], stdin=subprocess.PIPE)
        for n in range(8)
    ]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.stdin.close()
        assert process.wait(timeout=120) == 0

    assert json.loads(path.read_text())["mcpServers"].keys() == {f"s{n}" for n in range(8)}
    assert names(path.parent) == ["mcp.json"]


def test_threads_of_one_process_lose_nothing(home):
    path = home / "new/mcp.json"
    file = settings_file.SettingsFile(path)

    def add(name):
        def changed(before):
            lines = [] if before is None else before.decode().split()
            return settings_file.Content(" ".join([*lines, name]).encode())

        file.change(changed)

    threads = [threading.Thread(target=add, args=[f"s{n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(path.read_text().split()) == [f"s{n}" for n in range(8)]


def test_backup_is_the_file_as_it_was_before_the_last_new_entry(assistants, path):
    path.write_bytes(SETTINGS)
    backup = assistants.install("cursor", COMMAND).backup
    assert backup == Path(f"{path}.before-mlx-colbert")
    # The user takes the entry out by hand, and installs again later.
    path.write_bytes(b'{"c": 1}')

    assistants.install("cursor", COMMAND)

    assert backup.read_bytes() == b'{"c": 1}'
    assert names(path.parent) == ["mcp.json", "mcp.json.before-mlx-colbert"]


def test_backup_that_is_no_backup_does_not_matter(assistants, path):
    path.write_bytes(SETTINGS)
    backup = assistants.install("cursor", COMMAND).backup
    for data in (b"\xff", b"{", b'{"mcpServers": 1}'):
        backup.write_bytes(data)
        assistants.uninstall("cursor")
        assert json.loads(path.read_bytes()) == json.loads(SETTINGS)
        assistants.install("cursor", COMMAND)


def test_backup_of_a_file_that_was_removed_goes(assistants, path):
    path.write_bytes(SETTINGS)
    backup = assistants.install("cursor", COMMAND).backup
    path.unlink()

    assert assistants.install("cursor", COMMAND).backup is None
    assert not backup.exists()
    assistants.uninstall("cursor")
    assert names(path.parent) == []


@pytest.mark.parametrize("link", [".cursor/mcp.json", ".cursor", ".agents", ".agents/skills"])
def test_link_of_a_project_that_leads_out_of_it_is_refused(link, tmp_path):
    home, project = tmp_path / "home", tmp_path / "project"
    (home / "mcp.json").parent.mkdir()
    (home / "mcp.json").write_bytes(SETTINGS)
    (project / link).parent.mkdir(parents=True)
    (project / link).symlink_to(home / "mcp.json" if link.endswith(".json") else home)
    assistants = Assistants(Machine("linux", home, project, {}))

    with pytest.raises(AssistantError, match="leads out of the project by a link"):
        assistants.install("cursor", COMMAND, scope="project")
    assert names(home) == ["mcp.json"] and (home / "mcp.json").read_bytes() == SETTINGS
    state = next(state for state in assistants.states("project") if state.host == "cursor")
    assert (state.problem is None) == link.startswith(".agents")
