"""Where collections are, their names, and which settings are trusted."""

from __future__ import annotations

import os
import time

import pytest

from mlx_colbert.collection.choosing import Wanted, chosen
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.lock import locked
from mlx_colbert.collection.registry import Registry, check_name
from mlx_colbert.collection.settings import DEFAULT_MODEL, CollectionSettings
from mlx_colbert.collection.state import State
from mlx_colbert.collection.watched import Watched
from mlx_colbert.errors import (
    CollectionBusyError,
    CollectionError,
    CollectionNotFoundError,
    ConfigError,
    InputError,
    ModelMismatchError,
)

EMPTY = CollectionSettings()


def names(registry):
    return [place.name for place in registry.list()]


@pytest.mark.parametrize("name", ["notes", "Ünï 2.0", "a", "x-y_z", "東京", "a+b", "1"])
def test_name_that_is_a_folder_name_everywhere_is_fine(registry, name):
    registry.create(EMPTY, name)

    assert names(registry) == [name]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/x", "a\\b", ".hidden", "-x", "_x", "x.", "x ", "a\nb", "a\0", "a:b", "x" * 65, "a*"]
)  # fmt: skip
def test_name_that_leads_elsewhere_is_refused(registry, tmp_path, name):
    for call in (lambda: registry.create(EMPTY, name), lambda: check_name(name)):
        with pytest.raises(InputError, match="cannot be the name of a collection"):
            call()
    registry.create(EMPTY, "x")
    with pytest.raises(InputError):
        registry.rename("x", name)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_names_that_differ_only_in_case_are_one_name(registry):
    registry.create(EMPTY, "Notes")

    with pytest.raises(InputError, match="'notes' exists already"):
        registry.create(EMPTY, "notes")
    assert registry.find("NOTES").name == "Notes"
    registry.create(EMPTY, "e\u0301")
    assert registry.find("\u00e9").name == "\u00e9"
    registry.create(EMPTY, "other")
    with pytest.raises(InputError, match="exists already"):
        registry.rename("other", "notes")
    assert registry.rename("notes", "notes").name == "notes"


def test_name_without_one_comes_from_the_folder(registry, tmp_path):
    for folder, name in {
        "a/notes": "notes",
        "b/notes": "notes-2",
        "c/.config x!": "config x",
        "d/???": "files",
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        assert registry.create(CollectionSettings().with_folder(tmp_path / folder)).name == name


def test_unknown_name_is_an_error_that_lists_the_others(registry):
    with pytest.raises(CollectionNotFoundError, match=r"x: does not exist\. There are: none yet"):
        registry.find("x")
    registry.create(EMPTY, "b"), registry.create(EMPTY, "a")
    with pytest.raises(CollectionNotFoundError, match=r"There are: a, b\."):
        registry.find("x")


def test_removed_collection_leaves_the_files_and_nothing_else(collection, registry, files):
    files.write("a.md", "text")
    collection.sync()

    registry.remove("notes")

    assert (names(registry), list((registry.home / "collections").iterdir())) == ([], [])
    assert (files.folder / "a.md").read_text() == "text"


def test_collection_that_is_being_changed_is_neither_renamed_nor_removed(registry):
    place = registry.create(EMPTY, "a")
    with locked(place.path, "a"):
        for call in (lambda: registry.remove("a"), lambda: registry.rename("a", "b")):
            with pytest.raises(
                CollectionBusyError, match=r"collection a: process \d+ \(since .*\) is changing it"
            ):
                call()
    assert registry.rename("a", "b").path.is_dir()


def test_what_a_killed_removal_has_left_is_removed_by_the_next_one(registry):
    left = registry.create(EMPTY, "notes").path
    left.rename(left.with_name(".removed-1-notes"))
    registry.create(EMPTY, "other")

    registry.remove("other")

    assert list((registry.home / "collections").iterdir()) == []


def test_renamed_collection_keeps_its_index(collection, registry, files, model):
    files.write("a.md", "text")
    collection.sync()
    collection.close()
    model.encoded.clear()

    with Collection(registry.rename("notes", "diary"), backend="numpy") as renamed:
        renamed.sync()
        assert (renamed.name, len(renamed.index), model.encoded) == ("diary", 1, [])


def test_home_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path / "there"))

    assert Registry().home == tmp_path / "there"
    monkeypatch.delenv("MLX_COLBERT_HOME")
    assert Registry().home.name == "mlx-colbert"


