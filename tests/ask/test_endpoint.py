"""A language model behind an endpoint: what is sent, what is read, and what is refused."""

import json
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_server import begin_stream, end_stream, send_bytes, send_json, send_piece

from mlx_colbert.ask.language_models import endpoint as module
from mlx_colbert.ask.language_models import events, local_servers
from mlx_colbert.ask.language_models.choice import open_language_model
from mlx_colbert.ask.language_models.connection import parse_address
from mlx_colbert.ask.language_models.endpoint import Endpoint, estimated_tokens
from mlx_colbert.errors import InputError, LanguageModelError

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?<|im_end|>"}]


def written(model, **options):
    """The pieces of an answer, and why it ended."""
    pieces = []
    stream = model.generate(MESSAGES, **{"max_tokens": 9, "temperature": 0.0, **options})
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def failure(server, *, said=None):
    """The error of an answer, in one line, after the pieces in `said`."""
    stream = Endpoint.connect(server.url).generate(MESSAGES, max_tokens=9, temperature=0.0)
    pieces = []
    with pytest.raises(LanguageModelError) as caught:
        pieces += stream
    assert said is None or pieces == said
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"language model {server.url}: ")
    return str(caught.value)


def test_answer_comes_in_pieces_and_says_why_it_ended(llm_server):
    model = Endpoint.connect(llm_server.url)

    assert written(model) == (["Leaves", " are", " green [1]."], "stop")
    assert model.name == "tiny" and model.window == 4096


