"""Passages from files: what is read, and what is said about files that cannot be read."""

import io
import json
import os
import re
from pathlib import Path

import pytest

from mlx_colbert.documents import decoding
from mlx_colbert.documents.files import read_lines, read_passages
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.unread import Unread
from mlx_colbert.errors import DuplicateIdError, InputError
from mlx_colbert.index import Index


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
        ('{"text": "a"', r"is not JSON: Expecting ',' delimiter, at character 13\."),
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
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "a number has 5,000 digits, and 4,300 are allowed"),
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
    monkeypatch.setattr(decoding, "MAX_BYTES", 20)
    with pytest.raises(InputError, match=r"a\.jsonl:1: the line is longer than 20 characters"):
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
    assert read(path) == [Passage("a", 'Tea A "hot"\ndrink, mostly.', {"year": 1999})]


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
        (b"id,text\na,\xe4\xe4\xe4\n", "2: is not UTF-8 (byte 3 is 0xe4)"),
        (b"id,text\na,\0\n", "2: is not text: it has NUL characters"),
        ("id,text,\na,x,y\n", "2: 'y' is in a column that the header does not name"),
    ],
)
def test_a_wrong_csv_row_is_named_by_file_and_line(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"rows\.csv:{re.escape(message)}"):
        read(write(tmp_path / "rows.csv", content))


def test_a_text_file_is_split_into_numbered_passages(tmp_path):
    text = "\n\n".join(f"Paragraph {n} " + "word " * 70 for n in range(3))
    passages = read(write(tmp_path / "box" / "notes.md", text))
    assert [passage.doc_id for passage in passages] == [f"box/notes.md#{n}" for n in (1, 2, 3)]
    assert passages[0].metadata == {"path": "notes.md", "kind": "markdown"}


def test_a_folder_is_walked_in_order_and_hidden_or_other_files_are_skipped(tmp_path):
    for name in ["b.md", "a/z.TXT", "a/.hidden.md", ".git/c.md", "a/rows.jsonl", "a/empty.md"]:
        write(tmp_path / "box" / name, "" if "empty" in name else "Text.")
    passages = read(tmp_path / "box")
    assert [passage.doc_id for passage in passages] == ["box/a/z.TXT#1", "box/b.md#1"]
    assert passages[0].metadata == {"path": "a/z.TXT", "kind": "text"}


def test_link_to_a_hidden_file_or_out_of_the_folder_is_left_out_and_counted(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    write(folder / "tea.md", "Steep it.")
    write(tmp_path / "secret.txt", "Not yours.")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "in.md").symlink_to(folder / "tea.md")
    write(folder / ".keys" / "key.txt", "Nor this.")
    (folder / "key.txt").symlink_to(Path(".keys", "key.txt"))
    unread = Unread()
    texts = [passage.text for passage in read_passages(folder, unread=unread)]
    assert texts == ["Steep it.", "Steep it."]
    assert unread.kinds == {"link to a hidden file or out of the folder": 2}


def test_links_to_folders_and_pipes_are_left_alone(tmp_path):
    write(tmp_path / "a.md", "Text.")
    (tmp_path / "loop").symlink_to(tmp_path)
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
    with pytest.raises(InputError, match=r"has no file with text, such as \.md or \.pdf"):
        read(tmp_path)


FRENCH = (
    "L\u2019\u00e9t\u00e9, \u00e0 No\u00ebl \u2013 \u00e7a co\u00fbte 5\u00a0\u20ac : caf\u00e9 cr\u00e8me."
)
RUSSIAN = "\u0427\u0430\u0439 \u0438 \u043a\u043e\u0444\u0435. "
JAPANESE = "\u30c6\u30b9\u30c8\u306f\u7c21\u5358\u3067\u3059. tea "


