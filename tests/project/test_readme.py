"""Every command and program in the READMEs runs, or is checked against what it names."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from mlx_colbert.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def workspace(tmp_path, monkeypatch, minilm):
    """A folder like the repository's root, to run the README's commands in."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "README.md").symlink_to(ROOT / "README.md")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / ".cache").symlink_to(ROOT / ".cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run_in_the_order_of_the_readme(workspace, capsys):
    own = [words[1:] for words in commands() if words[0] == "mlx-colbert"]
    assert len(own) >= 7
    for arguments in own:
        assert main(arguments) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.strip()


def test_programs_run_in_order_and_find_what_they_should(workspace, minilm, capsys):
    quickstart, filters = blocks("python")
    assert "colbert-ir/colbertv2.0" in quickstart
    # The hub's model is replaced by the one that needs no hub.
    exec(quickstart.replace("colbert-ir/colbertv2.0", str(minilm)), {})
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"1 \d+\.\d\d novel ", lines[0])
    assert any(line.lower().startswith("dick -> dick ") for line in lines[2:])

    exec(filters, {})
    filtered, keyword, hybrid = capsys.readouterr().out.splitlines()
    assert filtered == "novel {'topic': 'books', 'year': 1851}"
    assert (keyword.count("doc_id="), hybrid.count("doc_id=")) == (1, 1)
    assert "doc_id='tea'" in keyword and "doc_id='tea'" in hybrid


def test_other_commands_name_targets_and_extras_that_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands():
        if words[0] == "make":
            assert words[1] in targets
        elif words[:2] == ["pip", "install"]:
            named = re.fullmatch(r"\.(?:\[(\w+)\])?", words[2])
            assert named and (named[1] is None or named[1] in extras)
        elif words != ["source", ".venv/bin/activate"]:  # which pytest itself needed
            assert words[0] == "mlx-colbert", f"no test runs {words}"


@pytest.mark.parametrize(
    "readme", ["README.md", "convert/README.md", "examples/README.md", "CONTRIBUTING.md"]
)
def test_links_and_scripts_lead_to_files(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    folder = (ROOT / readme).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (folder / target).exists(), target
    for script in re.findall(r"python ((?:examples|tests)/[\w/]+\.py)", text):
        assert (ROOT / script).exists(), script
