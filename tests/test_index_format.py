"""FORMAT.md is true, and an index of format 1 stays readable."""

from __future__ import annotations

import re
import shutil
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert.index import Index, schema, segment

FORMAT = Path(schema.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
FIXTURE = Path(__file__).parent / "data" / "index-v1" / "index"


@pytest.fixture
def path(tmp_path):
    # A copy, since SQLite writes its companions beside a database that it reads.
    return shutil.copytree(FIXTURE, tmp_path / "index")


def test_index_of_format_1_is_opened_searched_and_changed(path, backend):
    with Index.open(path, backend=backend, model={"source": "fixture", "fingerprint": "1"}) as index:
        hits = index.search(np.array([[0, 3, 2, 1.0]]))
        assert [(hit.doc_id, hit.score, hit.text, hit.metadata) for hit in hits] == [
            ("a", 3.0, "first", {"n": 1}),
            ("ü", 3.0, None, None),
            ("b", 0.5, "second", None),
        ]
        assert (index.info().deleted, index.info().segments, index.verify()) == (1, 2, [])
        index.upsert(["c"], [np.eye(4)])
        assert (len(index), index.verify()) == (4, [])


def test_documented_tables_are_the_tables(path):
    (documented,) = re.findall(r"```sql\n(.*?)```", FORMAT, re.DOTALL)
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        rows = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql NOTNULL AND name != 'sqlite_sequence'"
        )
        stored = "".join(f"{sql};\n" for (sql,) in rows)

    assert documented == schema.SCHEMA.lstrip()
    assert documented == stored


def test_documented_pragmas_are_set(path):
    documented = dict(
        re.findall(r"^\| `(application_id|user_version|journal_mode)` \| (\w+)", FORMAT, re.MULTILINE)
    )
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        stored = {
            name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]).upper() for name in documented
        }

    assert documented == stored
    assert int(documented["application_id"]).to_bytes(4, "big") == b"MLXC"
    assert len(stored) == 3


def test_documented_files_are_the_files_byte_by_byte(path):
    documented = {
        name: (int(end), dtype)
        for name, end, dtype in re.findall(r"^\| `(\w+\.npy)` \| (\d+) \| `(.*?)`", FORMAT, re.M)
    }
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        files = connection.execute("SELECT segment, name, n_bytes, crc32 FROM files").fetchall()
        shapes = dict(connection.execute("SELECT segment, n_documents || ' ' || n_tokens FROM segments"))
    assert {name for _, name, _, _ in files} == set(documented)

    for number, name, n_bytes, crc32 in files:
        data = (path / f"segment-{number:06d}" / name).read_bytes()
        end, dtype = documented[name]
        n_documents, n_tokens = map(int, shapes[number].split())
        shape = f"({n_documents},)" if name == "doc_lengths.npy" else f"({n_tokens}, 4)"
        text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
        prefix = b"\x93NUMPY\x01\x00" + (end - 10).to_bytes(2, "little")
        assert data[:end] == prefix + text.encode().ljust(end - 11) + b"\n"
        assert (len(data), zlib.crc32(data)) == (n_bytes, crc32)
    assert (segment.LENGTHS_HEADER_BYTES, segment.VECTORS_HEADER_BYTES) == (128, 16384)


def test_numpy_and_sqlite_alone_find_a_document(path):
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        number, ordinal = connection.execute(
            "SELECT segment, ordinal FROM documents WHERE doc_id = 'ü'"
        ).fetchone()

    folder = path / f"segment-{number:06d}"
    ends = np.cumsum(np.load(folder / "doc_lengths.npy"))
    rows = np.load(folder / "vectors.npy", max_header_size=16384)[ends[ordinal - 1] : ends[ordinal]]

    np.testing.assert_array_equal(rows, np.eye(4)[1:])
