"""Passages from files: what is read, and what is said about files that cannot be read."""

import io
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.documents import files as ingestion
from mlx_colbert.documents.files import read_lines, read_passages, split_passages
from mlx_colbert.documents.passage import Passage
from mlx_colbert.errors import DuplicateIdError, InputError


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    return list(read_passages([path]))


@pytest.mark.parametrize("field", ["doc_id", "id", "_id"])
def test_jsonl_ids_have_three_names(tmp_path, field):
    assert read(write(tmp_path / "a.jsonl", json.dumps({field: "x", "text": "Tea."}))) == [
        Passage("x", "Tea.")
    ]


def test_jsonl_integer_id_becomes_text(tmp_path):
    assert read(write(tmp_path / "a.jsonl", '{"id": 7, "text": "Tea."}'))[0].doc_id == "7"


def test_jsonl_without_ids_is_numbered_by_line(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "One."}\n\n{"text": "Two."}\n')
    name = tmp_path.name
    assert [passage.doc_id for passage in read(path)] == [f"{name}/a.jsonl:1", f"{name}/a.jsonl:3"]


def test_title_is_joined_as_beir_evaluates_it(tmp_path):
    rows = '{"id": 1, "title": "Tea", "text": "A drink."}\n{"id": 2, "title": "", "text": "No title."}'
    assert [passage.text for passage in read(write(tmp_path / "a.jsonl", rows))] == [
        "Tea A drink.",
        "No title.",
    ]


def test_other_keys_join_the_metadata(tmp_path):
    row = '{"id": "a", "text": "Tea.", "metadata": {"n": 1}, "url": "u"}'
    assert read(write(tmp_path / "a.jsonl", row))[0].metadata == {"n": 1, "url": "u"}


def test_bom_and_windows_line_ends_are_accepted(tmp_path):
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"id": "a", "text": "Tea."}\r\n')
    assert read(path) == [Passage("a", "Tea.")]


def test_line_separators_inside_a_json_string_do_not_end_the_line(tmp_path):
    assert len(read(write(tmp_path / "a.jsonl", '{"text": "one\u2028two"}\n'))) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "one JSON object, got list"),
        ("{}", "'text' must be a string"),
        ('{"text": 3}', "'text' must be a string"),
        ('{"text": "a", "title": 3}', "'title' must be a string"),
        ('{"id": null, "text": "a"}', "the id must be a string"),
        ('{"id": true, "text": "a"}', "the id must be a string"),
        ('{"id": "", "text": "a"}', "the id must be a string"),
        ('{"text": "a", "metadata": [1]}', "'metadata' must be an object, got list"),
        ('{"text": "a", "n": 1, "metadata": {"n": 2}}', "'n' is given twice"),
        ('{"text": "a", "n": NaN}', "NaN is not a JSON number"),
        ('{"text": "a", "n": 1e999}', "1e999 is not a JSON number"),
        ('{"text": "\\ud800"}', "surrogate"),
        ('{"text": "a", "n": {"m": "\\uD800"}}', "surrogate"),
        ('{"text": ' + "[" * 100_000, "nested too deeply"),
        (b'{"text": "\xff"}', "byte 11 is 0xff"),
    ],
)
def test_a_wrong_line_is_named_by_file_and_number(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path / "notes.jsonl", b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(InputError, match=rf"notes\.jsonl:2: .*{message}"):
        read(path)


def test_a_line_beyond_the_limit_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(ingestion, "MAX_BYTES", 20)
    with pytest.raises(InputError, match=r"a\.jsonl:1: the line is longer than 20 bytes"):
        read(write(tmp_path / "a.jsonl", '{"text": "' + "x" * 50 + '"}'))


def test_passages_are_read_as_they_are_asked_for(tmp_path):
    passages = read_passages([write(tmp_path / "a.jsonl", '{"text": "fine"}\nbroken\n')])
    assert next(passages).text == "fine"


def test_an_id_given_twice_is_an_error_with_both_places(tmp_path):
    first = write(tmp_path / "a.jsonl", '{"id": "x", "text": "One."}')
    second = write(tmp_path / "b.csv", "id,text\ny,Two.\nx,Three.\n")
    with pytest.raises(DuplicateIdError, match=r"'x'.*a\.jsonl:1 and at .*b\.csv:3"):
        list(read_passages([first, second]))


def test_csv_columns_are_those_of_jsonl(tmp_path):
    path = write(tmp_path / "a.csv", 'id,title,contents,year\r\na,Tea,"A ""hot""\ndrink, mostly.",1999\r\n')
    assert read(path) == [Passage("a", 'Tea A "hot"\ndrink, mostly.', {"year": "1999"})]


def test_csv_text_may_be_long(tmp_path):
    path = write(tmp_path / "a.csv", "id,text\na," + "x" * 200_000)
    assert len(read(path)[0].text) == 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "1: the header must name 'text' or 'contents', got a, b"),
        ("text,text\nx,y\n", "1: the header names a column twice"),
        ("id,text\na\n", "2: has 1 fields, the header has 2"),
        ('id,text\n\na,"open\n\n', "3: is not CSV: unexpected end of data"),
        (b"id,text\na,\xe4\n", "2: is not UTF-8"),
    ],
)
def test_a_wrong_csv_row_is_named_by_file_and_line(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"rows\.csv:{re.escape(message)}"):
        read(write(tmp_path / "rows.csv", content))


