"""Metadata filters: what each comparison selects, in SQLite and in a plain evaluator, and what is refused."""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.errors import InputError
from mlx_colbert.index import Index
from mlx_colbert.index.catalog.filter_parser import MAX_CHARACTERS, MAX_COMPARISONS, MAX_NAMES, MAX_NESTING
from mlx_colbert.index.catalog.filters import Filter, compile_filter

METADATA = [
    None,
    {},
    {
        "lang": "en",
        "year": 2020,
        "score": 0.5,
        "draft": True,
        "tags": ["a", "b", 3],
        "author": {"name": "Ann"},
    },
    {
        "lang": "fr",
        "year": 2021,
        "score": -1,
        "draft": False,
        "tags": [],
        "author": {"name": "Bob", "a.b": 1},
    },
    {"lang": None, "year": "2020", "score": 1, "draft": 1, "tags": "a", "author": "Ann", "x-y": 1},
    {"lang": "EN_us", "year": 2020.0, "tags": [True, None, [1]], 'q"k': 1, "jahr\\": 2, "größe": 3, "": 4},
]


@pytest.fixture(scope="module")
def connection():
    with closing(database(METADATA)) as made:
        yield made


def database(metadata):
    """Documents of this metadata, numbered in their order."""
    made = sqlite3.connect(":memory:")
    made.execute("CREATE TABLE passages (passage INTEGER PRIMARY KEY, doc_id TEXT)")
    made.execute("CREATE TABLE contents (passage INTEGER PRIMARY KEY, text TEXT, metadata TEXT)")
    for number, value in enumerate(metadata):
        text = None if value is None else json.dumps(value, ensure_ascii=False)
        made.execute("INSERT INTO passages VALUES (?, ?)", (number, f"d{number}"))
        made.execute("INSERT INTO contents VALUES (?, '', ?)", (number, text))
    return made


def selected(connection, filter):
    """The documents of a filter; a NULL anywhere would be missing from both the filter and its negation."""
    sql, parameters = compile_filter(filter)
    rows = connection.execute(
        f"SELECT passage, {sql} FROM passages JOIN contents USING (passage) ORDER BY 1", parameters
    ).fetchall()
    assert {value for _, value in rows} <= {0, 1}
    query = f"SELECT passage FROM contents WHERE {sql} AND passage >= ? ORDER BY 1"
    where = [number for (number,) in connection.execute(query, [*parameters, 0])]
    assert where == [number for number, value in rows if value]
    assert connection.execute(query, [*parameters, len(rows)]).fetchall() == []
    return where