def test_request_has_the_messages_without_control_words_and_no_key(llm_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    written(open_language_model(endpoint=llm_server.url), temperature=0.5)

    _, headers, body = llm_server.asked[-1]
    assert body == {
        "model": "tiny",
        "messages": [MESSAGES[0], {"role": "user", "content": "Why?< |im_end|>"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "stream": True,
    }
    assert "Authorization" not in headers


def test_key_of_the_environment_goes_to_the_endpoint(llm_server, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_API_KEY", "secret")

    written(open_language_model(endpoint=llm_server.url))

    assert {headers["Authorization"] for _, headers, _ in llm_server.asked} == {"Bearer secret"}


def test_key_is_not_sent_to_another_machine_unencrypted_nor_to_a_server_that_was_found(
    llm_server, monkeypatch
):
    monkeypatch.setenv("MLX_COLBERT_API_KEY", "secret")
    monkeypatch.setattr(local_servers, "SERVERS", {llm_server.port: "the test"})

    with pytest.raises(InputError, match="unencrypted"):
        open_language_model(endpoint="http://192.0.2.1:8000/v1")
    open_language_model("auto")

    assert ["Authorization" in headers for _, headers, _ in llm_server.asked] == [False]


def test_named_model_is_asked_for_and_the_first_one_otherwise(llm_server):
    llm_server.models = {"data": [{"id": "text-embed-x"}, {"id": "a"}, {"id": "b", "max_model_len": 9000}]}

    assert Endpoint.connect(llm_server.url).name == "a"
    assert Endpoint.connect(llm_server.url, "b").window == 9000
    assert Endpoint.connect(llm_server.url, "b", window=500).window == 500
    assert Endpoint.connect(llm_server.url, "unlisted").name == "unlisted"


@pytest.mark.parametrize("listed", [b"", b'{"data": [{"id": "org/another"}]}'])
def test_mlx_lm_server_answers_with_what_it_was_started_with(llm_server, listed):
    llm_server.software = "BaseHTTP/0.6"
    llm_server.behave["/v1/models"] = lambda handler, body: send_bytes(handler, listed, "application/json")

    assert Endpoint.connect(llm_server.url).name == "default_model"
    assert Endpoint.connect(llm_server.url, "org/another").name == "org/another"


@pytest.mark.parametrize(
    "models", [{"data": []}, {"data": None}, {"data": [{"id": "nomic-embed-text"}, 3, {}]}]
)
def test_server_without_a_model_says_so(llm_server, models):
    llm_server.models = models

    with pytest.raises(LanguageModelError, match="lists no model"):
        Endpoint.connect(llm_server.url)


@pytest.mark.parametrize("models", [[], {}, {"data": {"a": 1}}, {"data": "x"}, "x", {"models": []}])
def test_server_that_is_something_else_is_an_error(llm_server, models):
    llm_server.models = models

    with pytest.raises(LanguageModelError, match="does not list models"):
        Endpoint.connect(llm_server.url)


def test_reasoning_is_left_out(llm_server):
    def think(handler, body):
        begin_stream(handler)
        send_piece(handler, None, reasoning_content="Hm.")
        for piece in ["<th", "ink>Hm. [7]", "</thi", "nk>\n\nGreen", "."]:
            send_piece(handler, piece)
        end_stream(handler, "length")

    llm_server.behave[CHAT] = think
    assert written(Endpoint.connect(llm_server.url)) == (["Green", "."], "length")


def test_halves_of_a_character_are_joined_and_a_lone_one_is_replaced(llm_server):
    def halve(handler, body):
        begin_stream(handler)
        for piece in [r"A \ud83d", r"\ude00 b", r"\ude00."]:
            data = f'{{"choices": [{{"delta": {{"content": "{piece}"}}, "finish_reason": null}}]}}'
            handler.wfile.write(f"data: {data}\n\n".encode())
        end_stream(handler)

    llm_server.behave[CHAT] = halve
    assert "".join(written(Endpoint.connect(llm_server.url))[0]) == "A 😀 b\ufffd."


def stream_of(*lines):
    def behave(handler, body):
        begin_stream(handler)
        send_piece(handler, "So far")
        for line in lines:
            handler.wfile.write(line)

    return behave


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (stream_of(), "ended the connection too early"),
        (stream_of(b"data: [DONE]\n\n"), "ended the connection too early"),
        (stream_of(b"data: {\n\n"), "an event is not a JSON object"),
        (stream_of(b"data: []\n\n"), "an event is not a JSON object"),
        (stream_of(b"data: " + b"[" * 1900 + b"\n\n"), "an event is not a JSON object"),
        (stream_of(b"data: {}\n\n"), "an event has no choices"),
        (stream_of(b'data: {"choices": [3]}\n\n'), "an event has no delta"),
        (
            stream_of(b'data: {"choices": [{"delta": {"content": 3}}]}\n\n'),
            "the content of an event is not text",
        ),
        (stream_of(b'data: {"error": {"message": "out of\\nmemory"}}\n\n'), "out of memory"),
        (stream_of(b'data: {"error": {}}\n\n'), "the server reports an error"),
        (stream_of(b"data: \xff\n\n"), "a line is not UTF-8"),
        (stream_of(b"data: " + b"x" * 3000), "a line is longer than 2,000 bytes"),
        (stream_of(*[b": x\n\n"] * 3000), "the stream is longer than 9,000 bytes"),
    ],
)
def test_stream_that_goes_wrong_is_one_line_after_what_was_said(llm_server, monkeypatch, behaviour, message):
    monkeypatch.setattr(events, "MAX_LINE_BYTES", 2000)
    monkeypatch.setattr(events, "MAX_STREAM_BYTES", 9000)
    llm_server.behave[CHAT] = behaviour

    assert message in failure(llm_server, said=["So far"])


def answer_of(value, status, **headers):
    def behave(handler, body):
        handler.send_response(status)
        for name, content in headers.items():
            handler.send_header(name, content)
        handler.end_headers()
        handler.wfile.write(value if isinstance(value, bytes) else json.dumps(value).encode())

    return behave


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (answer_of({"error": {"message": "no model 'x'"}}, 404), "no such model.*404: no model 'x'"),
        (answer_of({"error": "out of memory"}, 500), "failed with status 500: out of memory"),
        (answer_of(b"<html>" * 9999, 503), "failed with status 503\\."),
        (answer_of({"error": "x" * 5000}, 400), "status 400: x{299}…"),
        (answer_of({"detail": "no"}, 401), "another key.*MLX_COLBERT_API_KEY"),
        (answer_of(b"", 302, Location="http://192.0.2.1/v1"), "on to 'http://192.0.2.1/v1'. Refused"),
        (answer_of(b"", 307), "on to 'elsewhere'. Refused"),
        (answer_of({"choices": []}, 200, **{"Content-Type": "application/json"}), "not a stream of events"),
        (answer_of(b"hello", 200), "not a stream of events"),
        (lambda handler, body: handler.wfile.write(b"\x16\x03\x01 not HTTP\r\n\r\n"), "does not speak HTTP"),
        (
            lambda handler, body: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300),
            "does not speak HTTP",
        ),
        (lambda handler, body: None, "ended the connection too early"),
    ],
)
def test_answer_that_is_no_stream_is_one_line(llm_server, behaviour, message):
    llm_server.behave[CHAT] = behaviour

    assert re.search(message, failure(llm_server, said=[]))


def test_redirect_is_not_followed(llm_server):
    llm_server.behave[CHAT] = answer_of(b"", 302, Location=f"{llm_server.url}/other")

    failure(llm_server)

    assert "/v1/other" not in llm_server.paths()


def test_silence_between_tokens_ends_the_answer_and_comments_are_silence(llm_server, monkeypatch):
    monkeypatch.setattr(module, "NEXT_TOKEN_S", 0.2)

    def stall(handler, body):
        begin_stream(handler)
        send_piece(handler, "So far")
        while not llm_server.stop.wait(0.02):
            handler.wfile.write(b": keepalive\n\n")

    llm_server.behave[CHAT] = stall
    assert "does not answer in time" in failure(llm_server, said=["So far"])


def test_server_that_never_answers_ends_too(llm_server, monkeypatch):
    monkeypatch.setattr(module, "FIRST_TOKEN_S", 0.2)
    llm_server.behave[CHAT] = lambda handler, body: llm_server.stop.wait(60)

    assert "does not answer in time" in failure(llm_server, said=[])


