"""The look at the files before a search."""

from __future__ import annotations

import pytest

from mlx_colbert.collection import freshness
from mlx_colbert.collection.lock import locked


@pytest.fixture
def synced(collection, files, model):
    files.paragraphs("a.md", "one", "two")
    files.write("b.md", "other\n")
    collection.sync()
    model.encoded.clear()
    return collection


def uris(collection):
    return [source.uri for source in collection.index.sources()]


def test_refresh_of_unchanged_files_takes_no_lock_and_no_model(synced, no_model):
    no_model()

    with locked(synced.place.path, "notes"):
        assert vars(synced.refresh()) == {"updated": 0, "waiting": 0, "busy": False, "missing": {}}


def test_refresh_brings_a_few_files_in_step(synced, files):
    files.write("a.md", "changed\n"), files.write("c.md", "fresh\n")
    (files.folder / "b.md").unlink()

    assert vars(synced.refresh(60)) == {"updated": 3, "waiting": 0, "busy": False, "missing": {}}
    assert uris(synced) == ["notes/a.md", "notes/c.md"]
    assert [hit.text for hit in synced.index.search_keywords("changed fresh")] == ["changed", "fresh"]
    assert synced.refresh().updated == 0


def test_refresh_moves_and_deletes_without_a_model(synced, files, no_model):
    no_model()
    files.rename("a.md", "c.md")
    (files.folder / "b.md").unlink()

    assert synced.refresh().updated == 2
    assert uris(synced) == ["notes/c.md"]


def test_refresh_without_time_says_how_many_files_wait(synced, files, model):
    files.write("a.md", "changed\n"), files.write("c.md", "fresh\n")

    assert vars(synced.refresh(0)) == {"updated": 0, "waiting": 2, "busy": False, "missing": {}}
    assert (model.encoded, uris(synced)) == ([], ["notes/a.md", "notes/b.md"])


def test_file_that_takes_too_long_waits_and_small_ones_do_not(synced, files, monkeypatch):
    monkeypatch.setattr(freshness, "_FIRST_PASSAGES", 4)
    files.write("big.md", "many words here\n\n" * 5000)
    files.write("c.md", "fresh\n")

    result = synced.refresh(1.0)

    assert "notes/c.md" in uris(synced)
    assert (result.updated, result.waiting) in {(1, 1), (2, 0)}


def test_refresh_while_another_process_syncs_does_nothing(synced, files):
    files.write("a.md", "changed\n")

    with locked(synced.place.path, "notes"):
        assert vars(synced.refresh()) == {"updated": 0, "waiting": 1, "busy": True, "missing": {}}


def test_refresh_of_a_collection_that_was_never_synced_makes_no_index(collection, files, no_model):
    no_model()
    files.write("a.md", "text")

    assert collection.refresh().waiting == 1
    assert not collection.place.index_path.exists()


def test_file_that_cannot_be_read_is_not_tried_at_each_search(synced, files):
    files.write("bad.md", b"a\0b")

    assert synced.refresh().updated == 1
    assert synced.refresh().updated == 0
    assert list(synced.sync().failed) == [str(files.folder / "bad.md")]
