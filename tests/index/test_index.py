"""What an index answers: search, add, upsert, delete, get, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mlx_colbert.errors import (
    DuplicateIdError,
    IndexStoreError,
    InputError,
    ModelMismatchError,
    ShapeError,
    TargetExistsError,
    UnknownIdError,
)
from mlx_colbert.index import Index, StoredPassage
from mlx_colbert.types import TokenEmbeddings

DIM = 8


def whole_rows(seed, n_rows=3, dim=DIM):
    """Vectors of small integers: their sums are exact on every backend, and often tie."""
    return np.random.default_rng(seed).integers(-3, 4, (n_rows, dim)).astype(np.float32)


def expected_hits(documents, query, k):
    scores = {doc_id: float((query @ rows.T).max(axis=1).sum()) for doc_id, rows in documents.items()}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]


def found(hits):
    return [(hit.doc_id, hit.score) for hit in hits]


@pytest.fixture
def index(tmp_path, backend):
    with Index.create(tmp_path / "index", DIM, backend=backend) as made:
        yield made


@pytest.mark.parametrize("k", [1, 7, 60, 100])
def test_search_equals_brute_force(index, k):
    documents = {f"d{i}": whole_rows(i, 1 + i % 9) for i in range(60)}
    for part in (range(40), range(40, 60)):
        index.add([f"d{i}" for i in part], [documents[f"d{i}"] for i in part])
    queries = [whole_rows(100 + i, 1 + i) for i in range(5)]

    several = index.search(queries, k)

    assert [found(hits) for hits in several] == [expected_hits(documents, query, k) for query in queries]
    assert [index.search(query, k) for query in queries] == several
    assert [hit.rank for hit in several[0]] == list(range(1, min(k, 60) + 1))


def test_unit_vectors_are_scored_as_float16(index):
    rng = np.random.default_rng(0)
    documents = {f"d{i}": rng.standard_normal((5, DIM)) for i in range(20)}
    documents = {
        doc_id: rows / np.linalg.norm(rows, axis=1, keepdims=True) for doc_id, rows in documents.items()
    }
    query = rng.standard_normal((4, DIM)).astype(np.float32)
    index.add(documents, documents.values())

    hits = index.search(query)

    halves = {doc_id: rows.astype(np.float16).astype(np.float64) for doc_id, rows in documents.items()}
    expected = expected_hits(halves, query.astype(np.float64), 10)
    assert [hit.doc_id for hit in hits] == [doc_id for doc_id, _ in expected]
    # float32 sums of 4 × 8 products.
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], rtol=1e-5)


def test_ties_at_the_cut_go_to_the_smallest_doc_ids_over_segments(index):
    ids = ["é", "b", "Z", "a", "10", "2", "猫", "𝄞"]
    for doc_id in ids:
        index.add([doc_id], [np.ones((2, DIM))])

    assert [hit.doc_id for hit in index.search(np.ones((1, DIM)), k=5)] == sorted(ids)[:5]


def test_deleted_documents_leave_room_for_k_live_ones(index):
    documents = {f"d{i}": whole_rows(i) for i in range(30)}
    query = whole_rows(99)
    index.add(documents, documents.values())
    best = [doc_id for doc_id, _ in expected_hits(documents, query, 10)]

    index.delete(best)

    live = {doc_id: rows for doc_id, rows in documents.items() if doc_id not in best}
    assert found(index.search(query, 10)) == expected_hits(live, query, 10)
    assert (len(index), best[0] in index, index.info().deleted) == (20, False, 10)


def test_upsert_replaces_and_adds(index):
    index.add(["a", "b"], [whole_rows(0), whole_rows(1)], ["old a", "old b"])

    index.upsert(["b", "c"], [whole_rows(2), whole_rows(3)], ["new b", "new c"], [{"n": 1}, None])

    assert [index.get(doc_id).text for doc_id in "abc"] == ["old a", "new b", "new c"]
    documents = {"a": whole_rows(0), "b": whole_rows(2), "c": whole_rows(3)}
    assert found(index.search(whole_rows(9))) == expected_hits(documents, whole_rows(9), 10)


def test_text_and_metadata_come_back_as_given(index):
    metadata = {"n": 1, "x": 0.5, "deep": {"list": [True, None, "ü"]}, "big": 2**70}
    index.add(["a"], [whole_rows(0)], ["naïve 猫\x00 text"], [metadata])

    (hit,) = index.search(whole_rows(1))

    assert (hit.text, hit.metadata) == ("naïve 猫\x00 text", metadata)
    assert index.get("a") == StoredPassage("a", "naïve 猫\x00 text", metadata, 3)


def test_index_answers_the_same_after_reopen_in_another_process(index):
    index.add(["a", "b"], TokenEmbeddings.pack([whole_rows(0), whole_rows(1)]), ["one", "two"])
    index.close()
    script = (
        "import sys, numpy as np\n"
        "from mlx_colbert.index import Index\n"
        "with Index.open(sys.argv[1], backend='numpy') as index:\n"
        "    print([(hit.doc_id, hit.text) for hit in index.search(np.ones((1, 8)))], len(index))\n"
    )

    printed = subprocess.run(
        [sys.executable, "-c", script, str(index.path)], check=True, capture_output=True, text=True
    ).stdout

    documents = {"a": whole_rows(0), "b": whole_rows(1)}
    texts = {"a": "one", "b": "two"}
    order = [(doc_id, texts[doc_id]) for doc_id, _ in expected_hits(documents, np.ones((1, DIM)), 2)]
    assert printed.strip() == f"{order} 2"


def test_empty_index_has_no_hits(index):
    assert index.search(whole_rows(0)) == []
    assert index.search([whole_rows(0), whole_rows(1)]) == [[], []]
    assert (index.search([]), len(index)) == ([], 0)


def test_many_queries_are_searched_in_parts(index, monkeypatch):
    monkeypatch.setattr("mlx_colbert.index.search.exact._MAX_SCORES", 50)
    documents = {f"d{i}": whole_rows(i) for i in range(10)}
    index.add(documents, documents.values())
    queries = [whole_rows(50 + i, n_rows) for i, n_rows in enumerate([2, 3, 9, 1, 1, 1])]

    assert [found(hits) for hits in index.search(queries, 3)] == [
        expected_hits(documents, q, 3) for q in queries
    ]


def test_large_batch_is_written_in_blocks(index, monkeypatch):
    monkeypatch.setattr("mlx_colbert.index.writing.batch.BLOCK_ROWS", 7)
    documents = {f"d{i}": whole_rows(i, 1 + i % 10) for i in range(20)}
    ids = list(documents)
    index.add(ids[:10], [documents[doc_id] for doc_id in ids[:10]])
    index.add(ids[10:], TokenEmbeddings.pack(documents[doc_id] for doc_id in ids[10:]))

    assert found(index.search(whole_rows(99), 20)) == expected_hits(documents, whole_rows(99), 20)


def test_info_counts_documents_tokens_and_bytes(index):
    index.add(["a", "b"], [whole_rows(0, 3), whole_rows(1, 5)])
    index.delete(["a"])

    info = index.info()

    assert (info.passages, info.tokens, info.deleted, info.segments) == (1, 5, 1, 1)
    assert (info.dim, info.nbits, info.n_centroids, info.format_version, info.model) == (DIM, 4, 0, 4, None)
    assert info.bytes == sum(
        path.stat().st_size for path in index.path.rglob("*.*") if path.suffix != ".db-shm"
    )


@pytest.mark.parametrize(
    "name", ["a", 'it\'s "quoted"; DROP TABLE documents', "x" * 5000, "line\nbreak", "\x00"]
)
def test_any_text_is_a_doc_id(index, name):
    index.add([name], [whole_rows(0)])

    assert name in index
    assert index.search(whole_rows(1))[0].doc_id == name
    index.delete([name])
    assert name not in index


def test_more_ids_than_sql_variables_are_found_and_deleted(index):
    ids = [f"d{i}" for i in range(1234)]
    index.add(ids, np.ones((1234, 1, DIM)))
    assert len(index.search(np.ones((1, DIM)), k=2000)) == 1234

    index.delete(ids[:1200])

    assert [hit.doc_id for hit in index.search(np.ones((1, DIM)), k=3)] == ["d1200", "d1201", "d1202"]


ROWS = [np.ones((2, DIM))]


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (InputError, "doc_ids is empty", ([], [])),
        (InputError, "doc_ids is a single string", ("ab", ROWS * 2)),
        (InputError, "doc_id '' is blank", ([""], ROWS)),
        (InputError, r"doc_id ' \\t' is blank", ([" \t"], ROWS)),
        (InputError, "doc_id 3", ([3], ROWS)),
        (InputError, r"doc_id '\\ud800'", (["\ud800"], ROWS)),
        (DuplicateIdError, "given twice", (["x", "x"], ROWS * 2)),
        (DuplicateIdError, "'here': exists already", (["new", "here"], ROWS * 2)),
        (ShapeError, "2 doc_ids, but 1 embeddings", (["x", "y"], ROWS)),
        (ShapeError, "1 doc_ids, but 2 texts", (["x"], ROWS, ["a", "b"])),
        (ShapeError, "1 doc_ids, but 0 metadata", (["x"], ROWS, None, [])),
        (
            ShapeError,
            r"'x': embeddings have shape \(2, 5\), the index needs \(n, 8\)",
            (["x"], [np.ones((2, 5))]),
        ),
        (ShapeError, r"\(8,\)", (["x"], [np.ones(DIM)])),
        (InputError, "'y': has no token embeddings", (["x", "y"], [*ROWS, np.ones((0, DIM))])),
        (InputError, "'y': a vector is not finite", (["x", "y"], [*ROWS, np.full((1, DIM), np.nan)])),
        (InputError, "'x': a vector is not finite", (["x"], [np.full((1, DIM), -np.inf)])),
        (InputError, "out of the range of float16", (["x"], [np.full((1, DIM), -65505.0)])),
        (InputError, "not real numbers", (["x"], [np.ones((1, DIM), complex)])),
        (InputError, "text of passage 'x'", (["x"], ROWS, ["\udfff"])),
        (InputError, "text of passage 'x'", (["x"], ROWS, [b"bytes"])),
        (InputError, "metadata of passage 'x'", (["x"], ROWS, None, [["list"]])),
        (InputError, "metadata of passage 'x'", (["x"], ROWS, None, [{1: "key"}])),
        (InputError, "metadata of passage 'x'", (["x"], ROWS, None, [{"a": {"b": float("nan")}}])),
        (InputError, "metadata of passage 'x'", (["x"], ROWS, None, [{"a": {1, 2}}])),
        (InputError, "metadata of passage 'x'", (["x"], ROWS, None, [{"a": "\ud800"}])),
    ],
)
def test_refused_batch_adds_nothing(index, error, message, arguments):
    index.add(["here"], ROWS)

    with pytest.raises(error, match=message):
        index.add(*arguments)

    assert (len(index), index.info().segments, len(list(index.path.glob("segment-*")))) == (1, 1, 1)


@pytest.mark.parametrize(
    ("error", "message", "query", "k"),
    [
        (InputError, "k is 0", np.ones((1, DIM)), 0),
        (InputError, "k is 1.5", np.ones((1, DIM)), 1.5),
        (InputError, "k is True", np.ones((1, DIM)), True),
        (ShapeError, "D = 4, the index has D = 8", np.ones((1, 4)), 1),
        (ShapeError, "one for each text", np.ones(DIM), 1),
        (InputError, "query 0: has no token embeddings", np.ones((0, DIM)), 1),
        (InputError, "query 1: a vector is not finite", [np.ones((2, DIM)), np.full((1, DIM), np.nan)], 1),
        (InputError, "not real numbers", np.ones((1, DIM), complex), 1),
    ],
)
def test_refused_query_says_why(index, error, message, query, k):
    with pytest.raises(error, match=message):
        index.search(query, k)


def test_unknown_ids_are_all_named_and_nothing_is_deleted(index):
    index.add(["a"], [whole_rows(0)])

    with pytest.raises(UnknownIdError) as caught:
        index.delete(["a", "x", "y", "x"])

    assert (caught.value.doc_ids, len(index)) == (["x", "y"], 1)
    with pytest.raises(UnknownIdError):
        index.get("x")
    assert ("\ud800" in index, 3 in index) == (False, False)


def test_deleting_an_id_given_twice_or_nothing_is_fine(index):
    index.add(["a"], [whole_rows(0)])

    index.delete([])
    index.delete(["a", "a"])

    assert (len(index), list(index.path.glob("segment-*"))) == (0, [])


def test_create_refuses_what_exists_and_takes_an_empty_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "empty").mkdir()

    for taken in ("file", "full"):
        with pytest.raises(TargetExistsError, match=r"Open it with Index\.open"):
            Index.create(tmp_path / taken)
    with pytest.raises(IndexStoreError, match="cannot be created: Not a directory"):
        Index.create(tmp_path / "file" / "below")
    with Index.create(tmp_path / "empty") as index:
        assert index.dim == 128
    with pytest.raises(TargetExistsError):
        Index.create(tmp_path / "empty")


@pytest.mark.parametrize(("dim", "model"), [(0, None), (1.5, None), (8, {"source": 3})])
def test_create_refuses_settings_that_cannot_be_used(tmp_path, dim, model):
    with pytest.raises(InputError):
        Index.create(tmp_path / "index", dim, model=model)

    assert not (tmp_path / "index").exists()


def test_another_models_fingerprint_is_refused_by_name(tmp_path):
    ours, theirs = {"source": "colbert-a", "fingerprint": "1"}, {"source": "colbert-b", "fingerprint": "2"}
    Index.create(tmp_path / "index", model=ours).close()

    with Index.open(tmp_path / "index", model=ours) as index:
        assert index.model == ours
    with pytest.raises(ModelMismatchError, match=r"'colbert-a' \(1\), not of 'colbert-b' \(2\)"):
        Index.open(tmp_path / "index", model=theirs)


def test_index_of_a_relative_path_survives_a_change_of_folder(tmp_path, monkeypatch, backend):
    monkeypatch.chdir(tmp_path)
    with Index.create("index", DIM, backend=backend) as index:
        monkeypatch.chdir("/")
        index.add(["a"], [whole_rows(0)])

        assert len(index.search(whole_rows(0))) == 1


def test_closed_index_says_so(index):
    index.close()
    index.close()

    with pytest.raises(IndexStoreError, match="is closed"):
        index.search(whole_rows(0))
    with pytest.raises(IndexStoreError, match="is closed"):
        index.add(["a"], [whole_rows(0)])


def test_metadata_nested_too_deeply_to_be_read_back_is_refused(index):
    deep = {"a": []}
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(InputError, match="metadata of passage 'x'"):
        index.add(["x"], [np.ones((1, DIM))], metadata=[deep])


def test_smallest_integer_is_beyond_float16(index):
    with pytest.raises(InputError, match="out of the range of float16"):
        index.add(["x"], [np.full((1, DIM), -(2**63))])


def test_huge_k_returns_all(index):
    index.add(["x"], [np.ones((1, DIM))])
    assert "x" in {hit.doc_id for hit in index.search(np.ones((1, DIM)), 10**25)}


def test_stored_passages_are_listed_in_the_order_they_were_added(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_colbert.index.index._PASSAGES_AT_ONCE", 2)
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        ids = ["z", "a", "m", "b", "y"]
        index.add(ids, ROWS * 5, ids, [{"n": n} for n in range(5)])
        assert index.ids() == list(index) == ids
        assert index.ids(filter="n >= 2", limit=2) == ["m", "b"]
        assert [(p.doc_id, p.text, p.metadata) for p in index.passages(filter="n < 2")] == [
            ("z", "z", {"n": 0}),
            ("a", "a", {"n": 1}),
        ]
        listed = index.passages()
        assert next(listed).doc_id == "z"
        index.delete(["m"])
        assert [passage.doc_id for passage in listed] == ["a", "b", "y"]
        with pytest.raises(InputError, match="limit is 0"):
            index.ids(limit=0)


def test_folder_with_the_litter_of_a_file_manager_counts_as_empty(tmp_path):
    (tmp_path / ".DS_Store").touch()
    with Index.create(tmp_path, DIM, backend="numpy") as index:
        assert len(index) == 0


def test_index_that_exists_is_opened_where_it_may_exist(tmp_path):
    model = {"source": "m", "fingerprint": "1"}
    for _ in range(2):
        with Index.create(tmp_path / "i", DIM, model=model, backend="numpy", exist_ok=True) as index:
            index.upsert(["a"], ROWS)
            assert index.model == model
    with pytest.raises(TargetExistsError, match="exists already"):
        Index.create(tmp_path / "i", DIM, backend="numpy")
    with pytest.raises(TargetExistsError, match=f"created with dim {DIM}, not {2 * DIM}"):
        Index.create(tmp_path / "i", 2 * DIM, backend="numpy", exist_ok=True)
    with pytest.raises(ModelMismatchError):
        Index.create(tmp_path / "i", DIM, model={"fingerprint": "2"}, backend="numpy", exist_ok=True)


def test_index_keeps_the_settings_to_encode_passages_apart_from_the_model(tmp_path):
    settings = {"pool_factor": "2"}
    model = {"source": "here", "pool_factor": "its own"}
    Index.create(tmp_path / "index", 2, model=model, indexing=settings, backend="numpy").close()

    with Index.open(tmp_path / "index", backend="numpy") as index:
        assert (index.model, index.indexing, index.info().indexing) == (model, settings, settings)
    with pytest.raises(TargetExistsError, match=r"created with indexing .*'2'.*, not \{\}"):
        Index.create(tmp_path / "index", 2, model=model, exist_ok=True, backend="numpy")
    with pytest.raises(InputError, match="indexing has a key or value that is not text"):
        Index.create(tmp_path / "other", 2, indexing={"pool_factor": 2}, backend="numpy")
