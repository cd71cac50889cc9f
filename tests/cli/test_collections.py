"""The commands for collections, in the process with a stand-in model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from word_model import WordModel

from mlx_colbert.cli import main
from mlx_colbert.collection.lock import locked
from mlx_colbert.collection.settings import settings_bytes
from mlx_colbert.errors import CheckpointNotFoundError
from mlx_colbert.model.colbert import ColBERT

CHECKPOINT = Path(__file__).parents[1] / "data" / "checkpoints" / "pylate-bert"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def notes(tmp_path, home, monkeypatch):
    monkeypatch.setattr(ColBERT, "load", lambda source, **rest: WordModel(source=str(source)))
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "tea.md").write_text("# Tea\n\nSteep it.\n")
    (folder / "coop.md").write_text("The roof leaks.\n")
    return folder


@pytest.fixture
def run(capsys):
    """Runs a command line: exit code and output."""

    def call(*words):
        code = main([*map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


@pytest.fixture
def answer(run):
    """Runs a command line: the JSON that it prints."""
    return lambda *words: json.loads(run(*words, "--json")[1])


def test_sync_of_a_folder_makes_a_collection_and_keeps_it_in_step(notes, run):
    assert run("sync", notes) == (0, "notes: 2 new; 2 passages encoded. 2 files.\n")
    assert run("sync") == (0, "notes: in step. 2 files.\n")
    (notes / "tea.md").rename(notes / "chai.md")
    (notes / "coop.md").unlink()
    (notes / "new.txt").write_text("fresh\n")

    code, text = run("sync", "--dry-run")
    assert (code, text.splitlines()) == (
        0,
        [
            "notes: would be 1 new, 1 moved, 1 deleted. 2 files.",
            "  new      notes/new.txt",
            "  deleted  notes/coop.md",
            "  moved    notes/tea.md → notes/chai.md",
        ],
    )
    assert run("sync") == (0, "notes: 1 new, 1 moved, 1 deleted; 1 passage encoded. 2 files.\n")


def test_file_that_fails_makes_the_exit_code_1(notes, run, answer):
    (notes / "bad.md").write_bytes(b"\0")

    code, text = run("sync", notes)
    assert (code, text.splitlines()[1:]) == (
        1,
        ["Not read, because of errors (1):", f"  {notes / 'bad.md'}: is not text: it has NUL characters."],
    )
    (result,) = answer("sync")["collections"]
    assert list(result["failed"]) == [str(notes / "bad.md")]
    assert f"not read  {notes / 'bad.md'}: is not text" in run("status", "notes")[1]


def test_files_without_text_are_counted(notes, run, answer):
    (notes / "blank.md").write_text("")
    assert run("sync", notes) == (0, "notes: 2 new; 2 passages encoded. 3 files, 1 empty.\n")
    assert run("sync") == (0, "notes: in step. 3 files, 1 empty.\n")
    (notes / "blank.md").write_text("some\n")
    assert run("sync") == (0, "notes: 1 new; 1 passage encoded. 3 files.\n")


def test_missing_folder_is_named_with_the_way_out(notes, run):
    run("sync", notes)
    notes.rename(notes.with_name("away"))

    code, text = run("sync")
    assert code == 1 and text.startswith("notes: nothing changed. 0 files.\n")
    assert f"Folder {notes} is missing or empty. What the index has of its 2 files stays." in text
    assert "mlx-colbert sync --name notes --prune" in text
    text = run("status", "notes")[1]
    assert "files     2 missing (" in text and "in step" not in text
    assert f"missing   the folder {notes} is missing or empty; 2 of its files are still" in text
    assert run("sync", "--name", "notes", "--prune") == (0, "notes: 2 deleted. 0 files.\n")


def test_name_in_advice_has_quotes_if_the_shell_needs_them(notes, run):
    run("sync", notes, "--name", "my notes")
    notes.rename(notes.with_name("away"))

    assert "mlx-colbert sync --name 'my notes' --prune" in run("sync")[1]


def test_patterns_and_model_are_kept_in_the_settings(notes, run, answer):
    run("sync", notes, "--exclude", "coop*", "--model", "mine", "--include", "*.md")

    (item,) = answer("collections")["collections"]
    assert (item["name"], item["model"], item["folders"]) == ("notes", "mine", {"notes": str(notes)})
    assert answer("sync")["collections"][0]["files"] == 1
    assert run("sync", "--model", "other", "--rebuild")[0] == 0


def test_another_model_without_a_rebuild_changes_no_settings(notes, run, home, tmp_path):
    (tmp_path / "b").mkdir()
    run("sync", notes, "--model", "mine")
    settings = home / "collections/notes/collection.toml"
    before = settings.read_bytes()

    for words in (["sync"], ["sync", "--name", "notes"], ["sync", tmp_path / "b", notes]):
        code, text = run(*words, "--model", "other", "--exclude", "x*")
        assert code == 1 and "was made with the model 'mine', not with 'other'." in text
        assert "mlx-colbert sync --name notes --model other --rebuild" in text
    assert settings.read_bytes() == before and not (home / "collections/b").exists()
    assert run("sync") == (0, "notes: in step. 2 files.\n")


@pytest.mark.parametrize("options", [[], ["--name", "hub"], ["--local"]])
def test_first_sync_without_its_model_leaves_no_collection(notes, run, home, monkeypatch, options):
    with monkeypatch.context() as patch:
        patch.setattr(ColBERT, "load", _no_model)
        code, text = run("sync", notes, *options, "--model", "/nope")
    assert code == 1 and "there is no such folder" in text and "was not made." in text
    assert run("collections")[1].startswith("There is no collection yet.")
    assert sorted(path.name for path in notes.iterdir()) == ["coop.md", "tea.md"]


def test_collection_that_has_an_index_outlives_a_model_that_is_gone(notes, run, monkeypatch):
    run("sync", notes)
    (notes / "new.md").write_text("fresh")
    with monkeypatch.context() as patch:
        patch.setattr(ColBERT, "load", _no_model)
        assert run("sync", notes)[0] == 1
    assert run("sync", notes) == (0, "notes: 1 new; 1 passage encoded. 3 files.\n")


def _no_model(source, **rest):
    raise CheckpointNotFoundError(source, "there is no such folder")


def test_collection_that_fails_does_not_stop_the_others(notes, run, answer, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.md").write_text("text")
    run("sync", notes, tmp_path / "b")
    (tmp_path / "home/collections/b/collection.toml").write_text("modle = 1")
    (notes / "new.md").write_text("fresh")

    code, text = run("sync", "--name", "notes")
    assert (code, text) == (0, "notes: 1 new; 1 passage encoded. 3 files.\n")
    code, text = run("sync")
    assert code == 1 and "notes: in step. 3 files." in text and "unknown key 'modle'" in text


def test_list_status_rename_and_removal(notes, run, answer):
    assert run("collections")[1] == "There is no collection yet. Make one: mlx-colbert sync FOLDER\n"
    run("sync", notes)

    assert run("collections") == (0, f"notes  {notes}\n")
    (status,) = answer("status")["collections"]
    assert (status["files"], status["passages"], status["new"], status["error"]) == (2, 2, 0, None)
    assert "  contents  2 files, 2 passages\n" in run("status", "notes")[1]
    assert run("rename", "notes", "diary") == (0, "Collection notes is diary now.\n")
    assert run("rename", "diary", "../x")[0] == 1
    assert run("rm", "diary")[0] == 0
    assert run("status", "diary")[0] == 1
    assert len(list(notes.iterdir())) == 2


def test_several_collections_are_removed_or_none(notes, run, answer, tmp_path):
    for name in ("boats", "facts"):
        run("sync", notes, "--name", name)

    code, text = run("rm", "boats", "fact")
    assert code == 1 and "fact" in text
    assert len(answer("collections")["collections"]) == 2
    removed = answer("rm", "boats", "facts", "boats")["removed"]
    assert [item["name"] for item in removed] == ["boats", "facts"]
    assert answer("collections")["collections"] == []


def test_name_that_is_taken_is_said(notes, run, tmp_path):
    other = tmp_path / "other" / "notes"
    other.mkdir(parents=True)
    (other / "tea.md").write_text("Pour it.\n")
    run("sync", notes)
    said = f"The name notes is taken by {notes}, so this one is notes-2.\n"

    assert run("sync", other, "--dry-run")[1].endswith(said)
    code, text = run("sync", other)

    assert code == 0 and text == f"notes-2: 1 new; 1 passage encoded. 1 file.\n{said}"
    assert said not in run("sync", other)[1]


def test_error_about_several_files_ends_with_the_way_out(notes, run):
    run("sync", notes)
    run("sync", notes, "--name", "my notes")

    code, text = run("get", "notes/tea.md:1:2")

    assert code == 1 and text.endswith("\nAdd -c 'my notes' or -c notes.\n")
    assert run("get", "notes/tea.md:1:2", "-c", "notes") == (0, "# Tea\n\n")
    assert "is not a file of the collections my notes and notes." in run("get", "notes/no.md:1")[1]


def test_context_is_set_shown_and_removed(notes, run, answer):
    run("sync", notes)

    assert run("context", notes, "Mine.") == (0, "notes: Mine.\n")
    run("context", "/", "All.", "-c", "notes")
    assert run("context", notes / "tea.md")[1] == "notes: Mine.\nnotes, all of it: All.\n"
    assert run("context")[1] == "notes: Mine.\nnotes, all of it: All.\n"
    assert run("context", notes, "--remove") == (0, "Removed.\n")
    assert answer("context")["contexts"] == [{"collection": "notes", "path": "/", "sentence": "All."}]
    assert run("context", "/etc", "x")[0] == 1
    assert run("context", "--remove")[0] == 1


def test_collection_beside_its_files_is_trusted_by_its_maker_alone(notes, run, home, monkeypatch):
    assert run("sync", notes, "--local", "--model", "mine")[0] == 0
    monkeypatch.chdir(notes)
    assert run("sync") == (0, "notes: in step. 2 files.\n")

    (home / "trusted.json").unlink()
    code, text = run("sync")
    assert code == 1
    assert "was made with the model 'mine'. You do not trust" in text and f"mlx-colbert trust {notes}" in text
    assert run("trust") == (
        0,
        f"Trusted as it is now: {notes}/.mlx-colbert/collection.toml ({notes}; model mine). If it changes, the "
        "defaults are used until you trust it again.\n",
    )
    assert run("sync")[0] == 0


def test_wait_for_another_process_is_said_on_the_standard_error(notes, run, home, capsys):
    run("sync", notes)
    folder = home / "collections" / "notes"
    command = [sys.executable, "-m", "mlx_colbert", "sync"]
    with locked(folder, "notes"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = process.stderr.readline()
    out, _ = process.communicate()

    assert line.startswith(f"Collection notes: process {os.getpid()} (since ")
    assert (out, process.returncode) == ("notes: in step. 2 files.\n", 0)


@pytest.mark.slow
def test_interrupted_sync_goes_on(tmp_path, home):
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}.md").write_text("\n\n".join(f"{n} words {number}" for n in range(50)))
    command = [sys.executable, "-m", "mlx_colbert", "sync", str(folder), "--model", str(CHECKPOINT), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    commits = home / "collections" / "notes" / "index" / "last-commit"
    while not commits.exists() or int(commits.read_text() or 0) == 0:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, "mlx-colbert: interrupted." in errors) == (130, True)

    result = subprocess.run(command, check=True, capture_output=True, text=True)
    (item,) = json.loads(result.stdout)["collections"]
    status = [sys.executable, "-m", "mlx_colbert", "status", "--json"]
    (found,) = json.loads(subprocess.run(status, check=True, capture_output=True).stdout)["collections"]
    assert 0 < item["passages"] < found["passages"]
    assert (found["files"], found["new"], found["changed"]) == (200, 0, 0)


@pytest.mark.parametrize(
    "words",
    ["search x", "ask x", "get x", "similar x", "explain x y", "status", "collections", "sync", "context"],
)
def test_first_command_without_a_collection_names_the_command_that_makes_one(words, run):
    _, shown = run(*words.split())

    assert "There is no collection yet. Make one: mlx-colbert sync FOLDER" in shown


def test_collection_whose_settings_cannot_be_read_is_left_out_and_named(notes, run, home, monkeypatch):
    run("sync", notes)
    broken = home / "collections" / "broken" / "collection.toml"
    broken.parent.mkdir()
    broken.touch()

    def refuse(path, **rest):
        if path == broken:
            raise PermissionError(13, "Permission denied", str(path))
        return settings_bytes(path, **rest)

    monkeypatch.setattr("mlx_colbert.collection.place.settings_bytes", refuse)
    code, text = run("get", "tea.md")
    assert code == 0 and f"Left out: {broken}: Permission denied." in text


def test_error_of_the_system_has_no_number(notes, run, monkeypatch):
    run("sync", notes)
    refused = PermissionError(13, "Permission denied", "notes/lock")

    def refuse(*_, **__):
        raise refused

    monkeypatch.setattr("mlx_colbert.collection.collection.Collection.refresh", refuse)
    assert (
        "notes: could not look for changed files: notes/lock: Permission denied." in run("search", "tea")[1]
    )
    monkeypatch.setattr("mlx_colbert.collection.collection.Collection.status", refuse)
    assert "notes: notes/lock: Permission denied." in run("status")[1]
