"""Documents of a collection that come from no file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.documents import (
    Document,
    delete_documents,
    get_document,
    list_documents,
    put_documents,
)
from mlx_colbert.collection.lock import locked
from mlx_colbert.collection.lookup import find_passage
from mlx_colbert.collection.opened_index import OpenedIndex
from mlx_colbert.collection.quotes import quote
from mlx_colbert.collection.related import similar
from mlx_colbert.collection.search import search
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.errors import CollectionBusyError, DuplicateIdError, UnknownIdError

TEA = Document("tea", "steep the kettle", {"year": 2024})
BEES = Document("a/bees: 1", "honey of the meadow")


@pytest.fixture
def notes(collection, files):
    files.paragraphs("boat.md", "rudder", "keel")
    collection.sync()
    put_documents(collection, [TEA, BEES])
    return collection


def ids(collection):
    return [document.doc_id for document in list_documents(collection)[0]]


def test_document_is_found_and_read(notes):
    hit = search([notes], "kettle").hits[0]
    assert (hit.doc_id, hit.short_id, hit.source, hit.path, hit.link) == ("tea", "tea", None, None, None)
    assert json.dumps(hit.to_dict())
    assert get_document(notes, "tea") == TEA
    for doc_id in ("tea", "a/bees: 1"):
        assert quote([notes], doc_id).doc_id == doc_id
    passage = find_passage([notes], "tea")[1]
    assert "a/bees: 1" in {hit.doc_id for hit in similar([notes], notes, passage)}
    assert search([notes], "kettle", n_lines=3).hits[0].surroundings is None


def test_collection_without_a_folder_may_have_documents(registry, model):
    with Collection(registry.create(CollectionSettings(model="words"), "api"), backend="numpy") as made:
        written = put_documents(made, [TEA])
        assert (written.ids, written.added, written.updated) == (["tea"], 1, 0)
        made.sync()
        assert ids(made) == ["tea"]
        assert search([made], "kettle", refresh_s=1.0).hits[0].doc_id == "tea"


def test_known_id_replaces_text_and_metadata(notes):
    written = put_documents(notes, [Document("tea", "other words"), Document("new", "more words")])
    assert (written.added, written.updated) == (1, 1)
    assert get_document(notes, "tea") == Document("tea", "other words")


def test_too_long_document_is_counted(notes):
    assert put_documents(notes, [Document("long", "word " * 300)]).truncated == 1


@pytest.mark.parametrize(
    "change", ["nothing", "edit", "delete", "move", "prune", "rules", "rebuild", "settings"]
)
def test_sync_leaves_documents_as_they_are(notes, files, registry, change):
    if change == "edit":
        files.paragraphs("boat.md", "other")
    elif change == "delete":
        (files.folder / "boat.md").unlink()
        files.write("left.md", "left")
    elif change == "move":
        files.rename("boat.md", "ship.md")
    elif change == "prune":
        (files.folder / "boat.md").unlink()
        files.folder.rmdir()
    elif change == "rules":
        registry.change(notes.place, lambda old: replace(old, exclude=["*.md"]))
    elif change == "settings":
        registry.change(notes.place, lambda old: replace(old, folders={}))
    with Collection(notes.place, backend="numpy") as again:
        result = again.sync(prune=change == "prune", rebuild=change == "rebuild")
        assert result.failed == {}
        assert list_documents(again)[0] == [BEES, TEA]
        assert again.index.verify() == []
        assert (again.status().n_documents, again.status().vanished) == (2, 0)


def test_rebuild_that_was_interrupted_takes_what_was_deleted_since(notes, monkeypatch):
    def fail(opened):
        raise OSError

    for left in (["a/bees: 1"], []):
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(OpenedIndex, "exchange", fail)
            notes.sync(rebuild=True)
        delete_documents(notes, [ids(notes)[-1]])
        notes.sync(rebuild=True)
        assert ids(notes) == left


def test_refresh_leaves_documents(notes, files):
    files.paragraphs("boat.md", "anchor")
    assert notes.refresh().updated == 1
    assert ids(notes) == ["a/bees: 1", "tea"]


def test_id_of_a_passage_of_a_file_is_refused(notes):
    passage = next(doc_id for doc_id in notes.index if "boat.md#" in doc_id)
    for doc_id in (passage, "notes/later.md#0123abcd"):
        with pytest.raises(DuplicateIdError, match=r"is an id for a passage of a file. Give another one."):
            put_documents(notes, [Document(doc_id, "mine")])
    with pytest.raises(UnknownIdError):
        delete_documents(notes, ["tea", passage])
    with pytest.raises(UnknownIdError):
        get_document(notes, passage)
    assert "tea" in notes.index and passage in notes.index


def test_pages_of_a_list_follow_each_other_whatever_is_deleted(notes):
    put_documents(notes, [Document(f"d{number}", "words") for number in range(5)])
    first, after = list_documents(notes, limit=3)
    assert [document.doc_id for document in first] == ["a/bees: 1", "d0", "d1"]
    delete_documents(notes, ["d1", "d2"])
    second, last = list_documents(notes, limit=3, after=after)
    assert [document.doc_id for document in second] == ["d3", "d4", "tea"]
    assert last is None


def test_write_waits_for_a_sync_and_then_says_who_goes_on(notes, monkeypatch):
    monkeypatch.setattr("mlx_colbert.collection.documents._WAIT_S", 0.05)
    with locked(notes.place.path, notes.name):
        with pytest.raises(CollectionBusyError, match="is changing it"):
            put_documents(notes, [TEA])
    put_documents(notes, [TEA])


WRITER = """
import sys
from word_model import WordModel
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.documents import Document, put_documents
from mlx_colbert.collection.registry import Registry
from mlx_colbert.model.colbert import ColBERT

ColBERT.load = lambda source, *, backend, revision=None, **lengths: WordModel(source="words")
with Collection(Registry(sys.argv[1]).find("notes"), backend="numpy") as collection:
    for number in range(10_000):
        put_documents(collection, [Document(f"n{number:05}", f"words {number}")])
        print(number, flush=True)
"""


@pytest.mark.slow
def test_each_acknowledged_document_is_there_after_a_kill(notes, registry, data):
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(registry.home)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(data.parent)},
        )
        acknowledged = [process.stdout.readline() for _ in range(7)][-1]
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].splitlines()
        last = int([acknowledged, *rest][-1])
        with Collection(notes.place, backend="numpy") as again:
            assert again.index.verify() == []
            assert {f"n{number:05}" for number in range(last + 1)} <= set(again.index)
            again.sync()
            assert {f"n{number:05}" for number in range(last + 1)} <= set(again.index)
