"""A folder with a file of each kind, and files that cannot be read."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from file_kinds import MIXED, mixed, passages

from mlx_colbert.documents import file_passages as reading
from mlx_colbert.documents import kinds
from mlx_colbert.documents.file_passages import read_file
from mlx_colbert.documents.files import read_passages
from mlx_colbert.documents.kinds import KINDS, kind_of
from mlx_colbert.documents.unread import Unread
from mlx_colbert.errors import InputError, MissingExtraError


def write(path, content):
    path.write_bytes(content)
    return path


def test_folder_gives_every_kind_and_names_what_cannot_be_read():
    pytest.importorskip("pypdfium2")
    unread = Unread()
    found = list(read_passages(MIXED, unread=unread))
    assert {passage.metadata["kind"] for passage in found} == {kind.name for kind in KINDS} - {"rows"}
    assert [passage.doc_id for passage in found if "letter" in passage.doc_id] == ["mixed/letter.eml#1"]
    assert {Path(path).name: reason for path, reason in unread.files.items()} == {
        "binary.txt": "is not text: it has NUL characters.",
        "scan.pdf": "has no text, only images. Recognise its text first (OCR).",
    }
    assert unread.kinds == {".csv": 2, ".jsonl": 1} and not unread.waiting


@pytest.mark.parametrize("name", ["latin1.txt", "utf16.txt", "bom.md"])
def test_encodings_are_seen(name):
    ((text, _),) = mixed(name)
    assert text == "Café crème à cinq heures."


FRENCH = "Café crème à cinq heures."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", FRENCH),
        ("a.rst", FRENCH),
        ("a.txt", FRENCH),
        ("a.html", f"<p>{FRENCH}"),
        ("a.py", f"# {FRENCH}"),
        ("a.csv", f"a\r\n{FRENCH}"),
        ("a.ipynb", '{"cells": [{"cell_type": "raw", "source": "' + FRENCH + '"}]}'),
    ],
)
def test_each_text_kind_is_read_in_each_encoding(name, text, encoding):
    (found,) = passages(name, text.encode(encoding))
    assert FRENCH in found.text


@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.txt", "a.html", "a.py", "a.csv", "a.jsonl", "a.ipynb"])
def test_text_with_nul_characters_is_binary(name):
    with pytest.raises(InputError, match="NUL"):
        passages(name, b"tea \0 cup")


def test_files_that_wait_for_an_extra_are_counted(tmp_path, monkeypatch):
    write(tmp_path / "a.pdf", b"%PDF")
    write(tmp_path / "b.pdf", b"%PDF")
    write(tmp_path / "c.md", b"Tea.")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    unread = Unread()
    assert len(list(read_passages(tmp_path, unread=unread))) == 1
    assert (unread.waiting, unread.files) == ({"files": 2}, {})
    with pytest.raises(MissingExtraError):
        list(read_passages(tmp_path / "a.pdf", unread=unread))


@pytest.mark.parametrize("name", ["a.md", "a.csv"])
def test_file_of_more_bytes_than_the_limit_is_refused_unread(tmp_path, name):
    path = write(tmp_path / name, b"text\n" + b"x" * 96)
    with pytest.raises(InputError, match=rf"{name}: is longer than 100 bytes"):
        list(read_passages(path, max_file_bytes=100))
    assert len(list(read_passages(path, max_file_bytes=101))) == 1
    with pytest.raises(InputError, match="max_file_bytes is 0"):
        list(read_passages(path, max_file_bytes=0))


def test_limit_may_be_higher_than_that_of_the_kind(tmp_path, monkeypatch):
    path = write(tmp_path / "a.md", b"word " * 20)
    monkeypatch.setitem(kinds._BY_SUFFIX, ".md", replace(kind_of("a.md"), max_bytes=99))
    with pytest.raises(InputError, match="is longer than 99 bytes"):
        list(read_passages(path))
    assert len(list(read_passages(path, max_file_bytes=100))) == 1


def test_large_file_of_a_folder_is_named(tmp_path):
    write(tmp_path / "a.md", b"x" * 101)
    write(tmp_path / "b.md", b"Tea.")
    unread = Unread()
    assert len(list(read_passages(tmp_path, unread=unread, max_file_bytes=100))) == 1
    assert list(unread.files) == [str(tmp_path / "a.md")]


def test_folder_and_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.md")
    with pytest.raises(InputError, match="is not a regular file"):
        read_file(tmp_path / "pipe.md", max_bytes=10)
    with pytest.raises((InputError, OSError)):
        read_file(tmp_path, max_bytes=10)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EDEADLK])
def test_locked_file_is_told_apart(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "refused")

    path = write(tmp_path / "a.md", b"Tea.")
    monkeypatch.setattr(reading.os, "open", refuse)
    with pytest.raises(InputError, match="is locked, or cannot be fetched from the cloud now"):
        read_file(path, max_bytes=10)


def test_file_in_the_cloud_alone_is_not_fetched(tmp_path, monkeypatch):
    class Status:
        st_mode, st_size, st_flags = 0o100644, 4, 0x40000020

    path = write(tmp_path / "a.md", b"Tea.")
    monkeypatch.setattr(reading.os, "fstat", lambda descriptor: Status)
    with pytest.raises(InputError, match="is in the cloud and not on this machine"):
        read_file(path, max_bytes=10)


def test_file_of_no_kind_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="files of this kind are not read"):
        list(read_passages(write(tmp_path / "a.jpg", b"")))
    assert kind_of("a.jpg") is None
