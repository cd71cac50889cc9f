"""When rows are compressed, extended and trained again; what a merge does with compressed rows."""

from __future__ import annotations

import shutil
import sqlite3
import threading

import numpy as np
import pytest
from clusters import clustered_documents, maxsim_by_hand, meanings, queries_from, recall, spread

from mlx_colbert.errors import IndexDamagedError, IndexStoreError
from mlx_colbert.index import Index, SearchParams, verify
from mlx_colbert.index.writing import merge_policy

DIM = 32


def documents_of(seed, n, *, centres=40):
    rng = np.random.default_rng(seed)
    return clustered_documents(rng, meanings(rng, centres, DIM), n)


def assert_scores(index, documents):
    """Each document's own rows score about what MaxSim by hand gives."""
    assert index.verify() == []
    for doc_id, rows in documents.items():
        hits = index.search(rows, len(documents), params=SearchParams(exact=True))
        (own,) = (hit for hit in hits if hit.doc_id == doc_id)
        assert own.score == pytest.approx(maxsim_by_hand(rows, rows), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("fan_out", [2, 3, 8])
def test_small_compressed_segments_merge_with_new_rows_as_codes(tmp_path, backend, monkeypatch, fan_out):
    monkeypatch.setattr(merge_policy, "FAN_OUT", fan_out)
    documents = {f"d{i}": rows for i, rows in enumerate(documents_of(0, 30))}
    with Index.create(tmp_path / "index", DIM, exact_tokens=60, backend=backend) as index:
        # The add that outgrows 60 tokens is compressed; the next ones are small, and merge with it.
        for doc_id, rows in documents.items():
            index.add([doc_id], [rows])
        info = index.info()
        assert 0 < info.compressed_passages and info.segments <= 2 * fan_out
        assert_scores(index, documents)


def test_compressed_segment_that_shrank_merges_as_codes(tmp_path, backend):
    documents = {f"d{i}": rows for i, rows in enumerate(documents_of(1, 400))}
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend=backend) as index:
        index.add(documents, documents.values())
        index.delete(list(documents)[4:])
        for i, rows in enumerate(documents_of(2, 10)):
            index.add([f"new{i}"], [rows])
            documents[f"new{i}"] = rows
        kept = {doc_id: rows for doc_id, rows in documents.items() if doc_id in index}
        assert len(kept) == 14 and index.info().segments < 9
        assert_scores(index, kept)


def test_compact_retrains_on_request_below_the_size_that_codes_an_index(tmp_path, backend):
    documents = documents_of(3, 200)
    with Index.create(tmp_path / "index", DIM, exact_tokens=1500, backend=backend) as index:
        index.add([f"d{i}" for i in range(200)], documents)
        index.delete([f"d{i}" for i in range(100, 200)])
        before = index.info()
        assert before.n_centroids and before.tokens < 1500
        index.compact(retrain=True)
        assert index.info().n_centroids < before.n_centroids


@pytest.mark.slow
def test_bulk_of_new_topics_adds_centroids(tmp_path, backend):
    old, new = documents_of(4, 600), documents_of(5, 300, centres=20)
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend=backend) as index:
        index.add([f"old{i}" for i in range(600)], old)
        before = index.info().n_centroids
        with index.bulk():
            index.add([f"new{i}" for i in range(300)], new)
        assert index.info().n_centroids > before
        queries = queries_from(np.random.default_rng(6), new, 40)
        found, expected = index.search(queries), index.search(queries, params=SearchParams(exact=True))
        assert recall(found, expected) > 0.95


def test_nested_bulk_compacts_at_the_end_of_the_outermost_block(tmp_path):
    documents = documents_of(7, 60)
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend="numpy") as index:
        with index.bulk():
            with index.bulk():
                index.add(["a"], documents[:1])
            for i, rows in enumerate(documents[1:]):
                index.add([f"d{i}"], [rows])
            assert (index.info().n_centroids, index.info().segments) == (0, 60)
        assert (index.info().compressed_passages, index.info().segments) == (60, 1)


