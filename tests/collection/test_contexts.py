"""Sentences about folders."""

from __future__ import annotations

import pytest

from mlx_colbert.collection.contexts import context_key, set_context
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.errors import CollectionError, InputError


def test_sentence_is_valid_for_a_folder_and_what_is_in_it(collection, registry, files):
    files.write("coop/2019.md", "text")
    set_context(registry, str(files.folder / "coop"), " Minutes\n of the co-op. ")
    set_context(registry, "/", "Mine.", name="notes")
    changed, key = set_context(registry, "notes/coop/2019.md", "The roof.", name="notes")

    assert key == "notes/coop/2019.md"
    assert changed.settings.context_of(key) == ["Mine.", "Minutes of the co-op.", "The roof."]
    assert changed.settings.context_of("notes/coop-2/a.md") == ["Mine."]
    assert registry.find("notes").settings() == changed.settings


def test_sentence_is_removed(collection, registry, files):
    set_context(registry, str(files.folder), "Mine.")
    set_context(registry, str(files.folder), None)

    assert registry.find("notes").settings().contexts == {}
    with pytest.raises(InputError, match="notes: has no sentence in collection notes"):
        set_context(registry, str(files.folder), None)


@pytest.mark.parametrize("sentence", ["", " \n", "x" * 1001])
def test_sentence_that_is_none_is_refused(collection, registry, files, sentence):
    with pytest.raises(InputError, match="Give 1 to 1,000"):
        set_context(registry, str(files.folder), sentence)


@pytest.mark.parametrize(("path", "name"), [("/etc", None), ("/etc", "notes"), ("other/x", "notes")])
def test_path_in_no_folder_is_refused(collection, registry, path, name):
    with pytest.raises(InputError, match="is not in a folder of"):
        context_key(registry, path, name=name)


def test_settings_of_a_stranger_are_not_written(registry, files):
    registry.create_local(files.folder, CollectionSettings().with_folder(files.folder))
    (registry.home / "trusted.json").unlink()

    with pytest.raises(CollectionError, match="you do not trust its settings"):
        set_context(registry, str(files.folder), "Mine.")
