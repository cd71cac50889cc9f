"""The ranker of the package rerankers."""

import asyncio

import pytest

pytest.importorskip("rerankers", reason="rerankers, the extra [rerankers], is not installed")

from rerankers import Document, Reranker

from mlx_colbert import ColBERT
from mlx_colbert.errors import InputError
from mlx_colbert.integrations.rerankers import ColBERTRanker

TEXTS = ["Leaves are green.", "Snow is white.", "Coal is black."]


@pytest.fixture
def model(data):
    return ColBERT.load(data / "checkpoints" / "pylate-bert", backend="numpy")


@pytest.fixture
def ranker(data):
    folder = str(data / "checkpoints" / "pylate-bert")
    return Reranker(folder, model_type="mlx-colbert", verbose=0, backend="numpy")


def test_results_are_those_of_rerank(ranker, model):
    results = ranker.rank("white snow", TEXTS, doc_ids=["a", "b", "c"], metadata=[{"n": n} for n in range(3)])

    expected = model.rerank("white snow", TEXTS, doc_ids=["a", "b", "c"])
    assert [(r.rank, r.score, r.doc_id, r.text) for r in results] == [
        (hit.rank, hit.score, hit.doc_id, hit.text) for hit in expected
    ]
    assert [r.metadata["n"] for r in results] == ["abc".index(hit.doc_id) for hit in expected]
    assert results.top_k(2)[0].doc_id == expected[0].doc_id
    assert results.get_score_by_docid("c") == next(hit.score for hit in expected if hit.doc_id == "c")


def test_documents_keep_their_ids_and_metadata_and_are_not_changed(model):
    documents = [Document(text, doc_id=n + 10, metadata={"n": n}) for n, text in enumerate(TEXTS)]
    results = ColBERTRanker(model).rank("snow", documents)

    assert {(r.doc_id, r.metadata["n"]) for r in results} == {(10, 0), (11, 1), (12, 2)}
    ColBERTRanker(model).rank("snow", documents, doc_ids=["x", "y", "z"])
    assert [document.doc_id for document in documents] == [10, 11, 12]


def test_without_ids_documents_have_their_positions(ranker):
    assert {r.doc_id for r in ranker.rank("snow", TEXTS)} == {0, 1, 2}
    assert [r.doc_id for r in ranker.rank("snow", TEXTS[0])] == [0]
    assert ranker.rank("snow", []).results == []


def test_score_and_asynchronous_rank(ranker, model):
    assert ranker.score("snow", TEXTS[1]) == model.rerank("snow", TEXTS[1:2])[0].score
    results = asyncio.run(ranker.rank_async("snow", TEXTS))
    assert [r.doc_id for r in results] == [r.doc_id for r in ranker.rank("snow", TEXTS)]


def test_numbers_that_differ_are_an_error(ranker):
    with pytest.raises(InputError, match="doc_ids"):
        ranker.rank("snow", TEXTS, doc_ids=[1, 2])
    with pytest.raises(InputError, match="metadata"):
        ranker.rank("snow", TEXTS, metadata=[{}])
