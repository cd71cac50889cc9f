"""Search in collections on the command line: what is shown, where, and in which format."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from xml.etree import ElementTree

import pytest
from word_model import WordModel

from mlx_colbert.cli import main
from mlx_colbert.cli.excerpt import first_line
from mlx_colbert.cli.hit_formats import formatted
from mlx_colbert.cli.hit_text import found_text
from mlx_colbert.cli.render import CONTROLS
from mlx_colbert.cli.searched import FORMATS
from mlx_colbert.cli.terminal import Terminal
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.kept import loaded_once

TEXT = "# Dance\n\nBees dance. " + "They hum all day long. " * 40 + "The kettle is blue.\n"
CODE = "".join(f"def number_{i}():\n    return {i}\n" for i in range(12)) + "    # the kettle\n"


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ColBERT, "load", lambda source, **rest: WordModel(source=str(source)))
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "bees.md").write_text(TEXT)
    (folder / "tool.py").write_text(CODE)
    (folder / "tea.md").write_text("---\ntitle: Tea\n---\n\nfirst line\n\nSteep the leaves.\n\nlast line\n")
    main(["sync", str(folder), "--model", "words"])
    main(["context", str(folder), "Notes of Ann."])
    return folder


@pytest.fixture
def run(notes, capsys):
    """Runs a command line: exit code, output, errors."""

    def call(*words):
        capsys.readouterr()
        code = main([*map(str, words)])
        return code, *capsys.readouterr()

    return call


def test_hit_shows_place_confidence_id_context_and_the_best_part(run):
    code, shown, _ = run("search", "kettle blue", "--in", "bees.md", "-k", "1")
    lines = shown.splitlines()
    assert code == 0
    assert re.fullmatch(r" 1  notes/bees\.md:3  0\.\d\d #[0-9a-f]{8}", lines[0])
    assert lines[1:3] == ["    › Dance", "    Notes of Ann."]
    assert lines[3].startswith("    … They hum") and shown.rstrip().endswith("The kettle is blue.")
    assert len(lines) <= 7


@pytest.mark.parametrize("columns", [30, 40, 80])
def test_no_line_is_wider_than_the_terminal(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for more in ([], ["--full"], ["--context", "1"]):
        _, shown, _ = run("search", "kettle dance Steep", "--all", *more)
        assert max(map(len, shown.splitlines()[:-1])) <= columns


def test_pipe_gets_no_escape_and_no_progress(run):
    _, shown, told = run("search", "kettle")
    assert "\033" not in shown and told == ""


def test_terminal_gets_bold_words_and_a_link_to_the_line(run, monkeypatch, notes):
    styled = Terminal(80, is_styled=True)
    monkeypatch.setattr(Terminal, "of_stdout", lambda: styled)
    _, shown, _ = run("search", "Steep", "-k", "1")
    assert f"\033]8;;file://{notes}/tea.md#" in shown
    assert "\033[1mSteep\033[0m the" in shown


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_terminal_without_colour_gets_plain_text(monkeypatch, name, value):
    monkeypatch.setattr("sys.stdout", type("Stream", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Terminal.of_stdout().is_styled
    monkeypatch.setenv(name, value)
    assert not Terminal.of_stdout().is_styled


def test_context_shows_the_lines_around(run):
    _, shown, _ = run("search", "number_7", "--all", "-k", "1", "--in", "tool.py", "--context", "2", "--json")
    assert "surroundings" in json.loads(shown)["hits"][0]
    _, shown, _ = run("search", "Steep", "-k", "1", "--in", "tea.md", "--context", "2")
    assert "title: Tea" in shown


def test_context_numbers_all_lines_and_shows_a_heading_once(run, notes):
    (notes / "two.md").write_text("# House\n\nWater the ferns.\n\nWater the kettle.\n\n# End\n\nOver.\n")

    _, shown, _ = run("search", "ferns", "-k", "1", "--in", "two.md", "--context", "2", "--all")

    assert shown.splitlines()[2:] == [
        "   1 # House",
        "   2",
        "   3 Water the ferns.",
        "   4",
        "   5 Water the kettle.",
        "   6",
        "   7 # End",
        "   8",
        "   9 Over.",
    ]


def test_hit_of_a_keyword_search_has_a_number_in_json_alone(run, notes, tmp_path):
    words = ["search", "Steep", "--mode", "keyword"]
    _, shown, _ = run(*words)
    assert re.fullmatch(r" 1  notes/tea\.md:\d+-\d+  #[0-9a-f]{8}", shown.splitlines()[0])
    assert json.loads(run(*words, "--json")[1])["hits"][0]["score"] > 0
    index = tmp_path / "home" / "collections" / "notes" / "index"
    _, shown, _ = run(*words, "--index", index)
    assert re.fullmatch(r" 1  notes/tea\.md:\d+-\d+  notes/tea\.md#[0-9a-f]{8}", shown.splitlines()[0])


@pytest.mark.parametrize("k", ["1", "3"])
def test_all_shows_as_many_hits_as_is_said(run, k):
    _, shown, _ = run("search", "asphalt lawyer jazz quantum", "-k", k)
    found = json.loads(run("search", "asphalt lawyer jazz quantum", "-k", k, "--all", "--json")[1])["hits"]
    assert f"(--all shows {len(found)} hit{'s' * (len(found) > 1)})." in shown


def test_context_of_a_changed_file_is_not_shown(run, notes):
    (notes / "tea.md").write_text("changed\n")
    _, shown, _ = run("search", "Steep", "-k", "1", "--context", "2", "--no-refresh", "--json")
    assert json.loads(shown)["hits"][0]["surroundings"] is None


def test_changed_file_is_searched_at_once(run, notes):
    (notes / "new.md").write_text("trampoline\n")
    assert "notes/new.md:1" in run("search", "trampoline", "-k", "1")[1]
    (notes / "newer.md").write_text("carousel\n")
    assert "newer" not in run("search", "carousel", "--no-refresh", "--all")[1]


def test_nothing_relevant_is_said_and_all_shows_it(run):
    _, shown, _ = run("search", "asphalt lawyer jazz quantum")
    assert re.fullmatch(
        r"Nothing relevant was found\. The best confidence is 0\.\d\d \(--all shows \d hits\)\.\n", shown
    )
    assert len(json.loads(run("search", "asphalt lawyer jazz quantum", "--all", "--json")[1])["hits"]) >= 3


def test_json_has_what_a_page_needs(run, notes):
    found = json.loads(run("search", "Steep", "-k", "1", "--json")[1])
    assert found.keys() == {"query", "hits", "below", "best_below", "notes", "query_words"}
    hit = found["hits"][0]
    assert hit["context"] == ["Notes of Ann."] and hit["path"] == str(notes / "tea.md")
    (start, end, _, word), *_ = hit["matches"]
    assert hit["text"][start:end] == "Steep" and word == 0
    assert found == json.loads(run("search", "Steep", "-k", "1", "--format", "json")[1])


def test_formats_for_programs(run, notes):
    def lines(name):
        return run("search", "kettle", "--format", name)[1]

    assert lines("files").splitlines()[0] in (str(notes / "tool.py"), str(notes / "bees.md"))
    assert len(set(lines("files").splitlines())) == len(lines("files").splitlines())
    assert [json.loads(line)["rank"] for line in lines("jsonl").splitlines()] == [1, 2]
    rows = list(csv.DictReader(io.StringIO(lines("csv"))))
    assert [row["rank"] for row in rows] == ["1", "2"] and "kettle" in rows[0]["text"]
    hits = ElementTree.fromstring(lines("xml"))
    assert [hit.get("rank") for hit in hits] == ["1", "2"] and "kettle" in hits[0].text
    assert re.match(r"1\. \[notes/.*\]\(<file://.*>\)( › Dance)?\n\n   > ", lines("md"))


def test_folder_that_was_removed_is_no_hindrance(run, notes, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    for words in (["search", "kettle"], ["get", "tea.md:1"], ["status"], ["collections"], ["sync"]):
        assert run(*words)[0] == 0, words


@pytest.mark.parametrize(
    "words",
    [
        ["search", "tea", "--in", "~no-such-user/x"],
        ["get", "~no-such-user/x:1"],
        ["search", "tea", "-c", "~no-such-user/x"],
    ],
)
def test_home_of_a_user_who_does_not_exist_is_a_path_as_any_other(run, words):
    assert "Traceback" not in run(*words)[2]


HOSTILE = "=cmd|' /C calc'!A0 \x1b[31m \x9b1m \u202eevil\r\n<b>\tend"


def hit_of(text, source="notes/b](http:evil)[`x.md"):
    """A hit as a search gives it."""
    position = {"lines": [1, 2], "headings": ["<i>[a](b)"]}
    return {
        "rank": 1, "score": -1.5, "confidence": 0.5, "doc_id": f"{source}#1a2b3c4d", "source": source,
        "position": position, "metadata": {}, "text": text, "link": "file:///b%5D.md", "path": None,
    }  # fmt: skip


@pytest.mark.parametrize("format", FORMATS[2:])
def test_no_format_lets_a_document_control_the_terminal(format):
    shown = formatted({"hits": [hit_of(HOSTILE, "notes/a\x1b\u202e.md")]}, format)

    assert CONTROLS.sub("", shown) == shown.replace("\n", "").replace("\t", "")


def test_xml_keeps_every_character_that_xml_has():
    (hit,) = ElementTree.fromstring(formatted({"hits": [hit_of(HOSTILE)]}, "xml"))

    assert hit.text == HOSTILE.replace("\x1b", "")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1"])
def test_spreadsheet_runs_no_formula_of_a_document(text):
    (row,) = csv.DictReader(io.StringIO(formatted({"hits": [hit_of(text)]}, "csv")))

    assert (row["text"], row["score"]) == (f"'{text}", "-1.5")


def test_name_of_a_file_is_no_markdown():
    line = formatted({"hits": [hit_of("text")]}, "md").splitlines()[0]

    assert line == "1. [notes/b\\](http:evil)\\[\\`x.md:1-2](<file:///b%5D.md>) › \\<i\\>\\[a\\](b)"


def test_long_lines_around_a_passage_are_cut_at_the_edge():
    around = {"first": 1, "before": ["x" * 5_000_000], "after": ["é" * 5_000_000]}
    hit = hit_of("tea") | {"matches": [], "context": [], "collection": "notes", "short_id": "#1a2b3c4d"}
    result = {"hits": [hit | {"surroundings": around}], "below": 0, "best_below": None, "notes": []}

    shown = found_text(result, Terminal(width=40)).splitlines()

    assert f"   1 {'x' * 35}" in shown and f"   3 {'é' * 35}" in shown


def test_notes_go_to_the_errors_where_a_format_has_no_place_for_them(run):
    code, shown, told = run("search", "kettle", "-e", "no[0-9]such", "--format", "files")
    assert (code, shown.strip()) == (0, "")
    assert told == "No passage matches the regular expression 'no[0-9]such'.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-e", "("], "'(': is not a regular expression"),
        (["--type", "word"], "'word': is not a kind of file"),
        (["--since", "soon"], "'soon': is not a date"),
        (["--min-score", "0.5", "--mode", "keyword"], "min_score needs a confidence"),
        (["-c", "nope"], "collection nope: does not exist. There are: notes."),
    ],
)
def test_wrong_value_is_an_error_in_one_line(run, words, message):
    code, _, told = run("search", "kettle", *words)
    assert code == 1 and message in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "x"],
        ["--index", "x", "-c", "notes"],
        ["--index", "x", "--since", "7d"],
        ["--min-score", "2"],
    ],
)
def test_wrong_combination_is_wrong_usage(run, words):
    with pytest.raises(SystemExit) as stopped:
        run("search", "kettle", *words)
    assert stopped.value.code == 2


def test_document_cannot_control_the_terminal(run, notes, monkeypatch):
    (notes / "evil.md").write_text("owl \033]0;title\007 \u202e reversed\n")
    monkeypatch.setattr(Terminal, "of_stdout", lambda: Terminal(80, is_styled=True))
    shown = run("search", "owl", "-k", "1")[1]
    assert "\033]0" not in shown and "\007" not in shown and "\u202e" not in shown


def test_sentence_about_a_folder_is_shown_once(run):
    shown = run("search", "kettle Steep Bees", "--all")[1]
    assert shown.count("Notes of Ann.") == 1 and shown.count("notes/") >= 3


def test_line_of_a_hit_is_that_of_its_best_match():
    assert first_line("a\nb\nc", [(0, 1, 0.5, 0), (4, 5, 0.9, 1)], [7, 9]) == 9
    assert first_line("a\nb", [(2, 3, 0.9, 0)], [7, 9]) == 7
    assert first_line("a", [], None) is None


def test_get_prints_a_passage_or_lines_alone(run):
    short_id = json.loads(run("search", "Steep", "-k", "1", "--json")[1])["hits"][0]["short_id"]
    _, shown, _ = run("get", short_id)
    assert "Steep the leaves." in shown.splitlines() and "notes/tea.md" not in shown
    assert run("get", "notes/tea.md:5:1")[1] == "first line\n"
    assert run("get", "tea.md")[1].startswith("---\ntitle: Tea\n")
    found = json.loads(run("get", "tea.md:5:1", "--json")[1])
    assert (found["lines"], found["text"], found["is_indexed"]) == ([5, 5], "first line", True)


def test_get_of_a_file_outside_is_refused(run, tmp_path):
    (tmp_path / "outside.md").write_text("secret")
    code, shown, told = run("get", tmp_path / "outside.md")
    assert (code, shown) == (1, "") and "is not a file of collection notes" in told
    assert run("get", "tea.md:99")[2].endswith("has 9 lines, so there is no line 99.\n")


def test_similar_shows_other_passages(run):
    code, shown, _ = run("similar", "tea.md:5", "-k", "1")
    assert code == 0 and re.match(r" 1  notes/(bees\.md|tool\.py)", shown)
    assert run("similar", "tea.md:5", "-k", "1", "--format", "files")[1].count("\n") == 1


@pytest.mark.parametrize("columns", [40, 80])
def test_explain_draws_a_line_for_each_word(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, shown, _ = run("explain", "Steep zebra", "tea.md:5")
    lines = shown.splitlines()
    assert code == 0
    assert re.fullmatch(r"Steep ━+▶ Steep +1\.00", lines[0])
    assert re.fullmatch(r"zebra ━+▶ .* 0\.\d\d", lines[1])
    first_of_passage = lines.index("", 3) + 1
    assert " ".join(lines[3 : first_of_passage - 1]).startswith("Number: how similar the two words are. Bar:")
    assert lines[2] == "" and lines[first_of_passage].startswith(" 1  notes/tea.md")
    assert max(map(len, lines)) <= columns


def test_ids_with_signs_that_steer_a_terminal_are_printed_and_read_back(run, notes):
    (notes / "od\u202ed.md").write_text("carousel\n")
    found = json.loads(run("search", "carousel", "-k", "1", "--json")[1])["hits"][0]
    assert "notes/od\\u202ed.md:1" in run("search", "carousel", "-k", "1")[1]
    assert run("get", "notes/od\\u202ed.md:1")[1] == "carousel\n"
    assert run("get", found["doc_id"])[1] == "carousel\n"


def test_bench_shows_a_table(run, tmp_path):
    pytest.importorskip("ir_measures", reason="ir-measures is not installed (extra 'eval')")
    (tmp_path / "q.jsonl").write_text(
        '{"query": "Steep", "files": ["tea.md"]}\n{"query": "asphalt lawyer jazz quantum", "files": []}\n'
    )
    code, shown, _ = run("bench", tmp_path / "q.jsonl")
    lines = shown.splitlines()
    assert code == 0
    assert lines[0].split() == [
        "mode",
        "recall@10",
        "MRR",
        "nDCG@10",
        "wrongly",
        "silent",
        "rightly",
        "silent",
        "ms",
    ]
    assert lines[1].split()[:6] == ["semantic", "1.000", "1.000", "1.000", "0.000", "1.000"]
    assert lines[4] == "2 questions, 1 without an answer"
    assert json.loads(run("bench", tmp_path / "q.jsonl", "--json")[1])["modes"].keys() == {
        "semantic",
        "keyword",
        "hybrid",
    }


def test_search_without_a_collection_says_what_to_do(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "nothing"))
    told = "mlx-colbert: error: There is no collection yet. Make one: mlx-colbert sync FOLDER.\n"
    assert run("search", "tea") == (1, "", told)


def test_collection_with_broken_settings_is_left_out_of_a_search_in_all_and_named(run, notes, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.md").write_text("Bees.\n")
    run("sync", tmp_path / "other", "--model", "words")
    (tmp_path / "home" / "collections" / "other" / "collection.toml").write_text("folders = 3\n")

    code, shown, errors = run("search", "kettle blue", "-k", "1")
    assert (code, "notes/bees.md" in shown, errors.count("\n")) == (0, True, 1)
    assert errors.startswith("Left out: ") and "other" in errors

    assert run("search", "kettle blue", "-c", "other")[0] == 1


def test_model_of_several_collections_is_loaded_once_in_a_command(run, notes, tmp_path, monkeypatch):
    (tmp_path / "more").mkdir()
    loads = []

    def load():
        loads.append("words")
        return WordModel(source="words")

    monkeypatch.setattr(ColBERT, "load", lambda source, **rest: loaded_once(source, source, load))
    run("sync", tmp_path / "more", "--model", "words")
    for folder in (notes, tmp_path / "more"):
        (folder / "new.md").write_text("A new kettle.\n")
    loads.clear()

    run("search", "kettle")
    assert loads == ["words"]
    for folder in (notes, tmp_path / "more"):
        (folder / "newer.md").write_text("A newer kettle.\n")
    run("sync")
    assert loads == ["words"] * 2


def test_similar_and_explain_look_for_changed_files_first(run, notes):
    (notes / "new.md").write_text("Steep the leaves.\n")
    assert run("explain", "steep", "new.md:1", "--no-refresh")[0] == 1
    assert run("explain", "steep", "new.md:1")[0] == 0
    (notes / "newer.md").write_text("Steep the leaves.\n")
    assert "newer.md" not in run("similar", "new.md:1", "--no-refresh")[1]
    shown = run("similar", "new.md:1", "-k", "1")[1]
    assert re.match(r" 1  notes/newer\.md:1  1\.00 #[0-9a-f]{8}\n", shown)


def test_similar_has_the_conditions_of_search(run):
    assert "tool.py" in run("similar", "tea.md:5", "--type", "py")[1]
    assert "tool.py" not in run("similar", "tea.md:5", "--in", "*.md")[1]
    code, _, told = run("similar", "tea.md:5", "--filter", "nothing = 1", "--format", "jsonl")
    assert code == 0 and "No passage has a field 'nothing'" in told


def test_similar_and_explain_have_an_index_in_place_of_collections(run, notes, tmp_path):
    assert run("index", notes, "--index", tmp_path / "i", "--model", "words")[0] == 0
    code, shown, _ = run("similar", "notes/tea.md:5", "--index", tmp_path / "i", "-k", "1")
    assert code == 0 and re.match(r" 1  notes/\S+  0\.\d\d notes/\S+#\d\n", shown)
    found = json.loads(run("similar", "notes/tea.md#1", "--index", tmp_path / "i", "--json")[1])
    assert found["passage"] == "notes/tea.md#1" not in {hit["doc_id"] for hit in found["hits"]}

    words = json.loads(run("explain", "Steep", "notes/tea.md#1", "--index", tmp_path / "i", "--json")[1])
    assert words["words"][0]["passage_word"] == "Steep"
    assert (words["hit"]["doc_id"], words["hit"]["confidence"]) == ("notes/tea.md#1", None)
    assert "notes/tea.md:" in run("explain", "Steep", "notes/tea.md#1", "--index", tmp_path / "i")[1]


@pytest.mark.parametrize("command", ["search", "similar", "explain", "ask"])
def test_options_of_where_to_look_are_the_same_for_all_commands(run, capsys, command):
    words = (command, "tea", *(["x:1"] if command == "explain" else []))
    for more, told in [
        (("--index", "i", "-c", "notes"), "give --collection or --index, not both"),
        (("--model", "words"), "--model is only for --index"),
        (("--index", "i", "--in", "x"), "--index has no paths"),
    ]:
        if (command == "similar" and "--model" in more) or (command in ("explain", "ask") and "--in" in more):
            continue
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert told in capsys.readouterr().err


def test_get_of_a_pdf_prints_its_passages_and_never_its_bytes(run, notes, data):
    shutil.copy(data / "mixed" / "weather.pdf", notes / "weather.pdf")
    run("sync", notes)

    assert run("get", "weather.pdf:2")[1] == "Rain falls from nimbostratus for hours.\n"
    whole = json.loads(run("get", "weather.pdf", "--json")[1])
    assert whole["text"].startswith("Cumulus clouds") and "%PDF" not in whole["text"]
    assert [hit["position"]["page"] for hit in whole["passages"]] == sorted(
        hit["position"]["page"] for hit in whole["passages"]
    )
    assert run("get", "weather.pdf")[1] == f"{whole['text']}\n"
