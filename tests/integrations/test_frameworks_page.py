"""The programs of docs/frameworks.md run where their framework is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
# The heading of each section, and the module that its programs need.
NEEDS = {"LangChain": "langchain_core", "LlamaIndex": "llama_index.core", "Haystack": "haystack"}


def programs(section):
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def workspace(tmp_path, monkeypatch, model_folder):
    """A folder like the repository's root after `make demo`, with a collection, and a tiny model."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "answerai-colbert-small-v1").symlink_to(model_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLX_COLBERT_BACKEND", "numpy")
    settings = CollectionSettings(model=str(model_folder)).with_folder(ROOT / "examples" / "data" / "notes")
    with Collection(Registry().create(settings, "notes"), backend="numpy") as notes:
        notes.sync()


@pytest.mark.parametrize("section", NEEDS)
def test_programs_run_and_may_run_twice(workspace, capsys, section):
    pytest.importorskip(NEEDS[section], reason=f"{section} is not installed")

    for program in programs(section) * 2:
        exec(program, {})
        assert capsys.readouterr().out.strip()


def test_every_program_is_in_a_section_that_runs():
    assert sum(len(programs(section)) for section in NEEDS) == PAGE.count("```python") > 0
