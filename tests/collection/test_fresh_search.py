"""Searches that look at the files meanwhile."""

from __future__ import annotations

import sqlite3
from functools import partial

import pytest

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.fresh_search import found_in_step
from mlx_colbert.collection.lock import locked
from mlx_colbert.collection.search import search
from mlx_colbert.errors import IndexDamagedError, InputError


@pytest.fixture
def notes(collection, files):
    files.paragraphs("tea.md", "steep", "kettle")
    files.write("blank.md", "")
    collection.sync()
    return collection


@pytest.fixture
def searches():
    return []


@pytest.fixture
def find(notes, searches):
    """A search that notes each of its calls."""

    def find(query="steep"):
        searches.append(query)
        return search([notes], query, min_confidence=None)

    return find


def test_files_that_did_not_change_are_searched_once(notes, find, searches):
    assert notes.is_in_step()
    assert found_in_step([notes], find).hits[0].source == "notes/tea.md"
    assert searches == ["steep"]


@pytest.mark.parametrize("change", ["new", "changed", "vanished", "renamed", "read"])
def test_change_before_the_search_is_found(notes, files, find, searches, change):
    match change:
        case "new":
            files.paragraphs("new.md", "trampoline")
        case "changed":
            files.paragraphs("tea.md", "trampoline")
        case "vanished":
            (files.folder / "tea.md").unlink()
        case "renamed":
            files.rename("tea.md", "pot.md")
        case "read":
            files.write("blank.md", "trampoline\n")
    assert not notes.is_in_step()

    found = found_in_step([notes], partial(find, "steep trampoline"))

    fresh = search([notes], "steep trampoline", min_confidence=None)
    assert [hit.doc_id for hit in found.hits] == [hit.doc_id for hit in fresh.hits]
    assert "notes/tea.md" not in {hit.source for hit in found.hits} or change not in ("vanished", "renamed")
    assert len(searches) == 2 and notes.is_in_step()


def test_file_that_waits_is_told(notes, files, find):
    files.paragraphs("new.md", "trampoline")
    with locked(notes.place.path, "notes"):
        found = found_in_step([notes], find)
    told = "notes: 1 file not in step with the index. It is being changed now."
    assert found.notes == [told] and found.hits


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_folder_that_is_gone_is_told_with_its_hits(notes, files, find, how):
    assert notes.is_in_step()
    files.folder.rename(files.folder.with_name("away"))
    if how == "empty":
        files.folder.mkdir()
    found = found_in_step([notes], find)
    told = (
        f"notes: the folder {files.folder} is missing or empty; 1 of its files is still in the index. "
        "If they are gone for good: mlx-colbert sync --name notes --prune"
    )
    assert found.notes == [told] and found.hits
    notes.sync(prune=True)
    assert found_in_step([notes], find).notes == []


def test_collection_is_opened_once_for_the_search_and_the_look(notes, find, monkeypatch):
    opened = []
    original = type(notes._opened)._opened

    def counted(self, path, settings):
        opened.append(path)
        return original(self, path, settings)

    monkeypatch.setattr(type(notes._opened), "_opened", counted)
    with Collection(notes.place, backend="numpy") as again:
        found_in_step([again], partial(search, [again], "steep"))
    assert len(opened) == 1


def test_error_of_the_search_is_raised(notes):
    with pytest.raises(InputError, match="query"):
        found_in_step([notes], partial(search, [notes], " "))


@pytest.mark.parametrize("column", ["n_bytes", "folder", "content_hash", "uri"])
def test_damaged_source_is_not_taken_for_one_in_step(notes, find, column):
    notes.close()
    with sqlite3.connect(notes.place.index_path / "catalog.db") as catalog:
        catalog.execute(f"UPDATE sources SET {column} = x'00' WHERE uri = 'notes/tea.md'")
    catalog.close()

    with pytest.raises(IndexDamagedError, match="does not match its digest"):
        found_in_step([notes], find)
