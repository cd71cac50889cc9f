"""`mlx-colbert daemon`, and commands that the daemon runs, with a tiny real model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_colbert.cli import main
from mlx_colbert.daemon.client import told
from mlx_colbert.daemon.process import start, stop

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests/data/checkpoints/pylate-bert"
TEXTS = {"tea": "tea is steeped", "coffee": "coffee is brewed", "water": "water boils"}


def make_index(path, texts=TEXTS):
    rows = path.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts.items()))
    words = ["--index", str(path), "--model", str(CHECKPOINT), "--backend", "numpy"]
    assert main(["index", str(rows), *words]) == 0


@pytest.fixture
def index(tmp_path, capsys, home):
    make_index(tmp_path / "index")
    capsys.readouterr()
    return tmp_path / "index"


@pytest.fixture
def daemon(place):
    """The process id of a daemon."""
    return start(place)[0]["pid"]


def n_answered(place):
    return told("status", place, timeout_s=60)["answered"]


def ids(capsys, *argv):
    assert main(["search", *map(str, argv), "--json"]) == 0
    return [hit["doc_id"] for hit in json.loads(capsys.readouterr().out)["hits"]]


@pytest.mark.parametrize("options", [[], ["--json"], ["--mode", "hybrid", "-k", "1"], ["--mode", "keyword"]])
def test_search_prints_the_same_with_and_without_a_daemon(index, place, capsys, options):
    argv = ["search", "tea", "--index", str(index), "--backend", "numpy", *options]
    assert main(argv) == 0
    before = capsys.readouterr()
    start(place)
    assert main(argv) == 0
    assert capsys.readouterr() == before
    assert n_answered(place) == 1


@pytest.mark.parametrize(
    "options",
    [["tea", "--index", "missing"], ["", "--index", "index"], ["tea", "--index", "index", "--filter", "("]],
)
def test_errors_and_exit_codes_are_the_same(index, place, capsys, monkeypatch, options):
    monkeypatch.chdir(index.parent)
    code, before = main(["search", *options]), capsys.readouterr()
    start(place)
    assert (main(["search", *options]), capsys.readouterr()) == (code, before)
    assert code == 1 and n_answered(place) == 1


def test_changes_of_other_processes_are_found(index, daemon, place, capsys):
    assert ids(capsys, "cocoa", "--index", index) == ids(capsys, "cocoa", "--index", index)
    extra = index.parent / "more.jsonl"
    extra.write_text('{"id": "cocoa", "text": "cocoa is hot"}\n')
    assert main(["add", str(extra), "--index", str(index)]) == 0
    capsys.readouterr()
    assert ids(capsys, "cocoa is hot", "--index", index)[0] == "cocoa"
    assert main(["delete", "cocoa", "--index", str(index)]) == 0
    capsys.readouterr()
    assert "cocoa" not in ids(capsys, "cocoa is hot", "--index", index)
    assert n_answered(place) == 4


def test_replaced_index_is_opened_anew_and_no_file_of_the_old_one_is_held(index, daemon, place, capsys):
    ids(capsys, "tea", "--index", index)
    if Path("/proc").is_dir():
        held = [str(path.readlink()) for path in Path(f"/proc/{daemon}/fd").iterdir() if path.is_symlink()]
        assert not [name for name in held if str(index) in name]
        assert str(index) not in Path(f"/proc/{daemon}/maps").read_text()
    shutil.rmtree(index)
    assert main(["search", "tea", "--index", str(index)]) == 1
    assert "does not exist" in capsys.readouterr().err
    make_index(index, {"cocoa": "cocoa is hot"})
    capsys.readouterr()
    assert ids(capsys, "tea", "--index", index) == ["cocoa"]
    assert n_answered(place) == 3


def test_model_stays_in_memory_until_its_files_change(index, daemon, place, capsys):
    ids(capsys, "tea", "--index", index)
    ids(capsys, "tea", "--index", index)
    assert told("status", place)["models"] == [str(CHECKPOINT)]


def test_killed_daemon_is_not_noticed(index, daemon, place, capsys):
    os.kill(daemon, signal.SIGKILL)
    before = ids(capsys, "tea", "--index", index)
    assert start(place)[1]
    assert ids(capsys, "tea", "--index", index) == before and n_answered(place) == 1


def test_start_twice_is_one_daemon_and_stop_twice_is_none(place, capsys):
    assert main(["daemon", "start"]) == 0
    first = capsys.readouterr().out
    assert main(["daemon", "start", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert f"process {again['pid']}" in first and again["running"] and not again["started"]
    assert main(["daemon", "status"]) == 0
    assert f"process   {again['pid']}, version" in capsys.readouterr().out
    assert main(["daemon", "run"]) == 1
    assert "another daemon runs" in capsys.readouterr().err
    assert main(["daemon", "stop"]) == 0 and main(["daemon", "stop"]) == 0
    assert capsys.readouterr().out == "Stopped.\nNo daemon runs.\n"
    assert main(["daemon", "status"]) == 0
    assert "No daemon runs" in capsys.readouterr().out and not place.socket.exists()


def test_daemon_that_cannot_start_says_why(place, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert main(["daemon", "start"]) == 1
    assert "does not start" in capsys.readouterr().err


def test_daemon_is_apart_from_the_terminal_of_its_starter(daemon, place):
    status = Path(f"/proc/{daemon}/fd")
    if not status.is_dir():
        pytest.skip("no /proc")
    assert os.getsid(daemon) == daemon and Path(f"/proc/{daemon}/cwd").resolve() == Path("/")
    assert [str((status / str(n)).readlink()) for n in range(3)] == ["/dev/null", "/dev/null", str(place.log)]


def test_daemon_of_another_version_is_replaced(place, daemon, monkeypatch):
    monkeypatch.setattr(
        "mlx_colbert.daemon.process.identity", lambda: {"version": "999.0", "package": "/new"}
    )
    status, is_new = start(place)
    assert is_new and status["pid"] != daemon


@pytest.mark.slow
def test_eight_starts_at_once_make_one_daemon(place, command):
    argv = [sys.executable, "-m", "mlx_colbert", "daemon", "start", "--json"]
    starts = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(8)]
    found = [json.loads(process.communicate()[0]) for process in starts]
    assert len({item["pid"] for item in found}) == 1 and [item["started"] for item in found].count(True) <= 1
    assert stop(place)["pid"] == found[0]["pid"] and stop(place) is None


@pytest.mark.slow
def test_many_clients_at_once_get_their_own_answers(index, daemon, place):
    words = ["tea", "coffee", "water"] * 4
    argv = [
        sys.executable,
        "-m",
        "mlx_colbert",
        "search",
        "--index",
        str(index),
        "--mode",
        "keyword",
        "--json",
    ]
    clients = [subprocess.Popen([*argv, word], stdout=subprocess.PIPE) for word in words]
    found = [json.loads(process.communicate()[0]) for process in clients]
    assert [item["query"] for item in found] == words
    assert [[hit["doc_id"] for hit in item["hits"]] for item in found] == [[word] for word in words]


def test_client_of_a_daemon_loads_neither_numpy_nor_the_library(index, daemon, place):
    code = (
        "import sys; from mlx_colbert.cli import main; main(sys.argv[1:]);"
        "heavy = ('numpy', 'socket', 'sqlite3', 'subprocess', 'mlx_colbert.index', 'mlx_colbert.model',"
        " 'argparse', 'pathlib', 'typing', 'shutil', 'mlx_colbert.cli.program');"
        "print([name for name in heavy if name in sys.modules])"
    )
    argv = [sys.executable, "-S", "-c", code, "search", "tea", "--index", str(index), "-k", "1"]
    # -S: the modules of this environment load others. But the daemon must be of the same package.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300, env=environment)
    assert done.stdout.splitlines()[-1] == "[]" and n_answered(place) == 1


def test_client_without_a_terminal_or_with_another_encoding_gets_what_it_can_show(
    index, daemon, place, tmp_path, command
):
    (tmp_path / "new.jsonl").write_text('{"id": "\\u00e9", "text": "th\\u00e9 \\ud83c\\udf75"}\n')
    assert command("add", tmp_path / "new.jsonl", "--index", index).returncode == 0
    words = ["search", "thé", "--index", index, "-k", "1", "--mode", "keyword"]
    for options in ([], ["--json"], ["--format", "md"]):
        shown = command(*words, *options, PYTHONIOENCODING="ascii")
        alone = command(*words, *options, PYTHONIOENCODING="ascii", MLX_COLBERT_DAEMON="false")
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, alone.stdout, alone.stderr)
        assert shown.stdout.isascii()
    assert json.loads(command(*words, "--json", PYTHONIOENCODING="ascii").stdout)["hits"][0]["doc_id"] == "é"
    assert n_answered(place) == 4


def test_answer_is_the_same_through_the_daemon_and_its_sources_too(index, place, llm_server, capsys):
    llm_server.pieces = ["Steeped", " [1]", "."]
    argv = ["ask", "what about tea?", "--index", str(index), "--endpoint", llm_server.url]
    assert main(argv) == 0
    before = capsys.readouterr()
    start(place)
    assert main(argv) == 0
    assert capsys.readouterr() == before and before.out.startswith("Steeped [1].\n")
    assert n_answered(place) == 1


def test_failing_language_model_is_the_same_error_through_the_daemon(index, place, capsys):
    argv = ["ask", "what about tea?", "--index", str(index), "--endpoint", "http://127.0.0.1:9"]
    code, before = main(argv), capsys.readouterr()
    start(place)
    assert (main(argv), capsys.readouterr()) == (code, before) and code == 1


def test_conversation_is_not_for_the_daemon(index, place, daemon, llm_server, capsys, monkeypatch):
    monkeypatch.setattr("mlx_colbert.cli.ask._questions", lambda first: [first])
    assert main(["ask", "tea?", "--chat", "--index", str(index), "--endpoint", llm_server.url]) == 0
    assert n_answered(place) == 0


def test_daemon_does_not_run_a_command_if_the_configuration_file_says_so(index, place, daemon, home, capsys):
    (home / "config.toml").write_text("daemon = false\n")
    assert ids(capsys, "tea", "--index", index)
    assert n_answered(place) == 0


def test_terminal_of_the_client_says_what_the_output_is(index, place, daemon, monkeypatch, capsys):
    monkeypatch.setattr("mlx_colbert.daemon.client._is_terminal", lambda name: name == "stdout")
    monkeypatch.setattr("mlx_colbert.daemon.client._width", lambda: {"COLUMNS": "40"})
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = []
    for change in ({}, {"NO_COLOR": "1"}, {"NO_COLOR": "", "TERM": "dumb"}):
        for name, value in change.items():
            monkeypatch.setenv(name, value)
        assert main(["search", "tea", "--index", str(index)]) == 0
        shown.append("\033[" in capsys.readouterr().out)
    assert shown == [True, False, False] and n_answered(place) == 3


def test_regular_expression_is_for_the_daemon_too(home, place, daemon, tmp_path, monkeypatch):
    (tmp_path / "tea.md").write_text("tea is a drink")
    assert main(["sync", str(tmp_path), "--model", str(CHECKPOINT)]) == 0
    monkeypatch.chdir("/")

    assert main(["search", "tea", "-e", "tea"]) == 0
    assert n_answered(place) == 1
    assert main(["search", "tea"]) == 0
    assert n_answered(place) == 2
