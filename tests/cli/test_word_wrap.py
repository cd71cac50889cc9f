"""A text that comes in pieces is broken between words."""

from __future__ import annotations

import pytest

from mlx_colbert.cli.word_wrap import WordWrap


def wrapped(text: str, width: int, step: int) -> str:
    wrap = WordWrap(width)
    pieces = [text[start : start + step] for start in range(0, len(text), step)]
    return "".join(map(wrap.add, pieces)) + wrap.end()


@pytest.mark.parametrize("step", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dance tells the way [1].", "The dance\ntells the\nway [1]."),
        ("- a list\n  has its indent", "- a list\n  has its\nindent"),
        ("one two\n\nthree", "one two\n\nthree"),
        (
            "```\na line of code stays\n```\nbut this does not",
            "```\na line of code stays\n```\nbut this\ndoes not",
        ),
        ("東京駅で電車", "東京駅で電\n車"),
    ],
)
def test_text_is_broken_between_words_whatever_its_pieces_are(text, expected, step):
    assert wrapped(text, 10, step) == expected


def test_word_wider_than_a_line_is_printed_whole():
    assert wrapped("see abcdefghijklmnop", 10, 100) == "see\nabcdefghijklmnop"


def test_word_is_printed_when_it_has_ended():
    wrap = WordWrap(40)
    assert (wrap.add("Bees da"), wrap.add("nce."), wrap.end()) == ("Bees", "", " dance.")
