"""What a client is told about the fields of its request."""

import pytest


@pytest.mark.parametrize(
    ("path", "body", "field", "reason"),
    [
        ("/search", {}, "body.query", "is missing. Add it."),
        ("/search", {"query": 5}, "body.query", "5 is not allowed. Give a text."),
        ("/search", {"query": ""}, "body.query", "'' is too short. Give 1 or more characters."),
        (
            "/search",
            {"query": "a" * 10_001},
            "body.query",
            "the text has 10,001 characters. Give 10,000 or fewer.",
        ),
        ("/search", {"query": "a", "k": "x" * 300}, "body.k", "is not allowed. Give a whole number."),
        ("/search", {"query": "a", "k": 2.5}, "body.k", "2.5 is not allowed. Give a whole number."),
        ("/search", {"query": "a", "k": 0}, "body.k", "0 is too small. Give 1 or more."),
        ("/search", {"query": "a", "k": 1001}, "body.k", "1001 is too large. Give 1000 or less."),
        ("/search", {"query": "a", "all": []}, "body.all", "a list of 0 is not allowed. Give true or false."),
        ("/search", {"query": "a", "in": {"b": 1}}, "body.in", "an object is not allowed. Give a list."),
        ("/search", {"query": "a", "in": ["b", None]}, "body.in.1", "null is not allowed. Give a text."),
        (
            "/search",
            {"query": "a", "in": ["b"] * 101},
            "body.in",
            "the list has 101 items. Give 100 or fewer.",
        ),
        (
            "/search",
            {"query": "a", "tea": 1},
            "body.tea",
            "is not a field of this request. Correct its name, or leave it out.",
        ),
        (
            "/search",
            {"query": "a", "mode": "best"},
            "body.mode",
            "'best' is not allowed. Give 'semantic', 'keyword' or 'hybrid'.",
        ),
        ("/search", [1], "body", "a list of 1 is not allowed. Give an object."),
        (
            "/rerank",
            {"query": "a", "documents": []},
            "body.documents",
            "the list has 0 items. Give 1 or more.",
        ),
        (
            "/rerank",
            {"query": "a", "documents": ["b", 5]},
            "body.documents.1",
            "5 is not allowed. Give a text or an object.",
        ),
        (
            "/rerank",
            {"query": "a", "documents": [{"title": "b"}]},
            "body.documents.0.text",
            "is missing. Add it.",
        ),
        ("/v1/embeddings", {"input": 5}, "body.input", "5 is not allowed. Give a text or a list."),
        (
            "/v1/embeddings",
            {"input": "a", "normalized": False},
            "body.normalized",
            "false is not allowed. Give true.",
        ),
    ],
)
def test_wrong_field_is_named_with_its_value_and_what_to_do(client, path, body, field, reason):
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == field and error["reason"].endswith(reason)
    assert len(error["reason"]) < 200 and answer.json()["detail"] == f"{field}: {error['reason']}"


def test_body_that_is_not_json_is_told_where_it_is_wrong(client):
    answer = client.post("/search", content=b'{"query": }', headers={"content-type": "application/json"})
    (error,) = answer.json()["errors"]
    assert error["field"] == "body" and error["reason"].endswith(", at character 11). Correct it.")
    assert answer.json()["detail"] == f"The body {error['reason']}"


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [
        ("/rerank", {"query": "a", "documents": ["b"], "top_k": 1}, " Did you mean top_n?"),
        ("/search", {"query": "a", "inn": ["b"]}, " Did you mean in?"),
        ("/search", {"query": "a", "zzz": 1}, "leave it out."),
    ],
)
def test_unknown_field_is_answered_with_the_nearest_known_one(client, path, body, hint):
    (error,) = client.post(path, json=body).json()["errors"]
    assert error["reason"].startswith("is not a field of this request.") and error["reason"].endswith(hint)


def test_wrong_parameter_of_a_path_is_told(client):
    (error,) = client.get("/collections/notes/documents?limit=0").json()["errors"]
    assert error == {"field": "query.limit", "reason": "'0' is too small. Give 1 or more."}


def test_many_wrong_fields_are_a_short_answer(client):
    answer = client.post("/search", json={f"x{number}" * 100: 1 for number in range(100)})
    assert len(answer.json()["errors"]) == 20 and len(answer.text) < 8000
