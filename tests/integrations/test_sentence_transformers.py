"""A ColBERT where sentence-transformers and PyLate expect a model of theirs, and embeddings both ways."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch, of the extra [sentence-transformers], is not installed")
sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6")

from mlx_colbert import ColBERT, Index, TokenEmbeddings, maxsim  # noqa: E402
from mlx_colbert.errors import InputError  # noqa: E402
from mlx_colbert.integrations.sentence_transformers import TorchColBERT  # noqa: E402

QUERIES = {"q1": "green leaves", "q2": "white snow", "q3": "black coal"}
DOCUMENTS = {
    f"d{n}": f"document {n} of {colour} things" for n, colour in enumerate(["green", "white", "black"] * 5)
}


@pytest.fixture(scope="module")
def folder():
    from pathlib import Path

    return Path(__file__).parents[1] / "data" / "checkpoints" / "native-bert"


@pytest.fixture
def model(folder):
    return ColBERT.load(folder, backend="numpy")


@pytest.fixture
def adapter(model):
    return TorchColBERT(model)


@pytest.fixture(scope="module")
def reference(folder):
    return sentence_transformers.MultiVectorEncoder(str(folder), device="cpu")


def test_embeddings_and_scores_are_those_of_sentence_transformers(adapter, reference):
    queries, documents = list(QUERIES.values()), list(DOCUMENTS.values())
    for task, texts in (("query", queries), ("document", documents)):
        ours = getattr(adapter, f"encode_{task}")(texts)
        theirs = getattr(reference, f"encode_{task}")(texts)
        for left, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(left, right, atol=1e-5, rtol=0)
    pair = adapter.encode_query(queries), adapter.encode_document(documents)
    torch.testing.assert_close(adapter.similarity(*pair), reference.similarity(*pair), atol=1e-4, rtol=0)
    same = adapter.similarity_pairwise(pair[0], pair[1][:3])
    torch.testing.assert_close(same, reference.similarity_pairwise(pair[0], pair[1][:3]), atol=1e-4, rtol=0)


def test_padded_tensors_score_as_lists(adapter):
    queries = adapter.encode_query(["green", "a much longer query of several words"])
    documents = adapter.encode_document(["short", "a longer document of some words"])
    padded = [torch.nn.utils.rnn.pad_sequence(part, batch_first=True) for part in (queries, documents)]

    torch.testing.assert_close(adapter.similarity(*padded), adapter.similarity(queries, documents))


def test_evaluators_give_what_they_give_with_the_original(adapter, reference, tmp_path):
    from sentence_transformers.multi_vector_encoder import evaluation

    relevant = {"q1": {"d0", "d3"}, "q2": {"d1"}, "q3": {"d2", "d5"}}
    retrieval = evaluation.MultiVectorInformationRetrievalEvaluator(
        QUERIES, DOCUMENTS, relevant, write_csv=False
    )
    samples = [
        {
            "query": QUERIES["q1"],
            "positive": [DOCUMENTS["d0"]],
            "negative": [DOCUMENTS["d1"], DOCUMENTS["d2"]],
        }
    ]
    reranking = evaluation.MultiVectorRerankingEvaluator(samples, write_csv=False)
    one_by_one = evaluation.MultiVectorRerankingEvaluator(
        samples, write_csv=False, use_batched_encoding=False
    )
    triplets = evaluation.MultiVectorTripletEvaluator(
        list(QUERIES.values()), [DOCUMENTS["d0"]] * 3, [DOCUMENTS["d1"]] * 3, write_csv=False
    )
    for evaluator in (retrieval, reranking, one_by_one, triplets):
        assert evaluator(adapter) == pytest.approx(evaluator(reference), abs=1e-6)


def test_pylate_reranks_and_evaluates(adapter):
    rank = pytest.importorskip("pylate.rank", reason="PyLate is not installed")
    documents = [["green leaves", "coal"], ["coal", "snow", "white snow"]]
    ids = [["a", "b"], [1, 2, 3]]
    queries = ["green leaves", "white snow"]

    results = rank.rerank(
        documents_ids=ids,
        queries_embeddings=adapter.encode(sentences=queries, is_query=True, batch_size=1),
        documents_embeddings=adapter.encode(sentences=documents, is_query=False, batch_size=1),
    )
    for query, texts, names, result in zip(queries, documents, ids, results, strict=True):
        expected = adapter.model.rerank(query, texts)
        assert [entry["id"] for entry in result] == [names[int(hit.doc_id)] for hit in expected]
        assert [entry["score"] for entry in result] == pytest.approx(
            [hit.score for hit in expected], abs=1e-4
        )


def test_one_text_gives_one_tensor_and_lists_give_lists(adapter, model):
    assert torch.equal(
        adapter.encode("tea", is_query=False), torch.from_numpy(model.encode_document("tea").copy())
    )
    assert isinstance(adapter.encode(["tea"], task="query", convert_to_numpy=True)[0], np.ndarray)
    nested = adapter.encode([["tea", "milk"], ["coffee"]], is_query=False)
    assert [len(part) for part in nested] == [2, 1] and torch.equal(
        nested[1][0], adapter.encode_document("coffee")
    )
    assert adapter.encode([], task="query") == []


def test_documents_are_pooled_and_queries_are_not(adapter):
    text = "a longer document of some more words for the clusters"
    whole, pooled = (adapter.encode(text, is_query=False, pool_factor=factor) for factor in (1, 2))
    assert len(pooled) < len(whole)
    assert torch.equal(
        adapter.encode(text, is_query=True, pool_factor=2), adapter.encode(text, is_query=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"task": "passage"},
        {"is_query": True, "prompt": "search: "},
        {"is_query": True, "prompt_name": "query"},
        {"is_query": True, "precision": "int8"},
        {"is_query": True, "output_value": None},
    ],
)
def test_what_cannot_be_done_is_an_error_and_not_ignored(adapter, options):
    with pytest.raises(InputError):
        adapter.encode(["tea"], **options)


def test_embeddings_of_sentence_transformers_are_taken_everywhere(reference, model, tmp_path):
    queries = reference.encode_query(list(QUERIES.values()))
    documents = reference.encode_document(list(DOCUMENTS.values()))
    expected = reference.similarity(queries, documents).numpy()

    for convert in (list, tuple, TokenEmbeddings.pack, lambda parts: [part.numpy() for part in parts]):
        np.testing.assert_allclose(
            model.similarity(convert(queries), convert(documents)), expected, atol=1e-4
        )
        np.testing.assert_allclose(maxsim(convert(queries), convert(documents)), expected, atol=1e-4)
    halves = [part.to(torch.bfloat16) for part in documents]
    np.testing.assert_allclose(model.similarity(queries, halves), expected, atol=0.2)
    with Index.create(tmp_path / "index", 16) as index:
        index.add(list(DOCUMENTS), documents)
        for query, row in zip(queries, expected, strict=True):
            (hits,) = index.search([query], k=20)
            assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(
                dict(zip(DOCUMENTS, row.tolist(), strict=True)), abs=0.01
            )
