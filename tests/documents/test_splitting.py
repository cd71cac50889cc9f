"""Long texts are cut: where, and that nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.documents.splitting import count_words, cut_spans


def cut(text, max_words, where="sentences"):
    return [text[start:end] for start, end in cut_spans(text, where, max_words)]


def test_paragraphs_stay_whole_while_they_fit():
    assert cut("a b\n\nc d\n\ne f g", 4) == ["a b\n\nc d", "e f g"]


def test_a_long_paragraph_is_cut_between_sentences():
    assert cut("A b c. D e f! G h?", 4) == ["A b c.", "D e f!", "G h?"]


def test_a_long_sentence_is_cut_between_words():
    assert cut("a b c d e", 2) == ["a b", "c d", "e"]


def test_a_list_is_cut_between_items():
    assert cut("- a b\n  c\n- d e\n- f", 6, "items") == ["- a b\n  c", "- d e\n- f"]


def test_code_is_cut_at_blank_lines_then_at_lines_and_keeps_its_indentation():
    code = "def a():\n    one\n    two\n\ndef b():\n    three"
    assert cut(code, 4, "lines") == ["def a():\n    one\n    two", "def b():\n    three"]
    assert cut(code, 2, "lines") == ["def a():", "    one\n    two", "def b():", "    three"]


def test_chinese_is_counted_by_characters():
    text = "\u8336\u662f\u70ed\u7684\u3002" * 4
    assert [len(part) for part in cut(text, 12)] == [10, 10]


def test_a_long_run_without_spaces_is_cut():
    assert [len(part) for part in cut("x" * 100, 2)] == [32, 32, 32, 4]


def test_a_blank_text_has_no_parts():
    assert cut(" \n\n\t", 3) == []


@pytest.mark.parametrize("where", ["sentences", "items", "lines", "rows"])
@given(text=st.text(st.sampled_from("ab-. \n!\u8336\u3002"), max_size=80), max_words=st.integers(1, 9))
def test_cutting_loses_nothing_and_keeps_the_limit(where, text, max_words):
    parts = cut(text, max_words, where)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part.strip() and part == part.rstrip() for part in parts)
    assert all(count_words(part) <= max_words for part in parts)
