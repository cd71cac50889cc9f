"""llm: fragments and a tool."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("llm", reason="the extra [llm] is not installed")

import llm
from llm.plugins import load_plugins, pm

from mlx_colbert.errors import CollectionNotFoundError
from mlx_colbert.integrations import llm as plugin


@pytest.fixture
def registered():
    load_plugins()
    # The entry point of an installed package has done it.
    name = None if pm.is_registered(plugin) else pm.register(plugin)
    yield
    if name is not None:
        pm.unregister(plugin)


def test_fragments_are_passages_with_their_places(registered, collection, tmp_path):
    found = llm.get_fragment_loaders()["colbert"]("how do bees dance")

    path = (tmp_path / "notes" / "bees.md").resolve()
    assert len(found) == 2
    assert any("Bees dance" in text and text.source.startswith(f"{path}:") for text in found)


def test_tool_returns_passages_with_their_places(registered, collection, tmp_path):
    tool = llm.get_tools()["colbert_search"]

    text = tool.implementation("how do bees dance")

    assert tool.input_schema["properties"] == {"query": {"type": "string"}}
    assert f"{(tmp_path / 'notes' / 'bees.md').resolve()}:" in text and "Bees dance" in text


def test_without_a_collection_the_error_is_ours(registered, monkeypatch, tmp_path):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "empty"))

    with pytest.raises(CollectionNotFoundError, match="no collection yet"):
        plugin.colbert_fragments("why")


def test_start_of_llm_loads_nothing_heavy():
    code = (
        "import mlx_colbert.integrations.llm, sys;"
        "print([m for m in ('mlx.core', 'tokenizers', 'transformers', 'mlx_colbert.index')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
