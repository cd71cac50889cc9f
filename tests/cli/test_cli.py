"""The command line, in the process with a stand-in model, and for real with a tiny checkpoint."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from word_model import WordModel

from mlx_colbert import __version__
from mlx_colbert.cli import COMMANDS, GROUPS, main
from mlx_colbert.cli.program import command_module, parser
from mlx_colbert.cli.render import printable
from mlx_colbert.index import Index
from mlx_colbert.index.catalog.commits import write_note
from mlx_colbert.model.colbert import ColBERT

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests/data/checkpoints/pylate-bert"
NAMES = list(COMMANDS)


@pytest.fixture
def words(monkeypatch):
    """Every `--model` is a WordModel of that name."""

    def load(source, *, backend, revision=None, **lengths):
        given = {name: length for name, length in lengths.items() if length}
        return WordModel(" ".join(["of", source, *map(str, given.values())]), str(source), given)

    monkeypatch.setattr(ColBERT, "load", load)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = {"tea": "tea is steeped", "coffee": "coffee is brewed", "water": "water boils"}
    path.write_text("".join(json.dumps({"id": i, "text": t, "n": len(t)}) + "\n" for i, t in texts.items()))
    return path


@pytest.fixture
def index(tmp_path, rows, words, capsys):
    assert main(["index", str(rows), "--index", str(tmp_path / "index"), "--model", "words"]) == 0
    capsys.readouterr()
    return tmp_path / "index"


def json_of(capsys, *argv):
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys, *argv):
    """The message of a command that fails: on stderr alone, in a line or two, with exit code 1."""
    assert main([*map(str, argv)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("mlx-colbert: error: ")
    assert captured.err.count("\n") <= 2 and "Traceback" not in captured.err
    return captured.err


def usage_error_of(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main([*map(str, argv)])
    assert caught.value.code == 2
    return capsys.readouterr().err


def run(*argv, **options):
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "mlx_colbert", *map(str, argv)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example_and_its_json_keys(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"example:\n  {command_module(name).EXAMPLE}" in shown and "--json prints" in shown


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_documented(name):
    assert f"## {name}\n" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_understood(name):
    for example in command_module(name).EXAMPLE.splitlines():
        words = re.findall(r"\"[^\"]*\"|'[^']*'|\S+", example[example.index("mlx-colbert") :])[1:]
        assert parser(words).parse_args([word.strip("\"'") for word in words]).command is command_module(name)


def test_help_lists_the_commands_by_what_they_are_for_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    listed = re.findall(r"^([A-Z][a-z ]+):$|^  ([a-z-]+) +\S", shown.partition("options:")[0], re.MULTILINE)
    expected = [word for title, group in GROUPS.items() for word in (title, *group)]
    assert [title or name for title, name in listed] == expected
    assert "exit codes:\n  0    success" in shown


def test_without_a_command_the_same_list_is_shown_on_stderr(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    whole = capsys.readouterr().out
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "exit codes" not in shown.err
    listed = shown.err.partition("COMMAND ...\n\n")[2].partition("\n\nmlx-colbert COMMAND")[0]
    assert listed.startswith("Search your files:") and listed in whole


@pytest.mark.parametrize("columns", [40, 80])
def test_list_of_commands_fits_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    main([])
    lines = capsys.readouterr().err.splitlines()
    assert all(
        len(line) <= columns for line in lines if not line.startswith(("Search your own", "mlx-colbert"))
    )
    assert columns == 40 or not any(line.startswith("    ") for line in lines), "a summary is too long"


@pytest.mark.parametrize("name", NAMES)
def test_every_summary_is_a_sentence(name):
    assert re.fullmatch(r"[A-Z][a-z].*\w\)?\.", COMMANDS[name])


def test_command_that_does_not_exist_is_told_with_the_nearest_one(capsys):
    assert "there is no command 'serch'. Did you mean search?" in usage_error_of(capsys, "serch", "tea")
    assert "there is no command 'xyz'. mlx-colbert --help lists" in usage_error_of(capsys, "xyz")


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"mlx-colbert {__version__}\n"


def test_index_counts_what_it_adds(tmp_path, rows, words, capsys):
    made = json_of(capsys, "index", rows, "--index", tmp_path / "new", "--model", "words")
    counts = {"added": 3, "unchanged": 0, "deleted": 0, "truncated": 0, "passages": 3}
    counts |= {"passed": True, "unread": {}, "waiting": {}, "skipped": {}, "blank_rows": 0}
    assert made == {"index": str(tmp_path / "new"), **counts}


def test_search_prints_rank_place_score_id_and_passage(index, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    assert main(["search", "coffee brewed", "--index", str(index), "-k", "1"]) == 0
    assert re.fullmatch(
        r" 1  .*/rows\.jsonl:2  (2\.00|1\.99) coffee\n    coffee is brewed\n", capsys.readouterr().out
    )


def printed_id(capsys):
    """The id that a search has printed after the score."""
    return re.search(r"(?:^|\S)  +\d+\.\d\d (.*)$", capsys.readouterr().out, re.MULTILINE)[1]


def test_search_as_json_has_stable_keys(index, capsys):
    found = json_of(capsys, "search", "water boils", "--index", index, "-k", 1)
    (hit,) = found["hits"]
    assert found["query"] == "water boils" and hit.pop("score") == pytest.approx(2.0, abs=2e-3)
    assert hit.pop("source").endswith("/rows.jsonl") and hit.pop("position") == {"lines": [3, 3]}
    assert hit == {"rank": 1, "doc_id": "water", "text": "water boils", "metadata": {"n": 11}}


def test_long_passages_are_shortened_and_wrapped_unless_full(tmp_path, index, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    (tmp_path / "long.csv").write_text("id,text\nlong,zebra " + "word " * 200 + "end\n")
    assert main(["add", str(tmp_path / "long.csv"), "--index", str(index)]) == 0
    capsys.readouterr()
    assert main(["search", "zebra", "--index", str(index), "-k", "1"]) == 0
    short = capsys.readouterr().out
    assert main(["search", "zebra", "--index", str(index), "-k", "1", "--full"]) == 0
    lines = short.splitlines()
    assert short.endswith("…\n") and len(lines) == 6
    assert max(map(len, lines[1:])) <= 50
    assert capsys.readouterr().out.endswith("end\n")


def test_control_characters_of_a_document_do_not_reach_the_terminal(index, capsys):
    row = json.dumps({"id": "evil\u001b[2J", "text": "zebra \u001b]0;owned\u0007"})
    (index.parent / "evil.jsonl").write_text(row)
    assert main(["add", str(index.parent / "evil.jsonl"), "--index", str(index)]) == 0
    assert main(["search", "zebra", "--index", str(index), "--full"]) == 0
    assert "\u001b" not in capsys.readouterr().out


def changed(rows):
    rows.write_text(rows.read_text().replace("water boils", "water freezes"))
    return rows


def test_add_refuses_changed_passages_and_upsert_replaces_them(index, rows, capsys):
    message = error_of(capsys, "add", changed(rows), "--index", index)
    assert "'water': exists already" in message and "another text" in message and "--upsert" in message
    done = json_of(capsys, "add", rows, "--index", index, "--upsert")
    assert (done["added"], done["unchanged"], done["passages"]) == (1, 2, 3)


def test_upsert_does_not_call_a_replaced_passage_added(index, rows, capsys):
    changed(rows)
    assert main(["add", str(rows), "--upsert", "--index", str(index)]) == 0
    assert f"{index}: 1 passage added or replaced, 3 in all.\n" in capsys.readouterr().out


def test_passages_that_a_file_no_longer_has_are_counted(index, rows, capsys):
    rows.write_text(rows.read_text().splitlines(keepends=True)[0])
    assert main(["add", str(rows), "--upsert", "--index", str(index)]) == 0
    assert "Deleted: 2 passages that the files no longer have.\n" in capsys.readouterr().out
    assert json_of(capsys, "add", rows, "--upsert", "--index", index)["deleted"] == 0


def test_upsert_of_ids_of_another_file_is_refused(index, rows, tmp_path, capsys):
    (tmp_path / "other.csv").write_text("id,text\ntea,other\n")
    told = error_of(capsys, "add", tmp_path / "other.csv", "--upsert", "--index", index)
    assert "rows.jsonl" in told and "other.csv" in told and "mlx-colbert delete" in told


def test_blank_rows_are_told(tmp_path, words, capsys):
    (tmp_path / "rows.csv").write_text("id,text\n1,tea\n2,\n3,\n")
    command = ["index", str(tmp_path / "rows.csv"), "--index", str(tmp_path / "i"), "--model", "words"]
    assert main(command) == 0
    assert capsys.readouterr().out.endswith("1 passage added, 1 in all.\nLeft out: 2 rows without a text.\n")
    command[3] = str(tmp_path / "another")
    assert json_of(capsys, *command)["blank_rows"] == 2


@pytest.mark.parametrize("query", ["🫖", "?!", "…"])
def test_keyword_search_without_a_word_says_why_it_finds_nothing(index, capsys, monkeypatch, query):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["search", query, "--mode", "keyword", "--index", str(index)]) == 0
    assert capsys.readouterr().out == (
        "Nothing was found.\n"
        "The query has no letters or digits. A keyword search finds words, not signs or emoji.\n"
    )
    assert json_of(capsys, "search", "milk", "--mode", "keyword", "--index", index)["notes"] == []


def test_delete_of_a_path_names_the_source(tmp_path, words, capsys, monkeypatch):
    (tmp_path / "my notes").mkdir()
    (tmp_path / "my notes/tea.md").write_text("tea")
    monkeypatch.chdir(tmp_path)
    json_of(capsys, "index", "my notes", "--index", "i", "--model", "words")
    for given in ("my notes/tea.md", "./my notes/../my notes/tea.md", str(tmp_path / "my notes/tea.md")):
        told = error_of(capsys, "delete", given, "--index", "i")
        assert told.endswith("To delete the passages of this file: --source 'my notes/tea.md'\n")
    told = json_of(capsys, "delete", "--source", tmp_path / "my notes/tea.md", "--index", "i")
    assert told["notes"][0].endswith("To delete the passages of this file: --source 'my notes/tea.md'")
    for given in ("nothing", r"nothing\u0000"):
        assert "--source" not in error_of(capsys, "delete", given, "--index", "i")
    assert json_of(capsys, "delete", "--source", "my notes/tea.md", "--index", "i")["deleted"] == 1


def test_info_of_another_folder_speaks_of_indexes_and_models(tmp_path, capsys):
    both = "Give the folder of an index (mlx-colbert index) or of a model (mlx-colbert convert)."
    assert f"nowhere: does not exist. {both}" in error_of(capsys, "info", tmp_path / "nowhere")
    assert f"is not an index or a converted model. {both}" in error_of(capsys, "info", tmp_path)


def test_path_is_shown_without_needless_dots(index, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    told = error_of(capsys, "add", f"{tmp_path}/notes/../none.md", "--index", f"{tmp_path}/notes/../index")
    assert told == f"mlx-colbert: error: {tmp_path}/none.md: No such file or directory.\n"
    # After a link, `..` leads to another folder.
    (tmp_path / "deep/notes").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep/notes")
    assert "link/../none.md" in error_of(capsys, "add", f"{tmp_path}/link/../none.md", "--index", index)


@pytest.mark.parametrize("moment", ["read", "load", "encode"])
def test_interruption_before_the_first_write_says_that_nothing_was_written(
    tmp_path, rows, words, capsys, monkeypatch, moment
):
    from mlx_colbert.retriever import reading

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    owner, name = {
        "read": (reading, "read_files"),
        "load": (ColBERT, "load"),
        "encode": (WordModel, "encode_tokenized"),
    }[moment]
    command = ["index", str(rows), "--index", str(tmp_path / "new"), "--model", "words"]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt)
        assert main(command) == 130
    assert capsys.readouterr().err == (
        "mlx-colbert: interrupted.\n"
        "Nothing was written yet. The same command (or call) starts from the beginning.\n"
    )
    assert json_of(capsys, *command)["added"] == 3


def test_delete_takes_ids(index, capsys):
    told = json_of(capsys, "delete", "tea", "water", "--index", index)
    assert told == {"index": str(index), "deleted": 2, "passages": 1, "notes": []}


def test_delete_by_a_filter_that_fits_nothing_says_why(index, capsys):
    assert main(["delete", "--filter", "n = '11'", "--index", str(index)]) == 0
    assert capsys.readouterr().out == (
        f"{index}: 0 passages deleted, 3 in all.\n"
        "'n' is a number in this index, and the filter compares it with text. Write the number without quotes.\n"
    )


def test_delete_of_a_source_that_is_not_there_says_so(index, capsys):
    told = json_of(capsys, "delete", "--source", "milk.md", "--index", index)
    assert told["deleted"] == 0
    assert told["notes"] == ["No passage is from 'milk.md'. Search prints the name, such as notes/tea.md."]


def test_rerank_reads_files(rows, words, capsys):
    found = json_of(capsys, "rerank", "water", rows, "--model", "words", "-k", 2)
    assert [hit["rank"] for hit in found["hits"]] == [1, 2] and found["hits"][0]["doc_id"] == "water"


def test_rerank_without_a_file_reads_lines_of_stdin(words, capsys, monkeypatch, tmp_path):
    (tmp_path / "lines").write_text("tea\n\nwater boils\n")
    with (tmp_path / "lines").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        found = json_of(capsys, "rerank", "water", "--model", "words")
    assert [hit["doc_id"] for hit in found["hits"]] == ["3", "1"]


def test_info_of_an_index_names_its_model_and_counts(index, capsys):
    told = json_of(capsys, "info", index)
    assert (told["kind"], told["passages"], told["dim"]) == ("index", 3, 16)
    assert told["model"] == {"source": "words", "fingerprint": "of words"}


def test_info_for_people_is_a_line_per_field(index, capsys):
    assert main(["info", str(index)]) == 0
    assert re.search(r"^passages +3$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("k", ["0", "-1", "x", "1.5"])
def test_k_that_is_no_positive_integer_is_a_usage_error(index, capsys, k):
    assert "an integer of 1 to" in usage_error_of(capsys, "search", "tea", "--index", index, f"-k={k}")


def test_the_same_command_again_adds_nothing(index, rows, capsys):
    command = ["index", str(rows), "--index", str(index), "--model", "words"]
    assert main(command) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "Already in the index: 3 of 3 passages.",
        f"{index}: 0 passages added, 3 in all.",
    ]
    assert json_of(capsys, *command)["unchanged"] == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--nbits", "2"], "created with nbits 4, not 2"),
        (["--exact"], "created with exact_tokens 300000, not None"),
        (["--pool-factor", "2"], "created with pool_factor 1, not 2"),
        (["--on-overflow", "chunk"], "created with on_overflow truncate, not chunk"),
        (["--document-length", "90"], "has the vectors of 'words'"),
    ],
)
def test_an_existing_index_is_completed_with_its_own_settings_alone(index, rows, capsys, option, message):
    assert message in error_of(capsys, "index", rows, "--index", index, "--model", "words", *option)


def test_an_existing_index_is_not_mixed_with_other_passages(tmp_path, index, rows, capsys):
    command = ["--index", index, "--model", "words"]
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "milk", "text": "milk is sour"}\n')
    assert "It has 3 passages that these files do not have" in error_of(capsys, "index", other, *command)
    assert "'water': exists already" in error_of(capsys, "index", changed(rows), *command)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    assert "exists already" in error_of(
        capsys, "index", other, "--index", tmp_path / "folder", "--model", "words"
    )
    assert json_of(capsys, "info", index)["passages"] == 3


def test_stats_say_what_encoding_took(tmp_path, rows, words, capsys):
    command = ["index", str(rows), "--index", str(tmp_path / "new"), "--model", "words", "--stats"]
    stats = json_of(capsys, *command)["stats"]
    assert (stats["passages"], stats["tokens"], stats["padding_waste"]) == (3, 8, 0)
    assert all(stats[name] > 0 for name in ("tokens_per_s", "tokenize_s", "encode_s", "write_s"))
    assert 10e6 < stats["peak_memory_bytes"] < 10e9
    assert main(command) == 0
    told = capsys.readouterr().out
    assert re.search(r"encoded: 0 passages, 0 tokens, 0\.0% padding, 0 tokens/s\nseconds: tokenise ", told)
    assert re.search(r"peak memory [\d,]+ MB\n$", told)


def test_an_index_of_another_model_is_refused(index, capsys):
    message = error_of(capsys, "search", "tea", "--index", index, "--model", "others")
    assert "'words'" in message and "'others'" in message


def test_unknown_ids_are_named_and_nothing_is_deleted(index, capsys):
    assert "'milk'" in error_of(capsys, "delete", "tea", "milk", "--index", index)
    assert json_of(capsys, "info", index)["passages"] == 3


def test_a_blank_query_is_an_error(index, capsys):
    assert "the query is blank" in error_of(capsys, "search", " ", "--index", index)


@pytest.mark.parametrize("command", [["search", "tea", "--index"], ["delete", "tea", "--index"], ["info"]])
def test_a_folder_that_is_no_index_is_an_error(tmp_path, capsys, command):
    assert "nowhere" in error_of(capsys, *command, tmp_path / "nowhere")
    (tmp_path / "notes").mkdir()
    assert "notes" in error_of(capsys, *command, tmp_path / "notes")
    (tmp_path / "file.txt").write_text("Text.")
    assert "file.txt" in error_of(capsys, *command, tmp_path / "file.txt")


def test_a_damaged_index_is_an_error(index, capsys):
    with Index.open(index, backend="numpy") as opened:
        assert opened.verify() == []
    for path in index.glob("segment-*/*"):
        path.write_bytes(path.read_bytes()[:-7])
    assert "index" in error_of(capsys, "search", "tea", "--index", index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"bad\.jsonl: No such file or directory"),
        (b"", "is empty"),
        (b'{"text": "\xff"}', r"bad\.jsonl:1: is not UTF-8"),
        (b'{"id": "a", "text": "x"}\n' * 2, r"'a': is given twice, at .*:1 and at .*:2"),
    ],
)
def test_inputs_that_cannot_be_read_leave_no_index(tmp_path, words, capsys, content, message):
    if content is not None:
        (tmp_path / "bad.jsonl").write_bytes(content)
    told = error_of(capsys, "index", tmp_path / "bad.jsonl", "--index", tmp_path / "new", "--model", "words")
    assert re.search(message, told) and not (tmp_path / "new").exists()


def test_interruption_is_told_in_a_line(index, capsys, monkeypatch):
    def interrupt(*_, **__):
        error = KeyboardInterrupt()
        error.add_note("512 of 1,000 are kept.")
        raise error

    monkeypatch.setattr(Index, "search", interrupt)
    assert main(["search", "tea", "--index", str(index)]) == 130
    assert capsys.readouterr().err == "mlx-colbert: interrupted.\n512 of 1,000 are kept.\n"


def test_a_reader_that_goes_away_is_no_error(index):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        command = [sys.executable, "-m", "mlx_colbert", "info", str(index)]
        done = subprocess.run(command, cwd=ROOT, stdout=gone, stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_a_full_disk_does_not_take_is_one_error(index):
    command = [sys.executable, "-m", "mlx_colbert", "info", str(index)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the output cannot be written: No space left on device" in done.stderr


def test_the_module_runs_and_its_errors_have_no_traceback(tmp_path):
    done = run("info", tmp_path / "nowhere")
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr


def test_help_imports_no_library():
    code = "import sys; from mlx_colbert.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'numpy', 'mlx', 'tokenizers', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.fixture(scope="module")
def real_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "model"
    done = run("convert", "--hf-path", CHECKPOINT, "--mlx-path", folder)
    assert (done.returncode, done.stdout) == (0, f"{folder}: converted.\n"), done.stderr
    return folder


@pytest.mark.slow
def test_a_real_checkpoint_goes_from_conversion_to_hits(tmp_path, real_model, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tea.md").write_text("# Tea\n\nSteep it for four minutes.")
    (tmp_path / "notes" / "river.md").write_text("The river rises in spring.")
    made = json_of(capsys, "index", tmp_path / "notes", "--index", tmp_path / "i", "--model", real_model)
    assert made["passages"] == 2
    found = json_of(capsys, "search", "The river rises in spring.", "--index", tmp_path / "i")
    assert {hit["doc_id"] for hit in found["hits"]} == {"notes/river.md#1", "notes/tea.md#1"}
    assert json_of(capsys, "info", real_model)["colbert"]["query_length"] == 16
    assert json_of(capsys, "delete", "notes/tea.md#1", "--index", tmp_path / "i")["passages"] == 1


@pytest.mark.slow
def test_search_and_rerank_of_a_real_model_score_alike(tmp_path, real_model, rows, capsys):
    json_of(capsys, "index", rows, "--index", tmp_path / "i", "--model", real_model)
    searched = json_of(capsys, "search", "water", "--index", tmp_path / "i")["hits"]
    reranked = json_of(capsys, "rerank", "water", rows, "--model", real_model)["hits"]
    assert [hit["doc_id"] for hit in searched] == [hit["doc_id"] for hit in reranked]
    # The index keeps float16 rows: 2^-11 relative for each of 16 query tokens.
    assert [hit["score"] for hit in searched] == pytest.approx([hit["score"] for hit in reranked], abs=2e-2)


def test_search_on_numpy_imports_neither_mlx_nor_transformers_nor_the_hub(tmp_path, real_model, rows, capsys):
    json_of(capsys, "index", rows, "--index", tmp_path / "i", "--model", real_model)
    code = "import sys; from mlx_colbert.cli import main; main(sys.argv[1:])\n"
    code += "print({'mlx', 'transformers', 'huggingface_hub', 'tqdm'} & set(sys.modules))"
    argv = ["search", "tea", "--index", str(tmp_path / "i"), "--backend", "numpy"]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_a_conversion_that_is_not_verified_exits_with_1(words, capsys, monkeypatch):
    from mlx_colbert.cli import convert

    report = {"path": "m", "checks": [{"name": "score", "expected": "1", "measured": "2", "passed": False}]}
    monkeypatch.setattr(convert, "run", lambda args: report | {"notes": ["No reference."], "passed": False})
    assert main(["convert", "--hf-path", "x", "--verify"]) == 1
    assert capsys.readouterr().out == "m: converted.\nFAILED  score: 2, expected 1\nNo reference.\n"


def test_a_pipe_as_input_is_refused_at_once(tmp_path, words, capsys):
    os.mkfifo(tmp_path / "pipe.txt")
    arguments = ("index", tmp_path / "pipe.txt", "--index", tmp_path / "i", "--model", "words")
    assert "is not a regular file" in error_of(capsys, *arguments)


def test_names_out_of_a_file_do_not_reach_the_terminal_raw(tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "config.json").write_text(json.dumps({"model_type": "x\x1b]0;owned\x07"}))
    assert "\x1b" not in error_of(capsys, "convert", "--hf-path", bad, "--mlx-path", tmp_path / "out")


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-"])
def test_closed_streams_give_no_traceback(index, redirection):
    command = f"{sys.executable} -m mlx_colbert info {index} {redirection}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_a_terminal_without_unicode_gets_escapes(index):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "mlx_colbert", "info", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_for_a_terminal_without_unicode_is_json(index):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [
        sys.executable,
        "-m",
        "mlx_colbert",
        "search",
        "é 🫖",
        "--index",
        str(index),
        "--mode",
        "keyword",
    ]
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout)["query"] == "é 🫖"


def test_rows_too_long_for_the_model_are_counted(tmp_path, words, capsys):
    rows = tmp_path / "long.jsonl"
    rows.write_text(json.dumps({"text": "word " * 300}) + "\n" + json.dumps({"text": "short"}) + "\n")
    assert main(["index", str(rows), "--index", str(tmp_path / "i"), "--model", "words"]) == 0
    assert "1 passage too long for the model" in capsys.readouterr().out


def test_bits_without_quantisation_are_refused(tmp_path, capsys):
    arguments = ("convert", "--hf-path", "x", "--mlx-path", tmp_path / "o", "--q-bits", "4")
    assert "--q-bits and --q-group-size need -q" in error_of(capsys, *arguments)


def test_filter_and_modes_are_passed_on(index, capsys):
    assert main(["search", "tea", "--index", str(index), "--mode", "keyword", "--json"]) == 0
    keyword = json.loads(capsys.readouterr().out)["hits"]
    assert keyword and all("tea" in hit["text"].lower() for hit in keyword)
    assert main(["search", "tea", "--index", str(index), "--mode", "hybrid", "-k", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["hits"]) == 1
    assert main(["search", "tea", "--index", str(index), "--filter", "exists(nothing)"]) == 0
    note = "No passage has a field 'nothing'. There are: n."
    assert capsys.readouterr().out == f"Nothing was found.\n{note}\n"
    found = json_of(capsys, "search", "tea", "--index", index, "--mode", "keyword", "--filter", "m = 1")
    assert (found["hits"], found["notes"]) == ([], ["No passage has a field 'm'. There are: n."])
    assert main(["search", "tea", "--index", str(index), "--filter", "lang ="]) == 1
    assert "filter, column" in capsys.readouterr().err


def test_delete_takes_ids_or_a_filter(index, capsys):
    assert main(["delete", "--index", str(index)]) == 1
    assert "IDs, --filter or --source" in capsys.readouterr().err
    assert main(["delete", "--filter", "not exists(nothing)", "--index", str(index), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["deleted"] > 0, result["passages"]) == (True, 0)


def test_compact_erases_what_is_left_of_lost_changes_only_when_told_to(index, capsys):
    write_note(index, 999)  # as if the log with the last commits was removed
    assert main(["compact", "--index", str(index)]) == 1
    assert "compact --erase-lost" in capsys.readouterr().err
    assert main(["compact", "--index", str(index), "--erase-lost"]) == 0
    assert main(["verify-index", "--index", str(index)]) == 0


def test_compact_and_verify_say_what_they_did(index, capsys):
    assert main(["compact", "--index", str(index)]) == 0
    assert "MB now, segments: 1." in capsys.readouterr().out
    assert main(["verify-index", "--index", str(index)]) == 0
    assert "no damage found" in capsys.readouterr().out
    vectors = next(index.glob("segment-*/vectors.npy"))
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)

    assert main(["verify-index", "--index", str(index)]) == 1
    assert "vectors.npy: its checksum differs" in capsys.readouterr().out
    vectors.write_bytes(data[:-1])
    assert main(["verify-index", "--index", str(index), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_tilde_in_an_option_is_the_home_folder(tmp_path, rows, words, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    json_of(capsys, "index", rows, "--index=~/notes", "--model", "words")
    assert (tmp_path / "home" / "notes" / "catalog.db").is_file()
    assert json_of(capsys, "info", "~/notes")["passages"] == 3


@pytest.mark.parametrize(
    "sign", ["\u00a0", "\u202f", "\u200c", "\u200d", "\u200f", "\u2067", "\U000f0000", "\u0378"]
)
def test_printed_id_deletes_its_passage(index, tmp_path, capsys, sign):
    row = json.dumps({"id": f"note{sign}of 3{sign}pm", "text": "zebra"})
    (tmp_path / "named.jsonl").write_text(row)
    json_of(capsys, "add", tmp_path / "named.jsonl", "--index", index)
    assert main(["search", "zebra", "--index", str(index), "-k", "1"]) == 0
    printed = printed_id(capsys)
    assert json_of(capsys, "delete", printed, "--index", index)["deleted"] == 1


@pytest.mark.parametrize(
    "doc_id", ["a\u202eb", "a\x1b[2J\0", r"a\u202eb", r"\u005cu202e", r"C:\u00e9\\u0007"]
)
def test_id_that_steers_a_terminal_is_printed_with_escapes_and_deleted_as_printed(
    index, tmp_path, capsys, doc_id
):
    others = ["a\u202eb", r"a\u202eb", r"a\u005cu202eb"]
    rows = [{"id": name, "text": "zebra" if name == doc_id else "horse"} for name in {doc_id, *others}]
    (tmp_path / "named.jsonl").write_text("\n".join(map(json.dumps, rows)))
    json_of(capsys, "add", tmp_path / "named.jsonl", "--index", index)

    assert main(["search", "zebra", "--index", str(index), "-k", "1"]) == 0
    printed = printed_id(capsys)
    assert printed.isprintable()
    assert json_of(capsys, "delete", printed, "--index", index)["deleted"] == 1

    with Index.open(index, backend="numpy") as opened:
        assert doc_id not in opened and set(others) - {doc_id} <= set(opened)


def test_name_of_a_source_that_steers_a_terminal_is_deleted_as_printed(index, tmp_path, capsys):
    (tmp_path / "a\u202eb.jsonl").write_text('{"id": "x", "text": "zebra"}')
    json_of(capsys, "add", tmp_path / "a\u202eb.jsonl", "--index", index)
    assert main(["search", "zebra", "--index", str(index), "-k", "1"]) == 0
    printed = re.search(r"^ 1  (.*):1\b", capsys.readouterr().out)[1]
    assert printed.endswith(r"a\u202eb.jsonl")
    assert json_of(capsys, "delete", "--source", printed, "--index", index)["deleted"] == 1


def test_json_has_escapes_for_signs_that_steer_a_terminal(index, tmp_path, capsys):
    text = "zebra \u202e\u2066\x9b\x7f \u200d\u00a0end"
    (tmp_path / "named.jsonl").write_text(json.dumps({"id": "x", "text": text}))
    json_of(capsys, "add", tmp_path / "named.jsonl", "--index", index)
    assert main(["search", "zebra", "--index", str(index), "-k", "1", "--json"]) == 0
    printed = capsys.readouterr().out
    assert printable(printed.rstrip("\n")) == printed.rstrip("\n")
    assert json.loads(printed)["hits"][0]["text"] == text and "\u200d\u00a0" in printed


@pytest.mark.parametrize(
    "sign", ["\0", "\x1b", "\r", "\b", "\x7f", "\x9b", "\u202a", "\u202e", "\u2066", "\u2069"]
)
def test_sign_that_steers_a_terminal_is_shown_as_a_space(sign):
    assert printable(f"a{sign}b") == "a b"


INTERRUPTED_IMPORT = """
import os, signal, sys
from mlx_colbert.cli import main

