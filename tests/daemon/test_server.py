"""The daemon and its clients, with commands that only repeat what they were asked."""

import json
import os
import signal
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mlx_colbert.daemon import client
from mlx_colbert.daemon.client import Declined, begin, told
from mlx_colbert.daemon.identity import identity
from mlx_colbert.daemon.messages import LONGEST_REQUEST, receive, send
from mlx_colbert.daemon.place import DaemonPlace
from mlx_colbert.errors import DaemonError

LONG_S = 60.0


def ask(*argv, place=None):
    texts = []
    return begin(argv, place).reply(lambda stream, text: texts.append((stream, text))), texts


def connected(place):
    """A connection to the daemon, which may not listen yet although its socket is there."""
    end = time.monotonic() + LONG_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LONG_S)
        try:
            connection.connect(str(place.socket))
            return connection
        except ConnectionRefusedError:
            connection.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def in_thread(function, *args):
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args)))
    thread.start()

    def result():
        thread.join(LONG_S)
        return results[0]

    return result


def until(condition):
    while not condition():
        time.sleep(0.005)


def test_reply_comes_from_the_folder_of_the_client_and_from_another_process(
    place, echo, tmp_path, monkeypatch
):
    daemon = echo()
    monkeypatch.chdir(tmp_path)
    found, _ = ask("search", "tea\udcff")
    expected = {"argv": ["search", "tea\udcff"], "cwd": str(tmp_path.resolve()), "pid": daemon.pid}
    assert found == {"kind": "reply", "result": expected}


def test_printed_text_comes_before_the_reply(place, echo):
    echo()
    found, texts = ask("print", "tea")
    assert "result" in found
    assert "".join(text for stream, text in texts if stream == "stdout") == "tea\n"
    assert "".join(text for stream, text in texts if stream == "stderr") == "False\n"


def test_without_a_daemon_the_client_is_declined(place):
    assert ask("search") == (Declined("it does not run"), [])


def test_socket_of_a_crashed_daemon_is_no_daemon_and_is_replaced(place, echo):
    daemon = echo()
    daemon.kill()
    daemon.wait()
    assert place.is_up()
    found, _ = ask("search")
    assert isinstance(found, Declined) and "does not run" in found.reason
    again = echo()
    until(lambda: isinstance(ask("search")[0], dict))
    assert ask("search")[0]["result"]["pid"] == again.pid


def test_second_daemon_ends_and_the_first_stays(place, echo):
    first, second = echo(), echo()
    assert second.wait(LONG_S) == 3
    assert ask("search")[0]["result"]["pid"] == first.pid


def test_sigterm_lets_accepted_requests_finish(place, echo, tmp_path):
    daemon, free = echo(), tmp_path / "free"
    running = in_thread(ask, "wait", str(free))
    until(Path(f"{free}.begun").exists)
    # Accepted, but not begun.
    waiting = connected(place)
    environment, words = client.environment(), ["search", "next"]
    request = {"do": "run", "identity": identity(), "argv": words, "cwd": "/", "terminals": []}
    send(waiting, {**request, "environment": environment})
    assert receive(waiting, LONGEST_REQUEST) == {"kind": "queued"}
    daemon.send_signal(signal.SIGTERM)
    free.touch()
    assert running()[0]["result"]["argv"] == ["wait", str(free)]
    assert receive(waiting, LONGEST_REQUEST) == {"kind": "started"}
    assert receive(waiting, LONGEST_REQUEST)["result"]["argv"] == words
    waiting.close()
    assert daemon.wait(LONG_S) == 0 and not place.socket.exists()


def test_request_of_a_client_that_left_is_not_run(place, echo, tmp_path):
    echo()
    free, never = tmp_path / "free", tmp_path / "never"
    running = in_thread(ask, "wait", str(free))
    until(Path(f"{free}.begun").exists)
    left = connected(place)
    request = {"do": "run", "identity": identity(), "argv": ["wait", str(never)], "cwd": "/"}
    send(left, {**request, "environment": client.environment(), "terminals": []})
    assert receive(left, LONGEST_REQUEST) == {"kind": "queued"}
    left.close()
    free.touch()
    assert "result" in running()[0]
    assert "result" in ask("search")[0]
    assert not Path(f"{never}.begun").exists()


def test_client_does_it_itself_when_others_take_too_long(place, echo, tmp_path, monkeypatch):
    echo()
    free = tmp_path / "free"
    running = in_thread(ask, "wait", str(free))
    until(Path(f"{free}.begun").exists)
    monkeypatch.setattr(client, "_TURN_S", 0.05)
    assert ask("search")[0] == Declined("it is busy")
    free.touch()
    assert "result" in running()[0]


def test_status_is_answered_while_a_request_runs(place, echo, tmp_path):
    daemon, free = echo(), tmp_path / "free"
    running = in_thread(ask, "wait", str(free))
    until(Path(f"{free}.begun").exists)
    assert told("status", place, timeout_s=LONG_S)["pid"] == daemon.pid
    free.touch()
    running()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", LONGEST_REQUEST + 1),
        struct.pack(">I", 3) + b"tea",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 200_000) + b"[" * 200_000,
        struct.pack(">I", 10) + b"{",
    ],
)
def test_strange_request_is_dropped_and_the_next_one_answered(place, echo, data):
    echo()
    with connected(place) as stranger:
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # what it did not read
            assert stranger.recv(1) == b""
    assert "result" in ask("search")[0]