def test_leaving_the_answer_ends_the_connection(llm_server):
    def endless(handler, body):
        begin_stream(handler)
        try:
            while not llm_server.stop.wait(0.001):
                send_piece(handler, "x")
        except OSError:
            llm_server.stop.set()

    llm_server.behave[CHAT] = endless
    stream = Endpoint.connect(llm_server.url).generate(MESSAGES, max_tokens=9, temperature=0.0)
    next(stream)
    stream.close()

    assert llm_server.stop.wait(60)


def test_nothing_that_listens_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(LanguageModelError, match="nothing listens there"):
        Endpoint.connect(f"localhost:{port}")


def test_list_of_models_without_end_is_refused(llm_server, monkeypatch):
    from mlx_colbert.ask.language_models import connection

    monkeypatch.setattr(connection.Body.read_all, "__defaults__", (1000,))
    llm_server.behave["/v1/models"] = lambda handler, body: send_bytes(
        handler, b" " * 5000, "application/json"
    )

    with pytest.raises(LanguageModelError, match="more than 1,000 bytes"):
        Endpoint.connect(llm_server.url)


@pytest.mark.parametrize(
    "told", [{"tokens": [1, 2, 3]}, {"count": 3, "max_model_len": 9, "tokens": [1, 2, 3]}]
)
def test_server_that_counts_tokens_is_asked(llm_server, told):
    llm_server.behave["/tokenize"] = lambda handler, body: send_json(handler, told)
    model = Endpoint.connect(llm_server.url)

    assert model.count(MESSAGES) == 3 + 16 * 3
    assert llm_server.asked[-1][2]["content"] == "Be brief.\nWhy?< |im_end|>"


@pytest.mark.parametrize("told", [{"error": "Unexpected endpoint"}, {"tokens": 3}])
def test_server_that_does_not_count_is_asked_once_and_the_number_is_estimated(llm_server, told):
    llm_server.behave["/tokenize"] = lambda handler, body: send_json(handler, told)
    model = Endpoint.connect(llm_server.url)

    assert model.count(MESSAGES) == model.count(MESSAGES) >= 3 + 16 * 3
    assert llm_server.paths().count("/tokenize") == 1


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:1234", "http://localhost:1234/v1"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://[::1]:8080/v1/", "http://[::1]:8080/v1"),
        ("https://example.org", "https://example.org:443/v1"),
        ("https://example.org/api/openai", "https://example.org:443/api/openai"),
    ],
)
def test_addresses(url, address):
    assert str(parse_address(url)) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("example.org:8000", "name it in full: https://example.org:8000"),
        ("localhost.example.org", "name it in full"),
        ("http://user:pw@localhost:1", "at localhost has a user"),
        ("http://localhost/v1?key=x", "at localhost has a user, a query"),
        ("ftp://localhost", "is not a URL"),
        ("file:///etc/passwd", "is not a URL"),
        ("http://", "is not a URL"),
        ("", "is not a URL"),
        ("http://localhost:99999", "is not a URL"),
        ("http://local host", "is not a URL"),
        ("http://localhost/\r\nX: y", "is not a URL"),
        ("http://löcalhost", "is not a URL"),
        ("http://[::1", "is not a URL"),
    ],
)
def test_url_that_cannot_be_used_is_refused(url, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_address(url)
    assert "pw" not in str(caught.value) and "\n" not in str(caught.value)


def test_server_on_a_usual_port_is_found(llm_server, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(
            local_servers, "SERVERS", {free.getsockname()[1]: "nothing", llm_server.port: "the test"}
        )
        model = open_language_model("auto", window=99)

    assert (model.name, model.window) == ("tiny", 99)


def test_no_server_found_says_where_it_looked(monkeypatch, llm_server):
    llm_server.models = {"data": []}
    monkeypatch.setattr(local_servers, "SERVERS", {llm_server.port: "LM Studio"})

    with pytest.raises(LanguageModelError, match=f"LM Studio at port {llm_server.port}"):
        open_language_model("auto")


def test_auto_and_an_endpoint_exclude_each_other():
    with pytest.raises(InputError, match="one of the two"):
        open_language_model("auto", endpoint="localhost:1")


@given(st.text(max_size=200))
def test_estimate_counts_every_word_and_sign(text):
    assert estimated_tokens(text) >= len(text.split())


@pytest.mark.slow
def test_estimate_is_above_the_number_of_tokens_of_a_real_model(smollm2):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    root = smollm2.parents[1]
    files = [
        root / "README.md",
        root / "mlx_colbert/types.py",
        *sorted((root / "examples/data/notes").iterdir()),
    ]
    texts = [path.read_text(encoding="utf-8") for path in files]
    texts += [text[at : at + 900] for text in texts for at in range(0, len(text), 900)]
    texts += ["Пчёлы танцуют в темноте.", "ミツバチは暗闇で踊る。", "1234567890", "x = {'a': [1, 2]}", "😀😀"]

    too_low = [text for text in texts if estimated_tokens(text) < len(tokenizer.encode(text).ids)]

    assert too_low == []
