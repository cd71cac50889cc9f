"""The look at the files is left out where nothing can have changed."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace

import pytest

from mlx_colbert.collection import collection as module
from mlx_colbert.collection import last_look
from mlx_colbert.collection.changes import changes
from mlx_colbert.collection.last_look import LastLooks


@pytest.fixture
def looks(monkeypatch):
    """The looks at the files that compare them with the index."""
    looks = []
    real = module.changes
    monkeypatch.setattr(module, "changes", lambda *a, **named: looks.append(a) or real(*a, **named))
    monkeypatch.setattr(module, "last_looks", LastLooks())
    return looks


@pytest.fixture
def long_ago(monkeypatch):
    """Let files that have just changed count as old ones."""
    monkeypatch.setattr(last_look, "_TICK_NS", 0)


@pytest.fixture
def notes(collection, files, looks, long_ago):
    """A collection whose last look is remembered."""
    files.paragraphs("tea.md", "steep", "kettle")
    files.paragraphs("deep/down/bees.md", "dance")
    files.write("deep/.gitignore", "*.tmp\n")
    files.write("blank.md", "")
    files.write("deep/other", "no kind of file that is read")
    (files.folder / "link.md").symlink_to("tea.md")
    collection.sync()
    for _ in range(2):
        assert collection.is_in_step()
    looks.clear()
    return collection


def test_files_that_did_not_change_are_not_compared_again(notes, looks):
    assert notes.is_in_step()
    assert not looks


def test_file_that_is_not_read_may_change(notes, files, looks):
    files.write("deep/server.log", "1\n")
    for _ in range(2):
        assert notes.is_in_step()
    looks.clear()
    files.write("deep/server.log", "1\n2\n")
    (files.folder / ".git").mkdir()
    (files.folder / ".git/index").touch()
    assert notes.is_in_step()
    assert len(looks) == 1
    for _ in range(2):
        assert notes.is_in_step()
    (files.folder / ".git/lock").touch()
    assert notes.is_in_step()
    assert len(looks) == 1


def _folder_in_the_place_of_a_file(files):
    (files.folder / "deep/other").unlink()
    files.paragraphs("deep/other/new.md", "trampoline")


def _new(files):
    files.paragraphs("deep/down/new.md", "trampoline")


def _changed(files):
    files.paragraphs("deep/down/bees.md", "trampoline")


def _changed_to_an_equal_size(files):
    path = files.folder / "deep/down/bees.md"
    path.write_text(path.read_text().upper())


def _vanished(files):
    (files.folder / "tea.md").unlink()


def _renamed(files):
    files.rename("tea.md", "pot.md")


def _folder_renamed(files):
    files.rename("deep", "high")


def _new_folder(files):
    files.paragraphs("other/new.md", "trampoline")


def _rules_changed(files):
    # Of the same size as before.
    files.write("deep/.gitignore", "/down\n")


def _rules_new(files):
    files.write("deep/down/.ignore", "bees.md\n")


def _rules_above(files):
    (files.folder.parent / ".git").mkdir()
    files.write("../.gitignore", "tea.md\n")


def _blank_file_written(files):
    files.write("blank.md", "trampoline\n")


def _link_led_away(files):
    (files.folder / "link.md").unlink()
    (files.folder / "link.md").symlink_to("../elsewhere.md")


@pytest.mark.parametrize(
    "change",
    [
        _new,
        _changed,
        _changed_to_an_equal_size,
        _vanished,
        _renamed,
        _folder_renamed,
        _new_folder,
        _folder_in_the_place_of_a_file,
        _rules_changed,
        _rules_new,
        _rules_above,
        _blank_file_written,
        _link_led_away,
    ],
)
def test_change_after_the_last_look_is_seen(notes, files, looks, change):
    change(files)
    assert not notes.is_in_step()
    assert looks


def test_repository_that_begins_above_is_looked_at(notes, files, looks):
    (files.folder.parent / ".git").mkdir()
    assert notes.is_in_step()
    assert looks


def test_other_settings_are_looked_at(notes, looks):
    notes.settings = replace(notes.settings, exclude=("tea.md",))
    assert not notes.is_in_step()
    assert looks


def test_change_to_the_index_is_looked_at(notes, looks):
    with notes.writing() as retriever:
        retriever.add(["a note of its own"], ["trampoline"])
    looks.clear()
    assert notes.is_in_step()
    assert looks


def test_file_of_rules_that_is_a_link_is_followed(collection, files, looks, long_ago, tmp_path):
    rules = tmp_path / "rules"
    rules.write_text("*.tmp\n")
    files.paragraphs("tea.md", "steep")
    (files.folder / ".ignore").symlink_to(rules)
    collection.sync()
    for _ in range(3):
        assert collection.is_in_step()
    rules.write_text("*.md\n\n")
    assert not collection.is_in_step()


def test_file_that_has_just_changed_is_compared_again(collection, files, looks):
    files.paragraphs("tea.md", "steep")
    collection.sync()
    stamp = (files.folder / "tea.md").stat().st_mtime_ns - 10**10
    os.utime(files.folder / "tea.md", ns=(stamp, stamp))
    collection.sync()
    looks.clear()
    for _ in range(4):
        assert collection.is_in_step()
    assert len(looks) == 4


def test_folder_that_cannot_be_read_is_looked_at_each_time(notes, files, looks, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith("down"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for _ in range(3):
        notes.is_in_step()
    assert len(looks) == 3
    monkeypatch.undo()


def test_folder_that_comes_later_is_looked_at(collection, files, looks, long_ago):
    files.paragraphs("tea.md", "steep")
    later = files.folder.parent / "later"
    later.mkdir()
    collection.settings = collection.settings.with_folder(later)
    later.rmdir()
    with_both = collection.settings
    collection.place.settings_path.write_bytes(with_both.to_toml().encode())
    collection.sync()
    for _ in range(3):
        assert collection.is_in_step()
    files.paragraphs("../later/new.md", "trampoline")
    assert not collection.is_in_step()


def test_only_some_collections_are_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr(last_look, "_MOST_COLLECTIONS", 2)
    monkeypatch.setattr(last_look, "_TICK_NS", 0)
    looks, seen = [], LastLooks()

    def look(place):
        looks.append(place)
        return True, [str(tmp_path)]

    places = [tmp_path / name for name in "abc"]
    for place in [*places, *places]:
        seen.is_in_step(place, [str(tmp_path)], 1, lambda place=place: look(place))
    assert len(looks) == 6
    assert len(seen._seen) == 2


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_are_seen_as_a_full_look_sees_them(collection, files, looks, long_ago, seed):
    choose = random.Random(seed)
    names = ["a.md", "b.md", "deep/a.md", "deep/down/b.md", "deep/c", "other/a.md", "go.mod", "x.log"]
    rules = [".gitignore", "deep/.ignore", "../.gitignore", "../.git"]
    files.paragraphs("a.md", "steep")
    answers = set()
    for _ in range(120):
        path = files.folder / choose.choice(names)
        match choose.choice(
            ["write", "write", "same size", "delete", "rename", "rules", "link", "sync", "sync"]
        ):
            case "write":
                remove(path)
                files.write(path.relative_to(files.folder), f"{choose.random()} steep\n")
            case "same size" if path.is_file():
                path.write_text(path.read_text()[::-1])
            case "delete":
                remove(choose.choice([path, path.parent]) if path.parent != files.folder else path)
            case "rename" if path.exists():
                target = files.folder / choose.choice(names)
                remove(target)
                if path.exists() and target.parent.is_dir():
                    path.rename(target)
            case "rules":
                rule = files.folder / choose.choice(rules)
                remove(rule)
                if choose.random() < 0.7 and rule.parent.is_dir():
                    rule.write_text(choose.choice(["a.md\n", "b.md\n", "deep/\n", "!a.md\n"]))
            case "link" if path.parent.is_dir():
                remove(path)
                path.symlink_to(choose.choice(["a.md", "../a.md", "../../away.md", "deep"]))
            case "sync":
                collection.sync()
        for _ in range(choose.choice([1, 1, 3])):
            answer = collection.is_in_step()
            state = collection._state()
            sources = collection._opened.sources(collection._opened.path, collection.settings)
            found = changes(collection.settings, sources, state)
            assert answer == (not found.pending(state) and not found.vanished)
        answers.add(answer)
    assert answers == {True, False}


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
