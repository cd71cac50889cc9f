"""Texts to passages: where they are split, and that nothing is lost."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.documents.splitting import split_passages


def n_words(text):
    return len(text.split())


def test_paragraphs_are_packed_whole_while_they_fit():
    assert split_passages("a b\n\nc d\n\ne f g", max_words=4) == ["a b\n\nc d", "e f g"]


def test_a_long_paragraph_is_cut_between_sentences():
    assert split_passages("A b c. D e f! G h?", max_words=4) == ["A b c.", "D e f!", "G h?"]


def test_a_long_sentence_is_cut_between_words():
    assert split_passages("a b c d e", max_words=2) == ["a b", "c d", "e"]


def test_chinese_is_counted_by_characters():
    text = "\u8336\u662f\u70ed\u7684\u3002" * 4
    assert [len(passage) for passage in split_passages(text, max_words=12)] == [10, 10]


def test_a_long_run_without_spaces_is_cut():
    assert [len(passage) for passage in split_passages("x" * 100, max_words=2)] == [32, 32, 32, 4]


def test_a_blank_text_has_no_passages():
    assert split_passages(" \n\n\t") == []


@given(st.text(st.sampled_from("ab. \n!\u8336\u3002"), max_size=80), st.integers(1, 9))
def test_splitting_loses_nothing_and_keeps_the_limit(text, max_words):
    passages = split_passages(text, max_words=max_words)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(passage == passage.strip() != "" for passage in passages)
    assert all(n_words(passage) <= max_words for passage in passages)


def test_a_text_that_never_fits_is_split_to_single_words():
    assert split_passages("a b c", max_words=4, fits=lambda passage: False) == ["a", "b", "c"]
