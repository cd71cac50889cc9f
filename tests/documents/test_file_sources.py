"""What files are called in an index, and where passages stand in them."""

import hashlib
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_colbert.documents.files import read_files, read_passages
from mlx_colbert.documents.sources import FolderLabels, content_hash


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def ids(*inputs, labels=None):
    files = read_files(inputs, labels=labels)
    return [passage.doc_id for file in files for _, passage in file.passages()]


@pytest.fixture
def notes(tmp_path):
    write(tmp_path / "home" / "notes" / "README.md", "One.")
    write(tmp_path / "home" / "notes" / "sub" / "a.txt", "Two.")
    write(tmp_path / "work" / "notes" / "README.md", "Three.")
    return tmp_path / "home" / "notes"


def test_folders_of_one_name_are_told_apart(notes, tmp_path):
    other = tmp_path / "work" / "notes"

    assert ids(notes, other) == ["notes/README.md#1", "notes/sub/a.txt#1", "notes-2/README.md#1"]


def test_one_folder_has_one_name_however_it_is_given(notes, tmp_path, monkeypatch):
    expected = ids(notes)

    monkeypatch.chdir(notes)
    assert ids(".") == ids("../notes") == expected
    (tmp_path / "link").symlink_to(notes)
    assert ids(tmp_path / "link") == expected
    assert ids("README.md") == expected[:1]


def test_file_is_named_by_the_folder_that_the_index_knows(notes):
    labels = FolderLabels({str(notes): "notes"})

    assert (
        ids(notes / "sub", labels=labels)
        == ids(notes / "sub" / "a.txt", labels=labels)
        == ["notes/sub/a.txt#1"]
    )


def test_label_that_the_index_has_given_is_not_given_again(notes):
    labels = FolderLabels({"/elsewhere/notes": "notes"})

    assert ids(notes, labels=labels) == ["notes-2/README.md#1", "notes-2/sub/a.txt#1"]


def test_names_are_composed_however_the_disk_has_them(tmp_path):
    name = unicodedata.normalize("NFD", "йод.md")
    write(tmp_path / "é" / name, "Text.")

    (passage,) = read_passages(tmp_path / "é")

    assert passage.doc_id == unicodedata.normalize("NFC", f"é/{name}#1")
    assert passage.metadata == {"path": "йод.md", "kind": "markdown"}


def test_source_says_what_the_file_is(notes):
    (passage,) = read_passages(notes / "README.md")

    source, status = passage.source, (notes / "README.md").stat()
    assert (source.uri, source.folder) == ("notes/README.md", str(notes.resolve()))
    assert source.content_hash == content_hash(hashlib.sha256(b"One.").hexdigest())
    assert (source.modified_ns, source.n_bytes) == (status.st_mtime_ns, 4)


def test_passages_of_a_text_say_their_lines(tmp_path):
    words = " ".join(["word"] * 100)
    path = write(tmp_path / "a.md", f"\n\n# Title\r\n\r\n{words}\n\n{words}\nlast\n")

    positions = [passage.position for passage in read_passages(path)]

    assert positions == [{"lines": [n, n + n // 7], "headings": ["Title"]} for n in (5, 7)]


def test_rows_say_their_lines(tmp_path):
    csv = write(tmp_path / "a.csv", 'id,text\na,"One\ntwo"\n\nb,Three\n')
    jsonl = write(tmp_path / "a.jsonl", '{"id": "c", "text": "x"}\n\n{"id": "d", "text": "y"}\n')

    lines = [passage.position["lines"] for passage in read_passages([csv, jsonl])]

    # A reader of CSV looks for the next row behind an empty line.
    assert lines == [[2, 3], [5, 5], [1, 1], [3, 3]]


@example(text="a漢a a 。。a 。a漢。。。a")
@example(text="a a a a \n\na")
@given(text=st.text(st.sampled_from("ab .!\n\t漢。"), min_size=1, max_size=200).filter(str.strip))
def test_lines_of_a_passage_hold_its_text(tmp_path_factory, text):
    path = write(tmp_path_factory.getbasetemp() / "lines.txt", text)

    for passage in read_passages(path, fits=lambda part: len(part) < 9):
        first, last = passage.position["lines"]
        lines = "\n".join(line.rstrip() for line in text.split("\n")[first - 1 : last])
        shown = "\n".join(line.rstrip() for line in passage.text.split("\n"))
        assert shown in re.sub("\n{3,}", "\n\n", lines)
