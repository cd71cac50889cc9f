"""The part of a passage that a terminal shows: lists, tables and code keep their lines."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_colbert.cli.excerpt import excerpt, whole
from mlx_colbert.cli.render import CONTROLS
from mlx_colbert.cli.terminal import Terminal, width_of

CODE = "".join(f"def number_{i}():\n    return {i}\n" for i in range(12)) + "    # the kettle\n"


def matches_of(text, *words):
    """A match of each word, at its last place."""
    spans = [
        (text.rindex(word), text.rindex(word) + len(word), 0.9, number) for number, word in enumerate(words)
    ]
    return sorted(spans)


def shown(text, *words, kind="markdown", width=60):
    return excerpt(text, matches_of(text, *words), kind, Terminal(width), "")


def test_long_line_of_code_is_cut_at_the_edge():
    lines = excerpt("x" * 1_000_000 + "\n" + "東" * 1_000_000, [], "code", Terminal(width=20), "  ")

    assert lines == [f"  {'x' * 17}…", f"  {'東' * 8}…"]


def test_excerpt_shows_the_part_with_most_of_the_query():
    text = "blue " * 3 + "pad " * 200 + "the blue kettle sings. " + "pad " * 200
    spans = [(0, 4, 1.0, 0), (5, 9, 1.0, 0), (10, 14, 1.0, 0)]
    spans += [(text.index("blue kettle"), text.index("blue kettle") + 4, 0.9, 0)]
    spans += [(text.index("kettle"), text.index("kettle") + 6, 0.9, 1)]
    line = " ".join(excerpt(text, spans, "text", Terminal(60), ""))
    assert "blue kettle sings." in line and line.startswith("…") and line.endswith("…")


def test_excerpt_of_code_keeps_its_lines():
    start = CODE.index("kettle")
    lines = excerpt(CODE, [(start, start + 6, 1.0, 0)], "code", Terminal(40), "  ")
    assert lines[-1] == "      # the kettle" and lines[0] == "  …" and len(lines) == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tea\n===\n\nSteep it.\n\nThen\n----", "Tea — Steep it. Then"),
        ("# Tea\n\nSteep it.\n\n## Then", "Tea — Steep it. Then"),
    ],
)
def test_line_below_a_heading_is_not_shown(text, expected):
    assert excerpt(text, [], "text", Terminal(60), "") == [expected]


def test_excerpt_of_a_script_without_spaces_is_broken_and_fits():
    lines = excerpt("東京駅で電車を待つ。" * 40, [], "text", Terminal(40), "    ")
    assert len(lines) == 4 and all(width_of(line) <= 40 for line in lines)


def test_whole_passage_keeps_all_of_its_text():
    lines = whole(CODE, [], "code", Terminal(80), "")
    assert "\n".join(lines) == CODE.rstrip("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Before it:\n\n- Steep the leaves\n  for three minutes.\n- Pour.\n    1. Drink.\n\n   Slowly.",
            [
                "Before it:",
                "- Steep the leaves for three",
                "  minutes.",
                "- Pour.",
                "    1. Drink.",
                "   Slowly.",
            ],
        ),
        (
            "| tea | min |\n|:--|--:|\n| black | 3 |\n| `a\\|b` | |\n\nSo it is.",
            ["tea    | min", "black  | 3", "`a\\|b` |", "So it is."],
        ),
        ("tea | price\ngreen | 4\nblack | 3", ["tea   | price", "green | 4", "black | 3"]),
        (
            "| tea | what it is |\n|---|---|\n| black | a strong one for the morning |",
            ["tea | what it is", "black | a strong one for the", "  morning"],
        ),
        (
            "Run:\n\n```sh\n  tea --steep\n    --hot\n```\nDone.",
            ["Run:", "  tea --steep", "    --hot", "Done."],
        ),
        ("So:\n\n    a = 1\n        b = 2\n\nDone.", ["So:", "  a = 1", "      b = 2", "Done."]),
        ("n = 40 + 2\nif n:\n    print(n)", ["n = 40 + 2", "if n:", "    print(n)"]),
        ("From: Ann\nTo: Bob\n\n> Tea?\n> Or coffee?", ["From: Ann", "To: Bob", "> Tea?", "> Or coffee?"]),
        ("+---+---+\n| a | b |\n+---+---+", ["+---+---+", "| a | b |", "+---+---+"]),
        ("=====\nA b\n=== ===\nc", ["=====", "A b", "=== ===", "c"]),
        ("| 茶 | min |\n|---|---|\n| ab | 3 |", ["茶 | min", "ab | 3"]),
        ("# Tea\n\n- green", ["Tea", "- green"]),
    ],
)
def test_lists_tables_and_code_keep_their_lines(text, expected):
    assert shown(text, width=30) == expected


def test_paragraph_of_full_lines_is_running_text():
    text = "Bees that found flowers come home and dance.\nThe waggle dance tells the way in\n2019. They sing."
    assert shown(text) == [
        "Bees that found flowers come home and dance. The waggle",
        "dance tells the way in 2019. They sing.",
    ]


def test_best_rows_of_a_long_table_are_shown():
    rows = [f"| tea {number} | {number} |" for number in range(30)]
    lines = shown("\n".join(["| tea | no |", "|---|---|", *rows]), "tea 17")
    assert lines[:2] == ["…", "tea 17 | 17"] and lines[-1] == "…" and len(lines) == 10


SUM = """# CSV

