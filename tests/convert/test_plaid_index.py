"""Indexes that other engines wrote: their own scores from the decoded vectors, and what is refused."""

import json
import os
import pickle
import random
import shutil
import sqlite3
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from plaid_fixtures import INDEXES, NPY, TORCH, copy_fixture, reference

from mlx_colbert.convert.indexes import files as index_files
from mlx_colbert.convert.indexes import plaid_index
from mlx_colbert.convert.indexes.plaid_index import read_plaid_index
from mlx_colbert.convert.torch_pickle import read_torch_file, torch_file_shapes
from mlx_colbert.errors import (
    CheckpointError,
    ColBERTError,
    IndexDamagedError,
    IndexNotFoundError,
    IndexStoreError,
    InputError,
)


@pytest.fixture
def index(tmp_path):
    """Copies a fixture by its name."""
    return lambda name: copy_fixture(name, tmp_path / name)


@pytest.fixture(autouse=True)
def forbidden(monkeypatch):
    """Fails the test if anything is run."""

    def run(*_, **__):
        raise AssertionError("the index ran something")

    for module, attribute in [(os, "system"), (subprocess, "Popen"), (pickle, "loads"), (pickle, "load")]:
        monkeypatch.setattr(module, attribute, run)


def decoded(found, codebook=None):
    codebook = found.codebook if codebook is None else codebook
    vectors = np.concatenate(
        [found.centroids[codes] + codebook[bits].reshape(len(codes), -1) for codes, bits in found.blocks()]
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def maxsim(similarities, lengths):
    """(N,) scores from the (T, all tokens) similarities of a query."""
    ends = np.cumsum(lengths)
    parts = zip(ends - lengths, ends, strict=True)
    return np.array([similarities[:, start:end].max(axis=1).sum() for start, end in parts])


def scores(found, vectors, queries):
    return np.array([maxsim(query @ vectors.T, found.doc_lengths) for query in queries])


def order(found, ids):
    return [found.doc_ids.index(doc_id) for doc_id in ids]


def refusal(folder, error=IndexStoreError, **options):
    with pytest.raises(error) as caught:
        for _ in read_plaid_index(folder, **options).blocks():
            pass
    return str(caught.value)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# float32 sums of 8 maxima of 16 or 32 products. fast-plaid computes in float16, whose neighbours are 0.0005
# apart below 1: vectors, products and queries are each rounded to it.
@pytest.mark.parametrize(
    ("name", "tolerance"), [*((name, 1e-5) for name in TORCH), *((name, 3e-3) for name in NPY)]
)
def test_decoded_vectors_give_the_scores_of_the_engine(index, name, tolerance):
    found = read_plaid_index(index(name))
    ids, expected, queries = reference(name)
    assert sorted(found.doc_ids) == sorted(ids)
    np.testing.assert_allclose(
        scores(found, decoded(found), queries)[:, order(found, ids)], expected, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("name", NPY)
def test_half_precision_explains_what_fast_plaid_differs_by(index, name):
    found = read_plaid_index(index(name))
    ids, expected, queries = reference(name)
    codes, bits = (np.concatenate(parts) for parts in zip(*found.blocks(), strict=True))
    vectors = found.centroids.astype(np.float16)[codes] + found.codebook.astype(np.float16)[bits].reshape(
        len(codes), -1
    )
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True).astype(np.float16)
    vectors = (vectors / norms).astype(np.float32)
    similarities = [(q.astype(np.float16).astype(np.float32) @ vectors.T).astype(np.float16) for q in queries]
    computed = np.array([maxsim(part.astype(np.float32), found.doc_lengths) for part in similarities])
    # Exact where written; another BLAS may round a product the other way, by 0.0005.
    np.testing.assert_allclose(computed[:, order(found, ids)], expected, rtol=0, atol=6e-4)


@pytest.mark.parametrize("name", ["colbert-4", "colbert-2", "fast-plaid-4", "fast-plaid-2"])
def test_another_order_of_the_bits_would_be_noticed(index, name):
    found = read_plaid_index(index(name))
    ids, expected, queries = reference(name)
    wrong = scores(found, decoded(found, found.codebook[:, ::-1]), queries)[:, order(found, ids)]
    assert np.abs(wrong - expected).max() > 0.1


@pytest.mark.parametrize("name", ["colbert-4", "fast-plaid-4", "pylate-fast"])
def test_blocks_are_the_same_tokens_at_any_size(index, name, monkeypatch):
    found = read_plaid_index(index(name))
    whole = [np.concatenate(parts) for parts in zip(*found.blocks(), strict=True)]
    monkeypatch.setattr(plaid_index, "BLOCK_TOKENS", 7)
    blocks = list(found.blocks())
    assert max(len(codes) for codes, _ in blocks) <= 7
    for parts, expected in zip(zip(*blocks, strict=True), whole, strict=True):
        assert np.array_equal(np.concatenate(parts), expected)
    assert [array.dtype for array in blocks[0]] == [np.int64, np.uint8]
    assert len(whole[0]) == found.doc_lengths.sum()
    assert whole[1].shape[1] == found.dim * found.nbits // 8


@pytest.mark.parametrize(
    ("name", "engine", "dim", "nbits", "n", "model"),
    [
        ("colbert-4", "colbert", 32, 4, 27, "colbert-ir/colbertv2.0"),
        ("colbert-2", "colbert", 16, 2, 26, "colbert-ir/colbertv2.0"),
        ("fast-plaid-4", "fast-plaid", 16, 4, 29, None),
        ("fast-plaid-2", "fast-plaid", 16, 2, 24, None),
        ("pylate-fast", "pylate", 16, 4, 26, None),
        ("pylate-stanford", "pylate", 16, 2, 22, None),
    ],
)
def test_engine_and_sizes_are_recognised(index, name, engine, dim, nbits, n, model):
    found = read_plaid_index(index(name))
    assert (found.engine, found.dim, found.nbits, found.model) == (engine, dim, nbits, model)
    assert len(found.doc_ids) == len(found.texts) == len(found.metadata) == len(found.doc_lengths) == n
    assert found.centroids.shape == (256, dim)
    assert found.codebook.shape == (256, 8 // nbits)
    assert found.centroids.dtype == found.codebook.dtype == np.float32


def test_removed_passages_of_colbert_are_left_out(index):
    found = read_plaid_index(index("colbert-2-removed"))
    assert found.doc_ids == [str(pid) for pid in range(26) if pid not in (4, 13, 25)]
    before = read_plaid_index(index("colbert-2"))
    assert found.doc_lengths.tolist() == [before.doc_lengths[int(pid)] for pid in found.doc_ids]


def test_removed_and_replaced_documents_of_pylate_are_left_out(index):
    found = read_plaid_index(index("pylate-fast"))
    assert {"doc-4", "doc-20"}.isdisjoint(found.doc_ids)
    assert found.doc_ids[-3:] == ["doc-9", "doc-1", "größe"]
    assert len(set(found.doc_ids)) == len(found.doc_ids)


def test_inner_folder_of_pylate_stands_for_the_index(index):
    found = read_plaid_index(index("pylate-fast") / "fast_plaid_index")
    assert (found.engine, found.doc_ids[0]) == ("pylate", "doc-0")


def test_id_map_of_older_pylate_is_read(index):
    assert (
        read_plaid_index(index("pylate-sqlite")).doc_ids == read_plaid_index(index("pylate-stanford")).doc_ids
    )


def test_integer_ids_of_pylate_become_text(index):
    folder = index("pylate-stanford")
    ids = {n: n for n in range(24) if n not in (5, 21)}
    (folder / "documents_ids_to_plaid_ids.pkl").write_bytes(pickle.dumps(ids))
    assert read_plaid_index(folder).doc_ids == [str(n) for n in ids]


def test_metadata_of_fast_plaid_follows_its_documents(index):
    found = read_plaid_index(index("fast-plaid-4"))
    numbers = [n for n in range(32) if n not in (3, 13, 31)]
    assert found.doc_ids == [str(n) for n in range(29)]
    assert found.texts == [f"Passage {n} speaks of the number {n * n}." for n in numbers]
    assert found.metadata[0] == {"year": 1990, "weight": 0.0, "tag": "t0"}
    assert found.metadata[-1] == {"year": 2020, "weight": 3.75, "tag": "t30"}
    assert found.metadata[1] == {"year": 1991, "weight": 0.125}  # None is what SQL keeps for no tag


def test_text_column_of_mixed_types_stays_metadata(index):
    folder = index("fast-plaid-4")
    with sqlite3.connect(folder / "metadata.db") as connection:
        connection.execute("ALTER TABLE METADATA RENAME COLUMN weight TO content")
        connection.execute("ALTER TABLE METADATA RENAME COLUMN text TO words")
    connection.close()
    found = read_plaid_index(folder)
    assert found.texts == [None] * 29
    assert found.metadata[1]["content"] == 0.125


def test_passages_of_ragatouille_have_ids_texts_and_metadata(index):
    found = read_plaid_index(index("ragatouille"))
    assert found.engine == "colbert"
    assert found.doc_ids == ["tea#1", "tea#2", "tea#3", *(f"doc {n}" for n in range(3, 26))]
    assert found.texts[25] == "Passage 25 speaks of the number 625."
    assert found.metadata[1] == {"source": "a book", "pages": [1, 2]}
    assert found.metadata[7] == {"source": "a letter"}
    assert found.metadata[8] is None


def test_ragatouille_after_deletions(index, tmp_path):
    folder = index("colbert-2-removed")
    gone = (4, 13, 25)
    shutil.copy(INDEXES / "ragatouille" / "docid_metadata_map.json", folder)
    (folder / "pid_docid_map.json").write_text(
        json.dumps({str(n): f"doc {n}" for n in range(26) if n not in gone})
    )
    # RAGatouille closes the gap in its list of texts.
    (folder / "collection.json").write_text(json.dumps([f"text {n}" for n in range(26) if n not in gone]))
    found = read_plaid_index(folder)
    assert found.doc_ids == [f"doc {n}" for n in range(26) if n not in gone]
    assert found.texts == [doc_id.replace("doc", "text") for doc_id in found.doc_ids]
    assert found.metadata[6] == {"source": "a letter"}


def test_ragatouille_rebuilt_after_deletions(index):
    folder = index("ragatouille")
    # 26 passages that the index numbers anew, while the map keeps the gap where 3 was deleted.
    names = {str(n + (n >= 3)): f"doc {n + (n >= 3)}" for n in range(26)}
    (folder / "pid_docid_map.json").write_text(json.dumps(names))
    assert read_plaid_index(folder).doc_ids[2:5] == ["doc 2", "doc 4", "doc 5"]


def test_ids_of_passages_are_different_whatever_the_documents_are_called(index):
    folder = index("ragatouille")
    names = ["a", "a", "a#1", "a#2", 7, *(f"doc {n}" for n in range(21))]
    (folder / "pid_docid_map.json").write_text(json.dumps(dict(enumerate(names))))
    found = read_plaid_index(folder)
    assert found.doc_ids[:5] == ["a#1", "a#2", "a#1#1", "a#2#1", "7#1"]
    assert len(set(found.doc_ids)) == 26


def test_ragatouille_files_of_another_index_are_refused(index):
    folder = index("ragatouille")
    (folder / "collection.json").write_text('["one"]')
    assert "26 passages in the index, 26 ids, 1 text" in refusal(folder, IndexDamagedError)


class TestCollection:
    def test_tsv_of_colbert(self, index, tmp_path):
        path = tmp_path / "collection.tsv"
        path.write_text(
            "".join(f"{n}\tText {n}\tTitle {n}\n" if n % 2 else f"{n}\tText {n}\n" for n in range(26))
        )
        found = read_plaid_index(index("colbert-2-removed"), collection=path)
        assert found.texts[:5] == [
            "Text 0",
            "Title 1 | Text 1",
            "Text 2",
            "Title 3 | Text 3",
            "Title 5 | Text 5",
        ]

    @pytest.mark.parametrize("name", ["id", "pid"])
    def test_header_is_passage_0_where_the_ids_begin_at_1(self, index, tmp_path, name):
        path = tmp_path / "collection.tsv"
        path.write_text(f"{name}\ttext\ttitle\n" + "".join(f"{n}\tText {n}\n" for n in range(1, 26)))
        found = read_plaid_index(index("colbert-2"), collection=path)
        assert found.texts[:3] == ["title | text", "Text 1", "Text 2"]

    @pytest.mark.parametrize("name", ["id", "pid"])
    def test_header_before_passage_0_is_left_out(self, index, tmp_path, name):
        path = tmp_path / "collection.tsv"
        lines = f"{name}\ttext\n" + "".join(f"{n}\tText {n}\n" for n in range(26))
        path.write_text(lines, encoding="utf-8-sig")
        found = read_plaid_index(index("colbert-2"), collection=path)
        assert found.texts == [f"Text {n}" for n in range(26)]

    def test_jsonl_by_id(self, index, tmp_path):
        path = tmp_path / "texts.jsonl"
        ids = [*(f"doc-{n}" for n in range(40)), "größe"]
        path.write_text("".join(json.dumps({"_id": i, "text": i.upper(), "n": 1}) + "\n" for i in ids))
        found = read_plaid_index(index("pylate-stanford"), collection=path)
        assert found.texts == [doc_id.upper() for doc_id in found.doc_ids]
        assert found.metadata == [{"n": 1}] * 22

    @pytest.mark.parametrize("name", ["c.tsv", "c.jsonl", "c.csv"])
    def test_row_without_a_text_is_a_passage_of_the_index_and_a_blank_line_is_none(
        self, index, tmp_path, name
    ):
        texts = ["", *(f"Text {n}" for n in range(1, 26))]
        lines = {
            "c.tsv": [f"{n}\t{text}\n" for n, text in enumerate(texts)],
            "c.jsonl": [json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)],
            "c.csv": ["id,text\n", *(f"{n},{text}\n" for n, text in enumerate(texts))],
        }[name]
        (tmp_path / name).write_text("".join([*lines, "\n"]))
        assert read_plaid_index(index("colbert-2"), collection=tmp_path / name).texts == texts

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ([f"{n}\tx" for n in range(25)], "lacks 1 document of the index. The first of them is '25'"),
            ([f"{n}\tx" for n in range(27)], "has '26', but the index has the passages 0 to 25"),
            ([f"{n % 25}\tx" for n in range(26)], "has '0' twice"),
            (["0\tx", "1"], r"tsv:2: must have an id, a tab and a text"),
            (["0\tx", "", "1"], r"tsv:3: must have an id, a tab and a text"),
            (["0\t\udcff"], r"tsv:1: is not UTF-8"),
        ],
    )
    def test_file_that_does_not_fit_is_refused(self, index, tmp_path, lines, message):
        path = tmp_path / "collection.tsv"
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape") + b"\n")
        with pytest.raises(InputError, match=message):
            read_plaid_index(index("colbert-2"), collection=path)


