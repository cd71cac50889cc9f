"""The settings of a collection, as a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.errors import ConfigError, InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    str.strip
)
LABEL = TEXT.filter(lambda text: "/" not in text)


@given(
    st.builds(
        CollectionSettings,
        folders=st.dictionaries(LABEL, TEXT.map(lambda text: f"/{text}"), max_size=3),
        include=st.lists(TEXT, max_size=3),
        exclude=st.lists(TEXT, max_size=3),
        model=TEXT,
        max_file_bytes=st.none() | st.integers(1, 2**40 - 1),
        contexts=st.dictionaries(TEXT, TEXT, max_size=3),
    )
)
def test_written_settings_are_read_as_they_were(settings):
    read = CollectionSettings.parse(settings.to_toml().encode(), "x.toml")

    assert (dict(read.folders), read.model, read.max_file_bytes, dict(read.contexts)) == (
        settings.folders,
        settings.model,
        settings.max_file_bytes,
        settings.contexts,
    )
    assert (list(read.include), list(read.exclude)) == (settings.include, settings.exclude)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'modle = "x"',
            "unknown key 'modle'. There are: contexts, exclude, folders, include, max_file_bytes, model",
        ),
        ("model = 3", "model is 3; it must be a hub id or the path of a model folder, in quotes"),
        ('model = " "', "model is ' '"),
        ('include = "*.md"', "include is '*.md'; it must be a list of patterns in quotes"),
        ("exclude = [1]", "exclude is [1]"),
        (r'folders = {"\u00e9" = "/a", "e\u0301" = "/b"}', "two folders have the same label"),
        ("max_file_bytes = 0", "max_file_bytes is 0; it must be a number of bytes, 1 or more"),
        ("max_file_bytes = true", "max_file_bytes is True"),
        ('folders = ["/x"]', "folders is ['/x']; it must be a table"),
        ('[folders]\nx = "notes"', "the path 'notes' of folder 'x' does not begin with a slash"),
        ('[folders]\n"a/b" = "/x"', "the label 'a/b' of a folder has a slash"),
        ("[contexts]\nx = 1", "contexts is {'x': 1}"),
        ("model =", "is not TOML"),
        ("\xff", "is not TOML"),
        ('model = "x"\nmodel = "y"', "is not TOML"),
    ],
)
def test_problem_is_named_with_the_file(text, problem):
    with pytest.raises(ConfigError) as caught:
        CollectionSettings.parse(text.encode("latin-1"), "/home/x.toml")

    assert str(caught.value).startswith("/home/x.toml: ")
    assert problem in str(caught.value)


def test_several_problems_are_named_together():
    with pytest.raises(ConfigError, match=r"unknown key 'a'.*; model is 1"):
        CollectionSettings.parse(b"a = 1\nmodel = 1", "x")


def test_settings_beside_files_have_paths_from_there(tmp_path):
    settings = CollectionSettings.parse(b'[folders]\nmine = "."\ndocs = "docs"', "x", beside=tmp_path)

    assert settings.folders == {"mine": str(tmp_path), "docs": str(tmp_path / "docs")}


def test_settings_of_absurd_size_are_refused():
    with pytest.raises(ConfigError, match="has more than 1,048,576 bytes"):
        CollectionSettings.parse(b"#" * (2**20 + 1), "x")


def test_folder_gets_a_label_that_no_other_has(tmp_path):
    for name in ("a/notes", "b/notes"):
        (tmp_path / name).mkdir(parents=True)
    settings = CollectionSettings().with_folder(tmp_path / "a/notes")

    assert settings.with_folder(tmp_path / "a/notes/../notes") == settings
    assert list(settings.with_folder(tmp_path / "b/notes").folders) == ["notes", "notes-2"]


def test_folder_whose_name_is_no_text_is_refused(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff"))

    with pytest.raises(InputError, match="is not UTF-8"):
        CollectionSettings().with_folder(folder)


def test_name_of_an_index_leads_to_no_file_outside_the_folder():
    settings = CollectionSettings({"notes": "/home/ann/notes"})

    assert settings.path_of("notes/a..b.md") == Path("/home/ann/notes/a..b.md")
    assert settings.path_of("notes/../keys.md") is None