def test_a_text_file_is_split_into_numbered_passages(tmp_path):
    text = "\n\n".join(f"Paragraph {n} " + "word " * 70 for n in range(3))
    passages = read(write(tmp_path / "box" / "notes.md", text))
    assert [passage.doc_id for passage in passages] == [f"box/notes.md#{n}" for n in (1, 2, 3)]
    assert passages[0].metadata == {"path": "notes.md"}


def test_a_folder_is_walked_in_order_and_hidden_or_other_files_are_skipped(tmp_path):
    for name in ["b.md", "a/z.TXT", "a/.hidden.md", ".git/c.md", "a/rows.jsonl", "a/empty.md"]:
        write(tmp_path / "box" / name, "" if "empty" in name else "Text.")
    passages = read(tmp_path / "box")
    assert [passage.doc_id for passage in passages] == ["box/a/z.TXT#1", "box/b.md#1"]
    assert passages[0].metadata == {"path": "a/z.TXT"}


def test_links_to_folders_and_pipes_are_left_alone(tmp_path):
    write(tmp_path / "a.md", "Text.")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.md").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.md")
    assert len(read(tmp_path)) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.md"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_text_is_an_error(tmp_path, name, content):
    with pytest.raises(InputError, match=rf"{name}.* empty"):
        read(write(tmp_path / name, content))


def test_a_csv_header_alone_is_an_error(tmp_path):
    with pytest.raises(InputError, match="is empty"):
        read(write(tmp_path / "a.csv", "id,text\n"))


def test_a_folder_without_text_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.txt or \.md file with text"):
        read(tmp_path)


def test_a_text_file_that_is_not_utf8_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt: is not UTF-8 \(byte 5 is 0xe9\)"):
        read(
            write(
                tmp_path / "a.txt", "caf\u00e9\u00e9 au lait".encode("latin-1").replace(b"\xe9", b"e\xe9", 1)
            )
        )


def test_a_missing_file_is_a_missing_file(tmp_path):
    for name in ["a.jsonl", "a.md", "a.pdf", "folder"]:
        with pytest.raises(FileNotFoundError):
            read(tmp_path / name)


def test_another_kind_of_file_is_an_error_with_the_kinds_that_are_read(tmp_path):
    with pytest.raises(InputError, match=r"a\.pdf: .*\.jsonl, \.csv, \.txt, \.md"):
        read(write(tmp_path / "a.pdf", "%PDF"))


def test_a_single_path_may_stand_for_a_list(tmp_path):
    path = write(tmp_path / "a.md", "Text.")
    assert list(read_passages(str(path))) == read(path)


def test_lines_are_passages_named_by_their_number():
    assert [p.doc_id for p in read_lines(io.BytesIO(b"One.\n\n Two. \n"), name="stdin")] == ["1", "3"]


def test_no_lines_are_an_error():
    with pytest.raises(InputError, match="stdin: is empty"):
        list(read_lines(io.BytesIO(b"\n"), name="stdin"))


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


def test_passages_are_split_until_the_model_reads_each_to_its_end(tmp_path):
    text = "One two three four five six. " * 12 + "The end is here."
    write(tmp_path / "a.md", text)
    passages = [p.text for p in read_passages(tmp_path, fits=lambda passage: len(passage) <= 80)]
    assert max(map(len, passages)) <= 80
    assert " ".join(passages).split() == text.split()


def test_a_text_that_never_fits_is_split_to_single_words():
    assert split_passages("a b c", max_words=4, fits=lambda passage: False) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("column", "metadata"),
    [('"{""cat"": 1}"', {"cat": 1}), ("plain", {"metadata": "plain"}), ("[1]", {"metadata": "[1]"})],
)
def test_csv_metadata_is_an_object_or_a_text(tmp_path, column, metadata):
    path = write(tmp_path / "a.csv", f"id,text,metadata\na,Tea,{column}\n")
    assert read(path) == [Passage("a", "Tea", metadata)]