class TestMergedFiles:
    """fast-plaid 1.7 keeps one file for all chunks, and a chunk's own file until its rows are merged."""

    def test_own_file_of_a_chunk_is_newer(self, index):
        folder = index("fast-plaid-4")
        before = read_plaid_index(folder)
        lengths = json.loads((folder / "doclens.1.json").read_text())
        first = sum(json.loads((folder / "doclens.0.json").read_text()))
        for kind in ("codes", "residuals"):  # as if documents 0 and 2 of chunk 1 were deleted, not yet merged
            rows = np.load(folder / f"merged_{kind}.npy")[first : first + sum(lengths)]
            kept = [rows[sum(lengths[:1]) : sum(lengths[:2])], rows[sum(lengths[:3]) :]]
            np.save(folder / f"1.{kind}.npy", np.concatenate(kept))
        (folder / "doclens.1.json").write_text(json.dumps([lengths[1], *lengths[3:]]))
        (folder / "metadata.db").unlink()
        expected = np.split(decoded(before), np.cumsum(before.doc_lengths)[:-1])
        del expected[13], expected[11]
        assert np.array_equal(decoded(read_plaid_index(folder)), np.concatenate(expected))

    def test_lost_manifest_is_not_missed(self, index):
        folder = index("fast-plaid-4")
        expected = decoded(read_plaid_index(folder))
        for path in folder.glob("*.manifest.json"):
            path.unlink()
        assert np.array_equal(decoded(read_plaid_index(folder)), expected)

    def test_manifest_that_contradicts_the_lengths_is_refused(self, index):
        folder = index("fast-plaid-4")
        edit(folder / "merged_codes.manifest.json", **{"1.codes.npy": {"rows": 3}})
        assert "lengths need" in refusal(folder, IndexDamagedError)

    def test_chunk_without_documents(self, index):
        folder = index("fast-plaid-2")
        edit(folder / "metadata.json", num_chunks=3)
        (folder / "doclens.2.json").write_text("[]")
        assert len(read_plaid_index(folder).doc_ids) == 24


