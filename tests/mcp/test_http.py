"""The server at a URL: in `mlx-colbert serve`, in a process of its own, and as an application alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'server'")

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.testclient import TestClient

from mlx_colbert.engine.engine import Engine
from mlx_colbert.engine.jobs import Jobs
from mlx_colbert.mcp.http import make_mcp_app
from mlx_colbert.mcp.keeping import begun
from mlx_colbert.mcp.served import Served
from mlx_colbert.mcp.server import Backing
from mlx_colbert.server.routes.shapes import job_body

LONG_S = 120.0
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
HEADERS = {"accept": "application/json, text/event-stream"}


@pytest.fixture
def serve(command):
    """Starts `mlx-colbert serve` in a process of its own, and gives its URL."""

    @contextmanager
    def served(*words, **environment):
        parameters = command(**environment)
        program = parameters.args[: parameters.args.index("mcp")]
        process = subprocess.Popen(
            [parameters.command, *program, "serve", "--port", "0", "--json", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**parameters.env, "MLX_COLBERT_BACKEND": "numpy"},
        )
        try:
            yield f"{json.loads(process.stdout.readline())['url']}/mcp"
        finally:
            process.terminate()
            assert process.wait(LONG_S) == 0
            process.stdout.close()

    return served


@pytest.fixture
def alone(notes):
    """A client of the application alone, without a network."""
    engine = Engine(n_workers=2)
    with engine.running():
        app = make_mcp_app(Backing(engine, Served((), None, notes.registry, "numpy")))
        with TestClient(app, base_url="http://127.0.0.1:8765") as client:
            yield client


async def searched(url, query="bees dance", **options):
    async with Client(url, **options) as client:
        result = await client.call_tool("search", {"query": query})
        return client.protocol_version, result.structured_content["hits"][0]["headings"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_only_a_post_is_answered(alone, method):
    """A GET would open a stream without an end."""
    answer = alone.request(method, "/", headers=HEADERS)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.slow
def test_clients_old_and_new_search_and_eight_at_once(serve):
    async def conversation(url):
        assert await searched(url, mode="legacy") == ("2025-11-25", "Dance")
        assert await searched(url) == ("2026-07-28", "Dance")
        modes = ["legacy", "auto"] * 4
        return await asyncio.gather(*[searched(url, mode=mode) for mode in modes])

    with serve() as url:
        assert [heading for _, heading in asyncio.run(conversation(url))] == ["Dance"] * 8


@pytest.mark.slow
def test_server_is_read_only_if_it_is_not_told_otherwise(serve):
    async def tools(url):
        async with Client(url) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    async def synced(url):
        async with Client(url) as client:
            result = await client.call_tool("sync", {})
            return result.structured_content["syncs"][0]["state"]

    with serve() as url:
        assert "sync" not in asyncio.run(tools(url))
    with serve("--mcp-allow-write") as url:
        assert asyncio.run(synced(url)) == "done"


@pytest.mark.slow
def test_key_of_the_server_is_needed(serve, tmp_path):
    (tmp_path / "key").write_text("a-key-of-many-letters")

    async def with_key(url):
        headers = {"authorization": "Bearer a-key-of-many-letters"}
        async with httpx2.AsyncClient(headers=headers) as http:
            return await searched(streamable_http_client(url, http_client=http))

    with serve("--api-key-file", str(tmp_path / "key")) as url:
        refused = httpx2.post(url, json=INITIALIZE, headers=HEADERS)
        assert refused.status_code == 401
        assert asyncio.run(with_key(url))[1] == "Dance"


@pytest.mark.slow
def test_page_of_another_site_is_refused(serve):
    with serve() as url:
        for header, value in (("origin", "https://evil.example"), ("host", "evil.example")):
            answer = httpx2.post(url, json=INITIALIZE, headers={**HEADERS, header: value})
            assert answer.status_code == 403
        plain = httpx2.post(
            url, content=json.dumps(INITIALIZE), headers={**HEADERS, "content-type": "text/plain"}
        )
        assert plain.status_code >= 400


@pytest.mark.slow
def test_client_that_is_killed_in_a_call_leaves_the_server_well(serve, notes):
    code = """
import asyncio, sys
from mcp import Client
async def wait():
    async with Client(sys.argv[1]) as client:
        await client.call_tool("search", {"query": "wait"})
asyncio.run(wait())
"""
    with serve("--workers", "2", WORD_PROGRAM_WAIT=str(notes.home / "begun")) as url:
        client = subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.DEVNULL)
        end = time.monotonic() + LONG_S
        while not (notes.home / "begun").exists() and time.monotonic() < end:
            time.sleep(0.01)
        client.kill()
        client.wait()
        assert asyncio.run(searched(url))[1] == "Dance"


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("host", "evil.example", 421),
        ("origin", "https://evil.example", 403),
        ("content-type", "text/plain", 400),
    ],
)
def test_application_alone_refuses_other_sites(alone, header, value, status):
    assert alone.post("/", json=INITIALIZE, headers={**HEADERS, header: value}).status_code == status


def test_application_alone_answers_without_a_session(alone):
    answer = alone.post("/", json=INITIALIZE, headers=HEADERS)
    assert answer.status_code == 200 and "mcp-session-id" not in answer.headers
    assert "mlx-colbert" in answer.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a":1}'])
def test_garbage_is_a_client_error(alone, body):
    answer = alone.post("/", content=body, headers={**HEADERS, "content-type": "application/json"})
    assert 400 <= answer.status_code < 500 and "Traceback" not in answer.text


def test_huge_body_is_refused(alone):
    body = b'{"a": "' + b"x" * (5 << 20) + b'"}'
    answer = alone.post("/", content=body, headers={**HEADERS, "content-type": "application/json"})
    assert answer.status_code == 413


def test_full_engine_is_an_error_that_says_when_to_ask_again(notes):
    free = threading.Event()

    async def conversation(server):
        async with Client(server) as client:
            return await client.call_tool("collections", {})

    engine = Engine(n_workers=1, n_waiting=0)
    with engine.running():
        engine.submit(free.wait)
        from mlx_colbert.mcp.server import make_server

        try:
            result = asyncio.run(conversation(make_server(Backing(engine, Served((), None, notes.registry)))))
        finally:
            free.set()
    assert result.is_error and "again" in result.content[0].text


def test_sync_of_an_assistant_is_shown_among_the_jobs_of_the_server(notes):
    jobs = Jobs()
    (one,) = begun(Served((), None, notes.registry, "numpy"), jobs, [])
    while not one.has_ended:
        time.sleep(0.01)
    jobs.finish()
    body = job_body(one.jobs[0])
    (place,) = notes.registry.list()
    assert (body.target, body.state, body.error) == (place.name, "done", None)
    assert body.result is not None and body.result["files"] == 2
