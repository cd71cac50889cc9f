"""Folders that are not an index, and indexes whose files are damaged: one sentence, naming the file."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from test_index import DIM, whole_rows

from mlx_colbert.errors import IndexDamagedError, IndexFormatError, IndexNotFoundError, IndexStoreError
from mlx_colbert.index import Index


@pytest.fixture
def path(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a", "b"], [whole_rows(0, 400), whole_rows(1, 400)], ["one", "two"])
    return tmp_path / "index"


def run_sql(path, *statements):
    with closing(sqlite3.connect(path / "catalog.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.executescript(statement)


def flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "vectors cut": (lambda f: os.truncate(f / "vectors.npy", 20_000), "vectors.npy: has 20000 bytes"),
    "vectors empty": (lambda f: os.truncate(f / "vectors.npy", 0), "vectors.npy: has 0 bytes"),
    "vectors longer": (lambda f: os.truncate(f / "vectors.npy", 60_000), "vectors.npy: has 60000 bytes"),
    "vectors missing": (lambda f: (f / "vectors.npy").unlink(), "vectors.npy: is missing"),
    "vectors a folder": (
        lambda f: ((f / "vectors.npy").unlink(), (f / "vectors.npy").mkdir()),
        "vectors.npy: is no regular file",
    ),
    "header altered": (lambda f: flip(f / "vectors.npy", 30), "vectors.npy: its .npy header differs"),
    "lengths header altered": (lambda f: flip(f / "doc_lengths.npy", 3), "doc_lengths.npy: its .npy header"),
    "lengths altered": (
        lambda f: flip(f / "doc_lengths.npy", 128),
        "doc_lengths.npy: its lengths do not sum",
    ),
    "folder missing": (shutil.rmtree, "doc_lengths.npy: is missing"),
    "folder a file": (lambda f: (shutil.rmtree(f), f.write_text("")), "doc_lengths.npy: is missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_segment_is_named_on_open(path, name):
    damage, message = DAMAGE[name]
    damage(path / "segment-000001")

    with pytest.raises(IndexStoreError, match=message) as caught:
        Index.open(path)

    assert isinstance(caught.value, IndexDamagedError)


def test_verify_finds_an_altered_vector_that_open_does_not(path):
    flip(path / "segment-000001" / "vectors.npy", 20_000)

    with Index.open(path) as index:
        (problem,) = index.verify()

    assert "segment-000001/vectors.npy: its checksum differs" in problem


def test_damaged_rows_are_not_merged(path):
    with Index.open(path) as index:
        for i in range(6):
            index.add([str(i)], [whole_rows(i)])
        flip(path / "segment-000001" / "vectors.npy", 20_000)

        with pytest.raises(IndexDamagedError, match="checksum differs"):
            index.add(["6"], [whole_rows(6)])
        assert len(index) == 8


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM documents WHERE doc_id = 'a'", "documents and tombstones are not its ordinals"),
        (
            "UPDATE segments SET n_deleted = 1; INSERT INTO tombstones VALUES (1, 0)",
            "a live document has a tombstone",
        ),
        ("DELETE FROM contents WHERE document = 1", "no contents"),
        ("UPDATE documents SET segment = 9 WHERE doc_id = 'a'", "a segment that does not exist"),
    ],
)
def test_verify_finds_a_catalog_that_contradicts_itself(path, statement, problem):
    run_sql(path, statement)

    with Index.open(path) as index:
        assert any(problem in found for found in index.verify())


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE segments SET n_deleted = 1", "tombstones that are not segment 1's"),
        ("UPDATE segments SET n_deleted = -1", "says .* of segment 1"),
        ("UPDATE segments SET n_tokens = 'x'", "says .* of segment 1"),
        ("INSERT INTO tombstones VALUES (1, 0)", "tombstones that are not segment 1's"),
        ("UPDATE segments SET n_deleted = 1; INSERT INTO tombstones VALUES (1, 99)", "tombstones that"),
        ("PRAGMA user_version = 0", "says format 0"),
    ],
)
def test_catalog_that_contradicts_itself_is_refused_on_open(path, statement, problem):
    run_sql(path, statement)

    with pytest.raises(IndexDamagedError, match=problem):
        Index.open(path)


def test_metadata_that_is_no_json_is_named_when_it_is_read(path):
    run_sql(path, "UPDATE contents SET metadata = '{bad'")

    with Index.open(path) as index, pytest.raises(IndexDamagedError, match="metadata that is not JSON"):
        index.get("a")


def test_search_that_misses_a_document_says_so(path):
    run_sql(path, "DELETE FROM documents WHERE doc_id = 'a'")

    with Index.open(path) as index, pytest.raises(IndexDamagedError, match=r"catalog.db: lacks a document"):
        index.search(np.ones((1, DIM)))


@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        (
            "PRAGMA user_version = 3",
            IndexFormatError,
            r"format 3 is newer than this version reads \(2\). Upgrade",
        ),
        (
            "PRAGMA application_id = 1",
            IndexStoreError,
            "is not an index: catalog.db belongs to another program",
        ),
        ("UPDATE segments SET codec = 'new'", IndexFormatError, "codec 'new' is not known"),
        ("DELETE FROM meta WHERE name = 'dim'", IndexDamagedError, "does not say dim"),
        (
            "UPDATE meta SET value = 'x' WHERE name = 'dim'",
            IndexDamagedError,
            "does not say dim",
        ),
        ("DROP TABLE files", IndexDamagedError, "no such table: files"),
        ("DELETE FROM files", IndexDamagedError, "the catalog does not name its files"),
        ("UPDATE files SET name = '../' || name", IndexDamagedError, "the catalog does not name its files"),
    ],
)
def test_unusable_catalog_is_refused(path, statement, error, message):
    run_sql(path, statement)

    with pytest.raises(error, match=message):
        Index.open(path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"garbage" * 1000, IndexDamagedError, "catalog.db: file is not a database"),
        (b"", IndexStoreError, "is not an index: catalog.db belongs to another program, or is empty"),
    ],
)
def test_replaced_catalog_is_refused(path, content, error, message):
    (path / "catalog.db").write_bytes(content)

    with pytest.raises(error, match=message):
        Index.open(path)


def test_overwritten_pages_of_the_catalog_are_refused(path):
    data = bytearray((path / "catalog.db").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (path / "catalog.db").write_bytes(data)

    with pytest.raises(IndexDamagedError, match=r"catalog.db: database disk image is malformed"):
        Index.open(path)


def test_what_is_not_an_index_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")

    with pytest.raises(IndexNotFoundError, match=r"does not exist. Make it with Index.create"):
        Index.open(tmp_path / "missing")
    for name in ("folder", "file"):
        with pytest.raises(IndexStoreError, match=r"is not an index: it is not a folder with a catalog.db"):
            Index.open(tmp_path / name)


def test_only_segment_folders_that_no_row_names_are_collected(path, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("keep")
    (path / "segment-000777").symlink_to(outside)
    (path / "segment-000007.tmp").mkdir()
    (path / "segment-000007.tmp" / "link").symlink_to(outside)
    (path / "segment-000008").mkdir()
    (path / "segment-notes").mkdir()
    (path / "notes.txt").write_text("keep")

    with Index.open(path) as index:
        index.add(["c"], [whole_rows(2)])

    names = {file.name for file in path.iterdir()}
    assert names == {"catalog.db", "segment-000001", "segment-000002", "segment-notes", "notes.txt"}
    assert (outside / "file").read_text() == "keep"