@pytest.fixture
def next_plaid(index):
    """What next-plaid 1.6.1 makes of a fast-plaid index, after its sources; it was not run.

    `convert_fastplaid_to_nextplaid` (mmap.rs), `Metadata` (index.rs), `create_fixed_metadata_table` (filtering.rs).
    """
    folder = index("fast-plaid-2")
    np.save(folder / "centroids.npy", np.load(folder / "centroids.npy").astype(np.float32))
    edit(folder / "metadata.json", embedding_dim=16, next_plaid_compatible=True)
    for path in folder.glob("merged*"):
        path.unlink()
    connection = sqlite3.connect(folder / "metadata.db")
    connection.executescript(
        """CREATE TABLE METADATA ("_subset_" INTEGER NOT NULL, "_content_id_" INTEGER NOT NULL, "name" TEXT);
        CREATE TABLE METADATA_CONTENT ("_content_id_" INTEGER PRIMARY KEY, "text" TEXT, "tags" BLOB);
        CREATE INDEX idx_metadata_subset ON METADATA ("_subset_");
        PRAGMA user_version = 2;"""
    )
    connection.executemany(
        "INSERT INTO METADATA VALUES (?, ?, ?)", [(n, 100 - n, f"n{n}") for n in reversed(range(24))]
    )
    connection.executemany(
        "INSERT INTO METADATA_CONTENT VALUES (?, ?, ?)", [(100 - n, f"text {n}", '["a"]') for n in range(30)]
    )
    connection.commit()
    connection.close()
    return folder


