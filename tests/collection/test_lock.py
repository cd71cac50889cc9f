"""Two processes that change one collection: the second waits, or says who the first is."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from mlx_colbert.collection.files import write_file
from mlx_colbert.collection.lock import locked
from mlx_colbert.errors import CollectionBusyError

HOLD = """
import sys
from pathlib import Path
from mlx_colbert.collection.lock import locked
with locked(Path(sys.argv[1]), "notes"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_process_says_who_the_first_is(holder, tmp_path):
    with (
        pytest.raises(
            CollectionBusyError, match=rf"collection notes: process {holder.pid} \(since \d\d:\d\d"
        ),
        locked(tmp_path, "notes"),
    ):
        pass


def test_second_process_waits_and_says_so(holder, tmp_path):
    said = []

    def on_wait(sentence):
        said.append(sentence)
        holder.communicate("\n")

    with locked(tmp_path, "notes", on_wait=on_wait):
        assert said[0].startswith(f"Collection notes: process {holder.pid} (since ")
        assert said[0].endswith("is changing it. Waiting.")
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_killed_process_blocks_nobody(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()

    with locked(tmp_path, "notes"):
        pass


def test_two_threads_of_one_process_exclude_each_other(tmp_path):
    inside = []

    def change():
        with locked(tmp_path, "notes", on_wait=lambda sentence: None):
            inside.append("in")
            inside.append("out")

    threads = [threading.Thread(target=change) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert inside == ["in", "out"] * 8


@pytest.mark.parametrize("content", ["", "[", '{"pid": "x"}', '{"pid": 1, "since": 1e400}'])
def test_damaged_lock_file_still_excludes(tmp_path, content):
    with locked(tmp_path, "notes"):
        (tmp_path / "lock").write_text(content)
        with (
            pytest.raises(CollectionBusyError, match="another process is changing it"),
            locked(tmp_path, "notes"),
        ):
            pass


def test_collection_that_was_removed_meanwhile_is_not_made_again(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()

    def remove(sentence):
        folder.rename(tmp_path / "b")
        release.set()
        thread.join()

    release, held = threading.Event(), threading.Event()

    def hold():
        with locked(folder, "a"):
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with pytest.raises(FileNotFoundError), locked(folder, "a", on_wait=remove):
        pass
    assert not folder.exists()


def _full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_lock_on_a_full_disk_is_taken_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", _full)

    with (
        locked(tmp_path, "notes"),
        pytest.raises(CollectionBusyError, match="another process is changing it"),
        locked(tmp_path, "notes"),
    ):
        pass


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_file_that_cannot_be_written_keeps_its_content_and_is_named(tmp_path, monkeypatch, call):
    path = tmp_path / "collection.toml"
    write_file(path, b"old")
    monkeypatch.setattr(os, call, _full)

    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_file(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("collection.toml", b"old")]
