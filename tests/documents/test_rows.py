"""Rows of CSV, TSV and JSON Lines as a kind of file: texts with metadata, or lines of a table."""

import csv

import pytest
from file_kinds import mixed, passages

from mlx_colbert.errors import InputError


def test_rows_without_a_text_are_a_table_with_its_header():
    assert mixed("weather.csv") == [("city;temperature\nBath;12\nUlm;9", {"lines": [1, 3], "row": 1})]


def test_rows_with_a_text_are_passages_with_their_columns_as_metadata():
    found = passages("a.csv", 'id,text,year\n7,"Steep it.\nDrink it.",1999\n8,Enjoy.,2001\n')
    assert [(p.text, p.position, p.metadata) for p in found] == [
        ("Steep it.\nDrink it.", {"lines": [2, 3], "row": 1}, {"year": 1999, "id": "7"}),
        ("Enjoy.", {"lines": [4, 4], "row": 2}, {"year": 2001, "id": "8"}),
    ]


def test_json_lines_with_a_text_are_passages():
    assert mixed("texts.jsonl") == [
        ("Tea Steep it.", {"lines": [1, 1], "row": 1}),
        ("Drink it.", {"lines": [2, 2], "row": 2}),
    ]


def test_json_lines_without_a_text_are_lines():
    found = passages("a.jsonl", '{"n": 1}\n{"n": 2}\n')
    assert [(p.text, p.position) for p in found] == [('{"n": 1}\n{"n": 2}', {"lines": [1, 2]})]


def test_header_of_a_long_table_is_repeated():
    found = passages("a.csv", "name,words\n" + "".join(f"{n},a b c d e f g h\n" for n in range(60)))
    assert len(found) > 1 and all(p.text.startswith("name,words\n") for p in found)
    assert [p.position["row"] for p in found] == [
        p.position["lines"][0] - (n > 0) for n, p in enumerate(found)
    ]


def test_row_with_line_ends_says_its_lines():
    (found,) = passages("a.csv", 'a,b\n"x\ny",1\nz,2\n')
    assert (found.text, found.position) == ('a,b\n"x\ny",1\nz,2', {"lines": [1, 4], "row": 1})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_header_alone_is_a_passage(name):
    assert [p.text for p in passages(name, "a\tb\n")] == ["a\tb"]


def test_wrong_row_is_named():
    with pytest.raises(InputError, match=r"a\.jsonl:2: is not JSON"):
        passages("a.jsonl", '{"text": "x"}\n{\n')


def test_cell_that_is_longer_than_the_limit_of_csv_is_read():
    before = csv.field_size_limit(1000)
    try:
        found = passages("a.csv", f'"{"long " * 400}"\n')
    finally:
        csv.field_size_limit(before)
    assert "".join(p.text for p in found).count("long") == 400
