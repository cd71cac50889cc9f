"""`mlx-colbert serve` as a process: the signals, the socket door, and how it says that it cannot start."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs the extra 'server'")

from mlx_colbert.cli import main
from mlx_colbert.daemon.client import told
from mlx_colbert.daemon.process import start
from mlx_colbert.errors import DaemonError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests/data/checkpoints/native-bert"
KEY = "0123456789abcdef"
BODY = {"query": "a", "documents": ["b"]}


class Process:
    """A process of `mlx-colbert serve` that has said where it is."""

    def __init__(self, *words, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlx_colbert", "serve", "--port", "0", "--json", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.line = self.process.stdout.readline()
        values = json.loads(self.line)
        self.url, self.pid = values["url"], values["pid"]
        assert values["event"] == "serving" and self.pid == self.process.pid

    def end(self, number=signal.SIGTERM):
        """Its exit code, the last line of its output, and its errors."""
        self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=60)
        return self.process.returncode, json.loads(out), errors


def status_of(place, other_than=None):
    """What the process at a place says, as soon as there is one, and it is not one that is known."""
    deadline = time.monotonic() + 60
    while (status := told("status", place)) is None or status["pid"] == other_than:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return status


@pytest.fixture
def serve(home):
    processes = []

    def begin(*words, **environment):
        processes.append(Process(*words, **environment))
        return processes[-1]

    yield begin
    for process in processes:
        process.process.kill()
        process.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_with_code_0(serve, number):
    server = serve("--model", str(CHECKPOINT))
    assert httpx.post(f"{server.url}/rerank", json=BODY, timeout=60).status_code == 200
    code, last, errors = server.end(number)
    assert (code, last) == (0, {"event": "ended", "url": server.url, "pid": server.pid})
    assert "Traceback" not in errors and "POST /rerank 200" in errors


def test_signal_while_a_client_is_connected_ends_the_server(serve):
    server = serve()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(15) == b"HTTP/1.1 200 OK"
        assert server.end()[0] == 0


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3])
def test_signal_at_any_instant_after_the_start_ends_the_server_with_code_0(serve, after_s):
    server = serve()
    time.sleep(after_s)
    assert server.end()[0] == 0


def test_server_that_cannot_start_closes_its_socket_and_its_log(home, monkeypatch):
    from mlx_colbert.server import app, serving

    doors, n_threads = [], threading.active_count()
    listening = serving.listening

    def opened(settings):
        doors.append(listening(settings))
        return doors[0]

    def fail(*arguments, **options):
        raise DaemonError("here", "fails.")

    monkeypatch.setattr(serving, "listening", opened)
    monkeypatch.setattr(app, "make_app", fail)
    assert main(["serve", "--port", "0", "--quiet"]) == 1
    assert doors[0].fileno() == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "mlx-colbert-log"]
    assert threading.active_count() == n_threads


def test_commands_of_the_user_are_answered_by_the_server(serve, place, capsys, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "tea", "text": "tea is steeped"}\n')
    index = ["--index", str(tmp_path / "index"), "--backend", "numpy"]
    assert main(["index", str(rows), *index, "--model", str(CHECKPOINT)]) == 0
    server = serve()
    status = status_of(place)
    assert (status["pid"], status["url"]) == (server.pid, server.url)
    assert main(["search", "tea", *index]) == 0
    assert "tea is steeped" in capsys.readouterr().out
    assert told("status", place)["answered"] == 1
    assert main(["daemon", "status"]) == 0
    assert server.url in capsys.readouterr().out


def test_daemon_that_runs_is_replaced(serve, place):
    pid = start(place)[0]["pid"]
    server = serve()
    status = status_of(place, other_than=pid)
    assert status["pid"] == server.pid


def test_second_server_answers_http_alone(serve, place):
    first, second = serve(), None
    status_of(place)
    second = serve()
    assert httpx.get(f"{second.url}/health").status_code == 200
    assert told("status", place)["pid"] == first.pid
    code, _, errors = second.end()
    assert code == 0 and f"{first.url} answers the commands" in errors


def test_server_goes_on_when_its_socket_is_removed_or_a_daemon_is_started(serve, place):
    server = serve()
    status_of(place)
    status, is_new = start(place)
    assert status["pid"] == server.pid and not is_new
    place.socket.unlink()
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert server.end()[0] == 0


def test_daemon_commands_say_that_the_process_is_the_server(serve, place, capsys):
    server = serve()
    status_of(place)

    for action in ("start", "status", "stop"):
        assert main(["daemon", action]) == 0

    started, *status, stopped = capsys.readouterr().out.splitlines()
    named = f"The server at {server.url} (mlx-colbert serve)"
    assert started.startswith(f"{named} runs already: process {server.pid}.")
    assert any("; it does not end by itself" in line for line in status)
    assert stopped == f"Stopped. {named} has ended."


def test_server_whose_socket_cannot_be_made_answers_http_alone(serve, place):
    place.make()
    place.folder.chmod(0o755)
    server = serve()
    assert httpx.get(f"{server.url}/health").status_code == 200
    code, _, errors = server.end()
    assert code == 0 and "chmod 700" in errors and "This process answers HTTP alone" in errors
    place.folder.chmod(0o700)


def test_newer_version_does_not_stop_a_server(serve, place, monkeypatch):
    serve()
    status_of(place)
    monkeypatch.setattr("mlx_colbert.daemon.process.identity", lambda: {"version": "999.0", "package": "/"})
    with pytest.raises(DaemonError, match="`mlx-colbert serve` of another version"):
        start(place)


def test_key_comes_from_a_file_or_the_environment(serve, tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    for server in (serve("--api-key-file", str(tmp_path / "key")), serve(MLX_COLBERT_SERVER_KEY=KEY)):
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/v1/models", headers={"x-api-key": KEY}).status_code == 200


def test_allowed_host_is_answered(serve):
    server = serve("--allowed-host", "tea.example", "--allowed-host", "water.example")
    for host, status in (("tea.example", 200), ("water.example:1", 200), ("other.example", 403)):
        assert httpx.get(f"{server.url}/health", headers={"host": host}).status_code == status


@pytest.mark.parametrize("text", ["short", "with a space inside", "ümlaut-0123456789", ""])
def test_bad_key_is_refused(home, tmp_path, capsys, text):
    (tmp_path / "key").write_text(text)
    assert main(["serve", "--api-key-file", str(tmp_path / "key")]) == 1
    assert "16 or more letters" in capsys.readouterr().err


def test_port_that_is_taken_is_one_line(home, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert "Choose another port" in capsys.readouterr().err


def test_other_machines_need_a_key(home, capsys, monkeypatch):
    monkeypatch.delenv("MLX_COLBERT_SERVER_KEY", raising=False)
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "a key is needed" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["65536", "-1", "x", "١"])
def test_port_is_checked(home, capsys, port):
    with pytest.raises(SystemExit):
        main(["serve", "--port", port])
    assert "0 to 65535" in capsys.readouterr().err


def test_model_that_cannot_be_loaded_ends_the_server(home, capsys, tmp_path):
    assert main(["serve", "--port", "0", "--model", str(tmp_path / "none")]) == 1
    printed = capsys.readouterr()
    assert "none" in printed.err and not printed.out


def test_missing_extra_is_named(home):
    code = "import sys; sys.modules['uvicorn'] = None; from mlx_colbert.cli import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "pip install 'mlx-colbert[server]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_log_of_a_server_stays_its_own_while_a_command_runs(serve, place, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "tea", "text": "tea is steeped"}\n')
    index = ["--index", str(tmp_path / "index"), "--backend", "numpy"]
    assert main(["index", str(rows), *index, "--model", str(CHECKPOINT)]) == 0
    server = serve("--model", str(CHECKPOINT))
    status_of(place)
    is_done = threading.Event()

    def ask():
        while not is_done.is_set():
            assert httpx.post(f"{server.url}/rerank", json=BODY, timeout=60).status_code == 200

    asking = threading.Thread(target=ask)
    asking.start()
    capsys.readouterr()
    for _ in range(5):
        assert main(["search", "tea", *index]) == 0
    is_done.set()
    asking.join(60)
    printed = capsys.readouterr()
    assert "/rerank" not in printed.out + printed.err
    assert "/rerank 200" in server.end()[2]
