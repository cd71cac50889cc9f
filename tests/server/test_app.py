"""The application as a whole: what every request gets."""

import json
import re
import threading
import tracemalloc

import pytest
from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mlx_colbert.errors import CollectionNotFoundError, UnknownIdError
from mlx_colbert.server.limits import BodyLimits
from mlx_colbert.server.log import Lines
from mlx_colbert.server.problems import problem_of
from mlx_colbert.server.settings import Limits

PROBLEM = "application/problem+json"


def test_server_says_that_it_lives(client):
    assert client.get("/health").json() == {"status": "ok"}


def test_page_is_at_the_root_and_its_files_are_beside_it(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "data:" not in page.headers["content-security-policy"]
    assert client.get("/web/index.html").text == page.text


@pytest.mark.parametrize(
    "path", ["/web/../app.py", "/web/%2e%2e/app.py", "/web/..%2fapp.py", "/web/%00", "/web/"]
)
def test_no_file_beside_those_of_the_page_is_served(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("PUT", "/health", None, 405),
        ("GET", "/rerank", None, 405),
        ("POST", "/rerank", b"", 422),
        ("POST", "/rerank", b"{", 422),
        ("POST", "/rerank", b"\xff", 400),
        ("POST", "/rerank", b"[" * 10_000, 400),
        ("POST", "/rerank", b"[" * 100_000, 422),
        ("POST", "/rerank", b'{"query": "a", "documents": ["b"], "more": 1}', 422),
        ("POST", "/rerank", b'{"query": "\\ud800", "documents": ["b"]}', 422),
        ("POST", "/rerank", b'{"query": "a", "documents": ["b"], "top_n": 1e400}', 422),
        ("POST", "/rerank", b'{"query": NaN, "documents": ["b"]}', 422),
    ],
)
def test_every_error_is_a_problem(client, method, path, body, status):
    answer = client.request(method, path, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    problem = answer.json()
    assert problem["status"] == status and problem["title"] and problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_method_that_is_not_allowed_is_told_which_are(client):
    assert client.put("/health").headers["allow"] == "GET"


def test_body_that_is_not_json_is_refused_with_what_to_do(client):
    answer = client.post("/rerank", content=b'{"query": "a", "documents": ["b"]}')
    assert answer.status_code == 415 and "Content-Type: application/json" in answer.json()["detail"]


def test_answer_to_a_wrong_field_has_its_name_and_not_its_value(client):
    answer = client.post("/rerank", json={"query": {"secret": "tea"}, "documents": ["a"]})
    assert answer.json()["errors"][0]["field"] == "body.query" and "tea" not in answer.text


def test_text_without_limits_of_utf_8_is_ranked(client):
    answer = client.post("/rerank", json={"query": "\0", "documents": ["\u202e\0", "🍵" * 1000]})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("a\tb", False), ("", False)],
)
def test_id_of_a_client_is_kept_if_it_is_short_and_plain(client, given, is_kept):
    found = client.get("/health", headers={"x-request-id": given}).headers["x-request-id"]
    assert (found == given) == is_kept
    assert is_kept or re.fullmatch("[0-9a-f]{16}", found)


def test_log_has_the_route_and_no_text(make_client):
    log = []
    client = make_client(log=log)
    client.post(
        "/rerank?q=secret", json={"query": "secret", "documents": ["secret"]}, headers={"x-request-id": "a"}
    )
    client.get("/secret")
    client.post("/rerank", json={"query": ["secret"], "documents": ["secret"]})
    assert re.fullmatch(r"POST /rerank 200 [0-9.]+ ms [0-9]+ bytes a", log[0])
    assert log[1].startswith("GET none 404") and log[2].startswith("POST /rerank 422")
    assert "secret" not in "".join(log)


def test_log_that_takes_no_line_holds_nothing_up():
    may_go_on, written = threading.Event(), []
    lines = Lines(lambda line: may_go_on.wait(60) and written.append(line))
    for number in range(20_000):
        lines.write(str(number))
    may_go_on.set()
    lines.close(60)
    assert written[:3] == ["0", "1", "2"] and 10_000 <= len(written) < 20_000


def test_fault_of_the_program_is_a_problem_and_the_log_has_its_frames(make_client, monkeypatch):
    log = []
    client = make_client(log=log)

    def fail(self):
        raise KeyError("sec" + "ret")

    monkeypatch.setattr("mlx_colbert.server.served_model.ServedModel.load", fail)
    answer = client.post("/rerank", json={"query": "a", "documents": ["b"]})
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert "secret" not in answer.text and "Traceback" not in answer.text and ".py" not in answer.text
    assert "in fail" in log[0] and "KeyError" in log[0] and "secret" not in log[0]


