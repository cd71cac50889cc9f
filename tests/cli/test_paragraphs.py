"""Messages and tables for people: no endless path, no line that is wider than the terminal."""

from __future__ import annotations

import json
import sys

import pytest
from word_model import WordModel

from mlx_colbert.cli import main
from mlx_colbert.cli.paragraphs import paragraphs
from mlx_colbert.cli.terminal import width_of
from mlx_colbert.model.colbert import ColBERT

SENTENCE = "  not read  /notes/report.pdf: is damaged, and the reason is told in a long sentence."


@pytest.fixture
def on_terminal(monkeypatch):
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)


def test_pipe_gets_each_line_whole():
    assert paragraphs([SENTENCE * 3, "b"]) == f"{SENTENCE * 3}\nb"


@pytest.mark.parametrize("columns", [40, 80])
def test_terminal_gets_lines_that_fit_with_an_indent(on_terminal, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))

    first, *others = paragraphs([SENTENCE * 2], hang=12).split("\n")

    assert max(map(width_of, [first, *others])) <= columns
    assert first.startswith("  not read  /notes/report.pdf") and len(others) >= 2
    assert all(line.startswith(" " * 12) and line[12] != " " for line in others)
    assert " ".join([first, *others]).split() == (SENTENCE * 2).split()


def test_path_without_end_loses_its_middle():
    path = "/" + "/".join(["folder"] * 600) + "/report.pdf"

    told = paragraphs([f"x {path}: is damaged."])

    assert told.startswith("x /folder/") and told.endswith("/report.pdf: is damaged.")
    assert "…" in told and len(told) < 200
    assert len(paragraphs(["a folder " * 500 + "end"])) == 1000


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(ColBERT, "load", lambda source, **rest: WordModel(source=str(source)))

    def call(*words):
        capsys.readouterr()
        code = main([*map(str, words)])
        return code, *capsys.readouterr()

    return call


def test_tables_and_errors_shorten_paths_and_json_does_not(run, tmp_path):
    folder = tmp_path / "notes"
    deep = folder
    for _ in range(12):
        deep = deep / ("deep" * 20)
    deep.mkdir(parents=True)
    (deep / "bad.md").write_bytes(b"a\0b" * 20)

    code, shown, _ = run("sync", folder, "--model", "words")
    assert code == 1 and "bad.md: " in shown and max(map(len, shown.splitlines())) < 250
    assert max(map(len, run("status")[1].splitlines())) < 250
    _, _, told = run("get", deep / "none.md")
    assert max(map(len, told.splitlines())) < 400
    assert str(deep / "bad.md") in json.loads(run("status", "--json")[1])["collections"][0]["failed"]


def test_no_line_is_wider_than_the_terminal(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "bad.md").write_bytes(b"a\0b")
    (tmp_path / "n" / "a.md").write_text("tea")
    run("sync", "n", "--model", "words")
    run("context", "n", "What I have written about tea and cake in the last ten years, and more.")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    for words in (
        ["sync"],
        ["context"],
        ["get", "no"],
        ["search", "tea", "-c", "nothing"],
        ["config", "set", "x", "1"],
    ):
        _, shown, told = run(*words)
        lines = (shown + told).splitlines()
        assert lines and all(len(line) <= 40 or " " not in line.strip() for line in lines), words
