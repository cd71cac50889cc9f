"""Markdown: what is a block, what is a heading, and where long blocks are cut."""

import pytest
from file_kinds import few_words, mixed, passages, texts

from mlx_colbert.documents.blocks import Heading
from mlx_colbert.documents.kinds import markdown
from mlx_colbert.documents.passage import encoded_text


def headings(text):
    found = markdown.parts(text.encode(), "a.md")
    return [(part.level, part.text) for part in found if isinstance(part, Heading)]


def test_small_sections_are_one_passage_with_their_headings_in_it():
    ((text, position),) = mixed("notes.md")
    assert position == {"lines": [2, 29], "headings": ["Field notes"]}
    assert text.startswith("title: Field notes\ntags: [bees, dance]\n\nWritten in the *summer*.\n\n# Bees")
    assert text.endswith("## Empty\n\nHoney\n-----\n\n" + text[text.index("| month") :])
    assert text.endswith("```python\n# Bees\nkilos = 3 + 11\n```")


def test_long_sections_are_passages_under_their_headings():
    words = " ".join(["word"] * 60)
    found = passages("a.md", f"# Tea\n\n## Green\n\n{words}\n\n## Black\n\n{words}\n")
    assert [(p.position["headings"], p.position["lines"]) for p in found] == [
        (["Tea", "Green"], [5, 5]),
        (["Tea", "Black"], [9, 9]),
    ]
    assert encoded_text(found[0].text, found[0].position) == f"Tea › Green\n{words}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A\n## B ##\n#no\n", [(1, "A"), (2, "B")]),
        ("A\n===\n\nB\nc\n---\n", [(1, "A"), (2, "B c")]),
        ("```\n# no\n```\n# yes\n", [(1, "yes")]),
        ("~~~\n# no\n```\n# no\n~~~\n", []),
        ("## `code` **bold** [link](x) ![alt](y) {#id}\n", [(2, "code bold link alt")]),
        ("# snake_case_name &amp; <b>tag</b>\n", [(1, "snake_case_name & tag")]),
        ("---\ntitle: 'T'\n---\n# A\n", [(0, "T"), (1, "A")]),
        ('+++\ntitle = "T"\n+++\n', [(0, "T")]),
        ("---\nno front matter\n", []),
        ("- item\n---\n", []),
        ("    # code\n", []),
    ],
)
def test_headings_are_those_of_markdown(text, expected):
    assert headings(text) == expected


def test_title_that_the_first_heading_repeats_is_given_once():
    words = "word " * 60
    found = passages("a.md", f"---\ntitle: Tea and more\n---\n# Tea\n\n{words}\n\n## Green\n\n{words}")
    assert [p.position["headings"] for p in found[-2:]] == [["Tea and more"], ["Tea and more", "Green"]]


def test_long_list_is_cut_between_items():
    items = [f"- item {n} " + "word " * 20 for n in range(12)]
    found = texts("a.md", "\n".join(items))
    assert len(found) > 1 and all(text.startswith("- item") for text in found)


def test_header_of_a_long_table_is_repeated():
    rows = "\n".join(f"| {n} | word word word word word word |" for n in range(60))
    found = passages("a.md", f"| n | words |\n|---|---|\n{rows}\n")
    assert len(found) > 1
    assert all(p.text.startswith("| n | words |\n|---|---|\n| ") for p in found)
    assert [found[0].position["lines"][0], found[-1].position["lines"][1]] == [1, 62]
    starts = [p.position["lines"][0] for p in found[1:]]
    assert starts == [p.position["lines"][1] + 1 for p in found[:-1]]


def test_fence_of_long_code_is_repeated_and_the_code_keeps_its_indentation():
    code = "\n".join(f"def f{n}():\n    return {n} + {n}\n" for n in range(99))
    found = texts("a.md", f"```python\n{code}```\n")
    assert len(found) > 1
    assert all(text.startswith("```python\ndef f") and text.endswith("\n```") for text in found)
    assert all("\n    return" in text for text in found)


def test_code_of_some_length_stays_whole_if_the_model_reads_it():
    code = "```\n" + "\n".join(["a b c d e f g h i j"] * 20) + "\n```"
    assert len(texts("a.md", code)) == 1
    assert len(texts("a.md", code, few_words(150))) > 1


def test_small_section_after_a_long_one_is_not_mixed_with_its_end():
    long = "\n\n".join(["word " * 50] * 5)
    found = passages("a.md", f"# A\n\n{long}\n\n# B\n\nshort\n")
    assert found[-1].position["headings"] == ["B"]


@pytest.mark.parametrize("text", ["# Only\n", "# Only\n\n## Headings\n"])
def test_file_of_headings_alone_is_a_passage(text):
    assert texts("a.md", text) == [text.rstrip()]


def test_heading_without_text_at_the_end_is_not_a_passage_of_its_own():
    found = texts("a.md", "# A\n\ntext\n\n## Todo\n")
    assert found == ["text\n\n## Todo"]


def test_thousands_of_nested_lists_and_quotes_are_read():
    assert texts("a.md", "\n".join("  " * n + "- x" for n in range(2000)))
    assert texts("a.md", ">" * 5000 + " x")


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["[a](", "**a ", "<a ", "`", "![", "{#", "_a"])
def test_long_heading_takes_a_time_that_grows_with_its_length(piece):
    assert texts("a.md", "# " + piece * 100_000)
