"""Blocks to passages: what is joined, and what holds for every Markdown text and every model."""

import re

import pytest
from file_kinds import few_words, mixed, passages
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_colbert import ColBERT
from mlx_colbert.documents.blocks import Block, Heading
from mlx_colbert.documents.joining import joined
from mlx_colbert.documents.kinds import kind_of
from mlx_colbert.documents.passage import encoded_text
from mlx_colbert.documents.splitting import count_words

WORDS = st.lists(
    st.sampled_from(["tea", "hot.", "cup!", "茶。", "a-b", "x" * 40]), min_size=1, max_size=60
).map(" ".join)
TITLES = st.lists(st.sampled_from(["Tea", "Cups", "Water", "x" * 20]), min_size=1, max_size=12).map(" ".join)
BLOCKS = st.one_of(
    WORDS,
    st.tuples(st.integers(1, 6), TITLES).map(lambda pair: "#" * pair[0] + " " + pair[1]),
    TITLES.map(lambda text: f"{text}\n======"),
    st.lists(WORDS, min_size=1, max_size=5).map(lambda items: "\n".join(f"- {item}" for item in items)),
    st.lists(WORDS, min_size=1, max_size=9).map(lambda lines: "\n".join(["```py", *lines, "```"])),
    st.lists(WORDS, min_size=1, max_size=9).map(
        lambda rows: "\n".join(["| a | b |", "|---|---|", *(f"| {row} | b |" for row in rows)])
    ),
)
DOCUMENTS = st.lists(BLOCKS, min_size=1, max_size=12).map("\n\n".join)
REPEATED = {"```py", "```", "| a | b |", "|---|---|"}


def plain(line):
    return " ".join(line.split())


@given(text=DOCUMENTS, limit=st.sampled_from([3, 10, 25, 60, 500]))
def test_lines_of_a_markdown_passage_hold_its_text(text, limit):
    lines = text.split("\n")
    for passage in passages("a.md", text, few_words(limit)):
        first, last = passage.position["lines"]
        held = plain(" ".join(lines[first - 1 : last]))
        own = [line for line in passage.text.split("\n") if line.strip() and line not in REPEATED]
        assert all(plain(line) in held for line in own)
        assert not own or plain(own[0]) in plain(" ".join(lines[first - 1 : first + 2]))


@given(text=DOCUMENTS, limit=st.sampled_from([3, 10, 25, 60, 500]))
def test_no_word_of_a_markdown_text_is_lost(text, limit):
    found = passages("a.md", text, few_words(limit))
    # Headings and the headers of tables are repeated, and long words are cut: the letters follow in order.
    letters = iter("".join(encoded_text(p.text, p.position) for p in found))
    assert all(letter in letters for letter in re.sub(r"[\s#=|`-]", "", text))


@example(
    text="tea\n\n| a | b |\n|---|---|\n" + "| tea tea | b |\n" * 11 + "\nTea x\n======\n\nTea\n======",
    limit=60,
)
@given(text=DOCUMENTS, limit=st.sampled_from([60, 100, 500]))
def test_no_markdown_passage_is_a_lone_heading(text, limit):
    found = passages("a.md", text, few_words(limit))
    has_body = any(
        line.strip()
        and not line.startswith(("#", "==="))
        and not text.split("\n")[n + 1 : n + 2] == ["======"]
        for n, line in enumerate(text.split("\n"))
    )
    are_lone = [
        all(
            line.startswith(("# ", "## ", "### ", "#### ", "##### ", "###### ", "======"))
            or lines[n + 1 : n + 2] == ["======"]
            for n, line in enumerate(lines)
        )
        for lines in ([line for line in passage.text.split("\n") if line.strip()] for passage in found)
    ]
    # Headings at the end of a file have no text below them. They join what is before if they are few.
    while has_body and are_lone and are_lone[-1]:
        are_lone.pop()
    assert not has_body or not any(are_lone)