@pytest.mark.parametrize(
    "data",
    [
        FRENCH.encode(),
        FRENCH.encode("utf-8-sig"),
        FRENCH.encode("utf-16"),
        b"\xfe\xff" + FRENCH.encode("utf-16-be"),
        FRENCH.encode("utf-32"),
        FRENCH.encode("cp1252"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_text_is_read_in_the_encoding_that_its_bytes_show(tmp_path, name, data):
    if name == "a.csv":
        encoding = decoding.encoding_of(data)
        data = f'id,text\na,"{FRENCH}"\n'.encode(encoding)
    assert [passage.text for passage in read(write(tmp_path / name, data))] == [FRENCH]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (RUSSIAN.encode("cp1251"), "is not UTF-8 (byte 1 is 0xd7)"),
        (RUSSIAN.encode("koi8-r"), "is not UTF-8"),
        (JAPANESE.encode("shift-jis") * 9, "is not UTF-8"),
        (JAPANESE.encode("euc-jp"), "is not UTF-8"),
        (FRENCH.encode() * 9 + b" \xe9 damaged", "is not UTF-8"),
        (FRENCH.encode("utf-16")[:-1], "is not UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\r", "is not text: it has NUL characters"),
        (bytes(range(1, 256)), "is not UTF-8"),
    ],
)
def test_text_of_an_unknown_encoding_is_an_error(tmp_path, data, message):
    with pytest.raises(InputError, match=re.escape(f"a.txt: {message}")):
        read(write(tmp_path / "a.txt", data))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path, end):
    rows = ['{"id": "a", "text": "One."}', "", '{"id": "b", "text": "Two."}', ""]
    assert [p.doc_id for p in read(write(tmp_path / "a.jsonl", end.join(rows)))] == ["a", "b"]
    table = ["id,text", 'a,"One', 'line."', "b,Two.", ""]
    assert [p.doc_id for p in read(write(tmp_path / "a.csv", end.join(table)))] == ["a", "b"]
    text = "One two three." + end + end + "Four five six."
    assert read(write(tmp_path / "a.md", text))[0].text == "One two three.\n\nFour five six."


def test_unreadable_files_of_a_folder_are_left_out_and_named(tmp_path):
    write(tmp_path / "good.md", "Text.")
    write(tmp_path / "binary.txt", b"a\0b")
    write(tmp_path / "russian.txt", RUSSIAN.encode("cp1251"))
    with (tmp_path / "large.txt").open("wb") as stream:
        stream.truncate((1 << 24) + 1)
    (tmp_path / "broken.md").symlink_to(tmp_path / "nowhere")
    bad_name = os.fsdecode(bytes(tmp_path / "caf\udce9.md"))
    write(Path(bad_name), "Text.")
    unread = Unread()

    passages = list(read_passages(tmp_path, unread=unread))

    assert [passage.doc_id for passage in passages] == [f"{tmp_path.name}/good.md#1"]
    assert unread.files == {
        str(tmp_path / "binary.txt"): "is not text: it has NUL characters.",
        str(tmp_path / "russian.txt"): "is not UTF-8 (byte 1 is 0xd7). Save the file as UTF-8.",
        str(tmp_path / "large.txt"): "is longer than 16,777,216 bytes. Raise the limit, or split the file.",
        bad_name: "The name is not UTF-8. Rename the file.",
    }
    assert list(read_passages(tmp_path, unread=unread)) == passages and len(unread.files) == 4
    assert unread.kinds == {"link to nothing": 1}
    with pytest.raises((InputError, OSError)):
        read(tmp_path)


def test_what_gitignore_and_the_like_name_is_left_out_and_counted(tmp_path):
    for name in ["a.md", "draft.md", "out/b.md", "sub/c.md", "cache/CACHEDIR.TAG", "cache/d.md"]:
        write(tmp_path / name, "Text.")
    write(tmp_path / ".gitignore", "draft.md\nout/\n")
    write(tmp_path / "sub" / ".mlx-colbertignore", "c.md\n")
    unread = Unread()

    found = [passage.metadata["path"] for passage in read_passages(tmp_path, unread=unread)]

    assert found == ["a.md"]
    assert unread.kinds == {"ignored": 3, "cache": 1}
    # What is named itself is read.
    assert len(read(tmp_path / "draft.md")) == len(read(tmp_path / "out")) == 1


