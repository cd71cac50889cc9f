"""Folders that are not an index, and indexes whose files are damaged: one sentence, naming the file."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zlib
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from killing import unit_rows
from test_index import DIM, whole_rows

from mlx_colbert.errors import IndexDamagedError, IndexFormatError, IndexNotFoundError, IndexStoreError
from mlx_colbert.index import Index, SearchParams
from mlx_colbert.index.catalog.digests import row_digest, tables_digest
from mlx_colbert.index.storage import codec_files, segment_files
from mlx_colbert.types import Source


@pytest.fixture
def path(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a", "b"], [whole_rows(0, 400), whole_rows(1, 400)], ["one", "two"])
    return tmp_path / "index"


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    path = tmp_path_factory.mktemp("compressed") / "index"
    with Index.create(path, DIM, nbits=8, exact_tokens=100, backend="numpy") as index:
        # Rows of very different lengths: their gains are no bytes.
        rows = [unit_rows(i, 1 + i % 3) / (1 + 50 * (i % 2)) for i in range(300)]
        index.add([f"d{i}" for i in range(300)], rows, ["word"] * 300, [{"n": i} for i in range(300)])
        index.delete(["d1"])
        index.add(["later"], [unit_rows(2)])
    return path


@pytest.fixture
def compressed_path(compressed, tmp_path):
    return shutil.copytree(compressed, tmp_path / "compressed")


def run_sql(path, *statements):
    with closing(sqlite3.connect(path / "catalog.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.executescript(statement)
        with suppress(sqlite3.Error, TypeError):
            sign(connection)


def sign(connection):
    """Gives all rows the digests of what is in them, as if a writer had made the mistake."""
    for table in ("passages", "contents", "sources"):
        for number, *row in connection.execute(f"SELECT rowid, * FROM {table}").fetchall():
            digest = row_digest(*row[:-1])
            connection.execute(f"UPDATE {table} SET digest = ? WHERE rowid = ?", (digest, number))
    digest = json.dumps(tables_digest(lambda query: connection.execute(query).fetchall()))
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('digest', ?)", (digest,))


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
        "vectors.npy: is not a regular file",
    ),
    "header altered": (lambda f: flip(f / "vectors.npy", 30), "vectors.npy: its .npy header differs"),
    "lengths header altered": (lambda f: flip(f / "doc_lengths.npy", 3), "doc_lengths.npy: its .npy header"),
    "lengths altered": (
        lambda f: flip(f / "doc_lengths.npy", 128),
        "doc_lengths.npy: its checksum differs",
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


FILE_DAMAGE = {
    "cut": (lambda file: os.truncate(file, file.stat().st_size - 1), r"has \d+ bytes"),
    "empty": (lambda file: os.truncate(file, 0), "has 0 bytes"),
    "longer": (lambda file: os.truncate(file, file.stat().st_size + 1), r"has \d+ bytes"),
    "missing": (lambda file: file.unlink(), "is missing"),
    "folder": (lambda file: (file.unlink(), file.mkdir()), "is not a regular file"),
    "pipe": (lambda file: (file.unlink(), os.mkfifo(file)), "is not a regular file"),
    "header": (lambda file: flip(file, 30), "its .npy header differs"),
}
COMPRESSED, CODEC = Path("segment-000001"), Path("codec-000001")
COMPRESSED_FILES = [COMPRESSED / name for name in segment_files._COMPRESSED_FILES] + [
    CODEC / name for name in codec_files._FILES
]


@pytest.mark.parametrize("name", COMPRESSED_FILES, ids=str)
@pytest.mark.parametrize("damage", FILE_DAMAGE)
def test_damaged_file_of_a_compressed_index_is_named_on_open(compressed_path, name, damage):
    damage, message = FILE_DAMAGE[damage]
    damage(compressed_path / name)

    with pytest.raises(IndexDamagedError, match=f"{name}: {message}"):
        Index.open(compressed_path, backend="numpy")


@pytest.mark.parametrize(("folder", "name"), [(COMPRESSED, "doc_lengths"), (CODEC, "levels")])
def test_removed_folder_of_a_compressed_index_is_named_on_open(compressed_path, folder, name):
    shutil.rmtree(compressed_path / folder)

    with pytest.raises(IndexDamagedError, match=f"{folder}/{name}.npy: is missing"):
        Index.open(compressed_path)


SEARCHES = {
    "usual": SearchParams(),
    "few": SearchParams(n_probe=2, n_approximate=20, n_candidates=20),
    "exact": SearchParams(exact=True),
}


@pytest.mark.parametrize("name", [*COMPRESSED_FILES, Path("segment-000002/vectors.npy")], ids=str)
def test_altered_file_is_named_by_verify_and_not_passed_on(compressed_path, backend, name):
    file = compressed_path / name
    flip(file, file.stat().st_size - 1)
    before = sorted(compressed_path.rglob("*.npy"))

    try:
        with Index.open(compressed_path, backend=backend) as index:
            (problem,) = index.verify()
            for params in SEARCHES.values():
                # Other answers, or an error: nothing else.
                with suppress(IndexDamagedError):
                    assert len(index.search(unit_rows(5), 10, params=params)) == 10
            # Damaged rows or centroids that are written again would have a valid checksum.
            with pytest.raises(IndexDamagedError, match=f"{name}: its checksum differs"):
                index.compact(retrain=True)
    except IndexDamagedError as error:
        problem = str(error)
    assert str(name) in problem
    assert sorted(compressed_path.rglob("*.npy")) == before


def test_altered_codec_is_not_extended(compressed_path):
    with Index.open(compressed_path, backend="numpy") as index:
        flip(compressed_path / CODEC / "levels.npy", 130)
        with pytest.raises(IndexDamagedError, match=r"levels.npy: its checksum differs"):
            index.add(["new"], [unit_rows(1, 5000)])
        assert len(index) == 300


def overwrite(file, data_at, values):
    """Writes other values with their right checksum, as if a writer had made the mistake."""
    data = file.read_bytes()
    file.write_bytes((data[:data_at] + values.tobytes()).ljust(len(data), b"\0"))
    kind, number = file.parent.name.split("-")
    table = {"segment": "files", "codec": "codec_files"}[kind]
    changed = (
        f"SET crc32 = {zlib.crc32(file.read_bytes())} WHERE {kind} = {int(number)} AND name = '{file.name}'"
    )
    run_sql(file.parent.parent, f"UPDATE {table} {changed}")


@pytest.mark.parametrize("params", SEARCHES.values(), ids=SEARCHES)
def test_code_without_a_centroid_is_refused(compressed_path, backend, params):
    with Index.open(compressed_path, backend=backend) as index:
        too_large = index.info().n_centroids
    overwrite(compressed_path / COMPRESSED / "codes.npy", 16384, np.full(600, too_large, np.uint8))

    with Index.open(compressed_path, backend=backend) as index:
        with pytest.raises(IndexDamagedError, match=r"codes.npy: it has a code without a centroid"):
            index.search(unit_rows(1), params=params)


@pytest.mark.parametrize("ordinal", [300, 2**16 - 1])  # that of the next segment, and none
@pytest.mark.parametrize("selection", [{}, {"filter": "n < 200"}])
def test_posting_of_a_document_that_does_not_exist_is_refused(compressed_path, backend, ordinal, selection):
    overwrite(compressed_path / COMPRESSED / "ivf_ordinals.npy", 16384, np.full(20, ordinal, np.uint16))

    with Index.open(compressed_path, backend=backend) as index:
        with pytest.raises(IndexDamagedError, match=r"ivf_ordinals.npy: it has a passage that does not"):
            index.search(unit_rows(1), params=SearchParams(n_probe=100, n_approximate=10), **selection)
        assert len(index.search(unit_rows(1), params=SearchParams(exact=True), **selection)) == 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 3e38])
def test_gain_that_cannot_be_is_refused(compressed_path, backend, value):
    overwrite(compressed_path / COMPRESSED / "gains.npy", 16384, np.full(600, value, "<f4"))

    with Index.open(compressed_path, backend=backend) as index:
        for params in SEARCHES.values():
            with pytest.raises(IndexDamagedError, match=r"gains.npy: it has a number that is out of range"):
                index.search(unit_rows(1), params=params)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("name", ["steps", "codebook", "rotation"])
def test_codec_with_a_number_that_cannot_be_is_refused(compressed_path, name, value):
    overwrite(compressed_path / CODEC / f"{name}.npy", 128, np.array([value], "<f4"))

    with pytest.raises(IndexDamagedError, match=f"{name}.npy: it has a number that is out of range"):
        Index.open(compressed_path)


LIES = {
    "UPDATE codecs SET n_centroids = n_centroids + 1": r"levels.npy: the catalog has \d+ bytes for it",
    "UPDATE codecs SET n_centroids = 0": "levels.npy: the catalog has an impossible size for it",
    "UPDATE codecs SET n_centroids = 'x'": "has more than one codec, or a codec with impossible values",
    "UPDATE codecs SET n_centroids = 1 << 62": r"levels.npy: the catalog has \d+ bytes for it",
    "UPDATE codecs SET nbits = 4": r"codebook.npy: the catalog has \d+ bytes for it",
    "UPDATE codecs SET nbits = 3": "levels.npy: the catalog has an impossible size for it",
    "UPDATE codecs SET outlier_distance = 'x'": "has more than one codec, or a codec with impossible values",
    "UPDATE codecs SET outlier_distance = -1": "has more than one codec, or a codec with impossible values",
    "UPDATE codecs SET codec = 9": "wrong label '.*/codec-000001' for codec 9",
    "INSERT INTO codecs VALUES (2, NULL, 8, 5, 0.5)": "has more than one codec, or a codec with impossible values",
    "DELETE FROM codecs": "codes.npy: the catalog has no codec for it",
    "DELETE FROM codec_files": "codec-000001: the catalog has the wrong file names for it",
    "UPDATE codec_files SET n_bytes = 'x' WHERE name = 'steps.npy'": "impossible size or checksum .* for file 'steps.npy'",
    "UPDATE files SET n_bytes = -5 WHERE name = 'codes.npy'": "codes.npy: the catalog has -5 bytes for it",
    "UPDATE segments SET storage = 'exact'": "segment-000001: the catalog has the wrong file names for it",
    "UPDATE segments SET storage = 'compressed'": "segment-000002: the catalog has the wrong file names for it",
    "UPDATE segments SET n_tokens = n_tokens + 1": "doc_lengths.npy: the sum of its lengths is not",
    "UPDATE segments SET n_deleted_tokens = 100000": "impossible counts .* for segment 1",
    "UPDATE meta SET value = '3' WHERE name = 'nbits'": "has no valid settings",
    "UPDATE meta SET value = '\"4\"' WHERE name = 'exact_tokens'": "has no valid settings",
    "UPDATE meta SET value = '-1' WHERE name = 'exact_tokens'": "has no valid settings",
    "UPDATE meta SET value = 'true' WHERE name = 'dim'": "has no valid settings",
    "DROP TABLE codecs": "lacks the table 'codecs'",
}


@pytest.mark.parametrize("statement", LIES)
def test_catalog_that_lies_about_a_codec_is_refused(compressed_path, statement):
    run_sql(compressed_path, statement)

    with pytest.raises(IndexDamagedError, match=LIES[statement]):
        Index.open(compressed_path)


@pytest.mark.parametrize("value", ["99999", "-1", "'x'", "1 << 62"])
def test_document_that_its_segment_does_not_hold_is_refused(compressed_path, value):
    run_sql(compressed_path, f"UPDATE passages SET ordinal = {value} WHERE doc_id = 'd5'")

    with Index.open(compressed_path, backend="numpy") as index:
        with pytest.raises(IndexDamagedError, match=r"has a passage that is not in|location is not a number"):
            index.search(unit_rows(1), filter="n = 5")
        assert any("do not match its ordinals" in problem for problem in index.verify())


IDS = {
    "ids": lambda index: index.ids(),
    "iteration": list,
    "passages": lambda index: list(index.passages()),
    "passages of a source": lambda index: index.passages_of("notes/tea.md"),
    "hits": lambda index: index.search(np.ones((1, index.dim))),
    "deletion by filter": lambda index: index.delete(filter="not exists(n)"),
    "deletion by source": lambda index: index.delete(source="notes/tea.md"),
}


@pytest.mark.parametrize("read", IDS)
@pytest.mark.parametrize("value", ["NULL", "x'6162'"])
def test_id_that_is_not_text_is_refused_wherever_ids_are_read(tmp_path, value, read):
    path = tmp_path / "index"
    with Index.create(path, 8, backend="numpy") as index:
        tea = Source("notes/tea.md")
        index.add(["a", "b"], [unit_rows(0), unit_rows(1)], sources=[tea, tea])
    rename = "UPDATE sqlite_master SET sql = replace(sql, '{}', '{}') WHERE name = 'passages'"
    definitions = ("doc_id TEXT NOT NULL", "doc_id TEXT")
    for statement in (
        rename.format(*definitions),
        f"UPDATE passages SET doc_id = {value} WHERE doc_id = 'b'",
        rename.format(*reversed(definitions)),
    ):
        with closing(sqlite3.connect(path / "catalog.db")) as connection, connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(statement)

    with Index.open(path, backend="numpy") as index, pytest.raises(IndexDamagedError, match="passage"):
        IDS[read](index)


def test_id_of_an_old_format_that_is_not_text_is_refused(tmp_path):
    path = shutil.copytree(Path(__file__).parents[1] / "data" / "index-v1" / "index", tmp_path / "index")
    with closing(sqlite3.connect(path / "catalog.db")) as connection, connection:
        connection.execute("UPDATE documents SET doc_id = x'6162' WHERE document = 1")

    with Index.open(path, backend="numpy") as index:
        for read in (index.ids, lambda: index.search(np.ones((1, index.dim)), 100)):
            with pytest.raises(IndexDamagedError, match="impossible id or location for passage b'ab'"):
                read()


@pytest.mark.parametrize("value", ["1.5", "'x'", "1 << 62"])
def test_location_that_a_filter_selects_must_be_a_whole_number(path, value):
    run_sql(path, f"UPDATE passages SET ordinal = {value} WHERE doc_id = 'a'")

    with Index.open(path, backend="numpy") as index, pytest.raises(IndexDamagedError):
        index.search(np.ones((1, index.dim)), filter="not exists(n)")


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
        ("DELETE FROM passages WHERE doc_id = 'a'", "do not match its ordinals"),
        (
            "UPDATE passages SET n_tokens = 399 WHERE doc_id = 'a'",
            "vector count of a segment does not match its passages",
        ),
        ("DELETE FROM keywords_docsize WHERE id = 1", "keywords do not match the texts"),
        ("INSERT INTO files VALUES (9, 'x.npy', 1, 1)", "a file belongs to no segment"),
        ("INSERT INTO codec_files VALUES (9, 'x.npy', 1, 1)", "a file belongs to no codec"),
        (
            "UPDATE segments SET n_deleted = 1; INSERT INTO tombstones VALUES (1, 0)",
            "a live passage has a tombstone",
        ),
        ("DELETE FROM contents WHERE passage = 1", "no contents"),
        ("UPDATE passages SET segment = 9 WHERE doc_id = 'a'", "a segment that does not exist"),
    ],
)
def test_verify_finds_a_catalog_that_contradicts_itself(path, statement, problem):
    run_sql(path, statement)

    with Index.open(path) as index:
        assert any(problem in found for found in index.verify())


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE segments SET n_deleted = 1", "wrong tombstones for segment 1"),
        ("UPDATE segments SET n_deleted = -1", "impossible counts .* for segment 1"),
        ("UPDATE segments SET n_tokens = 'x'", "impossible counts .* for segment 1"),
        ("INSERT INTO tombstones VALUES (1, 0)", "wrong tombstones for segment 1"),
        ("UPDATE segments SET n_deleted = 1; INSERT INTO tombstones VALUES (1, 99)", "wrong tombstones"),
        ("PRAGMA user_version = 0", "has the format 0"),
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
    run_sql(path, "DELETE FROM passages WHERE doc_id = 'a'")

    with (
        Index.open(path) as index,
        pytest.raises(IndexDamagedError, match=r"catalog.db: does not have all passages"),
    ):
        index.search(np.ones((1, DIM)))


@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        (
            "PRAGMA user_version = 5",
            IndexFormatError,
            r"format 5 is newer than this version reads \(4\). Upgrade",
        ),
        (
            "PRAGMA application_id = 1",
            IndexStoreError,
            "is not an index: catalog.db belongs to another program",
        ),
        ("UPDATE segments SET storage = 'new'", IndexFormatError, "storage 'new' is not known"),
        ("DELETE FROM meta WHERE name = 'dim'", IndexDamagedError, "has no valid settings"),
        (
            "UPDATE meta SET value = 'x' WHERE name = 'dim'",
            IndexDamagedError,
            "has no valid settings",
        ),
        ("DROP TABLE files", IndexDamagedError, "lacks the table 'files' that is part of format 4"),
        ("DELETE FROM files", IndexDamagedError, "the catalog has the wrong file names for it"),
        (
            "UPDATE files SET name = '../' || name",
            IndexDamagedError,
            "the catalog has the wrong file names for it",
        ),
    ],
)
def test_unusable_catalog_is_refused(path, statement, error, message):
    run_sql(path, statement)

    with pytest.raises(error, match=message):
        Index.open(path)


def test_format_that_became_newer_meanwhile_is_not_written(path):
    with Index.open(path, backend="numpy") as index:
        run_sql(path, "PRAGMA user_version = 5")
        with pytest.raises(IndexFormatError, match="format 5 is newer"):
            index.add(["c"], [whole_rows(0)])
    run_sql(path, "PRAGMA user_version = 4")
    with Index.open(path, backend="numpy") as index:
        assert (len(index), index.verify()) == (2, [])


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

    with pytest.raises(
        IndexNotFoundError, match=r"does not exist. Make it with mlx-colbert index, or Index.create"
    ):
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
    segments = {"segment-000001", "segment-000002"}
    assert names == {"catalog.db", "last-commit", *segments, "segment-notes", "notes.txt"}
    assert (outside / "file").read_text() == "keep"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE contents SET text = x'00ff80'",
        "UPDATE contents SET metadata = '[1]'",
        "UPDATE contents SET metadata = 5",
        "UPDATE contents SET metadata = '{bad'",
        "UPDATE passages SET ordinal = x'00' WHERE doc_id = 'a'",
    ],
)
def test_catalog_values_of_another_type_are_damage(path, statement):
    run_sql(path, statement)

    with Index.open(path, backend="numpy") as index:
        assert index.verify() != []
        with pytest.raises(IndexDamagedError, match=r"catalog.db"):
            index.search(whole_rows(0))
        with pytest.raises(IndexDamagedError, match=r"catalog.db"):
            index.search_keywords("one")


def test_format_that_became_newer_meanwhile_is_not_read(path):
    with Index.open(path, backend="numpy") as index:
        run_sql(path, "PRAGMA user_version = 5")
        for ask in (lambda: index.search(whole_rows(0)), lambda: index.get("a"), lambda: len(index)):
            with pytest.raises(IndexFormatError, match="format 5 is newer than this version reads"):
                ask()