def test_next_plaid_keeps_float32_and_splits_its_metadata(next_plaid):
    found = read_plaid_index(next_plaid)
    assert found.engine == "next-plaid"
    assert found.texts == [f"text {n}" for n in range(24)]
    assert found.metadata[3] == {"name": "n3", "tags": '["a"]'}
    weights = np.load(next_plaid / "bucket_weights.npy")
    assert found.codebook[0b01000000, 0] == weights[2]
    _, expected, queries = reference("fast-plaid-2")
    np.testing.assert_allclose(scores(found, decoded(found), queries), expected, rtol=0, atol=3e-3)


def test_folder_that_is_no_index_is_refused(tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent", IndexNotFoundError)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, what in [
        (tmp_path / "file", "a file"),
        (tmp_path / "pipe", "a pipe"),
        ("/dev/null", "a pipe or a device"),
    ]:
        told = refusal(path)
        assert f"is {what}" in told and "Give the folder of the old index" in told
    assert "not an index of colbert-ai" in refusal(tmp_path)
    (tmp_path / "metadata.json").write_text("{}")
    assert "not an index of colbert-ai" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *(("colbert-2", f"{part}.pt") for part in ("0.codes", "2.residuals", "centroids", "buckets")),
        *(("fast-plaid-4", f"{part}.npy") for part in ("merged_codes", "merged_residuals", "bucket_weights")),
        ("fast-plaid-4", "centroids.npy"),
        *(
            (name, file)
            for name in ("colbert-2", "fast-plaid-4")
            for file in ("metadata.json", "doclens.2.json")
        ),
        ("ragatouille", "collection.json"),
    ],
)
def test_file_that_is_missing_or_short_is_named(index, name, file):
    path = index(name) / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert file in refusal(path.parent, IndexDamagedError)
    path.unlink()
    assert file in refusal(path.parent) or "has no metadata.json with centroids" in refusal(path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nbits": 3}, "nbits is 3"),
        ({"nbits": True}, "nbits is True"),
        ({"nbits": None}, "nbits is None"),
        ({"nbits": 4}, r"bucket weights \(4,\) do not fit 4 bits"),
        ({"num_chunks": 0}, "num_chunks cannot be 0"),
        ({"num_chunks": "2"}, "num_chunks cannot be '2'"),
        ({"num_chunks": 10**15}, r"doclens\.2\.json: is missing"),
    ],
)
def test_settings_that_cannot_be_are_refused(index, changes, message):
    folder = index("fast-plaid-2")
    edit(folder / "metadata.json", **changes)
    with pytest.raises(IndexStoreError, match=message):
        read_plaid_index(folder)


