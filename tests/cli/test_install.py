"""`mlx-colbert install` and `uninstall` in a terminal."""

from __future__ import annotations

import json
import sys

import pytest

from mlx_colbert.assistants.hosts import HOSTS
from mlx_colbert.cli import main
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and the current folder in it."""
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "LMSTUDIO_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "mlx-colbert"))
    monkeypatch.setenv("PATH", "")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


@pytest.fixture
def run(capsys):
    def run(*words):
        code = main(list(words))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_install_and_uninstall_say_what_they_did(run, home):
    path = home / ".cursor/mcp.json"
    path.parent.mkdir()
    path.write_text('{"mcpServers": {}}')

    code, out, err = run("install", "cursor")
    assert (code, err) == (0, "")
    assert f"Wrote the entry into {path}.\nThe file without it: {path}.before-mlx-colbert\n" in out
    assert f"Wrote the skill {home}/.agents/skills/mlx-colbert/SKILL.md." in out
    entry = json.loads(path.read_text())["mcpServers"]["mlx-colbert"]
    assert (entry["command"], entry["args"]) == (sys.executable, ["-P", "-m", "mlx_colbert", "mcp"])

    assert f"{path} is as it must be." in run("install", "cursor")[1]
    out = run("uninstall", "cursor")[1]
    assert out.startswith(f"Removed the entry from {path}.\nRemoved the skill ")
    assert path.read_text() == '{"mcpServers": {}}'
    assert run("uninstall", "cursor")[1] == f"{path} has no entry of mlx-colbert.\n"


def test_without_a_program_the_programs_are_listed(run, home):
    (home / ".cursor").mkdir()
    run("install", "codex")

    code, out, _ = run("install")

    lines = [line.split() for line in out.splitlines()[: len(HOSTS)]]
    assert code == 0 and [line[0] for line in lines] == list(HOSTS)
    states = {line[0]: line[1] for line in lines}
    assert (states["codex"], states["cursor"], states["zed"]) == ("installed", "found", "-")
    listed = json.loads(run("install", "--json")[1])["hosts"]
    assert [host["host"] for host in listed if host["installed"]] == ["codex"]


def test_print_shows_the_entry_and_writes_nothing(run, home):
    out = run("install", "codex", "--allow-write", "--print")[1]

    assert out.startswith(
        f"Would write this entry into {home}/.codex/config.toml:\n\n[mcp_servers.mlx-colbert]\n"
    )
    assert '"mcp", "--allow-write"]' in out and "Codex was not found on this machine." in out
    assert not (home / ".codex").exists() and not (home / ".agents").exists()


def test_collections_are_in_the_arguments_and_must_exist(run, home):
    (home / "notes").mkdir()
    (home / "notes/a.md").write_text("Bees.")
    Registry().create(CollectionSettings({"notes": str(home / "notes")}), "notes")

    result = json.loads(run("install", "zed", "-c", "notes", "--json")[1])
    assert json.loads(result["entry"])["context_servers"]["mlx-colbert"]["args"][-3:] == [
        "mcp",
        "-c",
        "notes",
    ]
    assert result["change"] == "written" and result["backup"] is None

    code, out, err = run("install", "zed", "-c", "nothing")
    assert (code, out) == (1, "") and "nothing" in err


def test_project_is_the_current_folder(run, home):
    out = run("install", "vscode", "--scope", "project")[1]

    assert (home / "project/.vscode/mcp.json").exists()
    assert "other people of the project install for themselves" in out
    assert "removed" in run("uninstall", "vscode", "--scope", "project", "--json")[1]
    assert not (home / "project/.vscode/mcp.json").exists()


@pytest.mark.parametrize(
    "words", [["uninstall"], ["install", "emacs"], ["install", "-c", "notes"], ["install", "--print"]]
)
def test_wrong_usage_ends_with_2(words, home, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "PROGRAM" in capsys.readouterr().err


def test_file_that_is_not_valid_is_one_line_on_stderr(run, home):
    path = home / ".gemini/settings.json"
    path.parent.mkdir()
    path.write_text("{oops")

    code, out, err = run("install", "gemini")

    assert (code, out) == (1, "")
    assert err == (
        f"mlx-colbert: error: {path}: is not valid JSON: in line 1, there must be a key in double quotes.\n"
    )
