"""Files that change: what an index holds of them afterwards."""

import pytest
from made_stores import problems_of

from mlx_colbert.errors import DuplicateIdError, InputError
from mlx_colbert.index import Index
from mlx_colbert.model import batching
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.types import Source

PARAGRAPH = " ".join(["word"] * 100)


def text_of(*names):
    return "\n\n".join(f"{name} {PARAGRAPH}" for name in names) + "\n"


# For a test of an index folder.
OF_FILES = pytest.mark.parametrize("retriever", ["index"], indirect=True)


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text(text_of("one", "two", "three"))
    (folder / "b.md").write_text("other\n")
    return folder


def ids(retriever, uri):
    return retriever.store.passages_of(uri)


def test_file_that_got_shorter_leaves_nothing_behind(retriever, notes):
    retriever.add_files(notes)
    (notes / "a.md").write_text(text_of("one"))

    retriever.add_files(notes, upsert=True)

    assert ids(retriever, "notes/a.md") == ["notes/a.md#1"]
    assert len(retriever) == 2
    assert retriever.search("three", mode="keyword") == []
    assert problems_of(retriever.store) == []


@pytest.mark.parametrize("content", ["", " \n"])
def test_file_that_is_empty_now_leaves_nothing_behind(retriever, notes, content):
    retriever.add_files(notes)
    (notes / "a.md").write_text(content)
    assert retriever.add_files(notes) == 1
    assert len(retriever) == 4

    assert retriever.add_files(notes, upsert=True) == 1

    assert list(retriever) == ["notes/b.md#1"]
    assert [source.uri for source in retriever.store.sources()] == ["notes/b.md"]
    assert (retriever.stats.deleted, retriever.unread.kinds["empty"]) == (3, 1)


def test_rows_that_a_file_no_longer_has_leave_nothing_behind(retriever, notes):
    retriever.add_files(notes)
    (notes / "rows.jsonl").write_text('{"id": "x", "text": "row"}\n{"id": "y", "text": "row"}\n')
    retriever.add_files(notes / "rows.jsonl")
    (notes / "rows.jsonl").write_text('{"id": "y", "text": "row"}\n')

    retriever.add_files(notes / "rows.jsonl", upsert=True)

    assert ids(retriever, "notes/rows.jsonl") == ["y"] and "x" not in retriever
    assert (retriever.stats.deleted, retriever.stats.passages) == (1, 6)


def test_only_changed_passages_are_encoded_again_and_lines_move(retriever, notes, model):
    retriever.add_files(notes)
    model.encoded.clear()
    (notes / "a.md").write_text("\n\n" + text_of("one", "TWO", "three", "four"))

    retriever.add_files(notes, upsert=True)

    assert [text.split()[0] for text in model.encoded] == ["TWO", "four"]
    lines = [retriever.store.get(f"notes/a.md#{n}").position["lines"][0] for n in (1, 2, 3, 4)]
    assert lines == [3, 5, 7, 9]


@OF_FILES
def test_file_is_replaced_in_one_transaction(retriever, notes, monkeypatch):
    retriever.add_files(notes)
    (notes / "a.md").write_text(text_of("1", "2"))
    seen = []
    replace = Index.replace_sources

    def watched(index, *args, **kwargs):
        before = sorted(ids(retriever, "notes/a.md"))
        n_deleted = replace(index, *args, **kwargs)
        seen.append((before, sorted(ids(retriever, "notes/a.md"))))
        return n_deleted

    monkeypatch.setattr(Index, "replace_sources", watched)
    monkeypatch.setattr(Index, "upsert", None)
    retriever.add_files(notes, upsert=True)

    three = [f"notes/a.md#{n}" for n in (1, 2, 3)]
    assert seen == [(three, three[:2])]