def test_other_dimension_than_the_centroids_have_is_refused(index):
    folder = index("colbert-2")
    settings = json.loads((folder / "metadata.json").read_text())
    edit(folder / "metadata.json", config={**settings["config"], "dim": 32})
    assert "vectors of 32 do not fit 2 bits and (256, 16)" in refusal(folder, IndexDamagedError)


@pytest.mark.parametrize(
    "lengths", ["[1, 2]", "{}", "[1.5]", "[-1]", "[true]", "[4294967296]", "[" * 10**5, "[1"]
)
@pytest.mark.parametrize("name", ["colbert-2", "fast-plaid-2"])
def test_lengths_that_do_not_fit_the_files_are_refused(index, name, lengths):
    folder = index(name)
    (folder / "doclens.0.json").write_text(lengths)
    refusal(folder, IndexDamagedError)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_centroid_that_is_not_finite_is_refused(index, value):
    folder = index("fast-plaid-2")
    centroids = np.load(folder / "centroids.npy").astype(np.float32)
    centroids[7, 3] = value  # 1e6 is infinite in fast-plaid's float16
    np.save(folder / "centroids.npy", centroids)
    assert "not finite" in refusal(folder, IndexDamagedError)


@pytest.mark.parametrize("code", [-1, 256, 2**40])
def test_code_beyond_the_centroids_is_refused(index, code):
    folder = index("fast-plaid-2")
    codes = np.load(folder / "1.codes.npy")
    codes[-1] = code
    np.save(folder / "1.codes.npy", codes)
    assert "a code names none of the 256 centroids" in refusal(folder, IndexDamagedError)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999, 999999999999999), }",
        b"{'descr': '<f4', 'fortran_order': True, 'shape': (4,), }",
        b"{'descr': '<f1', 'fortran_order': False, 'shape': (4,), }",
        b"__import__('os').system('true')",
        b"(" * 5000,
    ],
)
def test_odd_header_of_an_array_is_refused(index, header):
    folder = index("fast-plaid-2")
    path = folder / "bucket_weights.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + b"\n" + bytes(16))
    assert "bucket_weights.npy" in refusal(folder, IndexDamagedError)