@pytest.fixture
def project(files, model, registry):
    """A folder with a collection that somebody else has made."""
    files.write("a.md", "text")
    place = registry.create_local(files.folder, CollectionSettings({"x": "/etc"}, model="evil"))
    (registry.home / "trusted.json").unlink()
    return place


def test_settings_beside_files_are_not_used_until_they_are_trusted(project, registry, files):
    place = registry.find(str(files.folder))

    assert not place.is_trusted
    assert place.settings() == CollectionSettings({"notes": str(files.folder)})
    assert place.settings().model == DEFAULT_MODEL
    with pytest.raises(CollectionError, match="you do not trust its settings"):
        registry.change(place, lambda _: EMPTY)

    trusted = registry.trust(files.folder)
    assert trusted == registry.find(str(files.folder))
    assert (trusted.settings().model, trusted.settings().folders) == ("evil", {"x": "/etc"})


def test_settings_that_changed_are_not_trusted_any_more(project, registry, files):
    registry.trust(files.folder)
    CollectionSettings(model="worse").write(project.settings_path)

    assert registry.find(str(files.folder)).settings().model == DEFAULT_MODEL


def test_settings_that_change_after_they_are_found_are_not_read(project, registry, files):
    place = registry.trust(files.folder)
    CollectionSettings({"x": "/"}, model="worse").write(project.settings_path)

    with pytest.raises(CollectionError, match=r"collection.toml has changed. Read it, then run"):
        place.settings()


@pytest.mark.parametrize(
    "name", ["lock", "watch.lock", "state.json", ".gitignore", "index", "index.new/catalog.db", "."]
)
@pytest.mark.parametrize("is_trusted", [False, True])
def test_link_in_the_collection_of_a_stranger_leads_nowhere(
    project, registry, files, tmp_path, name, is_trusted
):
    if is_trusted:
        registry.trust(files.folder)
    precious = tmp_path / "precious"
    if name == ".":
        project.path.rename(precious)
        project.path.symlink_to(precious)
    else:
        precious.write_text("precious")
        (project.path / name).parent.mkdir(exist_ok=True)
        (project.path / name).unlink(missing_ok=True)
        (project.path / name).symlink_to(precious)
    before = sorted(path.name for path in tmp_path.rglob("*"))

    with pytest.raises(
        CollectionError, match=r"is a link\. A collection beside files has only files and folders"
    ):
        Collection(registry.find(str(files.folder)), backend="numpy")
    for call in (
        lambda: registry.remove(str(files.folder)),
        lambda: registry.trust(files.folder),
        lambda: registry.create_local(files.folder, EMPTY),
        Watched(registry.find(str(files.folder)), time.monotonic).lock,
    ):
        with pytest.raises(CollectionError, match="is a link"):
            call()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert name == "." or precious.read_text() == "precious"


@pytest.mark.parametrize(
    "name", ["lock", "watch.lock", "state.json", "calibration.json", "index/catalog.db-wal"]
)
def test_pipe_in_the_collection_of_a_stranger_is_not_waited_for(project, registry, files, name):
    (project.path / "index").mkdir()
    (project.path / name).unlink(missing_ok=True)
    os.mkfifo(project.path / name)

    for call in (
        lambda: Collection(registry.find(str(files.folder)), backend="numpy"),
        lambda: registry.trust(files.folder),
        lambda: registry.remove(str(files.folder)),
        Watched(registry.find(str(files.folder)), time.monotonic).lock,
    ):
        with pytest.raises(CollectionError, match=f"{name} is a pipe or a device"):
            call()


def test_settings_of_a_stranger_that_are_a_pipe_are_not_waited_for(project, registry, files):
    project.settings_path.unlink()
    os.mkfifo(project.settings_path)

    with pytest.raises(CollectionError, match="is a pipe or a device"):
        registry.trust(files.folder)
    with pytest.raises(CollectionNotFoundError):
        registry.find(str(files.folder))


