"""Token embeddings, as the clients of others ask for them."""

import base64

import httpx
import numpy as np
import pytest

from mlx_colbert.server.settings import Limits

TEXTS = ["Who wrote it?", "Harper Lee wrote it.", ""]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(one, np.float32), other, atol=1e-5)


def from_base64(text, dim):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, dim)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/multi-vector"])
@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({}, "document"),
        ({"input_type": "document"}, "document"),
        ({"input_type": "query"}, "query"),
        ({"task": "retrieval.query"}, "query"),
        ({"task": "retrieval.passage"}, "document"),
    ],
)
def test_vectors_are_those_of_the_model(client, model, path, options, task):
    answer = client.post(path, json={"input": TEXTS, **options}).json()
    expected = model.encode_query(TEXTS) if task == "query" else model.encode_document(TEXTS)
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    assert_same([item["embeddings"] for item in answer["data"]], expected)


def test_vectors_in_base64_are_exact(client, model):
    answer = client.post("/v1/embeddings", json={"input": TEXTS, "embedding_type": "base64"}).json()
    found = [
        np.concatenate([from_base64(row, model.dim) for row in item["embeddings"]]) for item in answer["data"]
    ]
    assert_same(found, model.encode_document(TEXTS))


def test_decimals_are_those_of_float32(client):
    body = {"input": TEXTS[1]}
    rows = client.post("/pooling", json=body).json()["data"][0]["data"]
    exact = client.post("/pooling", json={**body, "encoding_format": "base64"}).json()["data"][0]["data"]
    exact = from_base64(exact, len(rows[0]))
    # Half a step of a float32 between 0.5 and 1.
    np.testing.assert_allclose(np.array(rows), exact, rtol=0, atol=2**-25)


def test_one_text_and_texts_as_objects(client):
    one = client.post("/v1/embeddings", json={"input": "tea"}).json()
    other = client.post("/v1/embeddings", json={"input": [{"text": "tea"}]}).json()
    assert one["data"] == other["data"]


@pytest.mark.parametrize(
    ("path", "change", "status", "detail"),
    [
        ("/v1/embeddings", {"dimensions": 7}, 422, "the model has 16, not 7"),
        ("/v1/embeddings", {"input": []}, 422, "input"),
        ("/v1/embeddings", {"embedding_type": "ubinary"}, 422, "embedding_type"),
        ("/v1/embeddings", {"late_chunking": True}, 422, "late_chunking"),
        ("/v1/embeddings", {"model": "other"}, 404, "'other' is not served here"),
        ("/v1/embeddings", {"input_type": "query", "task": "retrieval.passage"}, 422, "differ"),
        ("/pooling", {"dimensions": 7}, 422, "the model has 16, not 7"),
        ("/pooling", {"input": None}, 422, "either input or messages"),
        ("/pooling", {"messages": [{"role": "user", "content": "a"}]}, 422, "either input or messages"),
        ("/pooling", {"input": [[1, 2]]}, 422, "input"),
        ("/pooling", {"task": "classify"}, 422, "task"),
        ("/pooling", {"model": "other"}, 404, "'other' is not served here"),
    ],
)
def test_what_cannot_be_done_is_refused(client, path, change, status, detail):
    answer = client.post(path, json={"input": TEXTS, **change})
    assert answer.status_code == status and detail in answer.json()["detail"]


def test_answer_that_would_be_too_large_is_refused(make_client):
    client = make_client(limits=Limits(n_values=100))
    answer = client.post("/pooling", json={"input": TEXTS})
    assert answer.status_code == 422 and "at most 100 are allowed" in answer.json()["detail"]


def test_pooling_reads_the_prefix_that_a_client_writes(client, model):
    settings = model.config.colbert
    texts = [f"{settings.query_prefix}tea", f"{settings.document_prefix}tea", "tea"]
    data = client.post("/pooling", json={"input": texts}).json()["data"]
    expected = [model.encode_query("tea"), model.encode_document("tea"), model.encode_document("tea")]
    assert_same([item["data"] for item in data], expected)
    data = client.post("/pooling", json={"input": ["tea"], "input_type": "query"}).json()["data"]
    assert_same([data[0]["data"]], expected[:1])


def test_prefixes_are_told_when_the_model_is_loaded(client):
    before = client.get("/v1/models").json()["data"][0]
    client.post("/pooling", json={"input": "tea"})
    after = client.get("/v1/models").json()["data"][0]
    assert before["id"] == after["id"] == "native-bert" and before["query_prefix"] is None
    assert (after["query_prefix"], after["document_prefix"]) == ("[Q] ", "[D] ")


def test_messages_are_one_text(client, model):
    content = [{"type": "text", "text": "tea"}]
    answer = client.post("/pooling", json={"messages": [{"role": "user", "content": content}]}).json()
    assert_same([answer["data"][0]["data"]], [model.encode_document("tea")])
    content = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    assert (
        client.post("/pooling", json={"messages": [{"role": "user", "content": content}]}).status_code == 422
    )


def test_what_mteb_sends_is_answered_as_it_reads_it(serve, model):
    """`OpenAIAPITokenEmbedWrapper` of mteb 2.26 asks for the models, then sends texts with or without messages."""
    url, name = serve().url, "native-bert"
    found = httpx.get(f"{url}/v1/models").json()
    assert name in [item["id"] for item in found["data"]]

    def pooled(payload):
        result = httpx.post(f"{url}/pooling", json={"model": name, **payload}).json()
        by_index = {item["index"]: np.array(item["data"], dtype=np.float32) for item in result["data"]}
        return [by_index[number] for number in range(len(result["data"]))]

    settings = model.config.colbert
    queries = [settings.query_prefix + text for text in TEXTS]
    assert_same(pooled({"input": queries}), model.encode_query(TEXTS))
    documents = [settings.document_prefix + text for text in TEXTS]
    assert_same(pooled({"input": documents}), model.encode_document(TEXTS))
    message = {"role": "user", "content": [{"type": "text", "text": documents[1]}]}
    assert_same(pooled({"messages": [message]}), model.encode_document(TEXTS[1:2]))


def test_request_as_jina_documents_it_works(serve, model):
    body = {
        "model": "native-bert",
        "dimensions": model.dim,
        "input_type": "document",
        "embedding_type": "float",
        "input": TEXTS,
    }
    answer = httpx.post(f"{serve().url}/v1/multi-vector", json=body).json()
    assert_same([item["embeddings"] for item in answer["data"]], model.encode_document(TEXTS))