def test_array_of_python_objects_is_refused(index):
    folder = index("fast-plaid-2")
    np.save(folder / "centroids.npy", np.array([{}, {}], object), allow_pickle=True)
    assert "not an .npy file of plain numbers" in refusal(folder, IndexDamagedError)


class Evil:
    def __reduce__(self):
        return (exec, ("raise AssertionError('the index ran something')",))


@pytest.mark.parametrize("name", ["pylate-fast", "pylate-stanford"])
@pytest.mark.parametrize("value", [Evil(), {"a": Evil()}, np.float32(1), {"a": {1}}])
def test_id_map_that_runs_something_is_refused(index, name, value):
    folder = index(name)
    (folder / "documents_ids_to_plaid_ids.pkl").write_bytes(pickle.dumps(value))
    assert "documents_ids_to_plaid_ids.pkl" in refusal(folder)


@pytest.mark.parametrize(
    "ids",
    [
        [1],
        7,
        {"a": 99},
        {"a": -1},
        {"a": "1"},
        {"a": 1.0},
        {"a": True},
        {"a": 1, "b": 1},
        {("a",): 1},
        {"": 1},
        {"1": 1, 1: 2},
        {},
        {f"doc-{n}": 0 for n in range(5000)},
    ],
)
def test_id_map_of_another_index_is_refused(index, ids):
    folder = index("pylate-stanford")
    (folder / "documents_ids_to_plaid_ids.pkl").write_bytes(pickle.dumps(ids))
    refusal(folder)


