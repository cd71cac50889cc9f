"""A catalog that has lost its write-ahead log: said, and nothing of the lost changes is erased unasked."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from killing import Killer
from test_index import DIM, whole_rows

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index import Index
from mlx_colbert.index.catalog import catalog
from mlx_colbert.index.catalog.commits import NOTE_NAME, read_note
from mlx_colbert.index.storage import files

ROWS = [np.ones((1, DIM))]


@pytest.fixture
def killed(tmp_path):
    """What a writer that was killed leaves: its last changes are in the log alone."""
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["first"], ROWS)
    with Index.open(tmp_path / "index", backend="numpy") as index:
        for i in range(6):
            index.add([f"d{i}"], [whole_rows(i)])
        return shutil.copytree(index.path, tmp_path / "killed")


def lose_log(path):
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (path / name).unlink()


def segments(path):
    return sorted(folder.name for folder in path.glob("segment-*"))


def test_changes_in_the_log_are_there_after_a_kill(killed):
    with Index.open(killed, backend="numpy") as index:
        assert (len(index), index.verify()) == (7, [])


def test_lost_log_is_reported_and_every_change_refused(killed):
    lose_log(killed)
    before = segments(killed)
    with Index.open(killed, backend="numpy") as index:
        (problem,) = index.verify()
        assert "the last 6 changes are missing" in problem
        assert "Segments or codecs in the folder that belong to them: 6." in problem
        for change in (
            lambda: index.add(["new"], ROWS),
            lambda: index.upsert(["first"], ROWS),
            lambda: index.delete(["first"]),
            lambda: index.update_metadata(["first"], [None]),
            lambda: index.compact(retrain=True),
        ):
            with pytest.raises(
                IndexDamagedError, match=r"6 changes are missing: .* use Index\.compact\(erase_lost=True\)"
            ):
                change()
        assert [hit.doc_id for hit in index.search(ROWS[0])] == ["first"]
    assert segments(killed) == before
    assert len(before) == 7


def test_empty_index_that_lost_its_log_is_not_discarded(tmp_path):
    path = tmp_path / "index"
    with Index.create(path, DIM, backend="numpy") as index:
        index.add(["first"], ROWS)
        lost = shutil.copytree(path, tmp_path / "lost")
    lose_log(lost)

    Index.open(lost, backend="numpy").discard_if_empty(keep_folder=True)

    assert segments(lost) == ["segment-000001"]


def test_log_that_is_put_back_brings_the_changes_back(killed, tmp_path):
    shutil.copy(killed / "catalog.db-wal", tmp_path / "saved")
    lose_log(killed)
    with Index.open(killed, backend="numpy") as index, pytest.raises(IndexDamagedError):
        index.add(["new"], ROWS)

    shutil.copy(tmp_path / "saved", killed / "catalog.db-wal")

    with Index.open(killed, backend="numpy") as index:
        index.add(["new"], ROWS)
        assert (len(index), index.verify()) == (8, [])


def test_compacting_erases_the_lost_changes_when_told_to(killed):
    lose_log(killed)
    with Index.open(killed, backend="numpy") as index:
        index.compact(erase_lost=True)
        assert (len(index), index.verify(), len(segments(killed))) == (1, [], 1)
        index.add(["new"], ROWS)
    with Index.open(killed, backend="numpy") as index:
        assert (len(index), index.verify()) == (2, [])


def test_lost_deletion_is_reported(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a", "b"], ROWS * 2)
    with Index.open(tmp_path / "index", backend="numpy") as index:
        index.delete(["a"])
        path = shutil.copytree(index.path, tmp_path / "killed")
    lose_log(path)

    with Index.open(path, backend="numpy") as index:
        assert ["the last change is missing" in problem for problem in index.verify()] == [True]


def test_lost_log_without_a_note_is_reported_by_its_segments(killed):
    lose_log(killed)
    (killed / NOTE_NAME).unlink()
    with Index.open(killed, backend="numpy") as index:
        assert ["changes may be missing" in problem for problem in index.verify()] == [True]
        with pytest.raises(IndexDamagedError, match="changes may be missing"):
            index.add(["new"], ROWS)
        assert len(segments(killed)) == 7


@pytest.mark.parametrize("note", [b"", b"1", b"x" * 21, b"\xff" * 21])
def test_note_that_is_none_changes_nothing(killed, note):
    (killed / NOTE_NAME).write_bytes(note)
    with Index.open(killed, backend="numpy") as index:
        assert index.verify() == []
        index.add(["new"], ROWS)
        assert (len(index), index.verify(), read_note(killed)) == (8, [], 8)


@pytest.mark.parametrize("place", range(20))
def test_wrong_digit_of_a_note_leaves_an_index_that_can_be_repaired(tmp_path, place):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["first"], ROWS)
    note = tmp_path / "index" / NOTE_NAME
    digits = bytearray(note.read_bytes())
    digits[place] ^= 8
    note.write_bytes(digits)

    with Index.open(tmp_path / "index", backend="numpy") as index:
        index.compact(erase_lost=True)
        for doc_id in ("second", "third"):
            index.add([doc_id], ROWS)
        assert (len(index), index.verify()) == (3, [])


@pytest.mark.slow
def test_segment_of_a_change_that_was_never_committed_is_removed(tmp_path):
    with Killer() as killer:
        killer.run(tmp_path / "base", "base exact")
        n_steps = killer.run(shutil.copytree(tmp_path / "base", tmp_path / "whole"), "add")
        for step in range(1, n_steps + 1):
            path = shutil.copytree(tmp_path / "base", tmp_path / str(step))
            killer.kill_at(path, "add", step)
            with Index.open(path, backend="numpy") as index:
                assert index.verify() == []
                index.delete(["d0"])
                assert len(segments(path)) == index.info().segments


def test_note_follows_each_commit(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        assert read_note(index.path) == 0
        index.add(["a"], ROWS)
        index.update_metadata(["a"], [{"n": 1}])
        with pytest.raises(KeyError):
            index.delete(["b"])
        assert read_note(index.path) == 2


def test_note_is_synced_before_a_change_is_acknowledged(tmp_path, monkeypatch):
    synced = []

    def sync(descriptor):
        found = os.fstat(descriptor)
        if (path / NOTE_NAME).exists() and found.st_ino == (path / NOTE_NAME).stat().st_ino:
            synced.append(read_note(path))

    path = tmp_path / "index"
    monkeypatch.setattr(files, "sync", sync)
    with Index.create(path, DIM, backend="numpy") as index:
        index.add(["a"], ROWS)
        assert synced == [0, 1]
        index.update_metadata(["a"], [{"n": 1}])
        assert synced == [0, 1, 2]


def test_note_of_an_earlier_commit_does_not_replace_that_of_a_later_one(tmp_path, monkeypatch):
    path, write_note = tmp_path / "index", catalog.write_note
    with Index.create(path, DIM, backend="numpy") as index, Index.open(path, backend="numpy") as other:

        def late(root, number):
            monkeypatch.setattr(catalog, "write_note", write_note)
            other.add(["b"], ROWS)
            write_note(root, number)

        monkeypatch.setattr(catalog, "write_note", late)
        index.add(["a"], ROWS)

    assert read_note(path) == 2


def test_index_made_where_another_was_removed_starts_with_no_commits(tmp_path):
    path = tmp_path / "index"
    with Index.create(path, DIM, backend="numpy") as index:
        index.add(["a"], ROWS)
    shutil.rmtree(path / "segment-000001")
    (path / "catalog.db").unlink()

    with Index.create(path, DIM, backend="numpy") as index:
        index.add(["b"], ROWS)
        assert (len(index), index.verify(), read_note(path)) == (1, [], 1)