def test_files_fill_windows_and_a_long_one_has_windows_of_its_own(retriever, notes, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 3)
    (notes / "a.md").write_text(text_of(*"abcdefgh"))
    for name in "cdef":
        (notes / f"{name}.md").write_text(name)
    retriever.add_files(notes, upsert=True)
    assert (len(retriever), len(retriever.store.sources())) == (13, 6)

    (notes / "a.md").write_text(text_of(*"ABCDE"))
    retriever.add_files(notes, upsert=True)

    assert [retriever.store.get(i).text[0] for i in ids(retriever, "notes/a.md")] == [*"ABCDE"]
    assert (len(retriever), problems_of(retriever.store)) == (10, [])


def test_unchanged_files_are_not_written_again(retriever, notes, model, monkeypatch):
    retriever.add_files(notes)
    model.encoded.clear()
    monkeypatch.setattr(Index, "replace_sources", None)
    monkeypatch.setattr(Index, "upsert", None)

    assert retriever.add_files(notes, upsert=True) == 4
    assert model.encoded == []


def test_two_folders_keep_their_files_apart(retriever, notes, tmp_path):
    other = tmp_path / "work" / "notes"
    other.mkdir(parents=True)
    (other / "b.md").write_text("of the other folder\n")

    retriever.add_files([notes], upsert=True)
    retriever.add_files([other], upsert=True)

    assert retriever.store.get("notes/b.md#1").text == "other"
    assert retriever.store.get("notes-2/b.md#1").text == "of the other folder"
    # The index remembers which is which, in any order.
    retriever.add_files([other / "b.md", notes / "b.md"], upsert=True)
    assert len(retriever) == 5


def test_added_file_keeps_what_it_had_before_unless_told_to_replace(retriever, notes):
    retriever.add_files(notes)
    (notes / "a.md").write_text(text_of("one", "two"))
    assert retriever.add_files(notes) == 3
    assert len(retriever) == 4

    (notes / "a.md").write_text(text_of("changed"))
    with pytest.raises(DuplicateIdError, match=r"'notes/a.md#1'.*exists already"):
        retriever.add_files(notes)


def test_record_is_replaced_as_a_source(retriever):
    page = Source("https://example.org/tea", content_hash="1")
    assert retriever.replace_source(page, ["tea", "milk"], positions=[{"page": 1}, {"page": 2}]) == [
        "https://example.org/tea#1",
        "https://example.org/tea#2",
    ]
    (hit,) = retriever.search("milk", k=1)
    assert (hit.source, hit.position) == (page.uri, {"page": 2})

    retriever.replace_source(page, ["water"], ["w"], [{"n": 1}])
    assert (len(retriever), ids(retriever, page.uri)) == (1, ["w"])
    assert retriever.rerank("water", ["w"])[0].source == page.uri

    assert retriever.replace_source(page, []) == [] and len(retriever) == 0
    assert retriever.stats.deleted == 3
    with pytest.raises(InputError, match="2 texts, but 1 positions"):
        retriever.replace_source(page, ["a", "b"], positions=[None])


def test_source_is_deleted(retriever, notes):
    retriever.add_files(notes)

    assert retriever.delete(source="notes/a.md") == 3
    assert [source.uri for source in retriever.store.sources()] == ["notes/b.md"]


def test_index_without_sources_gets_them_when_its_files_are_added_again(tmp_path, model, notes):
    with Retriever.create(tmp_path / "i", model, backend="numpy") as retriever:
        retriever.add(["other"], ["notes/b.md#1"], [{"path": "b.md", "kind": "markdown"}])
        model.encoded.clear()
        retriever.add_files(notes / "b.md", upsert=True)

        assert (model.encoded, ids(retriever, "notes/b.md")) == ([], ["notes/b.md#1"])


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("window", [1, 512])
def test_row_that_moves_to_another_file_stays(retriever, tmp_path, monkeypatch, names, window):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", window)
    files = [tmp_path / f"{name}.jsonl" for name in names]
    rows = ['{"id": "x", "text": "one"}\n', '{"id": "y", "text": "two"}\n', '{"id": "z", "text": "three"}\n']
    files[0].write_text(rows[0] + rows[1])
    files[1].write_text(rows[2])
    retriever.add_files(files)
    files[0].write_text(rows[1])
    files[1].write_text(rows[0] + rows[2])

    retriever.add_files(sorted(files), upsert=True)

    uri = f"{tmp_path.name}/{files[1].name}"
    assert (sorted(ids(retriever, uri)), len(retriever), problems_of(retriever.store)) == (["x", "z"], 3, [])