def test_errors_of_the_library_have_a_status():
    assert problem_of(CollectionNotFoundError("notes", "does not exist.")).status == 404
    assert problem_of(UnknownIdError(["a"], where="notes")).status == 404
    assert problem_of(ValueError("secret")).detail.startswith("The server failed")


def test_application_with_a_lifespan_can_be_mounted(make_client):
    seen = []

    async def lifespan(app):
        seen.append("began")
        yield
        seen.append("ended")

    from contextlib import asynccontextmanager

    other = Starlette(
        routes=[Route("/hello", lambda request: PlainTextResponse("hello"))],
        lifespan=asynccontextmanager(lifespan),
    )
    client = make_client(mounted={"/other": other})
    assert client.get("/other/hello").text == "hello" and seen == ["began"]


def test_metrics_are_those_of_the_requests(client):
    client.post("/rerank", json={"query": "a", "documents": ["b"]})
    client.get("/nothing")
    text = client.get("/metrics").text
    assert 'mlx_colbert_requests_total{method="POST",route="/rerank",status="200"} 1' in text
    assert 'mlx_colbert_requests_total{method="GET",route="none",status="404"} 1' in text
    assert 'mlx_colbert_request_seconds_bucket{route="/rerank",le="+Inf"} 1' in text
    assert "mlx_colbert_models_loaded 1" in text and "mlx_colbert_requests_running 0" in text
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(r'[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+-]+', line), (
            line
        )


def test_server_is_ready_when_its_model_is_loaded(make_client):
    client = make_client(preload=True)
    answer = client.get("/ready")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    client.app.state.model.load()
    assert client.get("/ready").status_code == 200
    assert make_client(preload=False).get("/ready").status_code == 200


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"query": "a", "documents": [' + b"1," * 100_000 + b"1]}", "20,000 values"),
        (b'{"query": "a", "documents": [' + b"[]," * 30_000 + b"1]}", "20,000 values"),
        (b"{" + b",".join(b'"%d": 1' % number for number in range(30_000)) + b"}", "20,000 values"),
        (b'{"query": "' + b"a" * 20_000 + b'", "documents": [' + b'""' * 300_000 + b"]}", "20,000 values"),
        (b'{"query": "' + b"a" * 20_000 + b'", "documents": ' + b"[" * 100 + b"]" * 100 + b"}", "64 levels"),
        (b'{"query": "a", "documents": [' + b"1," * 8_000 + b"1]}", "body.documents.0"),
        (b'{"' + b"x" * 100_000 + b'": 1}', "body.query: is missing. Add it. body.documents"),
    ],
    ids=["numbers", "lists", "keys", "strings", "depth", "few", "a long key"],
)
def test_json_of_many_values_is_refused_before_each_is_checked(client, body, detail):
    answer = client.post("/rerank", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and detail in answer.json()["detail"] and len(answer.content) < 3000


@pytest.mark.parametrize(
    "value",
    [
        {"a,[": ["]", "\\", '\\",', {}, [], {"b": None}], "c": {"d": [1, [2.5, True]]}},
        [[[]], {"": ""}, "é🍵\n", -1e9],
        "text",
    ],
)
@pytest.mark.parametrize("indent", [None, 3])
def test_values_of_json_are_counted_as_they_are(value, indent):
    def count(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + sum(map(count, inner))

    body = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    n_values = count(value)
    BodyLimits(None, Limits(json_values=n_values))._check_json(body)
    with pytest.raises(HTTPException, match="too large"):
        BodyLimits(None, Limits(json_values=n_values - 1))._check_json(body)


def test_json_of_many_values_is_refused_without_the_memory_for_them():
    body = b"[" + b"[]," * 1_000_000 + b"[]]"
    tracemalloc.start()
    try:
        with pytest.raises(HTTPException, match="too large"):
            BodyLimits(None, Limits())._check_json(body)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_large_body_in_another_encoding_is_refused(client):
    body = json.dumps({"query": "\u2200" + "a" * 20_000, "documents": ["b"]}, ensure_ascii=False)
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        sent = {"content": body.encode(encoding), "headers": {"content-type": "application/json"}}
        answer = client.post("/rerank", **sent)
        assert answer.status_code == 400 and "UTF-8" in answer.json()["detail"]


def test_routes_are_in_the_document(client):
    document = client.get("/openapi.json").json()
    assert {"/rerank", "/v1/rerank", "/v2/rerank", "/pooling", "/v1/embeddings"} <= set(document["paths"])
    assert "ProblemBody" in document["components"]["schemas"]


def test_every_router_is_one():
    from mlx_colbert.server.routes import ROUTERS

    assert all(isinstance(router, APIRouter) for router in ROUTERS)
