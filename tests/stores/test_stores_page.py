"""The program and the commands of docs/stores.md run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mlx_colbert.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "stores.md").read_text(encoding="utf-8")


@pytest.fixture
def workspace(tmp_path, monkeypatch, data):
    (tmp_path / "demo").mkdir()
    # A small model in place of the real one.
    (tmp_path / "demo" / "answerai-colbert-small-v1").symlink_to(data / "checkpoints" / "pylate-bert")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLX_COLBERT_BACKEND", "numpy")


def test_the_program_runs_twice(workspace, capsys):
    pytest.importorskip("lancedb")
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for _ in range(2):
        exec(program, {})
        assert capsys.readouterr().out == "tea Steep black tea for three minutes.\n"


def test_the_commands_run(workspace, capsys):
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]
    # Parquet needs pyarrow; test_export.py has its way there and back.
    own = [
        shlex.split(line)[1:] for line in lines if line.startswith("mlx-colbert ") and "parquet" not in line
    ]
    assert len(own) == 3
    for words in own:
        assert main(words) == 0, capsys.readouterr().err