class Interrupting:
    left = int(sys.argv.pop(1))

    def find_spec(self, name, path=None, target=None):
        Interrupting.left -= 1
        if not Interrupting.left:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.exit(main())
"""


@pytest.mark.parametrize("n_imports", [1, 2, 12, 40, 80])
def test_interruption_while_modules_load_is_told_in_a_line(index, n_imports):
    command = [
        sys.executable,
        "-c",
        INTERRUPTED_IMPORT,
        str(n_imports),
        "search",
        "tea",
        "--index",
        str(index),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mlx-colbert: interrupted.\n")


def test_interruption_that_a_library_turns_into_its_own_error_is_one():
    code = """
import sys
from mlx_colbert.cli import main, program

def run(arguments, declined, begun):
    import os, signal
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        raise ImportError("numpy._core.multiarray failed to import")

program.run = run
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "mlx-colbert: interrupted.\n")


def test_command_line_handles_signals_before_it_loads_other_modules():
    # -S: without `site`, which may load modules for the packages of an environment.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import mlx_colbert.cli; "
    code += "print({name for name in sys.modules if '.' not in name} & {'enum', 're', 'signal', 'argparse'})"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_interruption_that_python_drops_in_a_callback_comes_again():
    code = """
import sys
from mlx_colbert.cli import main, program

class Callback:
    def __del__(self):
        import os, signal
        os.kill(os.getpid(), signal.SIGINT)

def run(arguments, declined, begun):
    import time
    Callback()
    time.sleep(100)

program.run = run
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stderr) == (130, "mlx-colbert: interrupted.\n")


def test_lack_of_memory_is_told_in_a_line(index, capsys, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("Unable to allocate 9 GiB.")

    monkeypatch.setattr(Index, "search", fail)
    assert "there is not enough memory. Unable to allocate 9 GiB." in error_of(
        capsys, "search", "tea", "--index", index
    )


def test_a_reader_of_help_that_goes_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        command = [sys.executable, "-m", "mlx_colbert", "--help"]
        done = subprocess.run(command, cwd=ROOT, stdout=gone, stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


def test_query_of_several_words_without_quotes_is_told_to_be_quoted(capsys):
    told = usage_error_of(capsys, "search", "ice", "age", "end", "--index", "x")
    assert 'Put the query in quotes: "ice age end".' in told
    assert "quotes" not in usage_error_of(capsys, "search", "ice", "--index", "x", "--kk")


def test_missing_index_says_how_to_make_one(tmp_path, capsys):
    told = error_of(capsys, "search", "tea", "--index", tmp_path / "nowhere")
    assert told.endswith("nowhere: does not exist. Make it with mlx-colbert index, or Index.create.\n")


def test_folder_is_indexed_without_its_unreadable_files_which_are_named(tmp_path, words, capsys):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "tea.md").write_text("tea is steeped")
    (notes / "bad.txt").write_bytes(b"tea\0\x01")
    (notes / "page.jpg").write_text("<p>")
    command = ["index", str(notes), "--index", str(tmp_path / "i"), "--model", "words"]

    assert main(command) == 1

    told = capsys.readouterr().out.splitlines()
    assert told == [
        f"{tmp_path}/i: 1 passage added, 1 in all.",
        "Passed over in folders: .jpg (1).",
        "Not read, because of errors (1):",
        f"  {notes}/bad.txt: is not text: it has NUL characters.",
    ]
    assert main([*command, "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert (made["unchanged"], made["passed"], made["skipped"]) == (1, False, {".jpg": 1})
    assert list(made["unread"]) == [f"{notes}/bad.txt"]


def test_files_of_rows_in_a_folder_are_told_to_be_named(tmp_path, words, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/tea.md").write_text("tea is steeped")
    (tmp_path / "notes/rows.CSV").write_text("text\ntea\n")

    assert main(["index", str(tmp_path / "notes"), "--index", str(tmp_path / "i"), "--model", "words"]) == 0

    assert capsys.readouterr().out.splitlines()[1:] == [
        "Passed over in folders: .csv (1).",
        "A folder gives no rows. Name each .jsonl, .csv or .tsv file itself.",
    ]


def test_rerank_of_a_missing_file_says_how_to_write_the_query(words, capsys):
    assert 'the query in quotes: "ice age"' in error_of(capsys, "rerank", "ice", "age", "--model", "words")


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
@pytest.mark.parametrize("command", ["index {} --index i --model m", "add a --index {}", "info {}"])
def test_text_that_can_name_no_file_is_wrong_usage(capsys, command, path):
    words = [word.format(path) for word in command.split()]
    assert "is not a path" in usage_error_of(capsys, *words)


def test_interruption_of_the_text_of_a_dataclass_does_not_change_the_exit_code(tmp_path):
    program = """
import sys
import numpy  # Without it, the process ends in another way.
from mlx_colbert import cli
from mlx_colbert.cli import program

def run(*words, **options):
    try:
        exec("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)")
    except KeyboardInterrupt:
        return 0

program.run = run
sys.argv = ["mlx-colbert", "config"]
sys.exit(cli.main())
"""
    # As a module, as `python -m mlx_colbert` is: the end of a script is another one.
    (tmp_path / "interrupted.py").write_text(program)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], check=False, timeout=60, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0