def refusal(expression, *parameters):
    with pytest.raises(InputError) as caught:
        compile_filter(Filter(expression, *parameters))
    return str(caught.value)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("lang = 'en'", [2]),
        ("lang != 'en'", [3, 5]),
        ("lang <> 'en'", [3, 5]),
        ("not lang = 'en'", [0, 1, 3, 4, 5]),
        ("not not lang = 'en'", [2]),
        ("not (not lang != 'en')", [3, 5]),
        ("year = 2020", [2, 5]),
        ("year = '2020'", [4]),
        ("year = 2020.0", [2, 5]),
        ("year != 2020", [3, 4]),
        ("year > 2020", [3]),
        ("year >= 2020", [2, 3, 5]),
        ("year < 2021", [2, 5]),
        ("year <= 2021", [2, 3, 5]),
        ("year > '1999'", [4]),
        ("lang < 'en'", [5]),
        ("lang >= 'en'", [2, 3]),
        ("score = 1", [4]),
        ("score < 0", [3]),
        ("score = -1.0e0", [3]),
        ("draft = true", [2]),
        ("draft = FALSE", [3]),
        ("draft = 1", [4]),
        ("draft != true", [3, 4]),
        ("draft in (true, 1)", [2, 4]),
        ("draft not in (true, 1)", [3]),
        ("lang in ('en', 'fr')", [2, 3]),
        ("lang NOT IN ('en', 'fr')", [5]),
        ("year in ('2020', 2021)", [3, 4]),
        ("year between 2020 and 2020", [2, 5]),
        ("year between '2' and '3'", [4]),
        ("year not between 2020 and 2020", [3, 4]),
        ("year between 2021 and 2020", []),
        ("lang like 'EN%'", [2, 5]),
        ("lang like '__'", [2, 3]),
        ("lang not like 'en%'", [3]),
        ("year like '2%'", [4]),
        ("lang glob 'e*'", [2]),
        ("lang GLOB '[ef]?'", [2, 3]),
        ("lang not glob 'e*'", [3, 5]),
        ("tags contains 'a'", [2]),
        ("tags contains 3", [2]),
        ("tags contains true", [5]),
        ("tags contains 1", []),
        ("tags not contains 'a'", [3, 4, 5]),
        ("tags = 'a'", [4]),
        ("tags != 'a'", [2, 3, 5]),
        ("tags in ('b', true)", []),
        ("exists(lang)", [2, 3, 4, 5]),
        ("exists (author.name)", [2, 3]),
        ("not exists(draft)", [0, 1, 5]),
        ("author.name = 'Ann'", [2]),
        ("author.name.x = 'Ann'", []),
        ('author."a.b" = 1', [3]),
        ('"author" . "name" = \'Bob\'', [3]),
        ("\"author.name\" = 'Ann'", []),
        ('"x-y" = 1', [4]),
        ('"q""k" = 1', [5]),
        ('"jahr\\" = 2', [5]),
        ("größe = 3", [5]),
        ('"" = 4', [5]),
        ('"$.lang" = 4', []),
        ("lang = 'en' or lang = 'fr' and year = 0", [2]),
        ("(lang = 'en' or lang = 'fr') and year = 2021", [3]),
        ("not lang = 'en' and exists(lang)", [3, 4, 5]),
        ("not (lang = 'en' or lang = 'fr')", [0, 1, 4, 5]),
        ("lang = 'fr' or (lang = 'en' and (year = 2020 or year = 0))", [2, 3]),
        ("\n lang\t= 'en' Or\xa0year=2021 ", [2, 3]),
    ],
)
def test_expression_selects(connection, expression, expected):
    assert selected(connection, expression) == expected


def test_parameters_are_taken_in_order(connection):
    filter = Filter("year = ? and (lang in (?, 'x') or draft = ?) and score >= ?", 2020, "en", False, 0.5)

    assert selected(connection, filter) == [2]
    assert selected(connection, Filter("tags contains ? or lang like ?", True, "f%")) == [3, 5]


def test_quotes_are_doubled_in_texts_and_keys():
    assert compile_filter("a = 'it''s' or \"say \"\"x\"\"\" = ''")[1] == ["a", "it's", 'say "x"', ""]


def test_filters_are_values():
    assert Filter("a = ?", 1) == Filter("a = ?", 1) != Filter("a = ?", 2)
    assert len({Filter("a = 1"), Filter("a = 1")}) == 1


@pytest.mark.parametrize(
    "text",
    ["' OR 1=1 --", "'; DROP TABLE contents; --", '") OR 1 --', "?", "x' || 'y", "\\", "%", "/*", "]", "$"],
)
def test_text_of_the_caller_is_never_sql(connection, text):
    plain = compile_filter("k = 'v' and exists(k)")[0]
    literal, key = text.replace("'", "''"), text.replace('"', '""')

    for filter in (
        Filter(f'"{key}" = \'{literal}\' and exists("{key}")'),
        Filter("k = ? and exists(k)", text),
    ):
        assert compile_filter(filter)[0] == plain
        assert text in compile_filter(filter)[1]
        assert selected(connection, filter) == []


@pytest.mark.parametrize(
    "expression",
    [
        "lang = 'en'; DROP TABLE contents",
        "1 = 1",
        "lang = lang",
        "lang = (SELECT 1)",
        "lang = 'a' || 'b'",
        "x--",
        "lang = 'en' -- x",
        "lang = 'en' /* x */",
        "json_each(lang) = 1",
        "lang = :name",
        "lang = ?1",
        "lang = x'00'",
    ],
)
def test_sql_that_is_not_of_the_language_is_refused(expression):
    assert refusal(expression, "value").startswith("filter, column ")


