"""Documents in order, as the clients of others ask for them."""

import math

import cohere
import httpx
import numpy as np
import pytest

QUERY, DOCUMENTS = "Who wrote it?", ["No.", "Harper Lee wrote it.", "", "Water boils at 100 degrees."]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_order_and_scores_are_those_of_the_model(client, model, path):
    answer = client.post(path, json={"query": QUERY, "documents": DOCUMENTS}).json()
    expected = model.rerank(QUERY, DOCUMENTS)
    rows = len(model.encode_query(QUERY))
    assert [result["index"] for result in answer["results"]] == [int(hit.doc_id) for hit in expected]
    for result, hit in zip(answer["results"], expected, strict=True):
        assert math.isclose(result["relevance_score"], hit.score / rows, abs_tol=1e-5)
        assert 0 <= result["relevance_score"] <= 1 and "document" not in result
    assert answer["model"] == "native-bert" and answer["usage"]["total_tokens"] > 0


def test_top_n_and_documents(client):
    body = {
        "query": QUERY,
        "documents": ["No.", {"text": "Yes.", "year": 7}],
        "top_n": 5,
        "return_documents": True,
    }
    results = client.post("/rerank", json=body).json()["results"]
    found = {result["index"]: result["document"] for result in results}
    assert found == {0: {"text": "No."}, 1: {"text": "Yes."}}
    assert len(client.post("/rerank", json={**body, "top_n": 1}).json()["results"]) == 1


def test_truncated_documents_are_counted(client):
    answer = client.post("/rerank", json={"query": QUERY, "documents": ["tea " * 2000, "tea"]}).json()
    assert "The end of 1 document of more than" in answer["meta"]["warnings"][0]


@pytest.mark.parametrize(
    ("change", "status", "detail"),
    [
        ({"documents": []}, 422, "documents"),
        ({"top_n": 0}, 422, "top_n"),
        ({"model": "gpt-2"}, 404, "'gpt-2' is not served here"),
        ({"documents": ["a"] * 1001}, 422, "1,001 texts; at most 1,000"),
        ({"documents": ["a", "b" * 100_001]}, 422, "text 1 has 100,001 characters"),
        ({"query": "b" * 100_001}, 422, "query"),
        ({"documents": [1]}, 422, "documents"),
        ({"documents": [{"txt": "a"}]}, 422, "documents"),
        ({"rank_fields": ["title"]}, 422, "rank_fields"),
    ],
)
def test_what_cannot_be_done_is_refused(client, change, status, detail):
    answer = client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS, **change})
    assert answer.status_code == status and detail in answer.json()["detail"]


def test_too_many_tokens_are_refused_before_they_are_encoded(make_client):
    from mlx_colbert.server.settings import Limits

    client = make_client(limits=Limits(n_tokens=50))
    answer = client.post("/rerank", json={"query": "a", "documents": ["tea " * 20] * 4})
    assert answer.status_code == 422 and "at most 50 are allowed" in answer.json()["detail"]


def test_client_of_cohere_works(serve):
    server = serve(api_key="0123456789abcdef")
    with cohere.ClientV2(base_url=server.url, api_key="0123456789abcdef") as client:
        found = client.rerank(
            model="native-bert", query=QUERY, documents=DOCUMENTS, top_n=3, max_tokens_per_doc=4096
        )
        assert len(found.results) == 3 and found.meta.tokens.input_tokens > 0 and found.id
        scores = [result.relevance_score for result in found.results]
        assert scores == sorted(scores, reverse=True) and 0 <= min(scores) and max(scores) <= 1
        with pytest.raises(cohere.errors.NotFoundError, match="is not served here"):
            client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS)
    with cohere.ClientV2(base_url=server.url, api_key="wrong") as client:
        with pytest.raises(cohere.errors.UnauthorizedError, match="key is missing or wrong"):
            client.rerank(model="native-bert", query=QUERY, documents=DOCUMENTS)


def test_request_as_jina_documents_it_works(serve):
    body = {
        "model": "native-bert",
        "query": QUERY,
        "documents": DOCUMENTS,
        "top_n": 2,
        "return_documents": True,
    }
    answer = httpx.post(f"{serve().url}/v1/rerank", json=body, headers={"Authorization": "Bearer any"}).json()
    assert answer.keys() >= {"model", "usage", "results"}
    for result in answer["results"]:
        assert result["document"]["text"] == DOCUMENTS[result["index"]]
        assert isinstance(result["relevance_score"], float)


def test_negative_similarity_is_a_score_of_zero(client, model):
    from mlx_colbert.server.routes.rerank import relevance
    from mlx_colbert.types import TokenEmbeddings

    query = np.eye(model.dim, dtype=np.float32)[:1]
    documents = TokenEmbeddings.pack([-query, query])
    assert relevance(model, TokenEmbeddings.pack([query]), documents).tolist() == [0.0, 1.0]