To sum a column of a CSV file in Python, open it and add the numbers.

```python
import csv

def total(path, column):
    with open(path) as f:
        rows = csv.DictReader(f)
        return sum(float(row[column]) for row in rows)
```

With pandas it is shorter:

```python
pandas.read_csv(path)[column].sum()
```
"""


def spans_of(text, *words):
    """A match of each word at each of its places."""
    return sorted(
        (found.start(), found.end(), 0.9, number)
        for number, word in enumerate(words)
        for found in re.finditer(word, text)
    )


def test_lines_of_code_that_answer_are_shown_with_a_sign_for_those_between():
    spans = spans_of(SUM, "sum", "column", "csv", "Python")

    assert excerpt(SUM, spans, "markdown", Terminal(40), "    ") == [
        "    … To sum a column of a CSV file in",
        "    Python, open it and add the numbers.",
        "      import csv",
        "      def total(path, column):",
        "    …",
        "              return sum(float(row[colu…",
        "    …",
        "      pandas.read_csv(path)[column].sum…",
    ]


def test_sign_stands_for_code_that_is_left_out_after_code():
    lines = excerpt(SUM, spans_of(SUM, "Python"), "markdown", Terminal(80), "    ")

    assert lines[-2:] == ["              return sum(float(row[column]) for row in rows)", "    …"]


def test_sign_stands_for_lines_that_are_left_out_after_lines():
    text = "\n".join(f"run as a daemon number {number}" for number in range(20))

    assert shown(text)[-2:] == ["run as a daemon number 7", "…"]


def test_words_that_answer_in_a_wide_line_of_code_are_shown():
    text = "x = 1\n" + "call(" + "argument, " * 12 + "kettle)"
    lines = shown(text, "kettle", kind="code", width=40)
    assert lines[:2] == ["x = 1", "call(argument, argument, argument,"] and lines[-1].endswith("kettle)")
    assert shown(text, "x", kind="code", width=40)[1] == "call(argument, argument, argument, argu…"


def test_first_line_of_code_is_shown_if_nothing_is_lost():
    text = "def kettle():\n" + "".join(f"    line({number})\n" for number in range(9))
    assert shown(text, "line(2)", kind="code")[0] == "def kettle():"
    assert shown("\n\n" + text, "line(8)", kind="code")[-1] == "    line(8)"


def test_margin_that_all_lines_of_code_have_is_left_out():
    assert shown("        if tea:\n            pour()", kind="code") == ["if tea:", "    pour()"]


LINES = st.sampled_from(
    [
        "", "    ", "Bees dance and hum.", "# Tea", "- green tea", "  - black", "10. ten", "> said", "a | b",
        "| tea | 東京 |", "|---|---|", "```", "~~~", "    code = 1", "\ttab\tin", "====", "----", "+--+--+",
        "word " * 30, "x" * 90, "東京駅で電車を待つ。" * 6, "a long sentence that fills its line to the end of it",
        "\x1b[31m red", "e\u0301te\u0301", "\u202eleft",
    ]
)  # fmt: skip


def letters(text):
    return "".join(sign for sign in text if sign.isalnum())


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_lines_of_any_passage_fit(data):
    free = st.text(max_size=300) | st.text("aé東 \t\n#.x|`-1)>*=+", max_size=300)
    text = data.draw(free | st.lists(LINES, max_size=20).map("\n".join))
    starts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6, unique=True)))
    spans = [(start, min(start + 3, len(text)), 0.5, start % 3) for start in starts]
    width = data.draw(st.integers(20, 90))
    kind = data.draw(st.sampled_from(["code", "rows", "markdown", "pdf", None]))
    for show in (excerpt, whole):
        plain = show(text, spans, kind, Terminal(width), "    ")
        assert all(width_of(line) <= width for line in plain)
        assert not any(CONTROLS.search(line) for line in plain)
        styled = show(text, spans, kind, Terminal(width, is_styled=True), "    ")
        # Styles change nothing else.
        bare = [re.sub("\033\\[[012]m", "", line).rstrip() for line in styled]
        assert bare == [line.rstrip() for line in plain]


@given(st.lists(LINES, max_size=20).map("\n".join), st.integers(20, 90), st.data())
@settings(max_examples=400, deadline=None)
def test_nothing_is_left_out_within_what_is_shown(text, width, data):
    places = data.draw(st.lists(st.integers(0, max(len(text) - 1, 0)), max_size=4, unique=True))
    spans = [(place, place + 1, 0.5, place % 3) for place in sorted(places)]
    kind = data.draw(st.sampled_from(["code", "rows", "markdown", "pdf", None]))
    lines = excerpt(text, spans, kind, Terminal(width), "")
    # After a line that is cut, the next one goes on later.
    shown = "".join(letters(line) + (".*" if line.endswith("…") else "") for line in lines)
    assert re.search(shown, letters(text))
    assert len([line for line in lines if line != "…"]) <= 8


def test_matches_are_shown_in_bold_in_every_kind_of_line():
    text = "Tea is green.\n\n- a kettle\n\n| cup | pot |\n|---|---|\n| leaf | can |\n\n```\nsteep()\n```"
    words = ["green", "kettle", "leaf", "steep"]
    lines = excerpt(text, matches_of(text, *words), "markdown", Terminal(60, is_styled=True), "")
    assert all(f"\033[1m{word}\033[0m" in "\n".join(lines) for word in words)
