"""Indexes of other engines, imported: their scores, their documents, and what changes afterwards."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from plaid_fixtures import NPY, TORCH, copy_fixture, reference
from word_model import WordModel

from mlx_colbert import import_index
from mlx_colbert.cli import main
from mlx_colbert.convert.indexes import plaid_index
from mlx_colbert.errors import (
    IndexDamagedError,
    IndexStoreError,
    InputError,
    ModelMismatchError,
    TargetExistsError,
)
from mlx_colbert.index import Index, SearchParams
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Retriever

# float32 on both sides; fast-plaid computes in float16, see convert/indexes/plaid_index.py.
TOLERANCES = [*((name, 1e-4) for name in TORCH), *((name, 3e-3) for name in NPY)]
EXACT = SearchParams(exact=True)
# Less than the fixtures hold, 22 documents and more at 256 centroids: every stage leaves some out.
NARROW = SearchParams(n_probe=32, n_approximate=16, n_candidates=8)


@pytest.fixture
def source(tmp_path):
    """Copies a fixture by its name."""
    return lambda name: copy_fixture(name, tmp_path / name)


@pytest.fixture
def imported(tmp_path, source, backend):
    """Imports a fixture and opens it."""
    opened = []

    def of(name):
        import_index(tmp_path / "new", source(name), backend=backend)
        opened.append(Index.open(tmp_path / "new", backend=backend))
        return opened[-1]

    yield of
    for index in opened:
        index.close()


def scores(index, ids, queries):
    """(Q, N) exact scores of the documents of these ids."""
    found = [
        {hit.doc_id: hit.score for hit in index.search(query, 9999, params=EXACT, doc_ids=ids)}
        for query in queries
    ]
    return np.array([[hits[doc_id] for doc_id in ids] for hits in found])


def passages(n, dim, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((n, 30, dim)).astype(np.float32)
    return list(vectors / np.linalg.norm(vectors, axis=2, keepdims=True))


@pytest.mark.parametrize(("name", "tolerance"), TOLERANCES)
def test_scores_are_those_of_the_engine(imported, name, tolerance):
    index = imported(name)
    ids, expected, queries = reference(name)
    assert sorted(index.existing(ids)) == sorted(ids) and len(index) == len(ids)
    np.testing.assert_allclose(scores(index, ids, queries), expected, rtol=0, atol=tolerance)
    assert index.verify() == []


@pytest.mark.parametrize(("name", "tolerance"), TOLERANCES)
def test_search_finds_what_the_engine_ranks_first(imported, name, tolerance):
    index = imported(name)
    ids, expected, queries = reference(name)
    for query, row in zip(queries, expected, strict=True):
        by_id = dict(zip(ids, row, strict=True))
        best = np.sort(row)[::-1][:5]  # two documents within the tolerance may change places
        for params in (None, NARROW):
            hits = index.search(query, 5, params=params)
            np.testing.assert_allclose([by_id[hit.doc_id] for hit in hits], best, rtol=0, atol=2 * tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tolerance"), TOLERANCES)
def test_scores_stay_through_changes_and_compaction(imported, name, tolerance):
    index = imported(name)
    ids, expected, queries = reference(name)
    index.add([f"new {n}" for n in range(150)], passages(150, index.dim))  # enough to be compressed at once
    index.upsert(["new 0", ids[0]], passages(2, index.dim, seed=1))
    index.delete([ids[1], "new 1"])
    for _ in range(2):
        np.testing.assert_allclose(scores(index, ids[2:], queries), expected[:, 2:], rtol=0, atol=tolerance)
        index.compact()
    assert index.verify() == []
    info = index.info()
    assert (info.passages, info.deleted, info.n_centroids) == (len(ids) + 148, 0, 256)
    assert info.compressed_passages == info.passages and info.segments == 1


def test_new_documents_are_found_in_the_imported_codec(imported):
    index = imported("colbert-4")
    vectors = passages(150, index.dim)
    index.add([f"new {n}" for n in range(150)], vectors)
    assert index.info().compressed_passages == 27 + 150
    for n in (0, 70, 149):
        (hit,) = index.search(vectors[n], 1)
        assert hit.doc_id == f"new {n}" and hit.score > 0.9 * 30


def test_texts_metadata_filters_and_keywords_come_along(imported):
    index = imported("fast-plaid-4")
    document = index.get("1")
    assert document.text == "Passage 1 speaks of the number 1."
    assert document.metadata == {"year": 1991, "weight": 0.125}
    _, _, queries = reference("fast-plaid-4")
    found = index.search(queries[0], 100, filter="year >= 2019")
    assert found and all(hit.metadata["year"] >= 2019 for hit in found)
    assert [hit.doc_id for hit in index.search_keywords("900")] == ["28"]


def test_ragatouille_scores_as_colbert_does(imported):
    index = imported("ragatouille")
    _, expected, queries = reference("colbert-2")
    ids = ["tea#1", "tea#2", "tea#3", *(f"doc {n}" for n in range(3, 26))]
    np.testing.assert_allclose(scores(index, ids, queries), expected, rtol=0, atol=1e-4)
    assert index.get("doc 25").text == "Passage 25 speaks of the number 625."


def test_document_of_ragatouille_is_the_source_of_its_passages(imported):
    index = imported("ragatouille")

    assert index.passages_of("tea") == ["tea#1", "tea#2", "tea#3"]
    assert index.get("doc 25").source == "doc 25"
    assert index.delete(source="tea") == 3 and len(index) == 23
    assert index.verify() == []


def test_passages_of_other_engines_have_no_source(imported):
    assert imported("colbert-2").sources() == []


def test_collection_brings_texts(tmp_path, source):
    lines = "".join(f"{pid}\tText of {pid}\n" for pid in range(26))
    (tmp_path / "collection.tsv").write_text(lines)
    found = import_index(tmp_path / "new", source("colbert-2"), collection=tmp_path / "collection.tsv")
    assert (found.passages, found.texts, found.checkpoint) == (26, 26, "colbert-ir/colbertv2.0")
    with Index.open(tmp_path / "new") as index:
        assert index.get("7").text == "Text of 7"


def test_the_model_is_recorded(tmp_path, source):
    found = import_index(tmp_path / "new", source("colbert-2"), WordModel())
    assert (found.engine, found.dim, found.nbits, found.model) == ("colbert", 16, 2, "word-model")
    with Retriever(WordModel(), Index.open(tmp_path / "new")) as retriever:
        assert retriever.index.model == {"source": "word-model", "fingerprint": "words-1"}
        retriever.add(["tea is steeped"], ["tea"])
        assert retriever.search("tea steeped", 1)[0].doc_id == "tea"
        with pytest.raises(InputError, match="has no stored text"):
            retriever.rerank("tea", ["tea", "3"])


def test_a_model_of_another_dimension_is_refused(tmp_path, source):
    with pytest.raises(
        ModelMismatchError, match=r"32 components, but 'word-model' makes 16\. Give the model"
    ):
        import_index(tmp_path / "new", source("colbert-4"), WordModel())
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_left_as_it_is(tmp_path, source):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "thesis.txt").write_text("Mine.")
    with pytest.raises(TargetExistsError, match="Choose a path"):
        import_index(tmp_path / "new", source("colbert-2"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("existed", [False, True])
def test_damage_found_on_the_way_leaves_no_index(tmp_path, source, existed):
    folder = source("fast-plaid-2")
    codes = np.load(folder / "1.codes.npy")
    codes[-1] = 256
    np.save(folder / "1.codes.npy", codes)
    if existed:
        (tmp_path / "new").mkdir()
    with pytest.raises(IndexDamagedError, match="a code names none of the 256 centroids"):
        import_index(tmp_path / "new", folder)
    assert (tmp_path / "new").exists() == existed and not list(tmp_path.glob("new/*"))


@pytest.mark.parametrize(
    ("raised", "told", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(5, "Input/output error"), IndexStoreError, "colbert-2: cannot be read: Input/output error"),
    ],
)
def test_an_import_that_stops_leaves_no_index(tmp_path, source, monkeypatch, raised, told, message):
    def stopped(self):
        raise raised
        yield

    monkeypatch.setattr(plaid_index.PlaidIndex, "blocks", stopped)
    with pytest.raises(told, match=message):
        import_index(tmp_path / "new", source("colbert-2"))
    assert not (tmp_path / "new").exists()


def test_a_killed_import_leaves_an_index_without_documents(tmp_path, source):
    code = (
        "import os, sys; from mlx_colbert import import_index\n"
        "from mlx_colbert.index.writing import merge_policy, segment_writer\n"
        "merge_policy.LARGEST_TOKENS, written = 100, segment_writer.write_compressed\n"
        "def write(root, number, label, **rest):\n"
        "    return os._exit(9) if number == 3 else written(root, number, label, **rest)\n"
        "segment_writer.write_compressed = write\n"
        "import_index(*sys.argv[1:], backend='numpy')"
    )
    arguments = [sys.executable, "-c", code, tmp_path / "new", source("colbert-2")]
    assert subprocess.run(arguments, check=False).returncode == 9
    assert (tmp_path / "new" / "segment-000002").exists()
    with Index.open(tmp_path / "new", backend="numpy") as index:
        assert (len(index), index.info().n_centroids, index.verify()) == (0, 0, [])


class TestCommand:
    def test_tells_what_was_imported_and_what_is_missing(self, tmp_path, source, capsys):
        assert main(["import-index", str(source("colbert-2")), "--index", str(tmp_path / "new")]) == 0
        assert capsys.readouterr().out == (
            f"{tmp_path / 'new'}: 26 passages of colbert imported.\n"
            "It records no model: search with --model; the old index names colbert-ir/colbertv2.0.\n"
            "It has no texts, because the old index has none. Import it with --collection to add them.\n"
        )

    def test_json(self, tmp_path, source, capsys):
        arguments = [str(source("fast-plaid-4")), "--index", str(tmp_path / "new"), "--json"]
        assert main(["import-index", *arguments]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "index": str(tmp_path / "new"),
            "engine": "fast-plaid",
            "passages": 29,
            "texts": 29,
            "dim": 16,
            "nbits": 4,
            "checkpoint": None,
            "model": None,
        }

    def test_search_needs_a_model_or_finds_the_recorded_one(self, tmp_path, source, capsys, monkeypatch):
        monkeypatch.setattr(ColBERT, "load", lambda source, *, backend, revision=None: WordModel("1", source))
        old = str(source("pylate-fast"))
        assert main(["import-index", old, "--index", str(tmp_path / "a")]) == 0
        assert main(["import-index", old, "--index", str(tmp_path / "b"), "--model", "words"]) == 0
        capsys.readouterr()
        assert main(["search", "tea", "--index", str(tmp_path / "a")]) == 1
        assert "does not record its model. Give the model" in capsys.readouterr().err
        assert main(["search", "tea", "--index", str(tmp_path / "b"), "-k", "2"]) == 0
        # Ids alone: there are no texts.
        assert re.fullmatch(r"( [12]  \S+  -?\d\.\d+\n\n?){2}", capsys.readouterr().out)

    def test_what_is_no_index_is_an_error_in_a_line(self, tmp_path, capsys):
        for folder in (tmp_path, tmp_path / "nowhere"):
            assert main(["import-index", str(folder), "--index", str(tmp_path / "new")]) == 1
            assert re.fullmatch(r"mlx-colbert: error: index .*\n", capsys.readouterr().err)
        assert not (tmp_path / "new").exists()
