"""reStructuredText: headings, literal blocks, directives, tables."""

import pytest
from file_kinds import mixed

from mlx_colbert.documents.blocks import Block, Heading
from mlx_colbert.documents.kinds import restructuredtext


def parts(text):
    return list(restructuredtext.parts(text.encode(), "a.rst"))


def test_guide_is_read_whole():
    ((text, position),) = mixed("guide.rst")
    assert position == {"lines": [5, 30], "headings": ["Guide"]}
    assert text.startswith(
        "Install the :ref:`tool <here>`.\n\nUsage\n-----\n\nRun it::\n\n    tool --help\n\n    tool run"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A\n=\n", []),
        ("AB\n==\n\nC d\n---\n\nE f\n===\n", [(1, "AB"), (2, "C d"), (1, "E f")]),
        ("==\nAB\n==\n\nCD\n==\n", [(1, "AB"), (2, "CD")]),
        (":class:`Tea` and ``x``\n----------------------\n", [(1, "Tea and x")]),
        ("text\n\n----\n\nmore\n", []),
    ],
)
def test_headings_are_those_of_restructuredtext(text, expected):
    assert [(p.level, p.text) for p in parts(text) if isinstance(p, Heading)] == expected


def test_blocks_say_where_they_may_be_cut():
    text = "a::\n\n  code\n\n.. note::\n\n   b\n\n* x\n\n* y\n\n+--+\n|a |\n+--+\n\npara\n"
    assert [(p.text.split("\n")[0], p.cut) for p in parts(text) if isinstance(p, Block)] == [
        ("a::", "lines"),
        (".. note::", "lines"),
        ("* x", "items"),
        ("+--+", "rows"),
        ("para", "sentences"),
    ]