@pytest.mark.parametrize(
    "change",
    [{"argv": "tea"}, {"argv": [1]}, {"cwd": None}, {"environment": {"A": 1}}, {"terminals": None}],
    ids=str,
)
def test_request_with_wrong_types_is_dropped(place, echo, change):
    echo()
    whole = {"do": "run", "identity": identity(), "argv": ["search"], "cwd": "/", "terminals": []}
    with connected(place) as stranger:
        send(stranger, {**whole, "environment": client.environment(), **change})
        assert stranger.recv(1) == b""
    assert "result" in ask("search")[0]


def test_unknown_request_is_refused(place, echo):
    echo()
    with connected(place) as stranger:
        send(stranger, {"do": "dance"})
        assert receive(stranger, LONGEST_REQUEST)["kind"] == "refused"


def test_folder_that_does_not_exist_is_done_by_the_client(place, echo, tmp_path, monkeypatch):
    echo()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert isinstance(ask("search")[0], Declined)


def test_fault_in_the_daemon_is_left_to_the_client_and_the_daemon_stays(place, echo):
    daemon = echo()
    assert "it failed" in ask("fault")[0].reason
    assert ask("search")[0]["result"]["pid"] == daemon.pid


def test_daemon_that_dies_after_it_printed_is_an_error(place, echo):
    echo()
    with pytest.raises(DaemonError, match="Run the command again"):
        ask("die")


def test_client_with_other_variables_is_declined(place, echo, monkeypatch):
    echo()
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    assert "HF_HOME" in ask("search")[0].reason


def test_variables_of_this_package_are_those_of_the_client(place, echo, monkeypatch):
    echo()
    monkeypatch.setenv("MLX_COLBERT_THREADS", "1")
    assert "result" in ask("search")[0]


def test_width_of_the_terminal_is_that_of_the_client(place, echo, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    echo()
    monkeypatch.setattr(client, "_is_terminal", lambda name: True)
    monkeypatch.setattr(client.sys.stdout, "fileno", lambda: 1)
    monkeypatch.setattr(client.os, "get_terminal_size", lambda *_: os.terminal_size((40, 24)))
    assert ask("width")[0]["result"] == {"width": 40}

    monkeypatch.setattr(client, "_is_terminal", lambda name: False)
    assert ask("width")[0]["result"] == {"width": 80}


def test_other_version_is_declined_and_a_newer_one_replaces_it(place, echo, monkeypatch):
    echo()
    started = []
    monkeypatch.setattr("mlx_colbert.daemon.spawning.start_in_background", lambda: started.append(True))
    package = identity()["package"]
    for version, expected in (("0.0.1", []), ("999.0", [True])):
        ours = {"version": version, "package": package}
        monkeypatch.setattr(client, "identity", lambda ours=ours: ours)
        assert "another version" in ask("search")[0].reason
        assert started == expected


def test_folder_that_others_may_enter_is_refused(place, echo):
    place.make()
    assert place.folder.stat().st_mode & 0o777 == 0o700
    place.folder.chmod(0o755)
    with pytest.raises(DaemonError, match="chmod 700"):
        place.check()
    with pytest.raises(DaemonError, match="chmod 700"):
        place.make()
    place.folder.chmod(0o700)
    echo()
    assert place.socket.stat().st_mode & 0o777 == 0o600
    place.folder.chmod(0o755)
    assert "chmod 700" in ask("search")[0].reason
    place.folder.chmod(0o700)


def test_folder_that_is_a_link_is_refused(place, tmp_path):
    place.folder.parent.mkdir(parents=True)
    (tmp_path / "real").mkdir(mode=0o700)
    place.folder.symlink_to(tmp_path / "real")
    with pytest.raises(DaemonError, match="is not a folder"):
        place.make()


def test_long_path_of_the_folder_gets_a_short_socket(tmp_path, monkeypatch):
    long = tmp_path / ("long" * 30)
    monkeypatch.setenv("MLX_COLBERT_HOME", str(long))
    place = DaemonPlace()
    assert len(os.fsencode(place.socket)) < 104 and place.lock.is_relative_to(long)
    assert DaemonPlace(tmp_path / ("gnol" * 30)).socket != place.socket
    place.make()
    place.socket.parent.rmdir()


def test_message_is_read_in_any_pieces():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        data = json.dumps({"text": "x" * 1000}).encode()
        whole = struct.pack(">I", len(data)) + data

        def drip():
            for i in range(0, len(whole), 100):
                ours.sendall(whole[i : i + 100])

        threading.Thread(target=drip).start()
        assert receive(theirs, 2000, timeout_s=LONG_S) == {"text": "x" * 1000}


def test_message_that_does_not_end_is_an_error():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack(">I", 10) + b"{")
        with pytest.raises(TimeoutError):
            receive(theirs, 100, timeout_s=0.05)


def test_reply_may_be_a_refusal(place, echo):
    echo()
    assert ask("refuse")[0] == Declined("not for me")
