"""Installing in each program: what it then reads, and that all else in its settings stays as it was."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from mlx_colbert.assistants import hosts, installation
from mlx_colbert.assistants.hosts import HOSTS, Machine
from mlx_colbert.assistants.installation import Assistants, server_command
from mlx_colbert.assistants.skill import install_skill
from mlx_colbert.errors import AssistantError, InputError

COMMAND = ["/opt/py 3/bin/python", "-P", "-m", "mlx_colbert", "mcp", "-c", "notes"]
PLAIN = {"command": COMMAND[0], "args": COMMAND[1:]}
STDIO = {"type": "stdio", **PLAIN}

# For each program: its file in Linux and in macOS, settings as people have them, with "→" where the entry goes,
# and the entry. "←" is a comma that the entry needs before it.
JSON_SERVERS = """{
    "theme": "dark",
    "mcpServers": {
        "github": {
            "command": "npx",
            "args": ["-y", "server-github"],
            "env": {"TOKEN": "secret"}
        }←→
    },
    "other": [1,2 , 3]
}
"""
SAMPLES = {
    "claude-code": (
        ".claude.json",
        ".claude.json",
        '{\r\n\t"numStartups": 34,\r\n\t"projects": {"/p": {"mcpServers": {}}},\r\n\t"mcpServers": {\r\n'
        '\t\t"b": {"type": "http", "url": "https://x/y"}←→\r\n\t}\r\n}',
        STDIO,
    ),
    "claude-desktop": (
        ".config/Claude/claude_desktop_config.json",
        "Library/Application Support/Claude/claude_desktop_config.json",
        JSON_SERVERS,
        PLAIN,
    ),
    "codex": (
        ".codex/config.toml",
        ".codex/config.toml",
        '# My settings\nmodel = "gpt"   # the best\n\n[mcp_servers.docs]\ncommand = "npx" # no comment\n'
        'args = [\n  "-y", # yes\n]\n\n[mcp_servers.docs.env]\nKEY = "a # b"\n\n→# The end\n',
        PLAIN,
    ),
    "cursor": (".cursor/mcp.json", ".cursor/mcp.json", "\ufeff" + JSON_SERVERS, STDIO),
    "gemini": (
        ".gemini/settings.json",
        ".gemini/settings.json",
        '{\n  // the model\n  "model": {"name": "gemini"}, /* block */\n  "mcpServers": {\n'
        '    "a": {"httpUrl": "https://x//y"}← // about a→\n  }\n}\n',
        PLAIN,
    ),
    "vscode": (
        ".config/Code/User/mcp.json",
        "Library/Application Support/Code/User/mcp.json",
        '{\n\t"servers": {\n\t\t"a": { "command": "x", },\n\t\t// "old": {},→\n\t},\n\t"inputs": [],\n}\n',
        STDIO,
    ),
    "zed": (
        ".config/zed/settings.json",
        ".config/zed/settings.json",
        '// Zed settings\n//\n{\n  "vim_mode": true,\n  "context_servers": {\n'
        '    "a": {"command": "x", "args": [], "env": {}},→\n  },\n  "tab_size": 2,\n}\n',
        PLAIN,
    ),
    "opencode": (
        ".config/opencode/opencode.json",
        ".config/opencode/opencode.json",
        '{"$schema": "https://opencode.ai/config.json",\n "mcp": {"a": {"type": "remote", "url": "https://x"}←→}}\n',
        {"type": "local", "command": COMMAND},
    ),
    "lm-studio": (".lmstudio/mcp.json", ".lmstudio/mcp.json", JSON_SERVERS, PLAIN),
}


@pytest.fixture
def machine(tmp_path):
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    return Machine("linux", home, project, {})


@pytest.fixture
def assistants(machine):
    return Assistants(machine)


def without_marks(sample):
    return sample.replace("←", "").replace("→", "").encode()


def written(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_entry_is_added_and_all_other_bytes_stay(name, platform, machine):
    linux, mac, sample, entry = SAMPLES[name]
    path = written(machine.home / (mac if platform == "darwin" else linux), without_marks(sample))
    assistants = Assistants(machine._replace(platform=platform))
    host = HOSTS[name]

    done = assistants.install(name, COMMAND)

    assert (done.path, done.change) == (path, "written")
    text = path.read_bytes().decode()
    before, _, after = sample.replace("←", "," if "←" in sample else "").partition("→")
    if name != "codex":
        assert text.startswith(before) and text.endswith(after)
        ours = text[len(before) : len(text) - len(after)]
        assert ours.strip().startswith('"mlx-colbert": {')
    else:
        assert text.startswith(before + after)
    assert host.format.value(text.removeprefix("\ufeff"), (*host.places[-1], "mlx-colbert")) == entry
    assert done.backup.read_bytes() == without_marks(sample)


@pytest.mark.parametrize("name", HOSTS)
def test_uninstall_brings_the_old_bytes_back(name, assistants, machine):
    linux, _, sample, _ = SAMPLES[name]
    path = written(machine.home / linux, without_marks(sample))
    before = tree(machine.home)
    assistants.install(name, COMMAND)

    assert assistants.uninstall(name).change == "removed"

    assert tree(machine.home) == before
    again = assistants.uninstall(name)
    assert (again.change, path.read_bytes()) == ("absent", without_marks(sample))


@pytest.mark.parametrize("name", HOSTS)
def test_uninstall_takes_only_the_entry_if_other_things_changed_meanwhile(name, assistants, machine):
    linux, _, sample, _ = SAMPLES[name]
    path = written(machine.home / linux, without_marks(sample))
    assistants.install(name, COMMAND)
    # The user writes at both ends.
    sign = b"# " if name == "codex" else b"// "
    mark = b"\xef\xbb\xbf" if path.read_bytes().startswith(b"\xef\xbb\xbf") else b""
    changed = mark + sign + b"first\n" + path.read_bytes().removeprefix(mark) + b"\n" + sign + b"last\n"
    path.write_bytes(changed)

    assistants.uninstall(name)

    expected = mark + sign + b"first\n" + without_marks(sample).removeprefix(mark) + b"\n" + sign + b"last\n"
    assert path.read_bytes() == expected


@pytest.mark.parametrize("name", HOSTS)
def test_second_install_changes_nothing(name, assistants, machine):
    linux, _, sample, _ = SAMPLES[name]
    written(machine.home / linux, without_marks(sample))
    assistants.install(name, COMMAND)
    before = {path: path.stat() for path in tree(machine.home)}

    done = assistants.install(name, COMMAND)

    assert done.change == "unchanged"
    assert {path: path.stat() for path in tree(machine.home)} == before


@pytest.mark.parametrize("name", HOSTS)
def test_moved_python_updates_the_entry_in_its_place_and_keeps_what_the_user_added(name, assistants, machine):
    linux, _, sample, _ = SAMPLES[name]
    path = written(machine.home / linux, without_marks(sample))
    host = HOSTS[name]
    keys = (*host.places[-1], "mlx-colbert")
    assistants.install(name, COMMAND)
    mark, text = (
        ("\ufeff", path.read_text()[1:]) if sample[0] == "\ufeff" else ("", path.read_bytes().decode())
    )
    entry = host.format.value(text, keys) | {
        "timeout": 7,
        host.variables_key: {"MINE": "1", "HF_HOME": "/gone"},
    }
    path.write_bytes((mark + host.format.put(text, keys, entry)).encode())

    done = assistants.install(name, ["/new/python", *COMMAND[1:]])

    assert done.change == "written"
    text = path.read_bytes().decode().removeprefix("\ufeff")
    found = host.format.value(text, keys)
    assert (host.started(found), found["timeout"]) == ("/new/python", 7)
    # The folder of the hub is not one of now. The backup is still the file without the entry.
    assert found[host.variables_key] == {"MINE": "1"}
    assert done.backup.read_bytes() == without_marks(sample)


@pytest.mark.parametrize("name", HOSTS)
def test_file_that_install_made_goes_with_the_entry(name, assistants, machine):
    done = assistants.install(name, COMMAND)

    assert (done.change, done.backup) == ("written", None)
    values = done.path.read_text()
    loaded = tomllib.loads(values) if name == "codex" else json.loads(values)
    for key in (*HOSTS[name].places[-1], "mlx-colbert"):
        loaded = loaded[key]
    assert loaded == SAMPLES[name][3]
    assistants.uninstall(name)
    assert tree(machine.home) == {}


@pytest.mark.parametrize(
    "text", ["", "\n", "// nothing\n", "{}", "{}\n", '{\n  "mcpServers": {}\n}\n', '{"mcpServers":{ }}']
)
def test_empty_settings_come_back(text, assistants, machine):
    path = written(machine.home / ".cursor/mcp.json", text.encode())

    assistants.install("cursor", COMMAND)
    assert '"mlx-colbert": {' in path.read_text()
    assistants.uninstall("cursor")

    assert path.read_text() == text


def test_empty_object_goes_only_if_install_made_it(assistants, machine):
    path = written(machine.home / ".cursor/mcp.json", b'{"a": 1}')
    assistants.install("cursor", COMMAND)
    path.write_text(path.read_text().replace("1", "2"))
    assistants.uninstall("cursor")
    assert path.read_text() == '{"a": 2}'

    path.write_text('{"a": 1, "mcpServers": {}}')
    assistants.install("cursor", COMMAND)
    path.write_text(path.read_text().replace("1", "2"))
    assistants.uninstall("cursor")
    assert json.loads(path.read_text()) == {"a": 2, "mcpServers": {}}


def test_comment_in_an_object_that_install_made_stays(assistants, machine):
    path = written(machine.home / ".cursor/mcp.json", b'{"a": 1}')
    assistants.install("cursor", COMMAND)
    path.write_text(path.read_text().replace('{"mlx', '{/* mine */ "mlx'))

    assistants.uninstall("cursor")

    assert path.read_text() == '{"a": 1, "mcpServers": {/* mine */}}'


def test_folders_of_the_environment_are_in_the_entry(machine):
    machine = machine._replace(variables={"MLX_COLBERT_HOME": "/m c", "HF_TOKEN": "secret", "PATH": "/bin"})

    path = Assistants(machine).install("opencode", COMMAND).path

    entry = json.loads(path.read_text())["mcp"]["mlx-colbert"]
    assert entry["environment"] == {"MLX_COLBERT_HOME": "/m c"}


@pytest.mark.parametrize(
    ("name", "variables", "path"),
    [
        ("claude-code", {"CLAUDE_CONFIG_DIR": "/c"}, "/c/.claude.json"),
        ("codex", {"CODEX_HOME": "/c"}, "/c/config.toml"),
        ("gemini", {"GEMINI_CLI_HOME": "/c"}, "/c/.gemini/settings.json"),
        ("vscode", {"XDG_CONFIG_HOME": "/c"}, "/c/Code/User/mcp.json"),
        ("zed", {"XDG_CONFIG_HOME": "/c"}, "/c/zed/settings.json"),
        ("opencode", {"XDG_CONFIG_HOME": "/c"}, "/c/opencode/opencode.json"),
        ("lm-studio", {"LMSTUDIO_HOME": "/c"}, "/c/mcp.json"),
    ],
)
def test_variables_of_a_program_say_where_its_settings_are(name, variables, path, machine):
    states = Assistants(machine._replace(variables=variables)).states()

    assert {state.host: state.path for state in states}[name] == Path(path)


def test_lm_studio_is_where_its_pointer_says(assistants, machine):
    pointer = machine.home / ".lmstudio-home-pointer"
    (machine.home / "models").mkdir()
    for given, expected in (
        (f"{machine.home}/models\n", "models"),
        ("/gone", ".lmstudio"),
        ("\0", ".lmstudio"),
        ("\udcff", ".lmstudio"),
    ):
        pointer.write_bytes(given.encode(errors="surrogateescape"))
        state = next(state for state in assistants.states() if state.host == "lm-studio")
        assert state.path == machine.home / expected / "mcp.json"


@pytest.mark.parametrize("name", [name for name, host in HOSTS.items() if host.project])
def test_project_has_its_own_file_and_skill(name, assistants, machine):
    done = assistants.install(name, COMMAND, scope="project")

    assert done.path == machine.project / HOSTS[name].project[-1]
    assert done.skill.is_relative_to(machine.project)
    assert tree(machine.home) == {}
    assistants.uninstall(name, scope="project")
    assert tree(machine.project) == {}


@pytest.mark.parametrize("name", ["claude-desktop", "lm-studio"])
def test_program_without_settings_for_projects_says_so(name, assistants):
    with pytest.raises(InputError, match=r"has no settings for a project. Leave --scope out"):
        assistants.install(name, COMMAND, scope="project")


def test_unknown_program_is_an_error_that_lists_the_known_ones(assistants):
    with pytest.raises(
        InputError, match=r"'emacs' is not known. Give one of claude-code, claude-desktop, codex"
    ):
        assistants.install("emacs", COMMAND)


def test_opencode_has_the_form_of_version_2_where_the_file_has(assistants, machine):
    path = written(machine.home / ".config/opencode/opencode.jsonc", b'{"mcp": {"servers": {}}}')

    assistants.install("opencode", COMMAND)

    assert set(json.loads(path.read_text())["mcp"]["servers"]) == {"mlx-colbert"}
    # A server with the name "servers" is no place for others.
    path.write_text('{"mcp": {"servers": {"type": "local", "command": ["x"]}}}')
    assistants.install("opencode", COMMAND)
    assert set(json.loads(path.read_text())["mcp"]) == {"servers", "mlx-colbert"}


def test_opencode_changes_the_file_that_has_the_entry(assistants, machine):
    path = assistants.install("opencode", COMMAND).path
    later = written(path.with_suffix(".jsonc"), b"{}")

    assert assistants.install("opencode", COMMAND).change == "unchanged"
    assert assistants.uninstall("opencode").path == path
    assert later.read_bytes() == b"{}" and not path.exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("claude-code", "/a/${HOME}/b"),
        ("gemini", "/a/$HOME"),
        ("vscode", "/${workspaceFolder}"),
        ("opencode", "/{env:HOME}"),
        ("zed", "/a\nb"),
        ("codex", "/a\udcff"),
    ],
)
def test_path_that_the_program_would_read_in_another_way_is_an_error(name, text, assistants, machine):
    with pytest.raises(InputError, match=r"would take|has a character that settings cannot have"):
        assistants.install(name, [text, "mcp"])
    assert tree(machine.home) == {}


def test_entry_of_another_kind_is_replaced(assistants, machine):
    path = written(machine.home / ".cursor/mcp.json", b'{"mcpServers": {"mlx-colbert": {"url": "http://x"}}}')

    assistants.install("cursor", COMMAND)

    assert json.loads(path.read_text())["mcpServers"]["mlx-colbert"] == STDIO


@pytest.mark.parametrize(
    "text",
    [
        '[mcp_servers]\nmlx-colbert = { command = "a" }\nb.command = "x" # b\n',
        '[mcp_servers]\nmlx-colbert.command = "a"\n# on b\nb.command = "x" # b\nmlx-colbert.args = ["y"]\n',
        'mcp_servers.mlx-colbert.command = "a"\nmcp_servers.b = { command = "x" } # b\n',
        '[mcp_servers."mlx-colbert"] # ours\ncommand = "a"\n[mcp_servers.mlx-colbert.env]\nA = "1"\n\n# on b\n[mcp_servers.b]\ncommand = "x" # b\n',
    ],
)
def test_codex_entry_in_another_form_of_toml_is_replaced_and_removed(text, assistants, machine):
    path = written(machine.home / ".codex/config.toml", text.encode())

    assistants.install("codex", COMMAND)
    servers = tomllib.loads(path.read_text())["mcp_servers"]
    assert servers["mlx-colbert"]["command"] == COMMAND[0] and servers["b"] == {"command": "x"}
    assistants.uninstall("codex")

    assert tomllib.loads(path.read_text())["mcp_servers"] == {"b": {"command": "x"}}
    assert path.read_text().count("# b") == 1
    assert path.read_text().count("# on b") == text.count("# on b")


def test_codex_servers_in_one_line_are_left_to_the_user(assistants, machine):
    text = b'mcp_servers = { b = { command = "x" } }\n'
    path = written(machine.home / ".codex/config.toml", text)

    with pytest.raises(AssistantError, match=r"Write it as a table: \[mcp_servers.mlx-colbert\]"):
        assistants.install("codex", COMMAND)
    assert path.read_bytes() == text


def test_dry_run_writes_nothing_and_shows_the_entry(assistants, machine):
    written(machine.home / ".gemini/settings.json", b'{"mcpServers": {"a": {"env": {"KEY": "secret"}}}}')
    before = tree(machine.home)

    done = assistants.install("gemini", COMMAND, is_dry=True)

    assert (done.change, done.skill_change) == ("written", "written")
    assert json.loads(done.entry) == {"mcpServers": {"mlx-colbert": PLAIN}}
    assert tree(machine.home) == before
    assistants.install("gemini", COMMAND)
    before = tree(machine.home)
    assert assistants.uninstall("gemini", is_dry=True).change == "removed"
    assert tree(machine.home) == before


def test_states_say_what_is_here_and_what_no_longer_works(assistants, machine):
    (machine.home / ".cursor").mkdir()
    assistants.install("codex", [str(machine.home / "python")])
    written(machine.home / ".gemini/settings.json", b"{")

    states = {state.host: state for state in assistants.states()}

    assert list(states) == list(HOSTS)
    assert states["cursor"].is_present and not states["cursor"].is_installed
    assert not states["zed"].is_present
    assert states["codex"].is_installed
    assert states["codex"].problem == f"{machine.home}/python does not exist. Install again."
    assert states["gemini"].problem.startswith("is not valid JSON: in line 1,")
    assert {state.host for state in assistants.states("project")} == {
        n for n, h in HOSTS.items() if h.project
    }


def test_program_in_the_path_is_present(assistants, machine, tmp_path):
    program = written(tmp_path / "bin/zed", b"#!/bin/sh\n")
    program.chmod(0o755)
    machine = machine._replace(variables={"PATH": str(program.parent)})

    assert [state.host for state in Assistants(machine).states() if state.is_present] == ["zed"]


def test_skill_is_shared_until_the_last_program_leaves(assistants, machine):
    skill = assistants.install("codex", COMMAND).skill
    assert skill == machine.home / ".agents/skills/mlx-colbert/SKILL.md"
    assert assistants.install("zed", COMMAND).skill_change == "unchanged"

    assert assistants.uninstall("codex").skill_change == "unchanged" and skill.exists()
    assert assistants.uninstall("zed").skill_change == "removed" and not skill.parent.exists()


def test_skill_that_the_user_changed_stays(assistants, machine):
    skill = assistants.install("claude-code", COMMAND).skill
    assert skill == machine.home / ".claude/skills/mlx-colbert/SKILL.md"
    mine = skill.read_bytes() + b"Mine.\n"
    skill.write_bytes(mine)

    assert assistants.install("claude-code", COMMAND).skill_change == "kept"
    assert assistants.uninstall("claude-code").skill_change == "kept"
    assert skill.read_bytes() == mine


def test_skill_of_another_version_is_replaced(tmp_path, monkeypatch):
    skill = tmp_path / "mlx-colbert/SKILL.md"
    with monkeypatch.context() as patched:
        patched.setattr("mlx_colbert.assistants.skill._TEXT", "An old text.\n")
        assert install_skill(skill) == "written"

    assert install_skill(skill) == "written"
    assert "An old text." not in skill.read_text()


def test_skill_begins_with_a_name_and_a_description_that_programs_accept(tmp_path):
    skill = tmp_path / "mlx-colbert/SKILL.md"
    install_skill(skill)

    _, front, body = skill.read_text().split("---\n", 2)
    name, description = front.split("\n", 1)
    assert name == f"name: {skill.parent.name}"
    assert description.startswith("description: >-\n  ") and len(description) < 1024
    assert "`search`" in body and "path:line" in body


def test_server_command_names_this_python():
    words = server_command(["notes", "/a b"], allow_write=True)

    assert Path(words[0]).is_absolute()
    assert words[1:] == ["-P", "-m", "mlx_colbert", "mcp", "-c", "notes", "-c", "/a b", "--allow-write"]


@pytest.mark.parametrize("prefix", ["uv/archive-v0/abc", ".cache/pipx/abc"])
def test_temporary_environment_is_an_error_that_says_what_to_do(prefix, tmp_path, monkeypatch):
    written(tmp_path / "uv/CACHEDIR.TAG", b"")
    monkeypatch.setattr(installation.sys, "prefix", str(tmp_path / prefix))

    with pytest.raises(InputError, match=r"is temporary.* uv tool install 'mlx-colbert\[mcp\]'"):
        server_command()


def test_environment_with_a_tag_of_its_own_is_not_temporary(tmp_path, monkeypatch):
    written(tmp_path / ".venv/CACHEDIR.TAG", b"")
    monkeypatch.setattr(installation.sys, "prefix", str(tmp_path / ".venv"))

    assert server_command()[-1] == "mcp"


def test_other_systems_are_an_error(machine):
    with pytest.raises(InputError, match="macOS and Linux, not those of win32"):
        Assistants(machine._replace(platform="win32"))


def test_every_program_says_where_its_settings_are_documented():
    page = (Path(__file__).parents[2] / "docs" / "assistants.md").read_text()

    for name, host in hosts.HOSTS.items():
        assert f"`{name}`" in page and host.page in page, name