def test_id_that_runs_something_in_an_older_map_is_refused(index):
    folder = index("pylate-sqlite")
    connection = sqlite3.connect(folder / "documents_ids_to_plaid_ids.sqlite")
    connection.execute("UPDATE unnamed SET value = ? WHERE key = 'doc-1'", (pickle.dumps(Evil()),))
    connection.commit()
    connection.close()
    assert "asks for" in refusal(folder)


@pytest.mark.parametrize("name", ["0.codes.pt", "centroids.pt", "buckets.pt"])
def test_tensor_file_that_runs_something_is_refused(index, name):
    folder = index("colbert-2")
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(Evil(), protocol=2))
    message = refusal(folder)
    assert name in message
    assert "Nothing was run" in message


def test_link_out_of_the_index_is_refused(index, tmp_path):
    folder = index("fast-plaid-2")
    (folder / "1.codes.npy").rename(tmp_path / "elsewhere.npy")
    (folder / "1.codes.npy").symlink_to(tmp_path / "elsewhere.npy")
    assert "is a link to a file outside the index" in refusal(folder)


def test_links_of_the_hugging_face_cache_are_followed(index, tmp_path):
    folder = index("fast-plaid-2")
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "0123"
    shutil.move(folder, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert len(read_plaid_index(snapshot).doc_ids) == 24


def test_link_in_a_circle_and_a_pipe_are_refused(index):
    folder = index("fast-plaid-2")
    for make in (lambda path: path.symlink_to(path.name), os.mkfifo, Path.mkdir):
        path = folder / "doclens.1.json"
        path.unlink()
        make(path)
        assert "doclens.1.json" in refusal(folder)
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_text("[]")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("DELETE FROM METADATA WHERE _subset_ = 3", "28 rows for 29 documents"),
        ("INSERT INTO METADATA (_subset_) VALUES (29)", "30 rows for 29 documents"),
        ("UPDATE METADATA SET tag = x'00'", "column 'tag' contains bytes"),
        ("DROP TABLE METADATA", "has no table METADATA"),
        (
            "ALTER TABLE METADATA RENAME TO t; CREATE VIEW METADATA AS SELECT * FROM t",
            "has no table METADATA",
        ),
        ('ALTER TABLE METADATA ADD COLUMN "a""b" TEXT', "a column with an odd name"),
        ("ALTER TABLE METADATA RENAME COLUMN _subset_ TO n", "the number None"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(index, script, message):
    folder = index("fast-plaid-4")
    connection = sqlite3.connect(folder / "metadata.db")
    connection.executescript(script)
    connection.close()
    assert message in refusal(folder)


def test_computed_column_of_metadata_is_not_read(index):
    folder = index("fast-plaid-4")
    connection = sqlite3.connect(folder / "metadata.db")
    connection.execute("ALTER TABLE METADATA ADD COLUMN bomb AS (zeroblob(900000000))")
    connection.close()
    assert "bomb" not in read_plaid_index(folder).metadata[0]


def test_metadata_that_is_being_written_is_refused(index):
    folder = index("fast-plaid-4")
    connection = sqlite3.connect(folder / "metadata.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE METADATA SET year = 0")
    connection.commit()
    message = refusal(folder)
    connection.close()
    assert "has changes that are not in the database yet" in message


def test_reading_leaves_the_folder_as_it_is(index):
    folder = index("fast-plaid-4")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    list(read_plaid_index(folder).blocks())
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_documents_without_tokens_alone_are_no_index(index):
    folder = index("fast-plaid-2")
    edit(folder / "metadata.json", num_chunks=1)
    (folder / "doclens.0.json").write_text("[]")
    for kind in ("codes", "residuals"):
        (folder / f"0.{kind}.npy").unlink()
    assert "contains no documents" in refusal(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["colbert-2", "fast-plaid-4", "pylate-fast", "pylate-sqlite", "ragatouille"])
def test_damage_anywhere_is_an_error_of_this_package(index, name):
    folder = index(name)
    dice = random.Random(0)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(150):
        path = dice.choice(paths)
        content = bytearray(path.read_bytes())
        for _ in range(dice.randint(1, 4)):
            content[dice.randrange(min(len(content), 600))] = dice.randrange(256)
        original = path.read_bytes()
        path.write_bytes(content[: dice.choice([len(content), dice.randrange(len(content))])])
        try:
            for codes, _ in read_plaid_index(folder).blocks():
                assert codes.max() < 256
        except ColBERTError:
            pass
        path.write_bytes(original)


class TestBareTensors:
    def test_one_and_several(self):
        folder = INDEXES / "colbert-2"
        codes, buckets = folder / "0.codes.pt", folder / "buckets.pt"
        assert torch_file_shapes(codes, bare=True) == {"0": ("I32", (356,))}
        assert torch_file_shapes(buckets, bare=True) == {"0": ("F32", (3,)), "1": ("F32", (4,))}
        assert read_torch_file(codes, bare=True)["0"].dtype == np.int32

    def test_state_dict_is_refused(self):
        with pytest.raises(CheckpointError, match=r"contains a dict\. One tensor or several"):
            read_torch_file(INDEXES.parent / "torch" / "zip.bin", bare=True)

    def test_tensor_is_no_state_dict(self):
        with pytest.raises(CheckpointError, match="A dict of tensors is needed"):
            read_torch_file(INDEXES / "colbert-2" / "centroids.pt")


# A tuple that contains itself twice over, 60 levels deep: as text it has 2^60 parts.
ENDLESS = b")" + b"q\x00h\x00\x86" * 60


@pytest.mark.parametrize(
    "program",
    [
        b"}X\x01\x00\x00\x00a" + ENDLESS + b"s.",
        b"}" + ENDLESS + b"K\x01s.",
        ENDLESS + b".",
        ENDLESS + b"X\x01\x00\x00\x00a\x93.",
    ],
)
def test_id_map_with_an_object_of_an_unknown_type_is_refused(index, program):
    folder = index("pylate-stanford")
    (folder / "documents_ids_to_plaid_ids.pkl").write_bytes(b"\x80\x04" + program)
    with pytest.raises(IndexStoreError):
        read_plaid_index(folder)


@pytest.mark.parametrize("depth", [70, 100_000])
def test_deeply_nested_json_is_an_error(index, depth):
    folder = index("colbert-2")
    (folder / "metadata.json").write_text('{"nbits": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(IndexDamagedError, match="nested too deeply"):
        read_plaid_index(folder)


def test_metadata_whose_rows_would_fill_the_memory_is_refused(index, monkeypatch):
    folder = index("fast-plaid-4")
    connection = sqlite3.connect(folder / "metadata.db")
    connection.execute(f"ALTER TABLE METADATA ADD COLUMN more TEXT DEFAULT '{'x' * 1_000_000}'")
    connection.close()
    monkeypatch.setattr(index_files, "MAX_ROWS_BYTES", 10_000_000)
    assert "take far more memory than a file of this size should need" in refusal(folder)


def test_metadata_whose_join_would_never_end_is_refused(index, monkeypatch):
    folder = index("fast-plaid-4")
    connection = sqlite3.connect(folder / "metadata.db")
    connection.executescript(
        "ALTER TABLE METADATA ADD COLUMN _content_id_ INTEGER;"
        "CREATE TABLE METADATA_CONTENT (_content_id_ TEXT, other TEXT);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
        "INSERT INTO METADATA_CONTENT SELECT 'a' || i, '' FROM n"
    )
    connection.close()
    monkeypatch.setattr(index_files, "MAX_STEPS", 0)
    monkeypatch.setattr(index_files, "MAX_STEPS_PER_BYTE", 0)
    assert "interrupted" in refusal(folder)


def test_sparse_centroids_are_refused_by_their_header(index):
    folder = index("fast-plaid-4")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576), }"
    with (folder / "centroids.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        file.truncate(1 << 43)
    assert "larger than any real index" in refusal(folder)
