"""Keyword search: what queries find in a real full-text table, and that no query is a syntax error."""

from __future__ import annotations

import sqlite3
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.index.catalog.keywords import (
    MAX_PHRASE_WORDS,
    MAX_TERMS,
    TOKENIZER,
    match_expression,
    searchable_text,
    words,
)

TEXTS = {
    1: "The quick brown fox jumps over the lazy dog.",
    2: "A dog is quick; a fox is brown.",
    3: "def get_user_id(name): raise KeyError",
    4: "The user has an id, which they get later.",
    5: "CVE-2024-1234 affects C++ and foo.bar() of GPT-4.",
    6: "東京駅は人が多いです。",
    7: "京都駅から東へ歩く。",
    8: "机器学习是人工智能的一个分支。",
    9: "서울에서 만나요",
    10: "Les élèves d'une école",
    11: "ﾃﾞｰﾀﾍﾞｰｽ の ＣＰＵ",
    12: "An eﬃcient oﬃce",
    13: "हिन्दी भाषा",
}
# Each is a whole word of FTS5's query language, or ends an expression early if it is not quoted.
OPERATORS = [
    "AND",
    "OR",
    "NOT",
    "NEAR",
    "NEAR(a b, 2)",
    "^",
    "*",
    ":",
    "-",
    "+",
    "(",
    ")",
    '"',
    '""',
    "{text}:",
]


@pytest.fixture(scope="module")
def table():
    connection = sqlite3.connect(":memory:")
    make_table(connection, TEXTS)
    yield connection
    connection.close()


def make_table(connection, texts):
    options = f'content="", tokenize="{TOKENIZER}"'
    connection.execute(f"CREATE VIRTUAL TABLE keywords USING fts5(text, {options})")
    rows = [(number, searchable_text(text)) for number, text in texts.items()]
    connection.executemany("INSERT INTO keywords (rowid, text) VALUES (?, ?)", rows)


def found(connection, query):
    """The rows of a query, best first."""
    expression = match_expression(query)
    if expression is None:
        return []
    sql = "SELECT rowid FROM keywords WHERE keywords MATCH ? ORDER BY rank, rowid"
    return [row for (row,) in connection.execute(sql, (expression,))]


def test_words_are_optional_and_rank(table):
    assert found(table, "lazy brown unicorn") == [1, 2]


def test_case_and_diacritics_do_not_matter(table):
    assert found(table, "ELEVES") == found(table, "élèves") == found(table, "e\u0301le\u0300ves") == [10]


def test_quoted_phrase_is_required(table):
    assert found(table, '"brown fox"') == [1]
    assert found(table, '"brown fox" unicorn') == [1]


def test_all_quoted_phrases_are_required(table):
    assert found(table, '"quick" "fox is"') == [2]
    assert found(table, '"lazy dog" "fox is"') == []


def test_words_beside_a_phrase_rank_its_documents():
    connection = sqlite3.connect(":memory:")
    make_table(connection, {1: "red car here now", 2: "red car here owl", 3: "green owl", 4: "a b", 5: "c d"})

    assert found(connection, '"red car"') == [1, 2]
    assert found(connection, '"red car" owl') == [2, 1]
    assert found(connection, '"car" "red" owl now owl') == found(connection, '"red car"')
    connection.close()


def test_quote_that_is_not_closed_is_no_phrase(table):
    assert found(table, '"lazy brown') == found(table, "lazy brown")


def test_quote_within_a_word_opens_no_phrase():
    assert match_expression('6" pipe and 8" pipe') == '"6" OR "pipe" OR "and" OR "8"'


def test_quoted_signs_require_nothing():
    assert match_expression('"!!!" "" dog') == '"dog"'


@pytest.mark.parametrize("identifier", ["CVE-2024-1234", "foo.bar()", "GPT-4", "C++", '"GPT-4"', "gpt-4."])
def test_identifier_finds_its_document(table, identifier):
    assert found(table, identifier) == [5]