@pytest.mark.parametrize(
    "text",
    [
        f"# Tea\n\n{'word ' * 119}end.\n\n# Green\n",
        "# Tea\n\n| a |\n|---|\n" + "| one two three |\n" * 60 + "\n# Green\n\n## Black\n",
        f"# Tea\n\n{'word ' * 500}end.\n\n# Green\n",
    ],
)
def test_headings_at_the_end_join_the_passage_before_even_if_it_is_full(text):
    found = passages("a.md", text)
    assert "# Green" in found[-1].text and not found[-1].text.startswith("#")
    assert "# Green" not in "".join(passage.text for passage in found[:-1])


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.md", "# Tea\n", "# Tea"),
        ("a.md", "# Tea\n\n## Green\n\n## Black\n", "# Tea\n\n## Green\n\n## Black"),
        ("a.rst", "Tea\n===\n", "Tea\n==="),
        ("a.html", "<title>Tea</title><h1>Tea</h1>", "Tea"),
    ],
)
def test_file_of_headings_alone_is_one_passage_of_them(name, text, wanted):
    assert [passage.text for passage in passages(name, text)] == [wanted]


@pytest.mark.parametrize("name", ["pylate-bert", "stanford-xlmr", "pylate-modernbert", "plain-roberta"])
@given(text=DOCUMENTS)
def test_every_passage_fits_the_model(model_that_reads, name, text):
    fits = model_that_reads(name)
    for passage in passages("a.md", text, fits):
        assert fits(encoded_text(passage.text, passage.position)) or count_words(passage.text) == 1


@pytest.fixture(scope="module")
def model_that_reads():
    models = {}

    def fits_of(name):
        if name not in models:
            models[name] = ColBERT.load(f"tests/data/checkpoints/{name}", backend="numpy")
        return models[name].fits

    return fits_of


@pytest.mark.parametrize(
    "name",
    [
        "notes.md",
        "guide.rst",
        "page.html",
        "bees.docx",
        "garden.pptx",
        "voyage.epub",
        "bees.py",
        "letter.eml",
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 5, 9, 17, 40])
def test_passages_of_every_kind_fit_models_that_read_little(name, limit):
    for text, position in mixed(name, few_words(limit)):
        assert len(encoded_text(text, position).split()) <= limit or count_words(text) == 1


def test_neighbours_are_joined_up_to_the_limit():
    found = list(joined((Block("word " * 39 + f"{n}.") for n in range(7)), "text"))
    assert [p.text.count("\n\n") + 1 for p in found] == [3, 3, 1]


def test_blocks_of_two_pages_are_not_joined():
    found = list(joined([Block("a", {"page": 1}), Block("b", {"page": 1}), Block("c", {"page": 2})], "pdf"))
    assert [(p.text, p.position) for p in found] == [("a\n\nb", {"page": 1}), ("c", {"page": 2})]


def test_blocks_of_two_rows_are_not_joined():
    assert len(list(joined([Block("a", metadata={"n": 1}), Block("b", metadata={"n": 1})], "rows"))) == 2


def test_text_between_a_heading_and_its_sibling_stays_in_order():
    parts = [
        Heading("A", 1, "A"),
        Block("a"),
        Heading("B", 2, "B"),
        Block("b"),
        Heading("C", 2, "C"),
        Block("c"),
    ]
    assert [p.text for p in joined(parts, "text")] == ["a\n\nB\n\nb\n\nC\n\nc"]


def test_long_path_is_shown_from_its_end():
    parts = [Heading("word " * 25 + str(n), n, "") for n in (1, 2)] + [Block("text")]
    assert [len(p.position["headings"]) for p in joined(parts, "text")] == [1]


def test_kinds_are_known_by_their_names():
    assert kind_of("A/README").name == "text" and kind_of("x.PY").name == "code"
    assert kind_of("Makefile").name == "code" and kind_of(".md") is None
