"""The programs in the pages on other programs run."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from mlx_colbert.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = ["docs/integrations.md", "docs/ragatouille.md"]


def blocks(language, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def missing(program):
    """The packages that a program imports and that are not installed."""
    names = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return sorted(name for name in names if importlib.util.find_spec(name) is None)


@pytest.fixture
def workspace(tmp_path, monkeypatch, answerai):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "answerai-colbert-small-v1").symlink_to(answerai)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(program):
    exec(compile(program, "<page>", "exec"), {"__name__": "__main__"})


PROGRAMS = [(page, program) for page in PAGES for program in blocks("python", page)]
# What each program prints, by a word that is in it alone.
PRINTED = {
    "Herman Melville wrote": ["Steep black tea for three minutes."],
    "MultiVectorRerankingEvaluator": ["1.0"],
    "Reranker(": ["tea"],
    "pandas": ["tea"],
    "asyncio": ["tea"],
    'index_name="mockingbird"': [
        "1 'To Kill a Mockingbird' is a novel by Ha",
        "2 Harper Lee, an American novelist widely ",
    ],
}


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_each_program_of_a_page_runs_alone(page, program, workspace, capsys):
    if names := missing(program):
        pytest.skip(f"not installed: {', '.join(names)}")

    run(program)
    (expected,) = (lines for word, lines in PRINTED.items() if word in program)
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("page", PAGES)
def test_commands_run(page, workspace, capsys):
    for block in blocks("bash", page):
        for line in block.splitlines():
            program, *arguments = line.split()
            assert program == "mlx-colbert" and main(arguments) == 0, capsys.readouterr().err