def test_identifier_ranks_its_phrase_before_its_parts(table):
    assert found(table, "get_user_id") == [3, 4]
    assert found(table, '"get_user_id"') == [3]


def test_identifier_with_digits_is_one_word():
    assert match_expression("err0r42") == '"err0r42"'


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("東京", [6]),
        ("東京駅", [6]),
        ("京都", [7]),
        ("駅", [6, 7]),
        ("人多", []),
        ('"東京駅"', [6]),
        ("東京の人", [6, 8]),
        ("ﾃﾞｰﾀ", [11]),
        ("人工智能", [8]),
        ("什么是机器学习", [8]),
        ("서울", [9]),
        ("データベース", [11]),
        ("CPU", [11]),
        ("ＣＰＵ", [11]),
        ("efficient", [12]),
        ("office", [12]),
        ("हिन्दी", [13]),
    ],
)
def test_scripts_and_forms_are_found(table, query, rows):
    assert sorted(found(table, query)) == rows


def test_decomposed_letters_are_found(table):
    assert found(table, unicodedata.normalize("NFD", "서울")) == [9]
    assert found(table, unicodedata.normalize("NFD", "データ")) == [11]


def test_letters_of_unspaced_scripts_are_words():
    assert words("GPT-4の性能") == ["gpt", "4", "の", "性", "能"]


def test_sign_stays_apart_from_the_word():
    assert words("Foo™") == ["foo"]


def test_lone_ideograph_among_kana_is_searched_by_itself():
    assert match_expression("猫が好き") == '"猫 が" OR "が 好" OR "好 き" OR "猫" OR "好"'


@pytest.mark.parametrize("query", ["", "  ", "?!", "\0", "\ud800", "-_-", '""', "\u0301", "😀"])
def test_query_without_letters_has_no_expression(query):
    assert match_expression(query) is None


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_are_plain_text(table, operator):
    assert 1 in found(table, f"lazy {operator} unicorn")
    assert 1 in found(table, f"{operator} lazy {operator}")


def test_word_counts_once():
    assert match_expression("Dog dog DOG-") == '"dog"'


def test_long_phrase_is_required_by_its_first_words():
    words = [f"w{i}" for i in range(MAX_PHRASE_WORDS + 1)]

    assert match_expression(f'"{" ".join(words)}"') == f'"{" ".join(words[:-1])}"'


def test_nul_and_lone_surrogate_are_left_out():
    assert match_expression("la\0zy \ud800dog") == '"la zy" OR "la" OR "zy" OR "dog"'


@pytest.mark.parametrize(
    "query",
    [
        "a" * 1_000_000,
        "a." * 500_000,
        "東京" * 500_000,
        '"' * 1_000_000,
        '"' + "a " * 500_000 + '"',
        " ".join(f"w{i}" for i in range(150_000)),
        " ".join(f'"w{i} x{i}" y{i}.z{i}' for i in range(60_000)),
    ],
    ids=["word", "identifier", "run", "quotes", "phrase", "words", "phrases"],
)
@pytest.mark.slow
def test_megabyte_of_query_is_bounded(table, query):
    expression = match_expression(query) or ""

    assert expression.count('"') <= 2 * (2 * MAX_TERMS + 1)
    assert set(found(table, query)) <= set(TEXTS)


def test_deleted_text_leaves_nothing():
    connection = sqlite3.connect(":memory:")
    texts = {1: "東京 Ａ café\0oﬃce x", 2: "東 cafe"}
    make_table(connection, texts)
    delete = "INSERT INTO keywords (keywords, rowid, text) VALUES ('delete', ?, ?)"
    connection.execute(delete, (1, searchable_text(texts[1])))
    connection.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(keywords, 'row')")

    assert connection.execute("SELECT term FROM vocabulary").fetchall() == [("cafe",), ("東",)]
    assert found(connection, "x A office 京") == []
    connection.close()


# Assigned after Unicode 6.1, whose letters FTS5's own tokenizer knows, and older signs.
NEW_SIGNS = "🤑🤔🥺🫠₺₽₾₿\u2066\u2069\u061c😀™—…"


