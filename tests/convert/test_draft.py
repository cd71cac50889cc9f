"""The folder that a conversion writes: whole or not at all, and nothing beside it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from spoiling import CHECKPOINTS

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert, draft
from mlx_colbert.convert.converted import convert_to_cache
from mlx_colbert.convert.draft import in_place_at_once
from mlx_colbert.model.hub import locate


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_file_is_synced_before_the_rename_and_the_parent_after_it(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        draft, "_sync", lambda path: synced.append((path.name, (tmp_path / "model").exists()))
    )
    with in_place_at_once(tmp_path / "model") as folder:
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text("x")
    before = [name for name, renamed in synced if not renamed]
    assert sorted(before[:-1]) == ["config.json", "model.safetensors"] and before[-1] == folder.name
    assert [name for name, renamed in synced if renamed] == [tmp_path.name]


def test_new_folders_above_the_target_are_synced_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(draft, "_sync", synced.append)
    with in_place_at_once(tmp_path / "new" / "folder" / "model"):
        pass
    assert synced[-3:] == [tmp_path / "new" / "folder", tmp_path / "new", tmp_path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_conversion_that_is_given_up_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mlx_colbert.convert.converted.write_safetensors", fail)
    with pytest.raises(error):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "new" / "folder" / "model")
    assert names(tmp_path) == []


def test_full_disk_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, in_place_at_once(tmp_path / "model"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "model")


HOLD = """
import sys, time
from pathlib import Path
from mlx_colbert.convert.draft import in_place_at_once
with in_place_at_once(Path(sys.argv[1])) as folder:
    (folder / "config.json").write_text("x")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def hold(target: Path) -> tuple[subprocess.Popen, str]:
    """A process that fills a draft until its input ends, and the draft's name."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def test_draft_of_a_killed_process_is_removed_and_that_of_a_running_one_stays(tmp_path):
    target = tmp_path / "model"
    killed, stale = hold(target)
    killed.kill()
    killed.communicate()
    running, live = hold(target)
    (tmp_path / ".model.notes").mkdir()
    (tmp_path / ".other.0123abcd").mkdir()
    assert stale not in names(tmp_path)
    with in_place_at_once(target):
        assert live in names(tmp_path)
    running.stdin.close()
    running.wait()
    running.stdout.close()
    # The running one finds the target there, and leaves nothing either.
    assert names(tmp_path) == [".model.notes", ".other.0123abcd", "model"]


def test_next_conversion_into_the_cache_clears_drafts_of_every_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path))
    (tmp_path / ".old--model-0123456789abcdef.89abcdef").mkdir()
    (tmp_path / ".notes.89abcdef").mkdir()
    running, live = hold(tmp_path / "other-0123456789abcdef")
    folder = convert_to_cache(locate(CHECKPOINTS / "pylate-bert"))
    assert names(tmp_path) == sorted([".notes.89abcdef", live, folder.name])
    running.kill()
    running.communicate()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("size", [None, 0, 100])
def test_incomplete_folder_of_the_cache_is_converted_again(tmp_path, monkeypatch, file, size):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path))
    source = CHECKPOINTS / "pylate-bert"
    expected = ColBERT.load(source, backend="numpy").token_ids("a", "query")
    (folder,) = tmp_path.iterdir()
    if size is None:
        (folder / file).unlink()
    else:
        os.truncate(folder / file, size)
    assert ColBERT.load(source, backend="numpy").token_ids("a", "query") == expected
    assert names(tmp_path) == [folder.name]
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    convert_to_cache(locate(source))
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before


def test_file_that_is_not_read_leaves_the_cache_as_it_is(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path / "cache"))
    source = copy("pylate-bert")
    (source / "logs").symlink_to(tmp_path)
    first = convert_to_cache(locate(source))
    (source / "notes.log").touch()
    (tmp_path / "elsewhere.json").touch()
    assert convert_to_cache(locate(source)) == first
    os.utime(source / "1_Dense" / "model.safetensors", ns=(1, 1))
    assert convert_to_cache(locate(source)) != first


def test_a_draft_that_another_process_takes_for_stale_is_made_again(tmp_path, monkeypatch):
    """The other process finds the new folder before this one has locked it."""
    locked, taken = draft._locked, []

    def late(folder):
        if not taken:
            taken.append(locked(folder))  # a lock of another open file excludes this process too
            monkeypatch.setattr(draft, "_locked", locked)
            try:
                return locked(folder)
            finally:
                folder.rmdir()
                os.close(taken[0])
        return locked(folder)

    monkeypatch.setattr(draft, "_locked", late)
    with in_place_at_once(tmp_path / "model") as folder:
        (folder / "config.json").write_text("x")
    assert names(tmp_path) == ["model"]