@pytest.fixture
def tables(tmp_path, retriever):
    """Two files whose rows have the same ids. The first one is in the index."""
    (tmp_path / "tea.csv").write_text("id,text\n1,black tea\n2,green tea\n")
    (tmp_path / "milk.csv").write_text("id,text\n2,sour milk\n3,butter\n")
    retriever.add_files(tmp_path / "tea.csv")
    return tmp_path / "tea.csv", tmp_path / "milk.csv"


def test_row_of_another_file_is_not_overwritten(retriever, tables):
    folder = tables[0].parent.name
    with pytest.raises(
        DuplicateIdError,
        match=f"'2': is a passage of {folder}/tea.csv .* but {folder}/milk.csv has another text",
    ) as caught:
        retriever.add_files(tables[1], upsert=True)
    assert caught.value.doc_ids == ["2"]
    assert (len(retriever), retriever.store.get("2").text) == (2, "green tea")

    retriever.delete(["2"])
    retriever.add_files(tables[1], upsert=True)
    assert (len(retriever), retriever.store.get("2").text) == (3, "sour milk")


def test_row_of_another_file_is_named_without_upsert_too(retriever, tables):
    with pytest.raises(DuplicateIdError, match=r"'2': is a passage of .*/tea\.csv "):
        retriever.add_files(tables[1])


def test_same_row_moves_to_the_file_that_was_added_last(retriever, tables):
    tables[1].write_text("id,text\n2,green tea\n")
    retriever.add_files(tables[1], upsert=True)
    assert retriever.store.get("2").source == f"{tables[0].parent.name}/milk.csv"


def test_row_may_move_and_change_if_its_old_file_is_given_too(retriever, tables):
    tables[0].write_text("id,text\n1,black tea\n")
    retriever.add_files(tables, upsert=True)
    assert retriever.store.get("2").text == "sour milk"
    assert retriever.store.passages_of(f"{tables[0].parent.name}/tea.csv") == ["1"]


def test_passage_without_a_source_may_be_replaced_by_a_file(retriever, tables):
    retriever.upsert(["cream"], ["3"])
    tables[1].write_text("id,text\n3,butter\n")
    retriever.add_files(tables[1], upsert=True)
    assert retriever.store.get("3").text == "butter"


def test_source_does_not_overwrite_passages_of_another_source(retriever, tables):
    page = Source("https://example.org/tea")
    with pytest.raises(
        DuplicateIdError, match=r"'1': is a passage of .*/tea\.csv .* but https://example\.org/tea"
    ):
        retriever.replace_source(page, ["white tea", "green tea"], ["1", "2"])
    assert len(retriever) == 2 and retriever.replace_source(page, ["green tea"], ["2"]) == ["2"]


def test_headings_are_read_by_the_model_and_are_no_part_of_the_text(tmp_path, model):
    words = " ".join(["tea"] * 60)
    path = tmp_path / "notes.md"
    path.write_text(f"# one\n\n{words}\n\n# two\n\n{words}\n")
    with Retriever.create(tmp_path / "i", model, backend="numpy") as retriever:
        retriever.add_files(path)
        assert model.encoded == [f"one {words}", f"two {words}"]
        stored = [retriever.store.get(doc_id) for doc_id in retriever]
        assert [(p.text, p.position["headings"]) for p in stored] == [(words, ["one"]), (words, ["two"])]

        model.encoded.clear()
        path.write_text(f"# one\n\n{words}\n\n# three\n\n{words}\n")
        retriever.add_files(path, upsert=True)
        assert model.encoded == [f"three {words}"]

        ids = list(retriever)
        hits = retriever.rerank("three", ids)
        assert [hit.text for hit in hits] == [words, words]
        assert hits[0].position["headings"] == ["three"]