@pytest.mark.parametrize("sign", NEW_SIGNS)
def test_sign_beside_a_word_hides_nothing(sign):
    connection = sqlite3.connect(":memory:")
    make_table(connection, {1: f"Invoice paid{sign}", 2: f"{sign}Invoice{sign}42"})

    assert found(connection, "paid") == found(connection, f"{sign} paid") == [1]
    assert found(connection, '"invoice 42"') == found(connection, f"42{sign}") == [2]
    assert match_expression(sign) is None
    connection.close()


@pytest.mark.slow
def test_every_sign_of_unicode_stands_between_words():
    # In the oldest version of Unicode that every Python has, and in its own.
    def is_sign(c):
        return all(version.category(c)[0] in "PSZ" for version in (unicodedata, unicodedata.ucd_3_2_0))

    signs = [c for c in map(chr, range(sys.maxunicode + 1)) if is_sign(c)]

    # The two kana marks are a space and a combining mark.
    assert [c for c in signs if words(f"a{c}b") not in (["a", "b"], ["ab"])] == ["゛", "゜"]


@pytest.mark.parametrize("text", ["йод", "Ёлка", "Ἀθῆναι", "Åse", "서울", "データ", "ὀξύς", "Việt", "কোন"])
def test_decomposed_and_composed_letters_are_the_same_words(text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))

    assert words(composed) == words(decomposed) == words(composed.upper())
    assert match_expression(composed) == match_expression(decomposed)


def test_letters_that_differ_by_more_than_an_accent_stay_apart():
    assert words("й и ё е か が") == ["й", "и", "ё", "е", "か", "が"]
    assert words("é e ά α ẞ ß") == ["e", "e", "α", "α", "ss", "ss"]


def test_soft_hyphen_and_variation_selector_are_no_part_of_a_word():
    assert words("co\u00adoperate ❤\ufe0flove 1\ufe0f\u20e3") == ["cooperate", "love", "1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Python 1.2.3.", ["python", "1", "2", "3", "1.2.3"]),
        ("v1.2", ["v1", "2", "1.2"]),
        ("1.2rc1", ["1", "2rc1"]),
        ("C++, C# and F#", ["c", "c++", "c", "c#", "and", "f", "f#"]),
        ("C#sharp ++ # a+b", ["c", "sharp", "a", "b"]),
        ("x" * 300, ["x" * 256]),
    ],
)
def test_versions_and_names_with_signs_are_words(text, expected):
    assert words(text) == expected


def test_version_and_language_are_found_before_their_parts():
    connection = sqlite3.connect(":memory:")
    make_table(connection, {1: "C and 1 or 2", 2: "C++ at 1.2", 3: "c 1 2 c", 4: "other", 5: "texts"})

    assert found(connection, "c++")[0] == found(connection, "1.2")[0] == 2
    assert found(connection, '"C++"') == found(connection, '"1.2"') == [2]
    connection.close()


QUERIES = st.lists(
    st.sampled_from([*OPERATORS, " ", "dog", "東京", "の", "ﾞ", "\0", "\ud800", "\u3099"])
    | st.text(st.characters(), max_size=8),
    max_size=30,
).map("".join)


@given(query=QUERIES)
def test_any_text_gives_an_expression_that_runs(table, query):
    assert set(found(table, query)) <= set(TEXTS)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_searchable_text_of_itself_has_the_same_words(text):
    once = searchable_text(text)

    assert set(searchable_text(once).split()) == set(once.split())


@given(text=st.text(st.sampled_from("ab1 _-.\0\"'東京の서ｶﾞé\u0301™हि"), min_size=1))
def test_text_finds_itself(text):
    connection = sqlite3.connect(":memory:")
    make_table(connection, {1: text})

    assert found(connection, text) == ([1] if words(text) else [])
    assert found(connection, f'"{text.replace(chr(34), " ")}"') == found(connection, text)
    connection.close()
