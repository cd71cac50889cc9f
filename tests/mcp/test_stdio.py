"""The command, in a process of its own, with the client of the SDK or with raw lines."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from mcp import Client

LONG_S = 120.0
pytestmark = pytest.mark.slow

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


class Server:
    """The process of a server, and raw lines."""

    def __init__(self, parameters):
        self.process = subprocess.Popen(
            [parameters.command, *parameters.args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=parameters.env,
        )

    def write(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def send(self, message):
        self.write(json.dumps(message))

    def receive(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, request_id, method, **params):
        self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})

    def call(self, request_id, tool, **arguments):
        self.ask(request_id, "tools/call", name=tool, arguments=arguments)
        return self.answer(request_id)

    def answer(self, request_id):
        while (found := self.receive()).get("id") != request_id:
            pass
        return found

    def close(self):
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError, ValueError):
                stream.close()

    def begin(self):
        self.send(INITIALIZE)
        found = self.answer(0)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return found


@pytest.fixture
def start(command):
    started = []

    def begin(*words, **environment):
        server = Server(command(*words, **environment))
        started.append(server)
        return server

    yield begin
    for server in started:
        server.close()


def talk(parameters, conversation, **client):
    async def all_of_it():
        async with Client(parameters, **client) as connected:
            return await conversation(connected)

    return asyncio.run(all_of_it())


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_client_of_the_sdk_searches(command, mode):
    async def conversation(client):
        return client.protocol_version, await client.call_tool("search", {"query": "bees dance"})

    version, result = talk(command(), conversation, mode=mode)
    assert version == {"legacy": "2025-11-25", "auto": "2026-07-28"}[mode]
    assert result.structured_content["hits"][0]["headings"] == "Dance"


@pytest.mark.parametrize("version", ["2024-11-05", "2025-11-25", "1999-01-01"])
def test_versions_old_and_unknown_are_negotiated(start, version):
    server = start()
    server.send({**INITIALIZE, "params": {**INITIALIZE["params"], "protocolVersion": version}})
    given = server.answer(0)["result"]
    assert given["protocolVersion"] == ("2025-11-25" if version == "1999-01-01" else version)
    assert given["serverInfo"]["name"] == "mlx-colbert" and "cite" in given["instructions"]


def test_initialize_is_answered_although_the_model_cannot_be_loaded(start, notes):
    server = start("-c", "notes", WORD_PROGRAM_MODEL="none")
    assert server.begin()["result"]["serverInfo"]["name"] == "mlx-colbert"


def test_only_protocol_is_on_the_standard_output(start, notes):
    notes.write("new.md", "print this")
    # Libraries that print, in Python and below it, when they are used.
    server = start("-v", "--allow-write", WORD_PROGRAM_NOISE="1")
    server.begin()
    for number, tool in enumerate(["search", "sync", "status", "search"], start=1):
        arguments = {"query": "steep tea"} if tool == "search" else {}
        assert not server.call(number, tool, **arguments)["result"].get("isError")
    out, err = server.process.communicate(timeout=LONG_S)
    for line in out.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"
    assert "noise of Python" in err and "noise of C" in err and server.process.returncode == 0


GARBAGE = [
    "",
    "no json",
    "{",
    "[]",
    "null",
    '{"jsonrpc":"2.0"}',
    '{"jsonrpc":"2.0","id":1,"method":7}',
    "\0\x1b" * 9,
    "[" * 100_000,
    '{"a":' * 50_000,
    "ÿ\ud7ff" * 100,
]


def test_garbage_is_passed_over(start):
    server = start()
    server.begin()
    for number, garbage in enumerate(GARBAGE, start=2):
        server.write(garbage)
        assert "result" in server.call(number, "collections"), garbage[:20]
    server.process.stdin.buffer.write(b"\xff\xfe\x80\n")
    assert "result" in server.call(99, "collections")


def test_huge_message_is_an_error_and_the_next_is_answered(start):
    server = start()
    server.begin()
    answer = server.call(1, "search", query="tea " * 2_000_000)
    assert answer["result"]["isError"] and len(json.dumps(answer)) < 2_000
    assert not server.call(2, "search", query="steep tea")["result"].get("isError")


def test_unknown_method_and_tool_are_errors(start):
    server = start()
    server.begin()
    server.ask(1, "tools/explode")
    assert "error" in server.answer(1)
    answer = server.call(2, "explode")
    assert "error" in answer or answer["result"]["isError"]


def ended(process):
    return process.wait(timeout=LONG_S)


def test_server_ends_when_its_input_is_closed(start):
    server = start()
    server.begin()
    server.process.stdin.close()
    assert ended(server.process) == 0


def test_server_ends_before_anything_was_said(start):
    server = start()
    server.process.stdin.close()
    assert ended(server.process) == 0


def busy(server, notes):
    """Has the server in the middle of a call."""
    server.begin()
    server.ask(1, "tools/call", name="search", arguments={"query": "wait"})
    until((notes.home / "begun").exists)


def until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_server_ends_in_the_middle_of_a_call(start, notes):
    server = start(WORD_PROGRAM_WAIT=str(notes.home / "begun"))
    busy(server, notes)
    server.process.stdin.close()
    assert ended(server.process) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_when_it_is_told_to(start, notes, number):
    server = start(WORD_PROGRAM_WAIT=str(notes.home / "begun"))
    busy(server, notes)
    server.process.send_signal(number)
    assert ended(server.process) == 0
    assert "Traceback" not in server.process.stderr.read()


def test_server_ends_when_nobody_reads_its_output(start):
    server = start()
    server.begin()
    server.process.stdout.close()
    server.ask(1, "tools/call", name="collections", arguments={})
    assert ended(server.process) == 0


def test_server_ends_when_its_host_is_killed(command):
    parameters = command()
    code = "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL); print(p.pid, flush=True); time.sleep(600)"
    host = subprocess.Popen(
        [sys.executable, "-c", code, parameters.command, *parameters.args],
        stdout=subprocess.PIPE,
        text=True,
        env=parameters.env,
    )
    pid = int(host.stdout.readline())
    host.kill()
    host.communicate()

    def is_gone():
        try:
            with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    if sys.platform == "linux":
        until(is_gone)


def test_call_that_is_cancelled_is_not_answered_and_the_next_is(start, notes):
    server = start(WORD_PROGRAM_WAIT=str(notes.home / "begun"))
    busy(server, notes)
    server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    server.ask(2, "tools/call", name="collections", arguments={})
    assert server.receive()["id"] == 2


def test_eight_calls_at_once_are_all_answered(command):
    async def conversation(client):
        queries = ["steep tea", "bees dance", "cooler water", "green tea"] * 2
        return await asyncio.gather(*[client.call_tool("search", {"query": query}) for query in queries])

    results = talk(command(), conversation)
    assert all(result.structured_content["hits"] for result in results)


def test_eight_clients_at_once_are_all_answered(command):
    async def one(number):
        async with Client(command("--allow-write")) as client:
            await client.call_tool("sync", {})
            return await client.call_tool("search", {"query": "bees dance"})

    async def all_of_them():
        return await asyncio.gather(*map(one, range(8)))

    results = asyncio.run(all_of_them())
    assert all(result.structured_content["hits"][0]["headings"] == "Dance" for result in results)


def test_two_hosts_use_the_same_collection_and_one_that_is_killed_leaves_it_whole(start, notes):
    for number in range(60):
        notes.write(f"many{number}.md", f"Chapter {number} about many things.\n")
    first, second = start("--allow-write"), start("--allow-write")
    first.begin()
    second.begin()
    first.ask(1, "tools/call", name="sync", arguments={})
    first.process.send_signal(signal.SIGKILL)
    synced = second.call(1, "sync")["result"]["structuredContent"]["syncs"][0]
    assert synced["state"] == "done"
    found = second.call(2, "search", query="Chapter 59 about", k=1)["result"]["structuredContent"]
    assert found["searched"][0]["passages"] == 62 and found["hits"][0]["cite"].endswith("many59.md:1")


def test_first_search_finds_what_changed_although_files_are_watched(start, notes):
    notes.write("new.md", "Entirely unheard of.\n")
    server = start()
    server.begin()
    found = server.call(1, "search", query="Entirely unheard of")["result"]["structuredContent"]
    assert found["hits"][0]["cite"].endswith("new.md:1") and found["notes"] == []


def test_files_are_watched_after_the_first_call(start, notes):
    server = start("-c", "notes")
    server.begin()
    server.call(1, "collections")
    notes.write("new.md", "A note that is new.\n")

    def passages():
        return server.call(2, "collections")["result"]["structuredContent"]["collections"][0]["passages"]

    until(lambda: passages() == 3)


def test_wrong_name_is_told_at_once(start):
    server = start("-c", "recipes")
    out, err = server.process.communicate(timeout=LONG_S)
    assert server.process.returncode == 1 and out == ""
    assert "recipes" in err and "There are: notes" in err and "Traceback" not in err


def test_missing_extra_is_one_clear_line(command):
    parameters = command()
    code = "import sys; sys.modules['mcp'] = None; from mlx_colbert.cli import main; sys.exit(main(['mcp']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=parameters.env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "mlx-colbert: error: mlx-colbert mcp needs the extra 'mcp'. Run: pip install 'mlx-colbert[mcp]'"
    ]