def test_names_that_differ_only_in_how_a_letter_is_written_do_not_end_a_run(tmp_path):
    composed, decomposed = tmp_path / "caf\u00e9.md", tmp_path / "cafe\u0301.md"
    write(composed, "One.")
    write(decomposed, "Two.")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this disk has one name for both")
    unread = Unread()

    found = list(read_passages(tmp_path, unread=unread))

    assert [passage.text for passage in found] == ["Two."]
    reason = "Another file has the same name in other Unicode signs. Rename one."
    assert unread.files == {str(composed): reason}


def test_other_kinds_of_a_folder_are_counted(tmp_path):
    for name in ["README", "b.markdown", "c.mdx", "d.org", "e.rst"]:
        write(tmp_path / name, "Text.")
    for name in ["x.mp3", "y.mp3", "z.JPG", "rows.jsonl", "unknown", ".hidden.md", "empty.md"]:
        write(tmp_path / name, "")
    write(tmp_path / "node_modules" / "left-pad" / "README.md", "Text.")
    write(tmp_path / "env" / "pyvenv.cfg", "")
    write(tmp_path / "env" / "notes.md", "Text.")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.md")
    unread = Unread()

    passages = list(read_passages(tmp_path, unread=unread))

    names = ["README#1", "b.markdown#1", "c.mdx#1", "d.org#1", "e.rst#1"]
    assert [passage.doc_id for passage in passages] == [f"{tmp_path.name}/{name}" for name in names]
    assert unread.files == {}
    kinds = {".mp3": 2, ".jpg": 1, ".jsonl": 1, "no suffix": 1, "empty": 1, "node_modules/": 1}
    assert unread.kinds == kinds | {"virtual environment": 1, "linked folder": 1, "no regular file": 1}


def test_an_index_in_a_folder_is_one_thing_that_is_passed_over(tmp_path):
    Index.create(tmp_path / "notes.index", 4).close()
    write(tmp_path / "tea.md", "Text.")
    unread = Unread()

    assert len(list(read_passages(tmp_path, unread=unread))) == 1
    assert unread.kinds == {"index": 1}


def test_folder_of_unreadable_files_alone_is_an_error_with_the_first(tmp_path):
    write(tmp_path / "a.txt", b"\0")
    with pytest.raises(
        InputError, match=r"1 of its files could not be read; the first is .*a\.txt: is not text"
    ):
        list(read_passages(tmp_path, unread=Unread()))


def test_row_of_very_many_columns_is_read(tmp_path):
    # Work that grew with their square took minutes for this row.
    names = [f"c{n}" for n in range(60_000)]
    path = tmp_path / "wide.csv"
    path.write_text(f"text,{','.join(names)}\nhello{',1' * len(names)}\n")
    (passage,) = read_passages(path)
    assert passage.metadata == dict.fromkeys(names, 1)


def test_csv_column_of_numbers_alone_gives_numbers(tmp_path):
    table = """id,text,year,price,zip,mixed,big,empty,none,
1,Tea,1999,1.5,01234,1,99999999999999999999,,nan,
2,Milk,,-2e3,56789,x,1,,1,
"""
    first, second = read(write(tmp_path / "a.csv", table))

    assert (first.doc_id, second.doc_id) == ("1", "2")
    texts = {"zip": "01234", "mixed": "1", "big": "99999999999999999999", "none": "nan"}
    assert first.metadata == {"year": 1999, "price": 1.5, **texts}
    assert second.metadata == {"price": -2000.0, "zip": "56789", "mixed": "x", "big": "1", "none": "1"}


def test_a_missing_file_is_a_missing_file(tmp_path):
    for name in ["a.jsonl", "a.md", "a.jpg", "folder"]:
        with pytest.raises(FileNotFoundError):
            read(tmp_path / name)


