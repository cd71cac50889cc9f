"""FORMAT.md is true, and indexes of every format stay readable."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from killing import unit_rows

from mlx_colbert.errors import IndexFormatError, InputError
from mlx_colbert.index import Index, SearchParams, settings
from mlx_colbert.index.catalog import keywords, schema, signs
from mlx_colbert.index.catalog.keywords import searchable_text
from mlx_colbert.index.storage import codec_files, files, segment
from mlx_colbert.index.writing import merge_policy
from mlx_colbert.types import Source

FORMAT = Path(schema.__file__).parents[1].joinpath("FORMAT.md").read_text(encoding="utf-8")
DATA = Path(__file__).parents[1] / "data"
MODEL_1, MODEL_2, MODEL_3, MODEL_4 = ({"source": "fixture", "fingerprint": version} for version in "1234")
AXES = np.eye(8, dtype=np.float32)[:3]


@pytest.fixture
def path_1(tmp_path):
    # A copy, since SQLite writes its companions beside a database that it reads.
    return shutil.copytree(DATA / "index-v1" / "index", tmp_path / "index-1")


@pytest.fixture
def path_2(tmp_path):
    shutil.unpack_archive(DATA / "index-v2" / "index.zip", tmp_path / "index-2")
    return tmp_path / "index-2"


@pytest.fixture
def path_3(tmp_path):
    shutil.unpack_archive(DATA / "index-v3" / "index.zip", tmp_path / "index-3")
    return tmp_path / "index-3"


@pytest.fixture
def path_4(tmp_path):
    shutil.unpack_archive(DATA / "index-v4" / "index.zip", tmp_path / "index-4")
    return tmp_path / "index-4"


def rows_of(path, sql):
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        return connection.execute(sql).fetchall()


def bytes_of(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def check_format_1(index):
    hits = index.search(np.array([[0, 3, 2, 1.0]]))
    assert [(hit.doc_id, hit.score, hit.text, hit.metadata) for hit in hits] == [
        ("a", 3.0, "first", {"n": 1}),
        ("ü", 3.0, None, None),
        ("b", 0.5, "second", None),
    ]
    assert (index.info().deleted, index.info().segments, index.verify()) == (1, 2, [])


def test_index_of_format_1_is_searched_without_being_changed(path_1, backend):
    with Index.open(path_1, backend=backend, model=MODEL_1) as index:
        check_format_1(index)
        assert [hit.doc_id for hit in index.search(np.eye(4), filter="n = 1")] == ["a"]
        assert [hit.doc_id for hit in index.search(np.eye(4), doc_ids=["b", "ü"])] == ["ü", "b"]
        with pytest.raises(IndexFormatError, match="format 1 has no keywords"):
            index.search_keywords("first")
        assert (index.info().format_version, index.info().nbits) == (1, 4)

    assert bytes_of(path_1) == bytes_of(DATA / "index-v1" / "index")


CHANGES = {
    "add": lambda index: index.add(["c"], [np.eye(4)], ["word"]),
    "upsert": lambda index: index.upsert(["a"], [np.eye(4)], ["word"]),
    "delete": lambda index: index.delete(["ü"]),
    "delete by filter": lambda index: index.delete(filter="n = 1"),
    "update metadata": lambda index: index.update_metadata(["a"], [None]),
    "compact": lambda index: index.compact(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_first_change_brings_format_1_up_to_date(path_1, change):
    with Index.open(path_1, backend="numpy") as reader, Index.open(path_1, backend="numpy") as index:
        assert (reader.info().format_version, reader.verify()) == (1, [])
        CHANGES[change](index)
        assert (index.info().format_version, index.verify()) == (4, [])
        assert [hit.doc_id for hit in index.search_keywords("second")] == ["b"]
        # One that was opened before follows.
        assert [hit.doc_id for hit in reader.search_keywords("second")] == ["b"]

    assert tables(path_1) == sorted(documented_tables())


def test_refused_change_leaves_format_1(path_1):
    with Index.open(path_1, backend="numpy") as index:
        with pytest.raises(InputError):
            index.delete(filter="n =")
        assert index.info().format_version == 1


def test_index_of_format_1_is_compressed_when_it_has_outgrown_an_exact_search(path_1, backend, monkeypatch):
    monkeypatch.setattr(settings, "EXACT_TOKENS", 9)
    with Index.open(path_1, backend=backend) as reader, Index.open(path_1, backend=backend) as index:
        index.add(["c"], [np.eye(4)])
        for opened in (index, reader):
            assert (opened.info().n_centroids, opened.info().compressed_passages) == (1, 4)
            assert opened.search(np.eye(4)[:1], 1)[0].score == pytest.approx(1, abs=0.05)
            assert opened.verify() == []


def test_index_of_format_1_with_an_odd_number_of_components_is_compressed(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "EXACT_TOKENS", 3)
    path = tmp_path / "index"
    Index.create(path, 3, nbits=8, backend="numpy").close()
    with closing(sqlite3.connect(path / "catalog.db", isolation_level=None)) as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE T%'"
        ).fetchall():
            if name in (
                "segments",
                "files",
                "codecs",
                "codec_files",
                "sources",
                "passages",
                "contents",
                "tombstones",
            ):
                connection.execute(f"DROP TABLE {name}")
        connection.execute("DROP TABLE keywords")
        for statement in schema.SCHEMA_1.split(";")[1:]:
            connection.execute(statement)
        connection.execute("DELETE FROM meta WHERE name NOT IN ('dim', 'model')")
        connection.execute("PRAGMA user_version = 1")

    with Index.open(path, backend="numpy") as index:
        index.add(["a"], [np.eye(3)[[0, 1, 2, 0]]])
        assert (index.info().nbits, index.info().n_centroids, index.verify()) == (8, 1, [])
        assert index.search(np.eye(3), 1)[0].score == pytest.approx(3, abs=0.05)


def check_format_2(index):
    hits = index.search(AXES, 4, params=SearchParams(exact=True))
    assert [hit.doc_id for hit in hits] == ["axes", "猫 𝄞", "d6", "d33"]
    # As version 0.1 scored them, up to the order of float32 sums.
    scores = [hit.score for hit in hits]
    np.testing.assert_allclose(scores, [3, 2.2360665, 2.0262966, 2.0165648], atol=2e-6)
    assert [hit.doc_id for hit in index.search_keywords("東京")] == ["d10", "d18", "d2", "d26", "d34"]
    assert [hit.doc_id for hit in index.search_keywords("replaced")] == ["ü"]
    assert index.get("猫 𝄞").metadata == {"n": 39, "tags": []}
    assert index.get("d5").metadata == {"n": 50}
    assert index.get("d6").text == "naïve café\0 after a NUL"
    assert [hit.doc_id for hit in index.search(AXES, filter="n < 0")] == ["ü"]
    info = index.info()
    assert (info.passages, info.deleted, info.segments) == (41, 3, 3)
    assert (info.n_centroids, info.compressed_passages, index.verify()) == (10, 40, [])


def test_index_of_format_2_is_searched_without_being_changed(path_2, backend):
    before = bytes_of(path_2)
    with Index.open(path_2, backend=backend, model=MODEL_2) as index:
        check_format_2(index)

    assert bytes_of(path_2) == before


def test_index_of_format_2_finds_words_beside_new_signs_after_a_change(path_2):
    with closing(sqlite3.connect(path_2 / "catalog.db")) as connection, connection:
        connection.execute("UPDATE contents SET text = 'paid\U0001f911' WHERE document = 2")
        connection.execute(
            "INSERT INTO keywords (keywords, rowid, text) VALUES ('delete', 2, 'Ein Übermaß an Öl')"
        )
        connection.execute("INSERT INTO keywords (rowid, text) VALUES (2, 'paid\U0001f911')")
    with Index.open(path_2, backend="numpy") as index:
        assert index.search_keywords("paid") == []
        index.update_metadata(["d0"], [{"n": 0}])

        assert [hit.doc_id for hit in index.search_keywords("paid")] == ["d1"]
        check_format_2(index)


def check_format_3(index):
    hits = index.search(AXES, 4, params=SearchParams(exact=True))
    assert [hit.doc_id for hit in hits] == ["axes", "猫 𝄞", "d6", "d33"]
    scores = [hit.score for hit in hits]
    np.testing.assert_allclose(scores, [3, 2.2360665, 2.0262966, 2.0165648], atol=2e-6)
    assert [hit.doc_id for hit in index.search_keywords("東京")] == ["d11", "d2", "d20", "d29"]
    for query in ("paid", "C++", '"1.2.3"'):
        assert [hit.doc_id for hit in index.search_keywords(query)] == ["d17", "d26", "d35", "d8"]
    (hit,) = index.search(AXES, doc_ids=["d7"])
    assert (hit.source, hit.position) == ("notes/йод.md", {"lines": [7, 9], "headings": ["Ä", "b"]})
    page, notes = index.sources()
    assert page == Source("https://example.org/page")
    assert notes == Source("notes/йод.md", "/home/ann/notes", "sha256:00ff", 1_700_000_000_000_000_000, 123)
    assert index.passages_of("notes/йод.md") == [f"d{i}" for i in range(1, 38, 3)]
    info = index.info()
    assert (info.passages, info.deleted, info.segments) == (41, 3, 3)
    assert (info.n_centroids, info.compressed_passages, index.verify()) == (10, 40, [])


def test_index_of_format_3_is_searched_without_being_changed(path_3, backend):
    before = bytes_of(path_3)
    with Index.open(path_3, backend=backend, model=MODEL_3) as index:
        check_format_3(index)

    assert bytes_of(path_3) == before


def test_index_of_format_4_is_searched_without_being_changed(path_4, backend):
    before = bytes_of(path_4)
    with Index.open(path_4, backend=backend, model=MODEL_4) as index:
        check_format_3(index)
        check_headings(index)

    assert bytes_of(path_4) == before


def check_headings(index):
    under = [f"d{i}" for i in range(1, 38, 3) if i % 9 != 7]
    assert sorted(hit.doc_id for hit in index.search_keywords('"Ä b"', 50)) == sorted(under)


@pytest.mark.parametrize("change", ["upsert", "compact"])
def test_index_of_format_3_finds_headings_after_a_change(path_3, change):
    with Index.open(path_3, backend="numpy") as index:
        assert index.search_keywords('"Ä b"', 50) == []
        index.upsert(["new"], [unit_rows(0)]) if change == "upsert" else index.compact()

        assert (index.info().format_version, index.verify()) == (4, [])
        check_headings(index)
        index.delete(source="notes/йод.md")
        assert (index.search_keywords('"Ä b"', 50), index.verify()) == ([], [])


@pytest.mark.parametrize("retrain", [False, True])
def test_index_of_format_2_is_changed(path_2, backend, retrain):
    with Index.open(path_2, backend=backend) as index:
        index.upsert(["d2", "neu"], [unit_rows(0), unit_rows(1)], [None, "東京"])
        index.update_metadata(["d6"], [{"n": 5}])
        assert index.delete(filter="n > 30") == 8
        index.compact(retrain=retrain)

        assert (len(index), index.info().segments, index.verify()) == (34, 1, [])
        assert [hit.doc_id for hit in index.search_keywords("東京")] == ["neu", "d10", "d18", "d26"]
        assert index.search(unit_rows(1), 1)[0].doc_id == "neu"
        assert index.get("d6").metadata == {"n": 5}


def tables(path):
    """The SQL of the tables of a catalog, but for those that SQLite makes for itself."""
    rows = rows_of(path, "SELECT name, sql FROM sqlite_master WHERE sql NOTNULL")
    return sorted(sql for name, sql in rows if name != "sqlite_sequence" and not name.startswith("keywords_"))


def statements(sql):
    return [statement.strip() for statement in sql.split(";") if statement.strip()]


def documented_tables():
    new, _ = re.findall(r"```sql\n(.*?)```", FORMAT, re.DOTALL)
    assert new == schema.SCHEMA_3.lstrip()
    return statements(new)


def test_documented_tables_are_the_tables(tmp_path, path_3, path_4):
    Index.create(tmp_path / "new", backend="numpy").close()

    assert tables(path_3) == tables(path_4) == tables(tmp_path / "new") == sorted(documented_tables())


def test_documented_tables_of_older_formats_are_the_tables(path_1, path_2):
    new, different = map(statements, re.findall(r"```sql\n(.*?)```", FORMAT, re.DOTALL))
    kept = [sql for sql in new if re.search(r"TABLE (meta|files|codec_files|tombstones)\b", sql)]

    assert tables(path_2) == sorted(different + kept)
    later = {sql for sql in tables(path_2) if re.search(r"TABLE (codecs|codec_files|keywords)\b", sql)}
    assert tables(path_1) == sorted(set(tables(path_2)) - later)


def test_documented_settings_are_the_settings(path_1, path_2, path_4):
    section = FORMAT[FORMAT.index("| name in `meta`") :].split("\n\n")[0]
    documented = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)

    stored = dict(rows_of(path_4, "SELECT name, value FROM meta"))
    assert {*stored} == set(documented)
    assert [json.loads(stored[name]) for name in documented[:4]] == [8, 4, 600, MODEL_4]
    assert re.fullmatch('"[0-9a-f]{8}"', stored["index"])
    assert sorted(dict(rows_of(path_2, "SELECT name, value FROM meta"))) == sorted(documented[:4])
    assert sorted(dict(rows_of(path_1, "SELECT name, value FROM meta"))) == ["dim", "model"]


def test_documented_pragmas_are_set(path_1, path_2, path_3, path_4):
    documented = dict(
        re.findall(r"^\| `(application_id|user_version|journal_mode)` \| (\w+)", FORMAT, re.MULTILINE)
    )
    paths = {"1": path_1, "2": path_2, "3": path_3, documented["user_version"]: path_4}
    for version, path in paths.items():
        stored = {name: str(rows_of(path, f"PRAGMA {name}")[0][0]).upper() for name in documented}
        assert stored == documented | {"user_version": version}
    assert int(documented["application_id"]).to_bytes(4, "big") == b"MLXC"
    assert int(documented["user_version"]) == schema.FORMAT_VERSION


def test_documented_sizes_are_those_of_the_code():
    sizes = (merge_policy.SMALLEST_TOKENS, merge_policy.LARGEST_TOKENS)
    assert f"up to {sizes[0]:,}, 32,768, 262,144, … at most {sizes[1]:,}." in FORMAT
    assert (merge_policy.FAN_OUT, settings.DEFAULT_NBITS, settings.EXACT_TOKENS) == (8, 4, 300000)
    assert (files.SMALL_HEADER_BYTES, files.PAGE_BYTES) == (128, 16384)
    assert (segment.LARGEST_SCALE, segment.LARGEST_GAIN) == (1e6, 1e12)
    assert codec_files._FILES == dict.fromkeys(["levels.npy", "steps.npy", "codebook.npy"], 1e6) | {
        "rotation.npy": 2
    }


def documented_files(heading):
    """The table of files under a heading: name → where the data begins, types, shapes."""
    section = FORMAT[FORMAT.index(f"### {heading}\n") :].split("\n###")[0].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+\.npy)` \| (\d+) \| (.*?) \| (.*?) \|", section, re.MULTILINE)
    found = {}
    for name, start, types, shapes in rows:
        dtypes = [dtype if dtype[0] == "<" else f"|{dtype}" for dtype in re.findall(r"`(.*?)`", types)]
        found[name] = int(start), dtypes, re.findall(r"`(.*?)`", shapes)
    return found


def imported(path):
    rng = np.random.default_rng(0)
    with Index.create(path, 8, nbits=4, backend="numpy") as index:
        codebook = rng.standard_normal((256, 2))
        codes, residuals = rng.integers(0, 300, 500), rng.integers(0, 256, (500, 4)).astype(np.uint8)
        documents = [f"d{i}" for i in range(50)]
        index.import_compressed(
            unit_rows(1, 300),
            codebook,
            doc_ids=documents,
            lengths=np.full(50, 10),
            blocks=[(codes, residuals)],
        )


def compressed(nbits):
    def make(path):
        with Index.create(path, 8, nbits=nbits, exact_tokens=100, backend="numpy") as index:
            # Rows of very different lengths: their gains and scales are no bytes.
            index.add(["short"], [unit_rows(1, 10) / 100])
            index.add([f"d{i}" for i in range(300)], [unit_rows(i, 1 + i % 3) for i in range(300)])
            index.delete(["d1"])
            index.add(["later"], [unit_rows(2)])

    return make


MADE = {"1 bit": compressed(1), "2 bits": compressed(2), "8 bits": compressed(8), "imported": imported}


@pytest.fixture(scope="module", params=["format 1", "format 2", "format 3", "format 4", *MADE])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "index"
    if request.param == "format 1":
        shutil.copytree(DATA / "index-v1" / "index", folder)
    elif request.param in ("format 2", "format 3", "format 4"):
        shutil.unpack_archive(DATA / f"index-v{request.param[-1]}" / "index.zip", folder)
    else:
        MADE[request.param](folder)
    return folder


def number_of(shape, sizes):
    """The shape that a documented one stands for."""
    return tuple(int(eval(part.replace("/", "//"), sizes)) for part in shape.strip("()").split(",") if part)


def smallest(n):
    return "|u1" if n <= 256 else "<u2" if n <= 65536 else "<u4"


def rows_in(path, table):
    """The rows of a table by the names of its columns; none where there is no such table."""
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        connection.row_factory = sqlite3.Row
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] if known else []


def segments_of(path):
    """(number, label, storage, passages, vectors) of each segment, whatever the format calls them."""
    for row in rows_in(path, "segments"):
        storage = row.get("storage") or {"float16": "exact", "centroids": "compressed"}[row["codec"]]
        n = row["n_passages"] if "n_passages" in row else row["n_documents"]
        yield row["segment"], row.get("label"), storage, n, row["n_tokens"]


def check_file(path, label, n_bytes, crc32, documented, sizes):
    start, dtypes, shapes = documented
    data = path.read_bytes()
    assert (len(data), zlib.crc32(data)) == (n_bytes, crc32)
    headers = {}
    for dtype in dtypes:
        for shape in shapes:
            numbers = number_of(shape, sizes)
            text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {numbers}, }}"
            if label is not None:
                text += f" # {label}/{path.name}"
            prefix = b"\x93NUMPY\x01\x00" + (start - 10).to_bytes(2, "little")
            headers[prefix + text.encode().ljust(start - 11) + b"\n"] = (dtype, numbers)
    dtype, numbers = headers[data[:start]]
    assert len(data) == start + np.dtype(dtype).itemsize * int(np.prod(numbers))
    return dtype


def test_documented_files_are_the_files_byte_by_byte(made):
    (dim,) = [json.loads(value) for (value,) in rows_of(made, "SELECT value FROM meta WHERE name = 'dim'")]
    sizes = {"D": dim}
    checked = 0
    if codecs := rows_in(made, "codecs"):
        documented = documented_files("Codecs")
        (codec,) = codecs
        sizes |= {"nbits": codec["nbits"], "K": codec["n_centroids"]}
        for number, name, n_bytes, crc32 in rows_of(made, "SELECT * FROM codec_files"):
            assert number == codec["codec"]
            path = made / f"codec-{number:06d}" / name
            check_file(path, codec.get("label"), n_bytes, crc32, documented.pop(name), sizes)
            checked += 1
        assert documented == {}
    for number, label, storage, n, t in segments_of(made):
        documented = documented_files(f"Segments of storage `{storage}`")
        folder = made / f"segment-{number:06d}"
        sizes |= {"N": n, "T": t}
        if storage == "compressed":
            counts = np.load(folder / "ivf_counts.npy")
            sizes |= {"C": len(counts), "P": int(counts.sum())}
        dtypes = {}
        for name, n_bytes, crc32 in rows_of(
            made, f"SELECT name, n_bytes, crc32 FROM files WHERE segment = {number}"
        ):
            dtypes[name] = check_file(folder / name, label, n_bytes, crc32, documented.pop(name), sizes)
            checked += 1
        assert documented == {}
        if storage == "compressed":
            assert dtypes["codes.npy"] == dtypes["ivf_codes.npy"] == smallest(sizes["K"])
            assert dtypes["ivf_ordinals.npy"] == smallest(n)
    assert checked == len([file for file in made.rglob("*.npy")])


def load(file):
    return np.load(file, max_header_size=16384)


def decoded(path):
    """The rows of every live document, read with numpy and sqlite3 alone as FORMAT.md says."""
    documents = {}
    for number, _, storage, *_ in segments_of(path):
        folder = path / f"segment-{number:06d}"
        if storage == "exact":
            rows = load(folder / "vectors.npy").astype(np.float32)
        else:
            ((current,),) = rows_of(path, "SELECT codec FROM codecs")
            levels, steps, codebook, rotation = (
                load(path / f"codec-{current:06d}" / f"{name}.npy")
                for name in ("levels", "steps", "codebook", "rotation")
            )
            stored, ranges = {}, load(folder / "ranges.npy")
            for name, row in zip(("scales", "gains"), ranges, strict=True):
                values = load(folder / f"{name}.npy")
                stored[name] = row[0] + values * row[1] if values.dtype == np.uint8 else values
            codes, residuals = load(folder / "codes.npy"), load(folder / "residuals.npy")
            rows = np.empty((len(codes), levels.shape[1]))
            for i, (k, r) in enumerate(zip(codes, residuals, strict=True)):
                s, g = stored["scales"][i], stored["gains"][i]
                e = g * (levels[k] * steps[k] + s * np.concatenate(codebook[r]))
                rows[i] = e @ rotation.T if len(rotation) else e
        ends = np.cumsum(load(folder / "doc_lengths.npy"))
        table = "passages" if rows_in(path, "passages") else "documents"
        for doc_id, ordinal in rows_of(path, f"SELECT doc_id, ordinal FROM {table} WHERE segment = {number}"):
            documents[doc_id] = rows[ends[ordinal - 1] if ordinal else 0 : ends[ordinal]]
    return documents


def test_documents_decoded_as_documented_have_the_scores_of_a_search(made, backend):
    documents = decoded(made)
    with Index.open(made, backend=backend) as index:
        query = unit_rows(5, 3, index.dim)
        hits = index.search(query, 1000, params=SearchParams(exact=True))

    expected = {doc_id: (query @ rows.T).max(axis=1).sum() for doc_id, rows in documents.items()}
    assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(expected, abs=2e-5)


def test_posting_lists_are_those_of_the_codes(made):
    for number, _, storage, n, _ in segments_of(made):
        if storage == "exact":
            continue
        folder = made / f"segment-{number:06d}"
        codes = np.split(load(folder / "codes.npy"), np.cumsum(load(folder / "doc_lengths.npy"))[:-1])
        expected = {}
        for ordinal in range(n):
            for code in set(codes[ordinal].tolist()):
                expected.setdefault(code, []).append(ordinal)
        ordinals = np.split(
            load(folder / "ivf_ordinals.npy"), np.cumsum(load(folder / "ivf_counts.npy"))[:-1]
        )
        stored = zip(load(folder / "ivf_codes.npy").tolist(), ordinals, strict=True)

        assert [(code, part.tolist()) for code, part in stored] == sorted(expected.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the Quick, brown fox.", "the quick brown fox"),
        ("Übermaß İstanbul ΣΊΣΥΦΟΣ", "ubermass istanbul σισυφοσ"),
        ("e\u0301 A\u030a \u0301", "e a"),
        ("йод и\u0306 Ёлка", "йод й ёлка"),
        ("東京駅", "東 京 駅"),
        ("a東京b", "a 東 京 b"),
        ("ひらがなカタカナー", "ひ ら が な カ タ カ ナ ー"),
        ("か\u3099", "が"),  # a decomposed voiced kana
        ("ﾊﾟｿｺﾝ", "パ ソ コ ン"),
        ("ＣＰＵ１２", "cpu12"),
        ("ﬁle ﬄ", "file ffl"),
        ("한국어", "한 국 어"),
        ("\u1112\u1161\u11ab", "한"),  # decomposed jamo
        ("ㄅㄆ 〇々", "ㄅ ㄆ 〇 々"),
        ("𠀀𪜀 𛀁", "𠀀 𪜀 𛀁"),
        ("Foo™ x² ①", "foo x² ①"),
        ("ภาษาไทย Ελλάδα हिन्दी", "ภาษาไทย ελλαδα हिन्दी"),
        ("paid\U0001f911 \u20bf5 co\u00adop", "paid 5 coop"),
        ("C++ 1.2.3 v4.5", "c c++ 1 2 3 1.2.3 v4 5 4.5"),
        ("𞤀𞤣 𐐀", "𞤢𞤣 𐐨"),  # scripts beyond U+FFFF that have cases
        ("a\0b\n\t", "a b"),
        ("", ""),
    ],
)
def test_searchable_text_never_changes(text, expected):
    assert searchable_text(text) == expected


def codes_in(text):
    return {
        code
        for first, last in re.findall(r"U\+([0-9A-F]+)(?:–([0-9A-F]+))?", text)
        for code in range(int(first, 16), int(last or first, 16) + 1)
    }


def test_documented_characters_are_those_of_searchable_text():
    section = FORMAT[FORMAT.index("### Keywords") : FORMAT.index("## Arrays")]
    steps = re.split(r"\n\d\. ", section)
    everything = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)

    def matched(pattern):
        return {ord(c) for found in re.finditer(pattern, everything) for c in found[0]}

    invisible, _, other_forms, folded = re.split(r"\([bcd]\) ", steps[2])
    assert matched(keywords._INVISIBLE) == codes_in(invisible)
    assert matched(keywords._OTHER_FORMS) == codes_in(other_forms)
    assert matched(keywords._FOLDED) | {*range(0xD800, 0xE000)} == codes_in(folded.split(" is brought")[0])
    assert matched(f"[{keywords._UNSPACED}]") == codes_in(steps[3])
    ranges = re.search(r"```\n(.*?)\n```", section, re.DOTALL)[1].split()
    assert ranges == signs._RANGES.split()
    listed = {
        code
        for first, _, last in (part.partition("-") for part in ranges)
        for code in range(int(first, 16), int(last or first, 16) + 1)
    }
    found = matched(f"[{signs.SIGNS}]") | matched(f"[{signs.LATER_SIGNS}]")
    assert found == listed - {*range(0xD800, 0xE000)}
