"""What comes over a socket that is no good HTTP, too much, or too slow."""

import json
import re
import socket
from contextlib import suppress

import httpx
import pytest
from collecting import until

from mlx_colbert.server.settings import Limits

HEAD = b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"query": "a", "documents": ["b"]}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def received(connection):
    """All that comes until the server closes the connection."""
    data = b""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except ConnectionResetError:  # it did not read all
        pass
    return data


def statuses(data):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", data)]


def is_alive(server):
    return httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX y: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        b"GET /he alth HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"G\xcbT / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_no_http_is_a_problem_and_the_connection_ends(serve, connect, data):
    server = serve()
    connection = connect(server)
    connection.sendall(data)
    answer = received(connection)
    assert statuses(answer)[0] in (400, 501) or not answer
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head and json.loads(body)["status"] in (400, 501)
    assert is_alive(server)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/health", b"X: " + b"a" * 40_000 + b"\r\n"),
        (b"/" + b"a" * 40_000, b""),
        (b"/health", b"X: a\r\n" * 10_000),
        (b"/health", b"X: " + b"a" * 4_000_000 + b"\r\n"),
    ],
    ids=["a long one", "a long path", "many", "an endless one"],
)
def test_headers_that_are_too_large_are_refused(serve, connect, target, headers):
    server = serve()
    connection = connect(server)
    with suppress(ConnectionError):  # it does not read all
        connection.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (target, headers))
    assert statuses(received(connection)) in ([431], [400], [])
    assert is_alive(server)


@pytest.mark.parametrize(
    "path", [b"/%ff%fe", b"/%00", b"/a/%00", b"//", b"/%0d%0aX:1", b"/..%2f..%2fetc/passwd"]
)
def test_strange_path_is_not_found(serve, connect, path):
    connection = connect(serve())
    connection.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
    assert statuses(received(connection)) == [404]


def test_truncated_body_is_answered_by_nobody(serve, connect):
    log = []
    server = serve(log=log)
    connection = connect(server)
    connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n" + BODY)
    connection.shutdown(socket.SHUT_WR)
    received(connection)
    assert is_alive(server)
    assert not [line for line in log if "failed" in line]


def test_body_that_is_longer_than_it_says_is_the_next_request(serve, connect):
    server = serve()
    connection = connect(server)
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n%bxyz\r\n\r\n" % (len(BODY), BODY))
    assert statuses(received(connection)) == [200, 400]
    assert is_alive(server)


@pytest.mark.parametrize("n", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_requests_that_are_sent_at_once_are_answered_in_order(serve, connect, n):
    connection = connect(serve())
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    connection.sendall(WHOLE * n + last)
    assert statuses(received(connection)) == [200] * (n + 1)


def test_chunked_body_is_counted(serve, connect):
    server = serve(limits=Limits(body_bytes=1000))
    connection = connect(server)
    connection.sendall(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"a" * 1000 + b"\r\n1\r\na\r\n"
    )
    data = received(connection)
    assert statuses(data) == [413] and b"connection: close" in data.lower()
    assert is_alive(server)


def test_body_that_says_that_it_is_too_large_is_refused_at_once(serve, connect):
    connection = connect(serve(limits=Limits(body_bytes=1000)))
    connection.sendall(HEAD + b"Content-Length: 1001\r\n\r\n")
    assert statuses(received(connection)) == [413]


def test_bodies_of_all_requests_together_are_bounded(serve, connect):
    server = serve(limits=Limits(open_bytes=1000))
    half = HEAD + b"Content-Length: 601\r\n\r\n" + b"a" * 600
    first, second = connect(server), connect(server)
    first.sendall(half)
    answers = []

    def is_full():
        answers.append(ask_again(server, connect, half))
        assert statuses(answers[-1]) in ([422], [429])
        return statuses(answers[-1]) == [429]

    until(is_full)
    assert b"retry-after: 1" in answers[-1]
    first.close()
    until(lambda: statuses(ask_again(server, connect, half)) == [422])
    second.close()


def ask_again(server, connect, half):
    connection = connect(server)
    connection.sendall(half.replace(b"601", b"600").replace(b"Host", b"Connection: close\r\nHost"))
    return received(connection)


def test_expectation_of_a_large_body_is_not_met(serve, connect):
    connection = connect(serve(limits=Limits(body_bytes=1000)))
    connection.sendall(HEAD + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
    assert statuses(received(connection)) == [413]


def test_headers_that_do_not_arrive_end_the_connection(serve, connect):
    server = serve(limits=Limits(head_s=0.05))
    for data in (b"", b"GET /health HTTP/1.1\r\nHost: loc"):
        connection = connect(server)
        connection.sendall(data)
        assert statuses(received(connection)) == [408]


def test_headers_of_the_second_request_have_a_limit_too(serve, connect):
    server = serve(limits=Limits(head_s=0.05))
    connection = connect(server)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert statuses(connection.recv(1 << 16)) == [200]
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
    assert statuses(received(connection)) == [408]


def test_body_that_does_not_arrive_ends_the_connection(serve, connect):
    connection = connect(serve(limits=Limits(body_s=0.05)))
    connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    data = received(connection)
    assert statuses(data) == [408] and b"connection: close" in data.lower()


@pytest.mark.slow
def test_client_that_reads_nothing_is_left(serve):
    log = []
    server = serve(limits=Limits(send_s=0.05), log=log)
    connection = socket.socket()
    connection.settimeout(60)
    # Before the connection, so that the system does not take the answer for the client.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(server.address)
    body = json.dumps({"input": ["tea " * 200] * 1000}).encode()
    connection.sendall(
        HEAD.replace(b"/rerank", b"/pooling") + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    until(lambda: log)
    assert log[0].startswith("POST /pooling 200")
    data = received(connection)
    length = re.search(rb"content-length: (\d+)", data)
    assert length is None or len(data) < int(length[1])
    connection.close()


def test_more_clients_than_allowed_are_refused(serve, connect):
    server = serve(limits=Limits(n_connections=3))
    held = [connect(server) for _ in range(3)]
    for connection in held:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert statuses(connection.recv(1 << 16)) == [200]
    assert statuses(received(connect(server))) == [503]
    held[0].close()

    def is_served():
        connection = connect(server)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return statuses(received(connection)) == [200]

    until(is_served)


def test_upgrade_to_another_protocol_is_not_taken(serve, connect):
    connection = connect(serve())
    connection.sendall(
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    connection.shutdown(socket.SHUT_WR)
    assert statuses(received(connection))[0] in (200, 400)
