"""The commands on a store of another engine, and how it is found where it is."""

from __future__ import annotations

import json

import pytest
from made_stores import ENGINES, location

from mlx_colbert.cli import main
from mlx_colbert.errors import InputError, MissingExtraError, TargetExistsError
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.store import open_store


@pytest.fixture(params=ENGINES)
def place(request, tmp_path, data):
    found = location(request.param, tmp_path / "store")
    with Retriever.create(found, data / "checkpoints" / "pylate-bert", backend="numpy") as retriever:
        retriever.add(
            ["Tea is steeped.", "Coffee is brewed."], ["tea", "coffee"], metadata=[{"n": 1}, {"n": 2}]
        )
    return found


def said(capsys, *words):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_search_and_add_work_on_a_store(place, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "water.md").write_text("Water boils.")

    assert said(capsys, "add", str(tmp_path / "notes"), "--index", place, "--upsert")["passages"] == 3
    for mode in ("semantic", "keyword", "hybrid"):
        found = said(capsys, "search", "coffee brewed", "--index", place, "--mode", mode, "-k", "1")
        assert (found["hits"][0]["doc_id"], found["notes"]) == ("coffee", [])
    found = said(capsys, "search", "tea", "--index", place, "--filter", "n = 1")
    assert [hit["doc_id"] for hit in found["hits"]] == ["tea"]
    found = said(capsys, "search", "tea", "--index", place, "--filter", "m = 1")
    assert found["hits"] == [] and "No passage has a field" in found["notes"][0]
    assert said(capsys, "search", "water", "--index", place, "--mode", "keyword")["hits"][0]["source"]
    assert said(capsys, "explain", "tea", "tea", "--index", place)


def test_retriever_continues_a_store_and_makes_none_from_files(place, tmp_path, data):
    model = data / "checkpoints" / "pylate-bert"
    with pytest.raises(TargetExistsError):
        Retriever.create(place, model, backend="numpy")
    with Retriever.create(place, model, backend="numpy", exist_ok=True) as retriever:
        assert len(retriever) == 2
    with pytest.raises(InputError, match=r"Use Retriever.create, then add_files"):
        Retriever.from_files(place + "2", model, tmp_path)


@pytest.mark.parametrize("engine", ["lancedb", "qdrant"])
def test_a_missing_extra_is_named(engine, tmp_path, monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules, {"lancedb": "lancedb", "qdrant": "qdrant_client"}[engine], None
    )
    with pytest.raises(MissingExtraError, match=rf"pip install 'mlx-colbert\[{engine}\]'"):
        open_store(f"{engine}://{tmp_path}")
