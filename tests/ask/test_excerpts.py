"""Hits become excerpts: repetitions go, neighbours are joined."""

from mlx_colbert.ask.excerpts import excerpts, without_repetitions
from mlx_colbert.types import Hit


def hit(number, first, last, text=None, *, source="a.md", rank=1, headings=()):
    position = {"lines": [first, last], **({"headings": list(headings)} if headings else {})}
    return Hit(rank, 10.0 - rank, f"{source}#{number}", text or f"text {number}", None, source, position)


def test_neighbours_are_joined_in_reading_order_with_their_lines():
    (joined,) = excerpts([hit(3, 9, 12), hit(1, 1, 4), hit(2, 5, 7)])

    assert joined.text == "text 1\ntext 2\n\ntext 3"
    assert joined.lines == (1, 12) and joined.place == "a.md:1-12"
    assert [part.doc_id for part in joined.hits] == ["a.md#3", "a.md#1", "a.md#2"]


def test_excerpts_come_in_the_order_of_their_best_hits():
    found = excerpts([hit(7, 70, 75), hit(1, 1, 4, source="b.md"), hit(8, 77, 80), hit(1, 1, 2)])

    assert [part.place for part in found] == ["a.md:70-80", "b.md:1-4", "a.md:1-2"]


def test_parts_of_one_long_line_are_joined_in_the_order_of_their_numbers():
    (joined,) = excerpts([hit(3, 5, 5, "end."), hit(2, 5, 5, "Begin")])

    assert joined.text == "Begin end." and joined.lines == (5, 5) and joined.place == "a.md:5"


def test_parts_of_one_line_whose_order_is_not_known_stay_apart():
    position = {"lines": [5, 5]}
    digests = [Hit(n, 1.0, f"a.md#{n}{n}abcdef", f"text {n}", None, "a.md", position) for n in (1, 2)]

    assert len(excerpts(digests)) == 2


def test_rows_of_a_table_stay_apart():
    rows = [Hit(n, 1.0, f"p{n}", f"row {n}", None, "rows.jsonl", {"lines": [n, n]}) for n in (1, 2)]
    sheet = [
        Hit(n, 1.0, f"t.csv#{n}", f"row {n}", None, "t.csv", {"lines": [n, n], "row": n}) for n in (1, 2)
    ]

    assert len(excerpts(rows)) == len(excerpts(sheet)) == 2


def test_passages_that_overlap_or_are_far_apart_stay_apart():
    assert len(excerpts([hit(1, 1, 10), hit(2, 5, 15)])) == 2
    assert len(excerpts([hit(1, 1, 10), hit(2, 13, 15)])) == 2
    assert len(excerpts([hit(1, 1, 10), hit(2, 11, 15, source="b.md")])) == 2


def test_nothing_is_joined_to_a_passage_that_lost_its_end():
    found = excerpts([hit(1, 1, 4), hit(2, 5, 7)], cut="a.md#1")

    assert [part.text for part in found] == ["text 1", "text 2"]


def test_joined_passages_have_the_headings_that_they_share():
    (joined,) = excerpts(
        [hit(1, 1, 4, headings=("Dance", "Form")), hit(2, 6, 7, headings=("Dance", "Meaning"))]
    )

    assert joined.place == "a.md:1-7 › Dance"


def test_place_names_a_page_or_the_id_where_there_is_no_source():
    assert excerpts([Hit(1, 1.0, "x#1", "t", None, "x.pdf", {"page": 3})])[0].place == "x.pdf, page 3"
    assert excerpts([Hit(1, 1.0, "tea", "t")])[0].place == "tea"


def test_equal_and_contained_texts_are_left_out_and_so_are_hits_without_a_text():
    hits = [
        hit(1, 1, 2, "Bees dance\nin the dark."),
        hit(2, 4, 5, "bees  dance in the dark.", source="b.md"),
        hit(3, 7, 8, "Bees dance", source="c.md"),
        hit(4, 9, 9, "Ants do not."),
        Hit(5, 1.0, "none"),
        Hit(6, 1.0, "blank", "  \n"),
    ]

    assert [kept.doc_id for kept in without_repetitions(hits)] == ["a.md#1", "a.md#4"]