@pytest.mark.parametrize(
    ("expression", "column", "problem"),
    [
        ("", 1, "the end: expected a field, as in lang = 'en'"),
        ("  ", 3, "the end: expected a field"),
        ("lang", 5, "the end: expected =, !=, <"),
        ("lang == 'en'", 7, "expected 'text' in single quotes"),
        ("lang = en", 8, "expected 'text' in single quotes"),
        ('lang = "en"', 8, "expected 'text' in single quotes"),
        ("lang = null", 8, "null is not a value. Write exists\\(year\\), or not exists\\(year\\)"),
        ("lang is null", 6, "null is no value"),
        ("lang is not null", 6, "null is no value"),
        ("lang not = 'en'", 10, "expected =, !=, <"),
        ("lang 'in' ('en')", 6, "expected =, !=, <"),
        ("lang = 'en", 8, "a quote that is not closed"),
        ('"lang = 1', 1, "a quote that is not closed"),
        ("content-type = 'x'", 8, "not understood; .* double quotes"),
        ("lang = 'en' year = 1", 13, "expected and, or, or the end"),
        ("lang = 'en')", 12, "expected and, or, or the end"),
        ("(lang = 'en'", 13, "the end: expected \\)"),
        ("lang = 'en' and", 16, "the end: expected a field"),
        ("and = 1", 1, "Put keywords and other keys in double quotes"),
        ("author.in = 1", 8, "Put keywords and other keys in double quotes"),
        ("author. = 1", 9, "expected a field"),
        ("2020 < year", 1, "expected a field"),
        ("year in 2020", 9, "expected \\("),
        ("year in ()", 10, "expected 'text'"),
        ("year in (1 2)", 12, "expected a , or \\)"),
        ("year between 1 or 2", 16, "expected and"),
        ("year between 1 and 'a'", 20, "only numbers and texts have an order"),
        ("draft > true", 9, "only numbers and texts have an order"),
        ("year like 5", 11, "expected a pattern such as 'a%'"),
        ("year glob 5", 11, r"expected a pattern such as 'a\*'"),
        ("exists lang", 8, "expected \\("),
        ("year = 1abc", 8, "not understood"),
        ("year = 1.5.2", 8, "not understood"),
        ("year = 9223372036854775808", 8, "beyond 64 bits"),
        (f"year = {'9' * 5000}", 8, "beyond 64 bits"),
        ("year = 1e999", 8, "not a finite number"),
        ("lang = 'a\0'", 8, "a NUL character or a lone surrogate"),
        ('"\ud800" = 1', 1, "a NUL character or a lone surrogate"),
        ("\0", 1, "not understood"),
        ("\ud800 = 1", 1, "not understood"),
        ("lang = ?", 8, "more \\? than parameters \\(0\\)"),
        ("(" * (MAX_NESTING + 1) + "a=1", MAX_NESTING + 1, "more than 32 nested parentheses"),
        (".".join("a" * (MAX_NAMES + 1)) + "=1", 2 * MAX_NAMES + 1, "more than 16 names"),
        ("a in (" + "1," * 900 + "1)", 7 + 2 * 899, "more than 900 names and values"),
        ("a=1 or " * MAX_COMPARISONS + "a=1", 7 * MAX_COMPARISONS + 3, "more than 200 comparisons"),
    ],
)
def test_error_says_where_and_what(expression, column, problem):
    assert re.match(f"filter, column {column}, at .*{problem}", refusal(expression))


@pytest.mark.parametrize(
    ("parameters", "column", "problem"),
    [
        ((), 5, "more ? than parameters (0). Give one for each"),
        ((1, 2), 6, "parameters without a ?: 1. Write a ? for each"),
        ((None,), 5, "a parameter of type NoneType"),
        ((b"x",), 5, "a parameter of type bytes"),
        (([1],), 5, "a parameter of type list"),
        ((2**63,), 5, "an integer beyond 64 bits"),
        ((-(2**63) - 1,), 5, "an integer beyond 64 bits"),
        ((float("nan"),), 5, "not a finite number"),
        ((float("-inf"),), 5, "not a finite number"),
        (("a\0",), 5, "a NUL character or a lone surrogate"),
        (("\udfff",), 5, "a NUL character or a lone surrogate"),
    ],
)
def test_parameter_that_does_not_fit_is_refused(parameters, column, problem):
    assert re.match(f"filter, column {column}, at .*{re.escape(problem)}", refusal("a = ?", *parameters))


def test_expression_and_pattern_have_a_length(connection):
    assert "more than 10000 characters" in refusal("a" * MAX_CHARACTERS + "b")
    assert "at most 10000 characters" in refusal("a like ?", "é" * MAX_CHARACTERS + "%")
    assert selected(connection, Filter("lang like ?", "😀" * (MAX_CHARACTERS - 1) + "%")) == []


