"""Every code block of every page runs, or the page says why the tests do not run it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import PAGES, ROOT, Block, blocks

from mlx_colbert.cli import main

pytestmark = pytest.mark.slow

# The blocks of these pages run in tests/server/, tests/integrations/ and tests/stores/.
ELSEWHERE = {
    "docs/frameworks.md",
    "docs/integrations.md",
    "docs/ragatouille.md",
    "docs/server.md",
    "docs/server-collections.md",
    "docs/stores.md",
}
LANGUAGES = {"bash", "python", "text", "json", "toml"}
# How many blocks each page says are not run. A page that hides one more fails here.
NOT_RUN = {
    "convert/README.md": 1,
    "docs/collections.md": 2,
    "docs/daemon.md": 1,
    "docs/evaluation.md": 3,
    "docs/install.md": 5,
    "docs/large-collections.md": 1,
    "docs/page.md": 1,
    "docs/server.md": 2,
    "docs/server-collections.md": 1,
    "docs/stores.md": 1,
}
BEES = """\
# Bees

Notes of the beekeepers' club.

## Dance

Bees that found flowers come home and dance.
The waggle dance tells the other bees the direction and the distance of the flowers.
They learn it from older bees.

## Winter

In winter the bees form a ball around the queen, and keep it warm.
They live on honey until the first flowers come.
"""
TEA = "# Tea\n\n## Black\n\nSteep black tea for three minutes in boiling water.\n"


@pytest.fixture
def workspace(tmp_path, monkeypatch, answerai):
    """A home with notes and mail, and a folder like the repository's root after `make demo`. No hub is there."""
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home / "notes" / "coop", home / "mail", here / "demo"):
        folder.mkdir(parents=True)
    (home / "notes" / "bees.md").write_text(BEES, encoding="utf-8")
    (home / "notes" / "tea.md").write_text(TEA, encoding="utf-8")
    (home / "mail" / "ann.txt").write_text("The meeting is on Monday.\n", encoding="utf-8")
    (here / "demo" / "answerai-colbert-small-v1").symlink_to(answerai)
    for name in ("examples", "tests", "README.md", "pyproject.toml"):
        (here / name).symlink_to(ROOT / name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MLX_COLBERT_HOME", str(home / "m"))
    monkeypatch.setenv("MLX_COLBERT_MODEL", str(answerai))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(here)
    return here


class Runner:
    """Runs blocks in this process, which is fast, or with `apart` in processes of their own.

    `given` replaces words of a page by what there is in the test.
    """

    def __init__(self, capsys) -> None:
        self.given: dict[str, str] = {}
        self.apart = False
        self._capsys = capsys

    def run(self, block: Block) -> str:
        text = block.text
        for word, value in self.given.items():
            text = text.replace(word, value)
        where = f"{block.page}:{block.line}"
        if block.language == "python" and not self.apart:
            exec(compile(text, where, "exec"), {})
            return self._capsys.readouterr().out
        lines = [] if block.language == "python" else [shlex.split(line) for line in text.splitlines()]
        if not self.apart and all(words[:1] == ["mlx-colbert"] for words in lines):
            return "".join(self._command(where, words) for words in lines)
        command = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euc", text]
        done = subprocess.run(command, capture_output=True, text=True, input="")
        assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _command(self, where: str, words: list[str]) -> str:
        code = main([str(Path(word).expanduser()) if word[:1] == "~" else word for word in words[1:]])
        printed = self._capsys.readouterr()
        assert code == 0, f"{where}: {shlex.join(words)}\n{printed.out}{printed.err}"
        return printed.out


@pytest.fixture
def runner(workspace, capsys):
    return Runner(capsys)


def block_of(commands: str) -> Block:
    """What a page needs before its first block."""
    return Block("before the page", "bash", commands, 0, None)


def code_of(page: str) -> list[Block]:
    """The blocks of a page that run."""
    return [block for block in blocks(page) if block.language in ("bash", "python") and not block.reason]


def run_page(runner: Runner, page: str) -> list[str]:
    """What each block of the page prints that is not marked."""
    return [runner.run(block) for block in code_of(page)]


def test_readme_quickstart_runs_twice(runner):
    for _ in range(2):
        quickstart = [block for block in blocks("README.md") if "make demo" not in block.text]
        *commands, program = [runner.run(block) for block in quickstart]

        assert all(commands)
        assert re.match(r"1 \d+\.\d\d novel ", program)


def test_tutorial_prints_what_it_shows(runner):
    shown = None
    printed = ""
    for block in blocks("docs/tutorial.md"):
        if block.language == "text":
            shown = [line for line in block.text.splitlines() if line.strip()]
            # Numbers may differ a little.
            for line in shown:
                words = re.sub(r"[\d.]+|━+▶?|#[0-9a-f]{8}", " ", line).split()
                assert all(word in printed for word in words), f"tutorial:{block.line}: {line}\n{printed}"
        else:
            printed = runner.run(block)
    assert shown


def test_filters_find_what_they_should(runner):
    for block in blocks("README.md"):
        if block.language == "python":
            runner.run(block)
    program, *_ = run_page(runner, "docs/filters.md")

    filtered, keyword, hybrid = program.splitlines()
    assert filtered == "novel {'topic': 'books', 'year': 1851}"
    assert (keyword.count("doc_id="), hybrid.count("doc_id=")) == (1, 1)
    assert "doc_id='tea'" in keyword and "doc_id='tea'" in hybrid


def test_first_stage_page_runs(runner):
    runner.run(
        block_of(
            "mlx-colbert index examples/data/notes --index notes.index --model demo/answerai-colbert-small-v1\n"
        )
    )
    run_page(runner, "docs/first-stage.md")


def test_evaluation_page_runs(runner):
    pytest.importorskip("ir_measures", reason="needs the extra 'eval'")
    run_page(runner, "docs/evaluation.md")


def test_files_page_runs(runner):
    runner.run(
        block_of(
            "mlx-colbert index examples/data/notes --index demo/notes.index "
            "--model demo/answerai-colbert-small-v1\n"
        )
    )
    changed = run_page(runner, "docs/files.md")

    assert "deleted" in changed[0].lower()


def test_old_indexes_page_runs(runner):
    assert run_page(runner, "docs/old-indexes.md")


def test_conversion_page_runs(runner):
    runner.given = {"mlx_model": "demo/answerai-colbert-small-v1"}

    assert "my-colbert" in run_page(runner, "convert/README.md")[0]


def test_collections_page_runs(runner):
    *shell, program = code_of("docs/collections.md")
    printed = [runner.run(block) for block in shell]
    # The page has renamed and removed its collection by then.
    runner.run(block_of("mlx-colbert sync ~/notes"))

    assert "notes: 2 new" in printed[0]
    assert "tea.md" in runner.run(program)


def test_search_page_runs(runner):
    runner.run(block_of("mlx-colbert sync ~/notes\n"))
    found = runner.run(block_of('mlx-colbert search "how do bees dance" --json\n'))
    (first, *_) = json.loads(found)["hits"]
    runner.given = {"58a4ed77": first["doc_id"].rpartition("#")[2], "bees.md:12": "bees.md:7"}

    printed = run_page(runner, "docs/search.md")

    assert "waggle dance" in printed[0] and "bees.md" in printed[1]


def test_ask_page_runs(runner, llm_server):
    runner.run(block_of("mlx-colbert sync ~/notes\n"))
    runner.run(
        block_of(
            "mlx-colbert index examples/data/notes --index notes.index "
            "--model demo/answerai-colbert-small-v1\n"
        )
    )
    runner.apart = True  # --chat reads the standard input
    # The models that a newcomer has are not here: each line asks a server that this test has begun.
    runner.given = {
        'tea?"\n': f'tea?" --endpoint {llm_server.url}\n',
        "--llm auto": f"--endpoint {llm_server.url}",
        "localhost:1234": llm_server.url,
        '"auto"': f'endpoint="{llm_server.url}"',
    }
    printed = run_page(runner, "docs/ask.md")

    assert "Leaves are green [1]." in printed[0] and "Leaves are green [1]." in printed[1]


def test_assistants_page_runs(runner):
    pytest.importorskip("mcp", reason="needs the extra 'mcp'")
    runner.run(block_of("mlx-colbert sync ~/notes\nmlx-colbert sync ~/mail\n"))
    run_page(runner, "docs/assistants.md")

    assert not (Path.home() / ".cursor" / "mcp.json").exists()


def test_daemon_page_runs(runner, monkeypatch, tmp_path_factory):
    # The path of a socket is short.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("r")))
    runner.run(block_of("mlx-colbert sync ~/notes\n"))
    runner.apart = True
    try:
        assert "tea.md" in run_page(runner, "docs/daemon.md")[0]
    finally:
        main(["daemon", "stop"])


def test_programs_of_the_server_page_run(runner):
    pytest.importorskip("fastapi", reason="needs the extra 'server'")
    pytest.importorskip("cohere", reason="cohere is not installed")
    command = [sys.executable, "-m", "mlx_colbert", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            runner.given = {"http://127.0.0.1:8765": url, "answerdotai/answerai-colbert-small-v1": "colbert"}
            runner.apart = True
            for block in code_of("docs/server.md"):
                if block.language == "python":
                    runner.run(block)
        finally:
            process.terminate()


def test_every_page_with_blocks_has_a_test_that_runs_them():
    run = {
        name
        for name in re.findall(
            r'"((?:docs/|convert/)?[\w-]+\.md)"', Path(__file__).read_text(encoding="utf-8")
        )
    }
    for page in PAGES:
        assert not code_of(page) or page in run or page in ELSEWHERE | BUILDS, (
            f"no test runs the blocks of {page}"
        )


# Blocks of `make`, pip and `python -m build`: test_packaging.py builds and checks the package.
BUILDS = {"CONTRIBUTING.md", "docs/install.md"}


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_a_language_and_those_that_do_not_run_are_counted(page):
    found = blocks(page)

    assert {block.language for block in found} <= LANGUAGES
    assert sum(block.reason is not None for block in found) == NOT_RUN.get(page, 0)
    for block in found:
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.language == "json" and "…" not in block.text:
            assert [json.loads(line) for line in block.text.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_fences_without_comments(page):
    """In the shell of macOS, typed comments are arguments. A block without a fence is not run."""
    text = (ROOT / page).read_text(encoding="utf-8")

    # The shell's `eval "$(…)"`, and not the line of the command `eval` in the list of commands.
    assert not re.findall(r"^ {4}(?:mlx-colbert|pip|python|make|curl) .*|^ {4}eval \"", text, re.MULTILINE)
    for block in blocks(page):
        if block.language == "bash":
            assert not [line for line in block.text.splitlines() if re.search(r"(^|\s)#(?!#* [A-Z])", line)]


@pytest.mark.parametrize("page", PAGES)
def test_programs_can_be_pasted_into_a_prompt(page):
    """A prompt needs a blank line after a block."""
    for block in blocks(page):
        if block.language == "python":
            assert not re.search(r"^ .*\n[^ \n)\]}]", block.text, re.MULTILINE), f"{page}:{block.line}"


def test_extras_and_targets_that_pages_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installation = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert [extra for extra in extras if f"`{extra}`" not in installation] == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for names in re.findall(r"(?:mlx-colbert|WHEEL\}?|'\.)\[([\w,]+)\]", text):
            assert set(names.split(",")) <= set(extras), f"{page}: [{names}]"
        for block in blocks(page):
            for target in re.findall(r"^make (\w+)", block.text, re.MULTILINE):
                assert target in targets, f"{page}:{block.line}: make {target}"