def test_another_kind_of_file_is_an_error_with_the_kinds_that_are_read(tmp_path):
    with pytest.raises(InputError, match=r"a\.jpg: files of this kind are not read\. .*\.pdf"):
        read(write(tmp_path / "a.jpg", "JFIF"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'id,text,n\n1,Tea.,1\n2,,2\n3,"  ",3\n,,\n4,Milk.,4\n'),
        (
            "a.jsonl",
            '{"id": 1, "text": "Tea."}\n{"text": ""}\n\n{"text": "\\t"}\n{"id": 4, "text": "Milk."}\n',
        ),
        ("a.tsv", "1\tTea.\n\n2\t\n2\t \t\n4\tMilk.\n\n"),
    ],
)
def test_rows_without_a_text_are_left_out_and_counted(tmp_path, name, content):
    unread = Unread()
    passages = list(read_passages(write(tmp_path / name, content), unread=unread))
    assert [(passage.doc_id, passage.text) for passage in passages] == [("1", "Tea."), ("4", "Milk.")]
    assert (unread.blank_rows, unread.files, unread.kinds) == (2, {}, {})


def test_row_with_a_title_alone_is_a_passage(tmp_path):
    (passage,) = read(write(tmp_path / "a.csv", "id,title,text\n1,Tea,\n"))
    assert passage.text == "Tea"


def test_file_of_blank_rows_is_an_error(tmp_path):
    with pytest.raises(InputError, match="is empty"):
        read(write(tmp_path / "a.csv", "id,text\n1,\n2,\n"))


def test_a_single_path_may_stand_for_a_list(tmp_path):
    path = write(tmp_path / "a.md", "Text.")
    assert list(read_passages(str(path))) == read(path)


def test_lines_are_passages_named_by_their_number():
    assert [p.doc_id for p in read_lines(io.BytesIO(b"One.\n\n Two. \n"), name="stdin")] == ["1", "3"]


def test_no_lines_are_an_error():
    with pytest.raises(InputError, match="stdin: is empty"):
        list(read_lines(io.BytesIO(b"\n"), name="stdin"))


def test_passages_are_split_until_the_model_reads_each_to_its_end(tmp_path):
    text = "One two three four five six. " * 12 + "The end is here."
    write(tmp_path / "a.md", text)
    passages = [p.text for p in read_passages(tmp_path, fits=lambda passage: len(passage) <= 80)]
    assert max(map(len, passages)) <= 80
    assert " ".join(passages).split() == text.split()


@pytest.mark.parametrize(
    ("column", "metadata"),
    [('"{""cat"": 1}"', {"cat": 1}), ("plain", {"metadata": "plain"}), ("[1]", {"metadata": "[1]"})],
)
def test_csv_metadata_is_an_object_or_a_text(tmp_path, column, metadata):
    path = write(tmp_path / "a.csv", f"id,text,metadata\na,Tea,{column}\n")
    assert read(path) == [Passage("a", "Tea", metadata)]


@pytest.mark.parametrize("given", ["", 3, None, b"a.md"])
def test_input_that_is_no_path_is_an_error(given):
    with pytest.raises(InputError, match="an input is"):
        list(read_passages([given]))


@pytest.mark.parametrize("header", ["", "id\ttext\ttitle\n", "pid\ttext\ttitle\n"])
def test_tsv_has_ids_texts_and_titles(tmp_path, header):
    path = tmp_path / "collection.tsv"
    path.write_text(f"{header}7\tSteep it.\tTea\n8\tDrink it.\n", encoding="utf-8-sig")
    passages = [(passage.doc_id, passage.text) for passage in read_passages(path)]
    assert passages == [("7", "Tea Steep it."), ("8", "Drink it.")]


def test_tsv_columns_may_have_names(tmp_path):
    path = write(tmp_path / "rows.tsv", "year\tpid\tcontents\n1990\ta\tSteep it.\n")
    assert read(path) == [Passage("a", "Steep it.", {"year": 1990})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id\ttext\n1\ta\tb\n", r"rows\.tsv:2: has 3 fields, the header has 2"),
        ("1\ta\n2\n", r"rows\.tsv:2: must have an id, a tab and a text"),
    ],
)
def test_wrong_tsv_line_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "rows.tsv", content))