@pytest.mark.parametrize("filter", [None, 5, Filter(None)])
def test_something_else_than_a_filter_is_refused(filter):
    with pytest.raises(InputError, match="not a filter"):
        compile_filter(filter)


def doubled(levels, leaf):
    """An expression whose comparisons double with each level of parentheses."""
    half = doubled(levels - 1, leaf) if levels else leaf
    return f"({half} {'or' if levels % 2 else 'and'} {half})" if levels else leaf


@pytest.mark.parametrize("levels", range(8))
@pytest.mark.parametrize("leaf", ["year = 0", "not author.name not contains 0"])
def test_largest_expressions_are_within_the_limits_of_sqlite(connection, levels, leaf):
    expression = doubled(levels, leaf)
    for level in range(MAX_NESTING - levels):
        if level + 2**levels < MAX_COMPARISONS and len(expression) < MAX_CHARACTERS - 100:
            expression = f"({leaf} {'or' if level % 2 else 'and'} {expression})"

    selected(connection, expression)


@pytest.mark.parametrize("operator", ["or", "and"])
def test_longest_lists_are_within_the_limits_of_sqlite(connection, operator):
    selected(connection, f" {operator} ".join(["not year=0"] * MAX_COMPARISONS))
    selected(connection, f" {operator} ".join([".".join("a" * 4) + "=0"] * 180))
    assert selected(connection, "not " * 2000 + "year in (2020" + ",0" * 898 + ")") == [2, 5]


def test_integers_of_64_bits_are_exact():
    big = {"n": 2**63 - 1}
    metadata = [big, {"n": 2**63 - 2}, {"n": float(2**63)}, {"n": 2**70}, {"n": -(2**63)}]
    with closing(database(metadata)) as connection:
        assert selected(connection, f"n = {2**63 - 1}") == [0]
        assert selected(connection, f"n >= {2**63 - 1}") == [0, 2, 3]
        assert selected(connection, f"n = {-(2**63)}") == [4]
        assert selected(connection, Filter("n = ?", float(2**70))) == [3]


# A filter as a tree, to print as an expression and to evaluate without SQL.
NAMES = ["a", "b", "größe", 'q"', "x.y", "\n", "\\", "or"]
LETTERS = st.text(st.sampled_from("aAbé_%'\"\\\n\ue000😀"), max_size=3)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, -(2**63)]),
    st.sampled_from([0.5, -0.0, 1.0, 0.1, 1e300, float(2**53)]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(LETTERS, NUMBERS, st.booleans())
JSON = st.recursive(
    st.one_of(SCALARS, st.none(), st.integers(2**63, 2**70)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.none() | st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4)
ORDERED = st.one_of(LETTERS, NUMBERS)
PAIRS = st.one_of(st.tuples(LETTERS, LETTERS), st.tuples(NUMBERS, NUMBERS))
TESTS = st.one_of(
    st.tuples(st.sampled_from(["=", "!="]), st.tuples(SCALARS)),
    st.tuples(st.sampled_from(["<", "<=", ">", ">="]), st.tuples(ORDERED)),
    st.tuples(st.sampled_from(["in", "not in"]), st.lists(SCALARS, min_size=1, max_size=4)),
    st.tuples(st.sampled_from(["between", "not between"]), PAIRS),
    st.tuples(st.sampled_from(["like", "not like"]), st.tuples(LETTERS)),
    st.tuples(st.sampled_from(["contains", "not contains"]), st.tuples(SCALARS)),
    st.tuples(st.just("exists"), st.just(())),
)
LEAVES = st.tuples(st.just("leaf"), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), TESTS)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), st.tuples(inner)),
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=4)),
    ),
    max_leaves=8,
)


def written(tree):
    """The expression of a tree, with a ? for each value, and the values."""
    if tree[0] == "leaf":
        _, names, (operator, values) = tree
        field = ".".join('"' + name.replace('"', '""') + '"' for name in names)
        if operator == "exists":
            return f"exists({field})", []
        places = {"in": f"({', '.join('?' * len(values))})", "between": "? and ?"}
        return f"{field} {operator} {places.get(operator.removeprefix('not '), '?')}", list(values)
    parts = [written(part) for part in tree[1]]
    values = [value for _, own in parts for value in own]
    # Without parentheses where the precedence makes them needless.
    texts = [
        text if part[0] in ("leaf", "not") else f"({text})"
        for part, (text, _) in zip(tree[1], parts, strict=True)
    ]
    return (f"not {texts[0]}" if tree[0] == "not" else f" {tree[0]} ".join(texts)), values


