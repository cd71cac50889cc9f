"""More requests than places, and clients that leave."""

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from collecting import until

from mlx_colbert.server.served_model import ServedModel
from mlx_colbert.server.settings import Limits

BODY = {"query": "a", "documents": ["b"]}


class Gate:
    """Lets no request get a model before it is opened."""

    def __init__(self, monkeypatch):
        self.is_open, self.n_inside, self._lock = threading.Event(), 0, threading.Lock()
        load = ServedModel.load

        def loaded(model):
            with self._lock:
                self.n_inside += 1
            assert self.is_open.wait(60)
            return load(model)

        monkeypatch.setattr(ServedModel, "load", loaded)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.is_open.set()


def raw(body=BODY):
    data = json.dumps(body).encode()
    head = f"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


@pytest.mark.slow
def test_four_times_as_many_requests_as_places_get_429_and_the_others_are_answered(serve, gate):
    server = serve(n_workers=2, n_waiting=6)

    def ask(_):
        return httpx.post(f"{server.url}/rerank", json=BODY, timeout=60)

    with ThreadPoolExecutor(32) as pool:
        first = [pool.submit(ask, number) for number in range(8)]
        until(lambda: server.engine.n_accepted == 8)
        refused = list(pool.map(ask, range(24)))
        assert httpx.get(f"{server.url}/ready").status_code == 503
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert "mlx_colbert_requests_waiting 6" in httpx.get(f"{server.url}/metrics").text
        gate.is_open.set()
        assert {answer.result().status_code for answer in first} == {200}
    for answer in refused:
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"] == "application/problem+json"
    # It has recovered.
    assert server.engine.n_accepted == 0
    assert {ask(number).status_code for number in range(4)} == {200}
    assert "mlx_colbert_requests_refused_total 24" in httpx.get(f"{server.url}/metrics").text


@pytest.mark.parametrize("path", ["/search", "/rerank", "/collections/notes/documents"])
def test_request_without_a_place_is_refused_before_its_body_is_read(serve, connect, gate, path):
    server = serve(n_workers=1, n_waiting=0)
    running, refused = connect(server), connect(server)
    running.sendall(raw())
    until(lambda: gate.n_inside == 1)
    # Its body has not arrived, and never will.
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    refused.sendall(head.encode())
    assert refused.recv(1 << 16).startswith(b"HTTP/1.1 429")


def test_refusal_leaves_the_connection_usable(serve, connect, gate):
    server = serve(n_workers=1, n_waiting=0)
    running, again = connect(server), http.client.HTTPConnection(*server.address, timeout=60)
    running.sendall(raw())
    until(lambda: gate.n_inside == 1)

    def status():
        again.request("POST", "/rerank", json.dumps(BODY), {"Content-Type": "application/json"})
        answer = again.getresponse()
        answer.read()
        return answer.status

    assert status() == 429
    door = again.sock
    gate.is_open.set()
    until(lambda: server.engine.n_accepted == 0)
    assert status() == 200 and again.sock is door
    again.close()


def test_client_that_leaves_gives_its_place_back_and_its_work_is_not_begun(serve, connect, gate):
    server = serve(n_workers=1, n_waiting=1)
    running, waiting = connect(server), connect(server)
    running.sendall(raw())
    until(lambda: gate.n_inside == 1)
    waiting.sendall(raw())
    until(lambda: server.engine.n_accepted == 2)
    waiting.close()
    until(lambda: server.engine.n_accepted == 1)
    gate.is_open.set()
    assert running.recv(15) == b"HTTP/1.1 200 OK"
    until(lambda: server.engine.n_accepted == 0)
    assert gate.n_inside == 1


def test_request_that_takes_too_long_is_a_503(serve, gate):
    server = serve(limits=Limits(request_s=0.05))
    answer = httpx.post(f"{server.url}/rerank", json=BODY, timeout=60)
    assert answer.status_code == 503 and "took longer" in answer.json()["detail"]


def test_request_of_a_running_worker_is_not_encoded_after_its_client_left(serve, connect, gate):
    log = []
    server = serve(log=log)
    leaving = connect(server)
    leaving.sendall(raw())
    until(lambda: gate.n_inside == 1)
    leaving.close()
    until(lambda: log)
    gate.is_open.set()
    until(lambda: server.engine.n_accepted == 0)
    assert log[0].startswith("POST /rerank 499")


@pytest.mark.parametrize("leaves", [True, False])
def test_failure_of_work_that_nobody_waits_for_is_in_the_log_without_its_text(
    serve, connect, monkeypatch, leaves
):
    log, text, begun, may_fail = [], "-".join(["se", "cret"]), threading.Event(), threading.Event()

    def load(model):
        begun.set()
        assert may_fail.wait(60)
        raise ValueError(text)

    monkeypatch.setattr(ServedModel, "load", load)
    server = serve(log=log, limits=Limits() if leaves else Limits(request_s=0.05))
    asking = connect(server)
    asking.sendall(raw())
    assert begun.wait(60)
    if leaves:
        asking.close()
    until(lambda: log)
    assert log[0].startswith(f"POST /rerank {499 if leaves else 503}")
    may_fail.set()
    until(lambda: len(log) == 2)
    assert "failed after its client was answered or had left" in log[1] and "ValueError" in log[1]
    assert log[1].split()[0] == log[0].split()[-1] and text not in "".join(log)


def test_request_that_comes_when_the_engine_has_ended_is_a_503(make_client):
    client = make_client()
    client.engine.finish()
    answer = client.post("/rerank", json=BODY)
    assert answer.status_code == 503 and "is being stopped" in answer.json()["detail"]


@pytest.mark.slow
def test_end_of_the_server_finishes_what_was_accepted(gate, model):
    from mlx_colbert.engine.engine import Engine
    from mlx_colbert.server.app import make_app
    from mlx_colbert.server.serving import listening, serving, url_of
    from mlx_colbert.server.settings import Settings

    settings, engine = Settings(model=model.source, port=0), Engine()
    door = listening(settings)
    url = url_of(door)
    with ThreadPoolExecutor(1) as pool:
        with engine.running(), serving(make_app(engine, settings), settings, door):
            asked = pool.submit(lambda: httpx.post(f"{url}/rerank", json=BODY, timeout=60))
            until(lambda: gate.n_inside == 1)
            threading.Timer(0.2, gate.is_open.set).start()
        assert asked.result().status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
