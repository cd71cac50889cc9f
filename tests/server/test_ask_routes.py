"""Answers to questions over HTTP: a stream of events, one JSON, and the shape of OpenAI."""

from __future__ import annotations

import socket
import sys
import threading
import time

import httpx
import pytest
from collecting import Barrier, events_of, made_notes, until
from llm_server import begin_stream, end_stream, send_json, send_piece

from mlx_colbert.ask.conversation import NOTHING_FOUND
from mlx_colbert.server import events
from mlx_colbert.server.settings import Limits

CHAT = "/v1/chat/completions"
QUESTION = "How do I steep tea in a kettle?"


@pytest.fixture(autouse=True)
def everything_is_relevant(monkeypatch):
    """The model of these tests is a random one, so its confidences say nothing."""
    monkeypatch.setattr("mlx_colbert.collection.confidence.THRESHOLD", 0.0)


@pytest.fixture
def asked(make_server, llm_server):
    """A client of an application with a language model that says `llm_server.pieces`."""
    return make_server(llm="tiny", endpoint=llm_server.url)


def ask(server, **body):
    return server.post("/ask", **{"question": QUESTION, **body})


def test_answer_comes_as_sources_pieces_and_an_end(asked, llm_server):
    llm_server.pieces = ["Three", " minutes [1]", ", or [9]."]
    answer = ask(asked)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["x-accel-buffering"], answer.headers["cache-control"]) == ("no", "no-store")
    (first, sources), *pieces, (last, end) = events_of(answer.text)
    assert (first, last) == ("sources", "end")
    assert [data["text"] for name, data in pieces if name == "text"] == llm_server.pieces
    source = sources["sources"][0]
    assert (source["number"], source["collection"]) == (1, "notes")
    assert source["path"].startswith(str(asked.folder)) and source["link"].startswith("file:///")
    assert end["answer"] == "Three minutes [1], or [9]." and end["invented"] == [9]
    assert [(item["number"], item["invented"]) for item in end["citations"]] == [(1, False), (9, True)]
    assert end["citations"][0]["doc_id"] == source["doc_id"]
    assert (end["finish"], end["model"]) == ("stop", "tiny") and end["timings_ms"]["search"] > 0
    passage = asked.get(
        f"/collections/notes/passages/{httpx.URL('http://x/' + source['doc_id'].replace('#', '%23')).raw_path.decode()[1:]}"
    )
    assert passage.json()["doc_id"] == source["doc_id"]


def test_answer_without_a_stream_is_one_json_with_the_same(asked):
    streamed = events_of(ask(asked).text)[-1][1]
    whole = ask(asked, stream=False).json()
    for told in (streamed, whole):
        del told["timings_ms"]
    assert whole == streamed and whole["answer"] == "Leaves are green [1]."


def test_earlier_messages_make_a_follow_up_whole(asked, llm_server):
    ask(
        asked,
        question="And in a cup?",
        stream=False,
        messages=[
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "Three minutes [1]."},
        ],
    )
    rewriting, answering = (body["messages"] for path, _, body in llm_server.asked if path == CHAT)
    assert QUESTION in rewriting[-1]["content"] and "And in a cup?" in rewriting[-1]["content"]
    assert any("Three minutes" in message["content"] for message in answering)