def kind(value):
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def same(value, other):
    return kind(value) == kind(other) and as_sqlite(value) == other


def as_sqlite(value):
    return (
        float(value) if kind(value) == "number" and isinstance(value, int) and abs(value) > 2**63 else value
    )


def like(value, pattern):
    parts = [{"%": ".*", "_": "."}.get(c, re.escape(c)) for c in pattern]
    return isinstance(value, str) and re.fullmatch("".join(parts), value, re.S | re.I | re.A) is not None


def ordered(value, low, high=None, *, operator):
    if kind(value) != kind(low):
        return False
    value = as_sqlite(value)
    return {
        "<": value < low,
        "<=": value <= low,
        ">": value > low,
        ">=": value >= low,
        "between": high is not None and low <= value <= high,
    }[operator]


def holds(tree, metadata):
    """Whether metadata satisfies a tree, by the rules of the language and nothing of SQL."""
    if tree[0] != "leaf":
        parts = [holds(part, metadata) for part in tree[1]]
        return {"not": not parts[0], "and": all(parts), "or": any(parts)}[tree[0]]
    _, names, (operator, values) = tree
    value = metadata
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    if value is None or operator == "exists":
        return operator == "exists"
    if operator in ("=", "!=", "in", "not in"):
        return any(same(value, other) for other in values) == (operator in ("=", "in"))
    positive = operator.removeprefix("not ")
    if positive == "like":
        result = like(value, *values)
    elif positive == "contains":
        result = isinstance(value, list) and any(same(item, *values) for item in value)
    else:
        result = ordered(value, *values, operator=positive)
    return result == (positive == operator)


@given(tree=TREES, metadata=st.lists(OBJECTS, min_size=1, max_size=5))
def test_sql_agrees_with_a_plain_evaluator(tree, metadata):
    expression, values = written(tree)
    expected = [number for number, value in enumerate(metadata) if holds(tree, value)]

    with closing(database(metadata)) as connection:
        assert selected(connection, Filter(expression, *values)) == expected


@given(
    expression=st.lists(
        st.sampled_from(["a", "'", '"', "?", "1", "not ", " and ", "or", "(", ")", "=", "in", "."])
        | st.characters(),
        max_size=20,
    ).map("".join)
)
def test_any_text_is_an_expression_or_an_input_error(connection, expression):
    try:
        compiled = compile_filter(expression)
    except InputError as error:
        str(error).encode()
    else:
        connection.execute(f"SELECT {compiled[0]} FROM contents", compiled[1]).fetchall()


@pytest.mark.parametrize(
    "metadata", [{"tenant": "acme\0evil"}, {"role\0x": "admin"}, {"tags": [{"in": ["a\0b"]}]}, {"a": "\\\0"}]
)
def test_metadata_with_a_nul_is_refused_because_a_filter_would_stop_there(tmp_path, metadata):
    with Index.create(tmp_path / "index", 2, backend="numpy") as index:
        with pytest.raises(InputError, match="NUL character"):
            index.add(["a"], [np.eye(2)], metadata=[metadata])
        index.add(["b"], [np.eye(2)], metadata=[{"path": "C:\\u0000"}])
        assert index.get("b").metadata == {"path": "C:\\u0000"}


@pytest.mark.parametrize("name", ["йод.md", "Ёлка", "é"])
def test_composed_and_decomposed_texts_are_equal(name):
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    with closing(
        database([{forms[0]: forms[0]}, {forms[1]: forms[1]}, {"x": [forms[1]]}, {"x": "other"}])
    ) as made:
        for form in forms:
            assert selected(made, Filter(f'"{form}" = ?', form)) == [0, 1]
            assert selected(made, Filter(f'"{form}" in (?, 1)', form)) == [0, 1]
            assert selected(made, Filter(f'"{form}" like ?', f"{form}%")) == [0, 1]
            assert selected(made, Filter("x contains ?", form)) == [2]
            assert selected(made, Filter(f'exists("{form}")')) == [0, 1]
            assert selected(made, Filter("x != ?", form)) == [2, 3]
