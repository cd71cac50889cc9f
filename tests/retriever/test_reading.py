"""Files for an index: each is read once, and left alone if the index has it as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter

import pytest
from killing import Killer
from made_stores import problems_of
from word_model import WordModel

from mlx_colbert.documents import files, sources
from mlx_colbert.documents.kinds import Kind
from mlx_colbert.errors import DuplicateIdError, IndexStoreError, InputError, TargetExistsError
from mlx_colbert.index import Index
from mlx_colbert.model import batching
from mlx_colbert.retriever import reading
from mlx_colbert.retriever import retriever as retriever_module
from mlx_colbert.retriever.retriever import Retriever

PARAGRAPH = " ".join(["word"] * 100)


def text_of(*names):
    return "\n\n".join(f"{name} {PARAGRAPH}" for name in names) + "\n"


class CountingModel(WordModel):
    """Counts the texts that it is asked about."""

    n_asked = 0

    def fits(self, document):
        self.n_asked += 1
        return super().fits(document)


@pytest.fixture
def model():
    return CountingModel()


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text(text_of("one", "two", "three"))
    (folder / "b.md").write_text("other\n")
    rows = ({"id": f"r{n}", "text": f"row {n}", "n": n} for n in range(3))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def inputs(notes):
    return [notes, notes / "rows.jsonl"]


# For a test of an index folder.
OF_FILES = pytest.mark.parametrize("retriever", ["index"], indirect=True)


@pytest.fixture
def filled(retriever, inputs):
    retriever.add_files(inputs, upsert=True)
    retriever.model.n_asked = 0
    retriever.model.encoded.clear()
    return retriever


@pytest.fixture
def opened(monkeypatch):
    """How many times each file was opened."""
    counts, read = Counter(), files.read_file

    def counted(path, **options):
        counts[path.name] += 1
        return read(path, **options)

    monkeypatch.setattr(files, "read_file", counted)
    return counts


def content_of(retriever):
    index = retriever.store
    passages = [(index.get(doc_id), index.get(doc_id).position) for doc_id in index.ids()]
    return {passage.doc_id: (passage.text, passage.metadata, place) for passage, place in passages}


@pytest.mark.parametrize("upsert", [False, True])
def test_text_is_opened_once_and_split_once(retriever, inputs, opened, upsert):
    assert retriever.add_files(inputs, upsert=upsert) == len(retriever) == 7
    assert (opened["a.md"], opened["b.md"], retriever.model.n_asked) == (1, 1, 4)


def test_new_index_opens_and_splits_its_texts_once(tmp_path, inputs, model, opened):
    Retriever.from_files(tmp_path / "index", model, inputs, backend="numpy").close()
    assert (opened["a.md"], opened["b.md"], model.n_asked) == (1, 1, 4)


def test_only_changed_files_are_split(filled, notes, inputs):
    (notes / "b.md").write_text("changed\n")

    with pytest.raises(DuplicateIdError, match=r"'notes/b.md#1'"):
        filled.add_files(inputs)
    assert filled.add_files(inputs, upsert=True) == 7

    assert (filled.model.n_asked, filled.model.encoded, filled.stats.unchanged) == (2, ["changed"], 6)


@pytest.mark.parametrize("numbers", [(1, 2, 3), (3, 4)])
def test_rows_that_a_file_lost_before_an_addition_are_deleted_by_an_upsert(filled, notes, inputs, numbers):
    rows = ({"id": f"r{n}", "text": f"row {n}", "n": n} for n in numbers)
    (notes / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    filled.add_files(inputs)
    assert len(filled) == 7 + len({*numbers} - {0, 1, 2})

    filled.add_files(inputs, upsert=True)

    assert filled.store.passages_of("notes/rows.jsonl") == [f"r{n}" for n in numbers]


@OF_FILES
def test_index_without_changes_needs_no_model(filled, tmp_path, inputs):
    def load():
        raise AssertionError("the model is loaded")

    with Index.open(tmp_path / "index", backend="numpy") as index:
        retriever = Retriever(load, index)
        assert retriever.add_files(inputs, upsert=True) == 7
        assert (retriever.stats.unchanged, retriever.stats.passages) == (7, 0)


def test_known_files_are_not_decoded_when_an_index_is_completed(tmp_path, inputs, model, monkeypatch):
    Retriever.from_files(tmp_path / "index", model, inputs, backend="numpy").close()
    monkeypatch.setattr(Kind, "parts", None)
    monkeypatch.setattr("mlx_colbert.documents.input_file.passage_of_record", None)
    with Retriever.from_files(tmp_path / "index", model, inputs, backend="numpy") as retriever:
        assert (len(retriever), retriever.stats.unchanged, model.n_asked) == (7, 7, 4)
    with pytest.raises(TargetExistsError, match="It has 6 passages that these files do not have"):
        Retriever.from_files(tmp_path / "index", model, inputs[0] / "b.md", backend="numpy")


CHANGES = {
    "a deleted passage": lambda retriever: retriever.delete(["notes/a.md#2"]),
    "a deleted row": lambda retriever: retriever.delete(filter="n = 1"),
    "a replaced passage": lambda retriever: retriever.upsert(["my own"], ["notes/a.md#2"]),
    "other metadata": lambda retriever: retriever.store.update_metadata(["notes/a.md#2"], [{"n": 7}]),
    "a deleted source": lambda retriever: retriever.delete(source="notes/a.md"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_file_whose_passages_were_changed_in_the_index_is_written_again(filled, inputs, change):
    before = content_of(filled)
    CHANGES[change](filled)
    assert content_of(filled) != before

    filled.add_files(inputs, upsert=True)

    assert (content_of(filled), problems_of(filled.store)) == (before, [])
    filled.model.n_asked = 0
    filled.add_files(inputs, upsert=True)
    assert filled.model.n_asked == 0


def test_files_are_split_again_after_a_change_of_the_rules(filled, inputs, monkeypatch):
    monkeypatch.setattr(sources, "RULES_VERSION", 0)
    filled.add_files(inputs, upsert=True)
    assert (filled.model.n_asked, filled.model.encoded) == (4, [])
    filled.add_files(inputs, upsert=True)
    assert filled.model.n_asked == 4


def test_file_with_another_time_is_split_again_and_then_known(filled, notes, inputs):
    os.utime(notes / "b.md", ns=(5, 5))
    filled.add_files(inputs, upsert=True)
    assert (filled.model.n_asked, filled.model.encoded) == (1, [])
    assert {source.modified_ns for source in filled.store.sources() if "b.md" in source.uri} == {5}
    filled.add_files(inputs, upsert=True)
    assert filled.model.n_asked == 1


def test_index_that_records_no_model_knows_no_file(tmp_path, model, inputs):
    with Index.create(tmp_path / "index", model.dim, backend="numpy") as index:
        retriever = Retriever(model, index)
        retriever.add_files(inputs, upsert=True)
        retriever.add_files(inputs, upsert=True)
        assert model.n_asked == 8 and len(model.encoded) == 14


@pytest.mark.parametrize("upsert", [False, True])
def test_file_that_is_written_in_part_is_not_known(retriever, notes, inputs, monkeypatch, upsert):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 2)
    (notes / "a.md").write_text(text_of("one", "two", "poison"))
    with pytest.raises(RuntimeError, match="poison"):
        retriever.add_files(inputs, upsert=upsert)
    (part,) = retriever.store.sources()
    assert (part.uri, part.content_hash) == ("notes/a.md", None)
    assert retriever.store.passages_of("notes/a.md") == ["notes/a.md#1", "notes/a.md#2"]

    monkeypatch.setattr(WordModel, "encode_tokenized", encode_anything)
    retriever.add_files(inputs, upsert=upsert)

    assert len(retriever) == 7 and problems_of(retriever.store) == []
    retriever.add_files(inputs, upsert=True)
    assert all(source.content_hash for source in retriever.store.sources())
    retriever.model.n_asked = 0
    retriever.add_files(inputs, upsert=True)
    assert retriever.model.n_asked == 0


def encode_anything(model, texts, advance=lambda n_texts, n_tokens: None):
    for row in texts.rows:
        row.ids[row.ids == "poison"] = "cure"
    return ENCODE(model, texts, advance)


ENCODE = WordModel.encode_tokenized


def test_id_of_a_known_file_is_not_given_to_another(filled, notes, inputs):
    (notes / "more.jsonl").write_text('{"id": "r1", "text": "one"}\n{"id": "notes/a.md#2", "text": "two"}\n')
    with pytest.raises(DuplicateIdError, match=r"'r1'.*given twice, at .*rows\.jsonl and at .*more\.jsonl:1"):
        filled.add_files([*inputs, notes / "more.jsonl"], upsert=True)
    with pytest.raises(DuplicateIdError, match=r"'notes/a\.md#1'.*given twice"):
        filled.add_files([notes, notes / "a.md"], upsert=True)


def test_known_file_that_is_given_twice_is_an_error(filled, notes, monkeypatch):
    monkeypatch.chdir(notes)
    for name in ("b.md", "rows.jsonl"):
        with pytest.raises(DuplicateIdError, match=f"given twice, at {name} and at {name}"):
            filled.add_files([name, name], upsert=True)


@pytest.mark.parametrize("more", ["", '{"id": "r9", "text": "row 9"}\n'])
def test_row_that_another_source_has_is_taken_over(retriever, notes, more):
    (notes / "c.jsonl").write_text('{"id": "r1", "text": "row 1", "n": 1}\n' + more)
    retriever.add_files(notes / "rows.jsonl")
    retriever.add_files(notes / "c.jsonl")
    retriever.add_files(notes / "c.jsonl", upsert=True)
    assert "r1" in retriever.store.passages_of("notes/c.jsonl")
    retriever.add_files(notes / "rows.jsonl", upsert=True)
    assert retriever.store.passages_of("notes/rows.jsonl") == ["r0", "r2", "r1"]


@pytest.mark.parametrize("kept_bytes", [0, 1200, 4000])
def test_files_that_need_too_much_memory_are_read_again(filled, tmp_path, inputs, monkeypatch, kept_bytes):
    monkeypatch.setattr(reading, "KEPT_BYTES", kept_bytes)
    other = CountingModel()
    with Retriever.from_files(tmp_path / "other", other, inputs, backend="numpy") as made:
        assert content_of(made) == content_of(filled) and made.index.verify() == []

    notes = inputs[0]
    (notes / "a.md").write_text(text_of("one", "TWO"))
    (notes / "b.md").write_text(text_of("new", "newer"))
    assert filled.add_files(inputs, upsert=True) == len(filled) == 7
    assert [text.split()[0] for text in filled.model.encoded] == ["TWO", "new", "newer"]
    assert problems_of(filled.store) == []
    assert filled.stats.unchanged == 4


def test_all_files_are_checked_before_the_model_is_loaded(tmp_path, notes):
    def load():
        raise AssertionError("the model is loaded")

    (notes / "bad.jsonl").write_text('{"text": 3}\n')
    Retriever.create(tmp_path / "index", WordModel(), backend="numpy").close()
    with Index.open(tmp_path / "index", backend="numpy") as index:
        retriever = Retriever(load, index)
        for bad in ([notes, notes / "bad.jsonl"], [notes, notes / "a.md"], [notes, notes / "none.md"]):
            with pytest.raises((InputError, OSError)):
                retriever.add_files(bad, upsert=True)


def test_index_that_is_removed_while_the_model_loads_is_made_anew(tmp_path, inputs, model, monkeypatch):
    path = tmp_path / "index"
    Retriever.from_files(path, model, inputs, backend="numpy").close()

    def remove_and_load(given, backend):
        shutil.rmtree(path)
        return given

    # The second call finds no folder.
    monkeypatch.setattr(retriever_module, "_load", remove_and_load)
    monkeypatch.setattr(shutil, "rmtree", once(shutil.rmtree))
    with Retriever.from_files(path, model, inputs, backend="numpy") as retriever:
        assert (len(retriever), retriever.stats.passages) == (7, 7)


def once(function):
    """A function that does nothing after its first call."""
    calls = iter([function])
    return lambda *arguments: next(calls, lambda *_: None)(*arguments)


def test_index_whose_creation_was_stopped_is_made_by_the_same_call(tmp_path, model, inputs):
    path = tmp_path / "index"
    path.mkdir()
    (path / "catalog.db").touch()

    with Retriever.from_files(path, model, inputs) as retriever:
        assert (len(retriever), problems_of(retriever.store)) == (len(retriever.store.ids()), [])


def test_catalog_without_tables_beside_segments_is_not_taken_for_a_new_index(tmp_path, model, inputs):
    path = tmp_path / "index"
    Retriever.from_files(path, model, inputs).close()
    (path / "catalog.db").write_bytes(b"")

    with pytest.raises(IndexStoreError, match="is not an index"):
        Retriever.from_files(path, model, inputs)
    assert list(path.glob("segment-*"))


@pytest.mark.slow
def test_index_whose_creation_was_killed_at_any_step_is_made_by_the_same_call(tmp_path, model, inputs):
    made = 0
    with Killer() as killer:
        n_steps = killer.run(tmp_path / "whole", "create")
        for step in range(1, n_steps + 1):
            path = tmp_path / str(step)
            killer.kill_at(path, "create", step)
            try:
                Retriever.from_files(path, model, inputs).close()
                made += 1
            except TargetExistsError:  # it was created completely, with other settings
                Index.open(path).close()
    assert made > 1
