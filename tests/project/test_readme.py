"""Every command and program in the READMEs runs, or is checked against what it names."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mlx_colbert.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# The pages whose programs and commands run, in this order.
PAGES = ["README.md", "docs/filters.md", "docs/files.md", "docs/old-indexes.md"]


def blocks(language: str, *pages: str) -> list[str]:
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in pages]
    return [block for text in texts for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def commands(*pages: str) -> list[list[str]]:
    lines = [line for block in blocks("bash", *pages) for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def workspace(tmp_path, monkeypatch, answerai):
    """A folder like the repository's root after `make demo`, to run the README's commands in. No hub is there."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "answerai-colbert-small-v1").symlink_to(answerai)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "README.md").symlink_to(ROOT / "README.md")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / ".cache").symlink_to(ROOT / ".cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run_in_the_order_of_the_readme(workspace, capsys):
    own = [words[1:] for words in commands(*PAGES) if words[0] == "mlx-colbert"]
    assert len(own) >= 7
    # A newcomer may run the quickstart twice.
    quickstart = [words[1:] for words in commands("README.md") if words[0] == "mlx-colbert"]
    for arguments in [*quickstart, *own]:
        assert main(arguments) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.strip()


def test_environment_is_entered_before_the_first_command_and_program():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    entered = text.index("source .venv/bin/activate")
    assert entered < min(text.index("```python"), text.index("\nmlx-colbert "))
    assert text.index("make demo") < entered


def test_commands_have_no_comments():
    """In the shell of macOS, typed comments are arguments."""
    assert not [
        line
        for block in blocks("bash", *PAGES, "CONTRIBUTING.md")
        for line in block.splitlines()
        if "#" in line
    ]


def test_programs_can_be_pasted_into_a_prompt():
    """A prompt needs a blank line after a block."""
    for program in blocks("python", *PAGES):
        assert not re.search(r"^ .*\n[^ \n)\]}]", program, re.MULTILINE)


def test_programs_run_word_for_word_and_find_what_they_should(workspace, capsys):
    quickstart, filters = blocks("python", *PAGES)
    # A program may run twice.
    for _ in range(2):
        exec(quickstart, {})
        lines = capsys.readouterr().out.splitlines()
        assert re.match(r"1 \d+\.\d\d novel ", lines[0])

    exec(filters, {})
    filtered, keyword, hybrid = capsys.readouterr().out.splitlines()
    assert filtered == "novel {'topic': 'books', 'year': 1851}"
    assert (keyword.count("doc_id="), hybrid.count("doc_id=")) == (1, 1)
    assert "doc_id='tea'" in keyword and "doc_id='tea'" in hybrid


def test_other_commands_name_targets_and_extras_that_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[([\w,]+)\]'", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named and {extra for names in named for extra in names.split(",")} <= set(extras)
    for words in commands(*PAGES):
        if words[0] == "make":
            assert words[1] in targets
        elif words != ["source", ".venv/bin/activate"]:  # which pytest itself needed
            assert words[0] == "mlx-colbert", f"no test runs {words}"


@pytest.mark.parametrize(
    "readme",
    [
        *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "convert/README.md", "examples/README.md"),
        *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    ],
)
def test_links_and_scripts_lead_to_files(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    folder = (ROOT / readme).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (folder / target).exists(), target
    for script in re.findall(r"python ((?:examples|tests)/[\w/]+\.py)", text):
        assert (ROOT / script).exists(), script


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 800


def test_list_of_commands_is_the_help_of_the_program():
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "write_cli.py"], capture_output=True, text=True, check=True
    )
    # Later versions of argparse break lines in other places.
    exact = sys.version_info < (3, 13)
    words = [
        text if exact else sorted(set(re.findall(r"--?\w[\w-]*", text))) for text in (written, done.stdout)
    ]
    assert words[0] == words[1], "run: python docs/write_cli.py > docs/cli.md"
