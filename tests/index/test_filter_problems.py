"""Why a filter finds nothing: what is said about its fields."""

import numpy as np
import pytest

from mlx_colbert.errors import InputError
from mlx_colbert.index import Filter, Index

METADATA = [
    {"lang": "en", "year": "1999", "author": {"name": "Ann"}, "tags": ["a"], "n": 1, "draft": True},
    {"lang": "de", "year": "2001", "author": {"born": 1960}, "tags": [], "n": 2.5, "none": None},
    None,
]


@pytest.fixture
def index(tmp_path):
    with Index.create(tmp_path / "index", 2, backend="numpy") as index:
        index.add(["a", "b", "c"], [np.eye(2)] * 3, metadata=METADATA)
        yield index


@pytest.mark.parametrize(
    "filter",
    [
        "lang = 'fr'",
        "lang in ('fr', 1)",
        "n > 100",
        "author.name like 'B%'",
        "tags contains 'z'",
        "draft = false",
        "exists(none)",
        "not exists(n)",
        Filter("n = ?", 7),
    ],
)
def test_filter_that_could_find_something_has_no_problems(index, filter):
    assert index.filter_problems(filter) == []


@pytest.mark.parametrize(
    ("filter", "problem"),
    [
        (
            "yeer = '1999'",
            "No passage has a field 'yeer'. There are: author, draft, lang, n, none, tags, year.",
        ),
        ("exists(yeer)", "No passage has a field 'yeer'"),
        ("author.nam = 'Ann'", "No passage has a field 'author.nam'. There are: author.born, author.name."),
        ("lang.code = 'en'", "No passage has a field 'lang.code'. 'lang' has no fields."),
        (
            "year >= 2000",
            "'year' is text in this index, and the filter compares it with a number. "
            "Write the number in single quotes.",
        ),
        (
            "n = '1'",
            "'n' is a number in this index, and the filter compares it with text. Write the number without",
        ),
        ("draft = 'true'", "'draft' is a boolean in this index"),
        ("tags = 'a'", "'tags' is a list in this index, and the filter compares it with text. Use contains."),
        (
            "lang contains 'en'",
            "'lang' is text in this index, and the filter compares it with a list. Use = or like",
        ),
        ("author = 'Ann'", "'author' is an object in this index"),
        ("none = 1", "'none' is null in this index"),
    ],
)
def test_filter_that_cannot_find_anything_is_explained(index, filter, problem):
    (found,) = index.filter_problems(filter)
    assert found.startswith(problem)


def test_each_field_is_explained_once_and_in_order(index):
    found = index.filter_problems("(x = 1 or y = 2) and x = 1")
    assert [sentence.split("'")[1] for sentence in found] == ["x", "y"]


def test_empty_index_and_one_without_metadata_explain_what_they_can(tmp_path):
    with Index.create(tmp_path / "index", 2, backend="numpy") as index:
        assert index.filter_problems("x = 1") == []
        index.add(["a"], [np.eye(2)])
        assert index.filter_problems("x = 1") == ["No passage has a field 'x'. No passage has any metadata."]
        with pytest.raises(InputError, match="column"):
            index.filter_problems("x =")