def test_nothing_relevant_asks_no_language_model(asked, llm_server, monkeypatch):
    monkeypatch.setattr("mlx_colbert.collection.confidence.THRESHOLD", 1.0)
    end = events_of(ask(asked).text)[-1][1]
    assert (end["answer"], end["found"], end["sources"]) == (NOTHING_FOUND, False, [])
    assert CHAT not in llm_server.paths()


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"question": ""}, 422, "question"),
        ({"question": " "}, 422, "blank"),
        ({"question": "x" * 10_001}, 422, "question"),
        ({"k": 0}, 422, "k"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"temperature": 3}, 422, "temperature"),
        ({"endpoint": "http://evil/v1"}, 422, "endpoint"),
        ({"llm": "other/model"}, 404, "is not served here. This server has 'tiny'."),
        ({"llm": "/etc"}, 404, "is not served here"),
        ({"llm": "http://evil/v1"}, 404, "is not served here"),
        ({"collections": ["nope"]}, 404, "does not exist"),
        ({"collections": ["/etc"]}, 404, "does not exist"),
        ({"messages": [{"role": "system", "content": "x"}]}, 422, "messages"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_wrong_question_is_a_problem(asked, llm_server, body, status, detail, stream):
    answer = ask(asked, stream=stream, **body)
    assert answer.status_code == status and detail in answer.json()["detail"]
    assert CHAT not in llm_server.paths()


@pytest.mark.parametrize("stream", [True, False])
def test_language_model_that_cannot_be_reached_is_502_and_may_come_back(asked, llm_server, stream):
    llm_server.behave["/v1/models"] = lambda handler, body: send_json(handler, {}, status=500)
    assert ask(asked, stream=stream).status_code == 502
    del llm_server.behave["/v1/models"]
    assert ask(asked, stream=stream).status_code == 200


def test_language_model_that_fails_in_the_middle_ends_the_stream_with_an_error(asked, llm_server):
    def fail(handler, body):
        begin_stream(handler)
        send_piece(handler, "Three")

    llm_server.behave[CHAT] = fail
    *before, (name, problem) = events_of(ask(asked).text)
    assert [item[0] for item in before] == ["sources", "text"]
    assert (name, problem["status"]) == ("error", 502) and "ended the connection" in problem["detail"]


def test_silence_is_filled_with_comments(asked, llm_server, monkeypatch):
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.05)

    def slow(handler, body):
        begin_stream(handler)
        llm_server.stop.wait(0.5)
        send_piece(handler, "Three [1].")
        end_stream(handler)

    llm_server.behave[CHAT] = slow
    text = ask(asked).text
    assert ": alive\n\n" in text and events_of(text)[-1][1]["answer"] == "Three [1]."


def test_more_questions_than_places_get_429(asked, llm_server):
    gate = Barrier()

    def held(handler, body):
        gate.wait()
        begin_stream(handler)
        send_piece(handler, "Three.")
        end_stream(handler)

    llm_server.behave[CHAT] = held
    statuses, threads = [], []
    for _ in range(12):
        threads.append(threading.Thread(target=lambda: statuses.append(ask(asked, stream=False).status_code)))
        threads[-1].start()
    until(lambda: len(statuses) == 3)
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 9 + [429] * 3


# ---- a client that leaves, at a real socket


@pytest.fixture
def real(serve, llm_server, tmp_path):
    from collecting import CHECKPOINT

    registry, _ = made_notes(tmp_path, CHECKPOINT)
    return serve(registry=registry, llm="tiny", endpoint=llm_server.url, limits=Limits())


@pytest.mark.parametrize("path", ["/ask", CHAT])
def test_language_model_stops_when_the_client_leaves(real, llm_server, path):
    """The language model would write for ever."""
    broken = threading.Event()

    def endless(handler, body):
        begin_stream(handler)
        try:
            while not llm_server.stop.is_set():
                send_piece(handler, "word ")
                time.sleep(0.01)
        except OSError:
            broken.set()

    llm_server.behave[CHAT] = endless
    body = (
        {"question": QUESTION}
        if path == "/ask"
        else {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    )
    with httpx.stream("POST", real.url + path, json=body, timeout=60) as answer:
        assert answer.status_code == 200
        next(line for line in answer.iter_lines() if "word" in line)
    assert broken.wait(60)
    del llm_server.behave[CHAT]
    assert (
        httpx.post(f"{real.url}/ask", json={"question": QUESTION, "stream": False}, timeout=60).status_code
        == 200
    )


def test_waiting_question_of_a_client_who_left_is_not_answered(real, llm_server, monkeypatch):
    gate, left = Barrier(), threading.Event()
    asked = []
    leave = events.Channel.leave
    monkeypatch.setattr(events.Channel, "leave", lambda channel: (leave(channel), left.set()))

    def held(handler, body):
        asked.append(body)
        gate.wait()
        begin_stream(handler)
        send_piece(handler, "Three.")
        end_stream(handler)

    llm_server.behave[CHAT] = held
    first = threading.Thread(
        target=lambda: httpx.post(f"{real.url}/ask", json={"question": QUESTION, "stream": False}, timeout=60)
    )
    first.start()
    assert gate.reached.wait(60)
    data = b'{"question": "And the others?"}'
    with socket.create_connection(real.address) as leaving:
        leaving.sendall(
            b"POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(data) + data
        )
        until(lambda: real.app.state.answering.n_accepted == 2)
    assert left.wait(60)
    # Its place is free again, while the first question is still answered.
    for _ in range(1000):
        if real.app.state.answering.n_accepted == 1:
            break
        time.sleep(0.01)
    assert real.app.state.answering.n_accepted == 1
    gate.opened.set()
    first.join()
    until(lambda: not real.app.state.answering.n_accepted)
    assert len(asked) == 1


# ---- the shape of OpenAI


def chat(server, *messages, **body):
    listed = [{"role": role, "content": content} for role, content in messages or [("user", QUESTION)]]
    return server.post(CHAT, **{"model": "tiny", "messages": listed, **body})


def test_chat_answers_the_last_message_with_citations(asked):
    answer = chat(asked).json()
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "Leaves are green [1]."},
        "finish_reason": "stop",
    }
    assert answer["object"] == "chat.completion" and answer["model"] == "tiny"
    assert answer["citations"][0]["doc_id"] == answer["sources"][0]["doc_id"]
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 3