def test_bulk_that_fails_leaves_the_next_add_compressed(tmp_path):
    documents = documents_of(8, 20)
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend="numpy") as index:
        with pytest.raises(KeyError), index.bulk():
            raise KeyError
        index.add([f"d{i}" for i in range(20)], documents)
        assert index.info().compressed_passages == 20


def test_catalog_that_lost_a_document_is_not_compacted(tmp_path):
    rows = documents_of(9, 3)
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a", "b", "c"], rows)
        with sqlite3.connect(tmp_path / "index" / "catalog.db") as catalog:
            catalog.execute("DELETE FROM passages WHERE doc_id = 'a'")
        catalog.close()
        index.delete(["c"])
        with pytest.raises(IndexDamagedError, match="has 1 passage for segment"):
            index.compact()


def test_search_of_any_k_holds_few_similarities(tmp_path, backend, monkeypatch):
    from mlx_colbert.kernels import get_search_ops

    rng = np.random.default_rng(10)
    centres = meanings(rng, 20, DIM)
    documents = [spread(rng, centres[rng.integers(0, 20, 10)], 0.5) for _ in range(300)]
    limit = {"numpy": "_SCORED_ROWS", "mlx": "maxsim_rows"}[backend]
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend=backend) as index:
        index.add([f"d{i}" for i in range(300)], documents)
        whole = [index.search(documents[0], k, params=p) for k, p in ((290, None), (5, None), (9, EXACTLY))]
        monkeypatch.setattr(get_search_ops(backend), limit, 64)
        parts = [index.search(documents[0], k, params=p) for k, p in ((290, None), (5, None), (9, EXACTLY))]
    for some, others in zip(whole, parts, strict=True):
        assert [hit.doc_id for hit in some] == [hit.doc_id for hit in others]
        assert [hit.score for hit in some] == pytest.approx([hit.score for hit in others], rel=1e-5)


EXACTLY = SearchParams(exact=True)


def test_searchers_of_a_burst_let_removed_files_go(tmp_path):
    rows = documents_of(11, 8)
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a", "b"], rows[:2])
        together = threading.Barrier(4)

        def search():
            with index._open.pool.searcher() as searcher, searcher.snapshot():
                together.wait()

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(index._open.pool._idle) == 4
        index.delete(["a"])
        index.compact()
        index.search(rows[1])
        assert len(index._open.pool._idle) == 1


def test_verify_names_every_damaged_segment(tmp_path):
    rows = documents_of(12, 3)
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        for i in range(3):
            index.add([f"d{i}"], [rows[i]])
        damaged = sorted((tmp_path / "index").glob("segment-*"))[1:]
        for folder in damaged:
            (folder / "vectors.npy").unlink()
        problems = "\n".join(index.verify())
        assert all(f"{folder.name}/vectors.npy" in problems for folder in damaged)


@pytest.mark.parametrize("change", ["add", "update_metadata", "delete", "search"])
def test_index_that_was_replaced_is_left_alone(tmp_path, change):
    rows = documents_of(13, 4)
    path = tmp_path / "index"
    with Index.create(path, DIM, backend="numpy") as old:
        old.add(["a"], rows[:1])
        path.rename(tmp_path / "moved")
        with Index.create(path, DIM, backend="numpy") as new:
            new.add(["b"], rows[1:2])
            new.add(["c"], rows[2:3])
        calls = {
            "add": lambda: old.add(["d"], rows[3:]),
            "update_metadata": lambda: old.update_metadata(["a"], [{"n": 1}]),
            "delete": lambda: old.delete(["a"]),
            "search": lambda: old.search(rows[0]),
        }
        with pytest.raises(IndexStoreError, match="replaced"):
            calls[change]()
    with Index.open(path, backend="numpy") as new:
        assert new.verify() == [] and len(new) == 2


def test_writer_that_opens_late_refuses_an_index_of_another_width(tmp_path):
    rows = documents_of(14, 1)
    path = tmp_path / "index"
    with Index.create(path, DIM, backend="numpy") as old:
        shutil.rmtree(path)
        Index.create(path, DIM * 2, backend="numpy").close()
        with pytest.raises(IndexStoreError, match="replaced"):
            old.add(["a"], rows)
    assert verify(path) == []