@pytest.mark.parametrize("name", ["collection.toml", "lock", "watch.lock"])
def test_pipe_in_a_collection_of_the_user_is_not_waited_for(registry, name):
    place = registry.create(EMPTY, "notes")
    (place.path / name).unlink(missing_ok=True)
    os.mkfifo(place.path / name)

    with (
        pytest.raises(OSError, match=f"Is not a regular file.*{name}"),
        place.locked(),
        place.locked("watching"),
    ):
        place.settings()


def test_what_is_remembered_and_trusted_is_not_read_from_a_pipe(registry, files):
    place = registry.create_local(files.folder, EMPTY)
    (registry.home / "trusted.json").unlink()
    os.mkfifo(registry.home / "trusted.json")
    os.mkfifo(place.path / "state.json")

    assert not registry.find(str(files.folder)).is_trusted
    assert State.read(place.path / "state.json") == State()


def test_index_of_a_stranger_does_not_choose_the_model(project, registry, files, model, monkeypatch):
    model.source = "evil"
    with Collection(registry.trust(files.folder), backend="numpy") as theirs:
        registry.change(
            theirs.place, lambda _: CollectionSettings({"notes": str(files.folder)}, model="evil")
        )
        theirs.sync()
    (registry.home / "trusted.json").unlink()

    with (
        Collection(registry.find(str(files.folder)), backend="numpy") as ours,
        pytest.raises(ModelMismatchError, match="was made with the model 'evil'"),
    ):
        ours.sync()


def test_settings_that_are_wrong_cannot_be_trusted(project, registry, files):
    project.settings_path.write_text("a = 1")

    with pytest.raises(ConfigError, match="unknown key 'a'"):
        registry.trust(files.folder)
    assert not registry.find(str(files.folder)).is_trusted


def test_collection_beside_files_is_found_from_the_folders_in_it(project, registry, files):
    files.write("sub/b.md", "text")

    assert [place.name for place in registry.list(near=files.folder / "sub")] == ["notes"]
    assert registry.list(near=files.folder.parent) == []
    assert (project.path / ".gitignore").read_text().splitlines()[1:] == ["*", "!collection.toml"]


def test_own_settings_stay_trusted_when_they_are_saved(registry, files):
    place = registry.create_local(files.folder, CollectionSettings().with_folder(files.folder))
    registry.change(place, lambda _: CollectionSettings({"notes": str(files.folder)}, model="mine"))

    assert registry.find(str(files.folder)).settings().model == "mine"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}'])
def test_damaged_list_of_trusted_settings_trusts_nothing(project, registry, files, content):
    (registry.home / "trusted.json").write_text(content)

    assert not registry.find(str(files.folder)).is_trusted


def test_each_folder_becomes_a_collection_once(registry, tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        (folder / "sub").mkdir(parents=True)

    assert [place.name for place in chosen(registry, folders)] == ["a", "b"]
    assert [place.name for place in chosen(registry, [folders[0], folders[1] / "sub"])] == ["a", "b"]
    assert names(registry) == ["a", "b"]


def test_folders_with_a_name_become_one_collection(registry, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()

    chosen(registry, [tmp_path / "a", tmp_path / "b"], name="both")
    (place,) = chosen(registry, [tmp_path / "c"], name="both", wanted=Wanted(exclude=["*.log"]))

    assert list(place.settings().folders) == ["a", "b", "c"]
    assert (place.settings().exclude, names(registry)) == (["*.log"], ["both"])


def test_dry_run_makes_no_collection(registry, tmp_path):
    (tmp_path / "a").mkdir()

    (place,) = chosen(registry, [tmp_path / "a"], wanted=Wanted(model="m"), dry_run=True)

    assert (place.settings().model, names(registry)) == ("m", [])
    chosen(registry, [tmp_path / "a"])
    (place,) = chosen(registry, name="a", wanted=Wanted(model="m"), dry_run=True)
    assert (place.settings().model, registry.find("a").settings().model) == ("m", DEFAULT_MODEL)


@pytest.mark.parametrize("arguments", [{"name": "x"}, {}])
def test_nothing_to_choose_is_an_error(registry, arguments):
    with pytest.raises(CollectionNotFoundError):
        chosen(registry, **arguments)


def test_file_is_no_folder(registry, tmp_path):
    (tmp_path / "x").touch()
    for name, words in {"x": "It is not a folder", "y": "There is no such folder"}.items():
        with pytest.raises(InputError, match=words):
            chosen(registry, [tmp_path / name])
