"""`mlx-colbert ask`, in the process with stand-in models, and as a process with a server on the loopback."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from llm_server import begin_stream, end_stream, send_json, send_piece

from mlx_colbert import Retriever
from mlx_colbert.cli import main
from mlx_colbert.collection.lock import locked

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests/data/checkpoints/pylate-bert"
CHAT = "/v1/chat/completions"


@pytest.fixture
def index(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "leaf.md").write_text("Leaves are green.\n")
    (tmp_path / "notes" / "snow.md").write_text("Snow is white.\n")
    Retriever.from_files(tmp_path / "index", CHECKPOINT, [tmp_path / "notes"], backend="numpy").close()
    return tmp_path / "index"


@pytest.fixture
def ask(index, llm_server, capsys):
    """Asks with the server, and returns the exit code, the output and the errors."""

    def run(*arguments):
        options = ["--index", str(index), "--endpoint", llm_server.url, "--backend", "numpy"]
        code = main(["ask", *map(str, arguments), *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def command(index, url, *arguments):
    options = ["--index", str(index), "--endpoint", url, "--backend", "numpy"]
    return [sys.executable, "-m", "mlx_colbert", "ask", *arguments, *options]


def test_answer_is_followed_by_its_sources_with_their_lines(ask, llm_server):
    llm_server.pieces = ["Green", " [1", "], not white [2", "]."]

    code, out, err = ask("What colour are leaves?")

    answer, sources = out.split("\n\n")
    assert (code, err, answer) == (0, "", "Green [1], not white [2].")
    assert sorted(sources.splitlines()) == sorted(
        [f"[{n}] notes/{name}.md:1" for n, name in enumerate(order(llm_server), start=1)]
    )


def test_answer_on_a_terminal_is_broken_between_words(ask, llm_server, monkeypatch):
    llm_server.pieces = ["Leaves are green in summ", "er and red in autumn [1]."]
    monkeypatch.setenv("COLUMNS", "30")
    assert ask("What colour?")[1].startswith("Leaves are green in summer and red in autumn [1].\n")

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert ask("What colour?")[1].startswith("Leaves are green in summer and\nred in autumn [1].\n")


def order(server):
    """The names of the notes in the order of the prompt."""
    text = server.asked[-1][2]["messages"][-1]["content"]
    return sorted(("leaf", "snow"), key=lambda name: text.index(f"{name}.md"))


@pytest.fixture
def collections(tmp_path, monkeypatch):
    """Two collections whose files have the same names in them."""
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "home"))
    for year, colour in (("old", "green"), ("new", "red")):
        (tmp_path / year / "notes").mkdir(parents=True)
        (tmp_path / year / "notes" / "leaf.md").write_text(f"Leaves are {colour}.\n")
        main(
            [
                "sync",
                str(tmp_path / year / "notes"),
                "--name",
                year,
                "--model",
                str(CHECKPOINT),
                "--backend",
                "numpy",
            ]
        )
    main(["context", str(tmp_path / "old" / "notes"), "Notes of my childhood"])


def test_question_to_collections_is_answered_from_all_of_them_with_their_context(
    collections, llm_server, capsys
):
    llm_server.pieces = ["Green [1]."]
    capsys.readouterr()

    assert (
        main(["ask", "Leaves?", "--min-score", "0", "--endpoint", llm_server.url, "--backend", "numpy"]) == 0
    )

    prompt = llm_server.asked[-1][2]["messages"][-1]["content"]
    assert "old: notes/leaf.md:1" in prompt and "new: notes/leaf.md:1" in prompt
    assert prompt.count("Notes of my childhood") == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("notes/leaf.md:1")


@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_quiet_answer_has_no_note_of_files_that_wait(collections, llm_server, capsys, tmp_path, options):
    (tmp_path / "new" / "notes" / "snow.md").write_text("Snow is white.\n")
    words = ["ask", "Leaves?", "--min-score", "0", "--endpoint", llm_server.url, "--backend", "numpy"]
    capsys.readouterr()

    with locked(tmp_path / "home" / "collections" / "new", "new"):
        main([*words, *options])

    assert ("not in step" in capsys.readouterr().err) is not bool(options)


def test_question_to_one_collection_is_answered_from_it_alone(collections, llm_server, capsys):
    main(
        [
            "ask",
            "Leaves?",
            "-c",
            "new",
            "--min-score",
            "0",
            "--endpoint",
            llm_server.url,
            "--backend",
            "numpy",
        ]
    )

    prompt = llm_server.asked[-1][2]["messages"][-1]["content"]
    assert "> notes/leaf.md:1" in prompt and "Leaves are green" not in prompt


def test_question_that_nothing_in_the_collections_answers_reaches_no_model(collections, llm_server, capsys):
    capsys.readouterr()
    assert (
        main(["ask", "Leaves?", "--min-score", "1", "--endpoint", llm_server.url, "--backend", "numpy"]) == 0
    )
    assert capsys.readouterr().out.strip() == "Nothing relevant was found, so there is no answer."
    assert not [path for _, path, _ in llm_server.asked if path == CHAT]


def test_invented_citation_is_marked_where_it_is_and_below(ask, llm_server):
    llm_server.pieces = ["Green [1], blue [", "7", "]."]

    _, out, _ = ask("What colour are leaves?")

    assert out.startswith("Green [1], blue [7?].\n")
    assert out.endswith("\n[7?]: invented by the model. Number of its sources: 2.\n")


def test_answer_without_a_citation_names_what_it_was_made_from(ask, llm_server):
    llm_server.pieces = ["Green."]

    _, out, _ = ask("What colour are leaves?")

    assert "The answer cites no source. It was made from these:\n[1] notes/" in out


def test_answer_as_json_has_stable_keys(ask, llm_server):
    llm_server.pieces = ["Green [1] [7]."]

    code, out, _ = ask("What colour are leaves?", "--json", "-k", 1)

    told = json.loads(out)
    assert code == 0
    assert list(told) == [
        *("question", "searched", "answer", "found", "finish", "citations", "sources"),
        *("model", "prompt_tokens", "timings_ms"),
    ]
    assert (told["answer"], told["model"], told["finish"]) == ("Green [1] [7].", "tiny", "stop")
    first, invented = told["citations"]
    assert first["lines"] == [1, 1] and first["source"].startswith("notes/") and first["text"].endswith(".")
    assert invented["invented"] and not first["invented"] and len(told["sources"]) == 1


def test_passages_below_the_least_score_are_left_out_and_nothing_is_made_up(ask, llm_server):
    code, out, _ = ask("What colour are leaves?", "--min-score", 1000)

    assert (code, out) == (0, "Nothing relevant was found, so there is no answer.\n")
    assert CHAT not in llm_server.paths()


def test_options_reach_the_server(ask, llm_server):
    ask("Why?", "--max-tokens", 33, "--temperature", 0.7, "--llm", "other")

    body = llm_server.asked[-1][2]
    assert (body["max_tokens"], body["temperature"], body["model"]) == (33, 0.7, "other")


def test_answer_that_reaches_its_limit_says_so(ask, llm_server):
    def cut(handler, body):
        begin_stream(handler)
        send_piece(handler, "Green [1]")
        end_stream(handler, "length")

    llm_server.behave[CHAT] = cut
    assert ask("Why?")[1].endswith("\nThe answer is cut: it reached --max-tokens.\n")


def test_answer_does_not_control_the_terminal(ask, llm_server):
    llm_server.pieces = ["Green\x1b]0;x\x07", " [1].\r\nEnd\x9b."]

    _, out, _ = ask("Why?")

    assert out.startswith("Green ]0;x  [1]. \nEnd .\n")


def test_name_of_a_file_does_not_control_the_terminal(tmp_path, ask, llm_server):
    (tmp_path / "notes" / "a\x1b[31mb.md").write_text("Coal is black.\n")
    with Retriever.open(tmp_path / "index", CHECKPOINT, backend="numpy") as retriever:
        retriever.add_files([tmp_path / "notes"], upsert=True)
    llm_server.pieces = ["None."]

    _, out, _ = ask("Why?")

    assert "] notes/a\\u001b[31mb.md:1\n" in out and "\x1b" not in out


def test_stream_that_is_cut_leaves_what_was_said_and_one_line(ask, llm_server):
    def cut(handler, body):
        begin_stream(handler)
        send_piece(handler, "Green [1]")

    llm_server.behave[CHAT] = cut

    code, out, err = ask("Why?")
    as_json = ask("Why?", "--json")

    assert code == 1 and out.startswith("Green [1]\n\n[1] notes/")
    assert err.count("\n") == 1 and "ended the connection too early" in err
    told = json.loads(as_json[1])
    assert as_json[0] == 1 and (told["answer"], told["finish"]) == ("Green [1]", None)


def test_server_that_fails_is_one_line(ask, llm_server):
    llm_server.behave[CHAT] = lambda handler, body: send_json(handler, {"error": "x\x1b[31m"}, status=500)

    code, out, err = ask("Why?")

    assert (code, out) == (1, "")
    assert "\x1b" not in err and err.count("\n") == 1 and "status 500: x [31m" in err


def test_chat_rewrites_follow_ups_and_ends_with_the_input(ask, llm_server, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nAnd snow?\n"))
    answers = iter(["Green [1].", "What colour is snow?", "White [2]."])

    def talk(handler, body):
        begin_stream(handler)
        send_piece(handler, next(answers))
        end_stream(handler)

    llm_server.behave[CHAT] = talk
    code, out, _ = ask("What colour are leaves?", "--chat")

    assert code == 0 and "Green [1].\n\n[1] notes/" in out and "White [2].\n\n[2] notes/" in out
    last = llm_server.asked[-1][2]["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert last[-1]["content"].endswith("Question: What colour is snow?")


def test_chat_goes_on_after_an_error(ask, llm_server, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why?\n"))
    behaviours = [lambda handler, body: send_json(handler, {"error": "busy"}, status=503)]

    def talk(handler, body):
        if behaviours:
            behaviours.pop()(handler, body)
            return
        begin_stream(handler)
        send_piece(handler, "Green [1].")
        end_stream(handler)

    llm_server.behave[CHAT] = talk
    code, out, err = ask("What colour are leaves?", "--chat")

    assert code == 1 and out.startswith("Green [1].\n") and err.count("\n") == 1 and "busy" in err


def test_blank_question_is_refused_before_a_language_model_is_opened(ask, llm_server):
    code, _, err = ask(" ")

    assert code == 1 and "question is blank" in err and llm_server.asked == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: QUESTION"),
        (["Why?", "--chat", "--json"], "--chat prints text only"),
        (["Why?", "--temperature", "3"], "must be a number of 0 to 2, got '3'"),
        (["Why?", "--min-score", "nan"], "must be a number, got 'nan'"),
        (["Why?", "-k", "0"], "must be an integer of 1"),
        (["why", "so", "blue"], 'Put the query in quotes: "why so blue"'),
    ],
)
def test_wrong_usage(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["ask", *arguments, "--index", str(tmp_path)])
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_remote_server_that_is_not_named_in_full_is_refused(index, capsys):
    assert (
        main(["ask", "Why?", "--index", str(index), "--endpoint", "192.0.2.1:8000", "--backend", "numpy"])
        == 1
    )
    assert "name it in full: https://192.0.2.1:8000" in capsys.readouterr().err


def test_missing_mlx_lm_says_what_to_install(index, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    monkeypatch.delitem(sys.modules, "mlx_colbert.ask.language_models.mlx_lm", raising=False)

    assert main(["ask", "Why?", "--index", str(index), "--llm", "any/model", "--backend", "numpy"]) == 1
    told = capsys.readouterr().err
    assert "pip install 'mlx-colbert[rag" in told and "--endpoint URL" in told and told.count("\n") == 1


def endless(server):
    def write(handler, body):
        begin_stream(handler)
        try:
            while not server.stop.wait(0.01):
                send_piece(handler, "Green [1] ")
        except OSError:
            server.stop.set()

    return write


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_interruption_leaves_what_was_said(index, llm_server, arguments):
    llm_server.behave[CHAT] = endless(llm_server)
    process = subprocess.Popen(
        command(index, llm_server.url, "Why?", *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    # With --json nothing is printed before the end.
    begun = b"" if arguments else process.stdout.read(5)
    while CHAT not in llm_server.paths():
        assert process.poll() is None

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (130, b"mlx-colbert: interrupted.\n")
    if arguments:
        assert json.loads(out)["finish"] is None
    else:
        assert begun == b"Green" and b"\n\n[1] notes/" in out


def test_reader_that_goes_away_ends_the_answer(index, llm_server):
    llm_server.behave[CHAT] = endless(llm_server)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(
            command(index, llm_server.url, "Why?"), cwd=ROOT, stdout=gone, stderr=subprocess.PIPE, timeout=120
        )

    assert (done.returncode, done.stderr) == (141, b"")
    assert llm_server.stop.wait(60)


def test_asking_a_server_imports_neither_mlx_nor_transformers(index, llm_server):
    code = (
        "import sys; from mlx_colbert.cli import main; main(sys.argv[1:]);"
        "print([m for m in ('mlx.core', 'mlx_lm', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    arguments = command(index, llm_server.url, "Why?")[3:]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")