def test_text_in_parts_is_read_and_a_system_message_is_noted(asked, llm_server):
    parts = [{"type": "text", "text": "How do I"}, {"type": "text", "text": "steep tea?"}]
    answer = chat(asked, ("system", "Be rude."), ("user", parts)).json()
    assert "System messages are not used" in answer["notes"][0]
    assert "steep tea?" in llm_server.asked[-1][2]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "gpt-4"}, 404),
        ({"messages": []}, 422),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 422),
        ({"messages": [{"role": "user", "content": " "}]}, 422),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 422),
        ({"n": 2}, 422),
        ({"tools": [{"type": "function"}]}, 422),
        ({"collections": ["nope"]}, 404),
    ],
)
def test_chat_that_cannot_be_answered_is_a_problem(asked, body, status):
    assert chat(asked, **body).status_code == status


def test_settings_that_have_no_effect_are_accepted(asked):
    assert chat(asked, top_p=0.5, seed=3, user="ann", presence_penalty=0, stop=None).status_code == 200


def test_models_that_may_be_named_are_listed(asked):
    assert "tiny" in [model["id"] for model in asked.get("/v1/models").json()["data"]]


def test_client_of_openai_works(real, llm_server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as client:
        assert "tiny" in [model.id for model in client.models.list()]
        messages = [{"role": "user", "content": QUESTION}]
        answer = client.chat.completions.create(
            model="tiny", messages=messages, extra_body={"collections": ["notes"]}
        )
        assert answer.choices[0].message.content == "Leaves are green [1]."
        assert answer.model_extra["citations"][0]["collection"] == "notes"
        pieces = list(
            client.chat.completions.create(
                model="tiny", messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert text == "Leaves are green [1]."
        assert pieces[-2].choices[0].finish_reason == "stop" and pieces[-2].model_extra["citations"]
        assert pieces[0].model_extra["sources"][0]["number"] == 1
        assert pieces[-1].usage.total_tokens > 0
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            client.chat.completions.create(model="gpt-4", messages=messages)
        llm_server.behave[CHAT] = lambda handler, body: (begin_stream(handler), send_piece(handler, "Three"))
        with pytest.raises(openai.APIError, match="ended the connection"):
            list(client.chat.completions.create(model="tiny", messages=messages, stream=True))


def test_model_in_this_process_writes(serve, tmp_path):
    """A tiny Llama of mlx-lm."""
    pytest.importorskip("mlx_lm")
    openai = pytest.importorskip("openai")
    from collecting import CHECKPOINT
    from tiny_llama import write_llama

    registry, _ = made_notes(tmp_path, CHECKPOINT)
    folder = write_llama(
        tmp_path / "parrot", ["Three", "minutes", "[1]."], chat_template=None, max_position_embeddings=100_000
    )
    server = serve(registry=registry, llm=str(folder))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for _ in range(3):
            answer = client.chat.completions.create(
                model="parrot", messages=[{"role": "user", "content": QUESTION}]
            )
            assert answer.choices[0].message.content == "Three minutes [1]."
            assert answer.model_extra["citations"][0]["number"] == 1


def test_language_model_that_is_not_installed_is_not_listed(make_client, monkeypatch):
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(
        "mlx_colbert.server.served_language_model.find_spec",
        lambda name: None if name == "mlx_lm" else find(name),
    )
    assert len(make_client().get("/v1/models").json()["data"]) == 1
    # That of a server needs nothing here.
    assert len(make_client(endpoint="http://localhost:1").get("/v1/models").json()["data"]) == 2


@pytest.mark.parametrize("is_stream", [False, True])
def test_question_without_a_language_model_says_how_to_start_the_server_with_one(
    make_server, monkeypatch, is_stream
):
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    monkeypatch.delitem(sys.modules, "mlx_colbert.ask.language_models.mlx_lm", raising=False)

    answer = ask(make_server(llm="any/model"), stream=is_stream)

    assert "mlx-colbert serve --endpoint URL" in answer.text and "Or use a server" not in answer.text
