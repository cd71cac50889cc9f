"""Citations in answers: found, marked while the answer streams, and taken out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.ask.citations import cited_numbers, marked, without_citations


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("Yes [2]. Also [1][2].", [2, 1]),
        ("Both [1, 3] and [2; 4] and [5 and 6].", [1, 3, 2, 4, 5, 6]),
        ("A range [2-4] [6–7].", [2, 3, 4, 6, 7]),
        ("Words [source 2], [Sources 1, 3], [^4].", [2, 1, 3, 4]),
        ("Other brackets 【5】.", [5]),
        ("Invented [0] [9].", [0, 9]),
        ("A long range is its ends [1-900], backwards too [4-2].", [1, 900, 4, 2]),
        ("Not citations: [a], [], [,], 2 (3), [2024], [1.5], [ ].", []),
        ("Code: `a[1]` and\n```\nb[2]\n```\nbut [3]. ``c[4]`` [5]", [3, 5]),
        ("An open fence:\n```\na[1]", []),
        ("Digits of another script [١].", []),
        ("[" * 50 + "1" + "]" * 50, [1]),
    ],
)
def test_cited_numbers(answer, numbers):
    assert cited_numbers(answer) == numbers


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("Green [1], white [7], both [1, 9].", "Green [1], white [7?], both [1, 9?]."),
        ("Ranges [1-2] [2-9] [0].", "Ranges [1-2] [2-9?] [0?]."),
        ("Code `x[7]` and [7].", "Code `x[7]` and [7?]."),
        ("```\nx[7]\n```\n[7]", "```\nx[7]\n```\n[7?]"),
        ("A stray ` ends with its line [7]\nand [8].", "A stray ` ends with its line [7]\nand [8?]."),
        ("Unfinished [7", "Unfinished [7"),
        ("[" + "x" * 500 + "] [7]", "[" + "x" * 500 + "] [7?]"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_invented_citations_are_marked_whatever_the_pieces(answer, shown, size):
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]

    assert "".join(marked(pieces, 2)) == shown


@given(st.lists(st.text("[]【】0123459, -`\nab?", max_size=8), max_size=12), st.integers(0, 5))
def test_marking_adds_nothing_but_question_marks_and_does_not_depend_on_the_pieces(pieces, n_sources):
    answer = "".join(pieces)

    shown = "".join(marked(pieces, n_sources))

    assert shown == "".join(marked([answer], n_sources))
    assert shown.replace("?", "") == answer.replace("?", "")


def test_no_piece_without_a_bracket_waits():
    assert list(marked(["Green", " leaves", " [", "1", "]."], 1)) == ["Green", " leaves", " ", "[1]."]


def test_citations_are_taken_out():
    assert (
        without_citations("Leaves are green [1]. Snow is white [2, 3].") == "Leaves are green. Snow is white."
    )
