"""Syncs of collections as jobs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from word_model import WordModel

from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.engine import syncs
from mlx_colbert.engine.jobs import Jobs
from mlx_colbert.engine.syncs import begin_sync, open_syncs
from mlx_colbert.model.colbert import ColBERT

HOLD = """
import sys, time
from pathlib import Path
from mlx_colbert.collection.lock import locked
with locked(Path(sys.argv[1]), "notes"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setattr(ColBERT, "load", lambda source, **options: WordModel(source="words"))
    return Registry(tmp_path / "home")


@pytest.fixture
def notes(registry, tmp_path):
    """The place of a collection of one file."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "tea.md").write_text("Steep black tea.")
    return registry.create(CollectionSettings(model="words").with_folder(tmp_path / "files"), "notes")


@pytest.fixture
def jobs():
    made = Jobs()
    yield made
    made.finish()


@pytest.fixture
def busy(jobs):
    """A job that runs until the test sets the event."""
    free = threading.Event()
    jobs.start("wait", "", lambda progress: free.wait(60))
    yield free
    free.set()


def ended(job):
    end = time.monotonic() + 60
    while not job.has_ended:
        assert time.monotonic() < end
        time.sleep(0.01)
    return job


def test_sync_gives_what_it_has_done(jobs, registry, notes):
    job = ended(begin_sync(jobs, registry, notes, backend="numpy"))
    assert (job.what, job.target, job.state, job.reason) == ("sync", "notes", "done", None)
    assert job.result["new"] == ["files/tea.md"] and job.result["passages"] == 1


def test_sync_that_waits_for_its_turn_is_not_begun_again(jobs, registry, notes, busy):
    first = begin_sync(jobs, registry, notes, backend="numpy")
    assert begin_sync(jobs, registry, notes, backend="numpy") is first
    assert begin_sync(jobs, registry, notes, backend="numpy", rebuild=True) is not first
    assert [job.what for job in open_syncs(jobs, notes)] == ["sync", "rebuild"]


def test_change_during_a_sync_is_read_by_the_next(jobs, registry, notes, tmp_path, monkeypatch):
    begun, free, plain = threading.Event(), threading.Event(), WordModel.encode_tokenized

    def held(self, texts, advance=lambda n_texts, n_tokens: None):
        begun.set()
        free.wait(60)
        return plain(self, texts, advance)

    monkeypatch.setattr(WordModel, "encode_tokenized", held)
    running = begin_sync(jobs, registry, notes, backend="numpy")
    assert begun.wait(60)
    (tmp_path / "files" / "new.md").write_text("Entirely new.")
    job = begin_sync(jobs, registry, notes, backend="numpy")
    assert job is not running
    free.set()
    assert ended(job).result["new"] == ["files/new.md"] and not open_syncs(jobs, notes)


def test_sync_gives_up_on_another_process_and_says_which(jobs, registry, notes, monkeypatch):
    monkeypatch.setattr(syncs, "_WAIT_S", 0.1)
    command = [sys.executable, "-c", HOLD, str(notes.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            job = ended(begin_sync(jobs, registry, notes, backend="numpy"))
        finally:
            holder.kill()
    assert job.state == "failed"
    assert job.reason.startswith(f"collection notes: process {holder.pid} (since ")
    assert job.reason.endswith(") is changing it. Try again later.")


def test_error_of_the_system_names_the_collection(jobs, registry, notes, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", "/notes/lock")

    monkeypatch.setattr(syncs.Collection, "sync", refuse)
    job = ended(begin_sync(jobs, registry, notes, backend="numpy"))
    assert job.reason == "collection notes: cannot be read or written: /notes/lock: Permission denied."


def test_fault_of_the_program_gives_no_details(jobs, registry, notes, monkeypatch):
    monkeypatch.setattr(syncs.Collection, "sync", lambda *a, **k: {}["secret of a document"])
    job = ended(begin_sync(jobs, registry, notes, backend="numpy"))
    assert job.reason == "The server failed. Its log has the reason."
