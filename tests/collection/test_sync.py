"""A collection keeps up with its files, and encodes only what changed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

import pytest

from mlx_colbert.collection import sync as sync_module
from mlx_colbert.collection.changes import File
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.documents import sources
from mlx_colbert.errors import CollectionNotFoundError, ModelMismatchError
from mlx_colbert.index import Index
from mlx_colbert.model import batching
from mlx_colbert.retriever import indexing


@pytest.fixture
def synced(collection, files, model):
    files.paragraphs("a.md", "one", "two", "three")
    files.write("b.md", "other text\n")
    collection.sync()
    model.encoded.clear()
    return collection


def uris(collection):
    return [source.uri for source in collection.index.sources()]


def first_words(model):
    return [text.split()[0] for text in model.encoded]


def test_first_sync_finds_all_files(collection, files):
    files.write("a.md", "# Tea\n\nsteep it\n")
    files.write("sub/b.txt", "drink it\n")

    result = collection.sync()

    assert (result.new, result.passages, result.n_files) == (["notes/a.md", "notes/sub/b.txt"], 2, 2)
    (hit,) = collection.index.search_keywords("tea")
    assert (hit.text, hit.source, hit.metadata) == (
        "steep it",
        "notes/a.md",
        {"path": "a.md", "kind": "markdown"},
    )
    assert hit.position == {"lines": [3, 3], "headings": ["Tea"]}
    assert hit.doc_id.startswith("notes/a.md#") and len(hit.doc_id) == len("notes/a.md#") + 8


def test_collection_without_files_gets_no_index_and_no_model(collection, no_model):
    no_model()

    assert collection.sync().n_files == 0
    with pytest.raises(
        CollectionNotFoundError, match=r"has no files with text yet\. When it has some, run mlx-colbert sync"
    ):
        collection.retriever  # noqa: B018


def test_second_sync_reads_no_file_and_loads_no_model(synced, no_model, monkeypatch):
    no_model()
    monkeypatch.setattr(sync_module, "read_passages_of", None)

    with Collection(synced.place, backend="numpy") as again:
        result = again.sync()

    assert (result.n_files, result.new, result.changed, result.touched) == (2, [], [], 0)


def test_changed_file_costs_its_changed_passages_only(synced, files, model):
    before = dict.fromkeys(synced.index.passages_of("notes/a.md"))

    files.paragraphs("a.md", "zero", "one", "two", "four")
    result = synced.sync()

    assert (result.changed, result.passages, result.unchanged) == (["notes/a.md"], 2, 2)
    assert first_words(model) == ["zero", "four"]
    after = synced.index.passages_of("notes/a.md")
    assert len(before.keys() & after) == 2
    lines = [synced.index.get(doc_id).position["lines"] for doc_id in after]
    assert sorted(lines) == [[1, 1], [3, 3], [5, 5], [7, 7]]


def test_file_that_was_only_touched_gets_its_new_time(synced, files, model):
    files.touch("a.md")

    assert (synced.sync().touched, model.encoded) == (1, [])
    assert synced.index.sources()[0].modified_ns == files.now
    assert synced.sync().touched == 0


def test_renamed_file_keeps_its_vectors(synced, files, model, contents):
    files.rename("a.md", "sub.md")

    result = synced.sync()

    assert (result.moved, result.new, result.deleted) == ({"notes/a.md": "notes/sub.md"}, [], [])
    assert (model.encoded, uris(synced)) == ([], ["notes/b.md", "notes/sub.md"])
    passages, _ = contents(synced)
    assert {metadata["path"] for _, metadata, *_ in passages.values()} == {"sub.md", "b.md"}


def test_ids_of_a_moved_file_are_those_of_a_new_collection(synced, files, registry, contents):
    files.paragraphs("a.md", "same", "same", "last")
    synced.sync()
    (files.folder / "x").mkdir()
    files.rename("a.md", "x/c.md")
    synced.sync()

    with Collection(registry.create(synced.settings, "fresh"), backend="numpy") as fresh:
        fresh.sync()
        assert contents(synced) == contents(fresh)


def test_moved_folder_costs_nothing(synced, files, model):
    for number in range(20):
        files.paragraphs(f"old/{number}.md", f"word{number}")
    synced.sync()
    model.encoded.clear()

    files.rename("old", "new")
    result = synced.sync()

    assert (len(result.moved), model.encoded, result.deleted) == (20, [], [])


def test_files_that_exchange_their_names_keep_their_vectors(synced, files, model, contents):
    files.paragraphs("b.md", "five", "six")
    synced.sync()
    model.encoded.clear()
    files.rename("a.md", "c.md"), files.rename("b.md", "a.md"), files.rename("c.md", "b.md")
    files.touch("a.md"), files.touch("b.md")

    result = synced.sync()

    assert result.moved == {"notes/a.md": "notes/b.md", "notes/b.md": "notes/a.md"}
    assert model.encoded == []
    passages, _ = contents(synced)
    assert sorted((text.split()[0], source) for text, _, source, _ in passages.values()) == [
        ("five", "notes/a.md"),
        ("one", "notes/b.md"),
        ("six", "notes/a.md"),
        ("three", "notes/b.md"),
        ("two", "notes/b.md"),
    ]


def test_rotated_file_keeps_its_vectors_under_the_new_name(synced, files, model):
    files.rename("a.md", "a.1.md")
    files.paragraphs("a.md", "fresh")

    result = synced.sync()

    assert (result.moved, result.new) == ({"notes/a.md": "notes/a.1.md"}, [])
    assert (result.changed, first_words(model)) == (["notes/a.md"], ["fresh"])
    assert len(synced.index.passages_of("notes/a.1.md")) == 3


def test_copied_file_is_a_new_one(synced, files, model):
    shutil.copy2(files.folder / "a.md", files.folder / "copy.md")

    result = synced.sync()

    assert (result.new, result.moved, result.passages) == (["notes/copy.md"], {}, 3)
    assert uris(synced) == ["notes/a.md", "notes/b.md", "notes/copy.md"]


def test_file_of_another_kind_is_read_again_after_its_renaming(synced, files):
    files.rename("b.md", "b.txt")

    result = synced.sync()

    assert (result.new, result.deleted, result.moved) == (["notes/b.txt"], ["notes/b.md"], {})
    (hit,) = synced.index.search_keywords("other")
    assert hit.metadata == {"path": "b.txt", "kind": "text"}


def test_vanished_file_is_deleted(synced, files):
    (files.folder / "b.md").unlink()

    assert synced.sync().deleted == ["notes/b.md"]
    assert (uris(synced), synced.index.search_keywords("other")) == (["notes/a.md"], [])


def test_file_without_text_leaves_nothing_behind_and_is_not_read_again(synced, files, monkeypatch):
    files.write("b.md", " \n")

    assert synced.sync().passages == 0
    assert uris(synced) == ["notes/a.md"]
    monkeypatch.setattr(sync_module, "read_passages_of", None)
    assert synced.sync().failed == {}


@pytest.mark.parametrize("data", [b"a\0b", b"\xff\xfe\xd8"])
def test_file_that_is_no_text_any_more_is_reported_and_its_old_text_deleted(synced, files, data):
    path = files.write("b.md", data)

    for result in (synced.sync(), synced.sync()):
        assert list(result.failed) == [str(path)]
    assert uris(synced) == ["notes/a.md"]
    files.write("b.md", "good again")
    assert synced.sync().failed == {}
    assert uris(synced) == ["notes/a.md", "notes/b.md"]


def test_file_that_cannot_be_opened_keeps_its_passages_and_is_tried_again(synced, files, monkeypatch):
    path = files.paragraphs("a.md", "new")
    read = os.open

    def locked(name, *arguments, **place):
        if os.fspath(name) == path.name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(name, *arguments, **place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", locked)
        for result in (synced.sync(), synced.sync()):
            assert result.failed == {str(path): "Permission denied."}
            assert synced.refresh().waiting == 0
        assert len(synced.index.passages_of("notes/a.md")) == 3
    assert (synced.sync().failed, len(synced.index.passages_of("notes/a.md"))) == ({}, 1)


def test_file_that_is_too_large_is_reported(collection, files, registry):
    registry.change(
        collection.place, lambda _: CollectionSettings({"notes": str(files.folder)}, (), (), "words", 100)
    )
    path = files.write("a.md", "word " * 50)
    files.write("b.md", "small")

    assert collection.sync().failed == {
        str(path): "It has 250 bytes. Files of more than 100 bytes are not read."
    }
    assert uris(collection) == ["notes/b.md"]


def test_dry_run_says_what_would_be_done_and_does_nothing(synced, files, model, contents):
    before = contents(synced)
    files.rename("a.md", "c.md")
    files.write("b.md", "changed"), files.write("d.md", "new")

    result = synced.sync(dry_run=True)

    assert (result.new, result.changed) == (["notes/d.md"], ["notes/b.md"])
    assert (result.moved, result.deleted) == ({"notes/a.md": "notes/c.md"}, [])
    assert (contents(synced), model.encoded) == (before, [])


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_folder_that_is_not_there_keeps_its_passages_until_it_is_pruned(synced, files, how):
    files.folder.rename(files.folder.with_name("away"))
    if how == "empty":  # as the place of a disk that is not mounted
        files.folder.mkdir()
        (files.folder / ".hidden").touch()

    result = synced.sync()

    assert (result.missing, result.kept, result.deleted) == ({str(files.folder): 2}, 2, [])
    assert len(synced.index) == 4
    assert synced.refresh().waiting == 0
    assert synced.sync(prune=True).deleted == ["notes/a.md", "notes/b.md"]
    assert len(synced.index) == 0


def test_folder_that_cannot_be_listed_keeps_its_passages(synced, files, monkeypatch):
    files.write("sub/c.md", "below")
    synced.sync()
    listing = os.scandir

    def refuse(path):
        if os.fspath(path).rstrip("/").endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = synced.sync()

    assert (result.kept, result.deleted) == (1, [])
    assert result.failed == {str(files.folder / "sub"): "Permission denied."}
    assert "notes/sub/c.md" in uris(synced)


def test_folder_that_is_taken_out_of_the_settings_is_deleted(synced, registry, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    (more / "x.md").write_text("extra")
    both = synced.settings.with_folder(more)
    registry.change(synced.place, lambda _: both)
    synced.sync()
    assert "more/x.md" in uris(synced)

    registry.change(synced.place, lambda _: CollectionSettings({"more": str(more)}, model="words"))
    assert synced.sync().deleted == ["notes/a.md", "notes/b.md"]
    assert uris(synced) == ["more/x.md"]


def test_new_rules_delete_what_they_leave_out_and_find_what_they_allow(synced, files):
    files.write(".mlx-colbertignore", "a.md\n")
    assert synced.sync().deleted == ["notes/a.md"]

    (files.folder / ".mlx-colbertignore").unlink()
    assert synced.sync().new == ["notes/a.md"]


def test_change_within_a_tick_of_the_clock_is_found(synced, files):
    """The size and the time of the file stay the same; but it was changed when it was read."""
    path = files.folder / "b.md"
    path.write_text("alpha beta\n")
    status = path.stat()
    synced.sync()
    path.write_text("gamma beta\n")
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))

    assert synced.sync().changed == ["notes/b.md"]
    assert synced.index.search_keywords("alpha") == []


def test_refresh_of_a_file_that_changed_just_now_writes_once(synced, files):
    (files.folder / "b.md").write_text("changed now\n")
    assert synced.refresh().updated == 1
    commits = (synced.index.path / "last-commit").read_bytes()

    assert synced.refresh().waiting == 0
    assert (synced.index.path / "last-commit").read_bytes() == commits


def test_interrupted_sync_keeps_what_was_committed_and_goes_on(
    collection, files, model, monkeypatch, contents
):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 4)
    files.paragraphs("a.md", *[f"a{i}" for i in range(11)])
    files.paragraphs("b.md", "b1", "poison")
    with pytest.raises(RuntimeError, match="cannot encode poison"):
        collection.sync()
    committed = len(collection.index)
    assert committed >= 8
    model.encoded.clear()

    files.paragraphs("b.md", "b1", "b2")
    collection.sync()

    assert len(model.encoded) == 13 - committed
    assert len(collection.index.passages_of("notes/a.md")) == 11
    assert collection.sync().passages == 0


@pytest.mark.parametrize("is_slow", [True, False])
def test_slow_model_commits_after_few_passages_and_a_file_stays_whole(
    collection, files, model, monkeypatch, is_slow
):
    monkeypatch.setattr(indexing, "FIRST_TEXTS", 2)
    monkeypatch.setattr(indexing, "WINDOW_S", 0.0 if is_slow else 1e9)
    for name in "abcd":
        files.paragraphs(f"{name}.md", name)
    files.paragraphs("e.md", *[f"e{i}" for i in range(5)])
    files.paragraphs("f.md", "f1", "f2")
    committed = []
    replace_sources = Index.replace_sources

    def noted(self, sources, doc_ids, **columns):
        committed.append(len(doc_ids))
        return replace_sources(self, sources, doc_ids, **columns)

    monkeypatch.setattr(Index, "replace_sources", noted)
    collection.sync()

    if is_slow:
        assert committed == [2, 2, 5, 2]
    else:
        # The second window may be made before the first one is encoded.
        assert committed[0] == 2 and max(committed) >= 7


def test_file_of_many_passages_that_was_written_in_part_is_completed(collection, files, model, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 4)
    words = [f"a{i}" for i in range(11)]
    files.paragraphs("a.md", *words)
    replace_sources = Index.replace_sources

    def killed(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(Index, "replace_sources", killed)
    with pytest.raises(KeyboardInterrupt):
        collection.sync()
    monkeypatch.setattr(Index, "replace_sources", replace_sources)
    assert 0 < len(collection.index) < 11
    model.encoded.clear()

    assert collection.sync().changed == ["notes/a.md"]
    assert (len(collection.index), len(model.encoded)) == (11, 3)


def test_file_that_vanishes_during_the_sync_is_reported(collection, files, monkeypatch):
    files.write("a.md", "one"), files.write("b.md", "two")
    read = sync_module.read_passages_of

    def removing(file: File, **named):
        (files.folder / "b.md").unlink(missing_ok=True)
        return read(file, **named)

    monkeypatch.setattr(sync_module, "read_passages_of", removing)
    result = collection.sync()

    assert result.failed == {str(files.folder / "b.md"): "No such file or directory."}
    monkeypatch.undo()
    assert uris(collection) == ["notes/a.md"]


def test_rows_of_a_table_keep_their_metadata_when_the_file_moves(collection, files, model):
    files.write("a.csv", "text,n\nsteep it,3\n")
    collection.sync()
    model.encoded.clear()
    files.rename("a.csv", "b.csv")
    collection.sync()

    (hit,) = collection.index.search_keywords("steep")
    assert (hit.metadata, model.encoded) == ({"path": "b.csv", "kind": "rows", "n": 3}, [])


def test_another_model_in_the_settings_is_an_error_until_the_index_is_rebuilt(
    synced, registry, monkeypatch, contents, model
):
    registry.change(synced.place, lambda _: CollectionSettings(dict(synced.settings.folders), model="other"))
    before = contents(synced)
    with Collection(synced.place, backend="numpy") as changed:
        with pytest.raises(ModelMismatchError, match=r"'words', but .* 'other'\. .* --rebuild"):
            changed.sync()
        model.source, model.fingerprint = "other", "other-1"
        result = changed.sync(rebuild=True)

        assert (result.passages, changed.index.model["source"]) == (4, "other")
        assert contents(changed) == before
        assert changed.sync().passages == 0
        assert not list(synced.place.path.glob("index.*"))


def test_rebuild_that_was_interrupted_goes_on_and_the_old_index_is_used_until_then(
    synced, files, model, monkeypatch
):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 2)
    files.paragraphs("c.md", "poison")
    with pytest.raises(RuntimeError):
        synced.sync(rebuild=True)
    with Collection(synced.place, backend="numpy") as other:
        assert len(other.index) == 4
    model.encoded.clear()

    files.paragraphs("c.md", "fine")
    result = synced.sync(rebuild=True)

    assert (len(synced.index), result.passages) == (5, len(model.encoded))
    assert len(model.encoded) < 5


@pytest.mark.parametrize("has_new", [True, False])
def test_exchange_of_an_index_that_was_killed_is_finished(synced, has_new):
    path = synced.place.index_path
    synced.close()
    shutil.copytree(path, path.with_name("index.new"))
    path.rename(path.with_name("index.old")) if has_new else shutil.copytree(
        path, path.with_name("index.old")
    )

    with Collection(synced.place, backend="numpy") as again:
        assert again.sync().passages == 0
        assert len(again.index) == 4
    assert not path.with_name("index.old").exists()


def test_two_folders_with_one_name_have_different_labels(registry, tmp_path, model):
    settings = CollectionSettings(model="words")
    for parent in ("x", "y"):
        folder = tmp_path / parent / "notes"
        folder.mkdir(parents=True)
        (folder / "a.md").write_text(f"text of {parent}")
        settings = settings.with_folder(folder)
    with Collection(registry.create(settings), backend="numpy") as collection:
        collection.sync()

        assert uris(collection) == ["notes-2/a.md", "notes/a.md"]
        assert collection.settings.path_of("notes-2/a.md") == tmp_path / "y" / "notes" / "a.md"
        assert collection.settings.uri_of(tmp_path / "y" / "notes" / "a.md") == "notes-2/a.md"
        assert collection.settings.uri_of(tmp_path / "z.md") is None


def test_status_says_what_is_behind_without_reading_a_file(synced, files, monkeypatch):
    (files.folder / "b.md").unlink()
    files.write("a.md", "changed"), files.write("c.md", "new"), files.write("bad.md", b"a\0")
    monkeypatch.setattr(sync_module, "read_passages_of", None)

    status = synced.status()

    assert (status.n_files, status.n_passages, status.new, status.changed, status.vanished) == (2, 4, 2, 1, 1)
    assert (status.model, status.index_model, status.synced_at is None) == ("words", "words", False)


def test_file_that_changed_just_before_a_sync_counts_as_in_step_and_is_read_again(synced, files):
    path = files.write("a.md", "first")
    # A time to come is never long enough ago, however slow the machine is.
    times = (time.time_ns() + 10**12,) * 2
    os.utime(path, ns=times)
    synced.sync()
    assert synced.status().changed == 0

    path.write_text("other")
    os.utime(path, ns=times)
    assert synced.sync().changed == ["notes/a.md"]


def test_model_that_changed_under_its_name_is_told_apart(synced, files, model):
    model.fingerprint = "words-2"
    files.write("c.md", "new")

    with Collection(synced.place, backend="numpy") as again:
        with pytest.raises(ModelMismatchError, match="words-2") as caught:
            again.sync()
        assert caught.value.__notes__ == ["To make the index again: mlx-colbert sync --name notes --rebuild"]
        assert again.sync(rebuild=True).passages == 5
        assert again.index.model["fingerprint"] == "words-2"


def test_unfinished_rebuild_with_another_model_begins_again(synced, files, model, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 2)
    files.paragraphs("c.md", "poison")
    with pytest.raises(RuntimeError):
        synced.sync(rebuild=True)
    files.paragraphs("c.md", "fine")
    model.fingerprint = "words-2"

    with Collection(synced.place, backend="numpy") as again:
        assert again.sync(rebuild=True).passages == 5
        assert again.index.verify() == []


def test_rules_that_changed_while_a_folder_was_away_are_obeyed_when_it_is_back(synced, files, registry):
    away = files.folder.with_name("away")
    files.folder.rename(away)
    settings = CollectionSettings(dict(synced.settings.folders), exclude=["a.md"], model="words")
    registry.change(synced.place, lambda _: settings)
    assert synced.sync().kept == 2

    away.rename(files.folder)
    assert synced.sync().deleted == ["notes/a.md"]


def test_rules_that_changed_during_a_rebuild_are_obeyed(synced, files, registry, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 2)
    files.paragraphs("c.md", "poison")
    with pytest.raises(RuntimeError):
        synced.sync(rebuild=True)
    files.paragraphs("c.md", "fine")
    settings = CollectionSettings(dict(synced.settings.folders), exclude=["a.md"], model="words")
    registry.change(synced.place, lambda _: settings)
    synced.sync()

    synced.sync(rebuild=True)
    assert uris(synced) == ["notes/b.md", "notes/c.md"]


def test_files_are_read_again_by_new_rules_but_what_is_equal_is_not_encoded(synced, model, monkeypatch):
    monkeypatch.setattr(sources, "RULES_VERSION", 0)

    assert synced.status().changed == 2
    synced.sync()

    assert not model.encoded
    assert {source.content_hash.partition("/")[2][0] for source in synced.index.sources()} == {"0"}
    assert synced.status().changed == 0


@pytest.mark.parametrize("names", [("e\u0301.md",), ("e\u0301.md", "\u00e9.md")])
def test_name_of_another_unicode_form_is_one_name(collection, files, names):
    for name in names:
        files.write(name, f"text of {len(name)}")

    for result in (collection.sync(), collection.sync()):
        assert (uris(collection), len(result.failed)) == (["notes/\u00e9.md"], len(names) - 1)
    assert collection.sync().passages == 0


def test_files_whose_names_differ_in_case_alone_are_two_files(collection, files):
    files.write("Tea.md", "steep")
    files.write("tea.md", "kettle")
    if len(list(files.folder.iterdir())) == 1:
        pytest.skip("this disk takes both names for one")
    collection.sync()

    texts = {passage.source: passage.text for passage in collection.index.passages()}
    assert texts == {"notes/Tea.md": "steep", "notes/tea.md": "kettle"}
    files.write("tea.md", "honey")
    assert collection.sync().changed == ["notes/tea.md"]


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system refuses names that are not UTF-8")
def test_names_that_are_not_utf_8_are_told_as_text_that_json_can_have(collection, files):
    for name in ("half\udcff.md", "half.\udcff"):
        (files.folder / name).write_text("x")
    result = collection.sync()
    assert result.failed == {f"{files.folder}/half\\udcff.md": "The name is not UTF-8. Rename the file."}
    json.dumps(result.to_dict(), ensure_ascii=False).encode()
