"""How an index is created, when it is compressed, and how a compressed one takes more documents."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from clusters import maxsim_by_hand, spread, unit
from searched import DIM, N, assert_hits_are, ids_of, stored_rows

from mlx_colbert.errors import InputError
from mlx_colbert.index import Index, SearchParams
from mlx_colbert.index.storage.codec import n_centroids_for


@pytest.fixture
def own(folder, tmp_path, backend):
    """A copy of it to change."""
    with Index.open(shutil.copytree(folder, tmp_path / "index"), backend=backend) as opened:
        yield opened


def test_index_is_compressed_from_the_first_document_on_with_exact_tokens_0(tmp_path, backend):
    rows = unit(np.random.default_rng(0).standard_normal((5, DIM)))
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend=backend) as index:
        assert (index.search(rows), index.info().n_centroids) == ([], 0)

        index.add(["a"], [rows])

        assert (index.info().n_centroids, index.info().compressed_passages) == (1, 1)
        # Five unit rows that 4 bits say to within a percent.
        assert index.search(rows)[0].score == pytest.approx(5, rel=0.02)
        assert index.verify() == []


def test_index_is_compressed_when_it_outgrows_exact_tokens(tmp_path, backend, documents):
    few = list(documents)[:30]
    n_tokens = sum(len(documents[doc_id]) for doc_id in few)
    with Index.create(tmp_path / "index", DIM, exact_tokens=n_tokens, backend=backend) as index:
        for part in (few[:10], few[10:]):
            index.add(part, [documents[doc_id] for doc_id in part])
        assert (index.info().n_centroids, index.info().tokens) == (0, n_tokens)

        index.add(["one more"], [np.eye(DIM)[:1]], ["text"])

        assert (index.info().n_centroids, index.info().compressed_passages) == (
            n_centroids_for(n_tokens + 1),
            31,
        )
        assert (len(index), index.get("one more").text, index.verify()) == (31, "text", [])
        found = [index.search(documents[doc_id], 1)[0].doc_id for doc_id in few]
        assert found == few


def test_index_stays_exact_with_exact_tokens_none(tmp_path, documents, queries):
    with Index.create(tmp_path / "index", DIM, exact_tokens=None, backend="numpy") as index:
        index.add(documents, documents.values())
        index.compact(retrain=True)

        assert (index.info().n_centroids, index.info().compressed_passages) == (0, 0)
        halves = {i: rows.astype(np.float16) for i, rows in documents.items()}
        expected = {doc_id: maxsim_by_hand(queries[0], part) for doc_id, part in halves.items()}
        assert_hits_are(
            index.search(queries[0], 50, params=SearchParams(n_probe=1, n_approximate=1, n_candidates=1)),
            expected,
        )


@pytest.mark.parametrize(("dim", "nbits"), [(1, 4), (3, 2), (4, 1), (7, 4), (129, 4), (100, 1), (126, 2)])
def test_dim_of_no_whole_bytes_is_refused(tmp_path, dim, nbits):
    with pytest.raises(InputError, match=f"dim {dim} times nbits {nbits} is not a multiple of 8"):
        Index.create(tmp_path / "index", dim, nbits=nbits)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("nbits", [0, 3, 16, -1, 4.0, True, "4", None])
def test_unknown_numbers_of_bits_are_refused(tmp_path, nbits):
    with pytest.raises(InputError, match="nbits is"):
        Index.create(tmp_path / "index", DIM, nbits=nbits)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("exact_tokens", [-1, 1.5, True, "0"])
def test_unusable_exact_tokens_are_refused(tmp_path, exact_tokens):
    with pytest.raises(InputError, match="exact_tokens is"):
        Index.create(tmp_path / "index", DIM, exact_tokens=exact_tokens)
    assert not (tmp_path / "index").exists()


def test_numpy_integers_are_settings_too(tmp_path):
    settings = {"nbits": np.int64(2), "exact_tokens": np.int32(0)}
    with Index.create(tmp_path / "index", np.int64(8), **settings, backend="numpy") as index:
        assert (index.info().dim, index.info().nbits) == (8, 2)


@pytest.mark.parametrize(("dim", "nbits"), [(8, 1), (4, 2), (2, 4), (1, 8), (48, 4), (128, 1)])
def test_smallest_and_odd_dims_are_searched(tmp_path, backend, dim, nbits):
    rng = np.random.default_rng(dim)
    rows = [unit(rng.standard_normal((n, dim))) for n in (1, 2, 30, 1, 7)]
    with Index.create(tmp_path / "index", dim, nbits=nbits, exact_tokens=0, backend=backend) as index:
        index.add(list("abcde"), rows)

        hits = index.search(rows[2], 5)

        expected = {i: maxsim_by_hand(rows[2], part) for i, part in stored_rows(index).items()}
        assert_hits_are(hits, expected)


def test_small_adds_to_a_compressed_index_are_found_at_once_and_exactly(own, documents):
    rng = np.random.default_rng(5)
    centroids = own.info().n_centroids
    for i in range(3):
        rows = spread(rng, documents[f"d{i:03}"], 0.1)
        own.add([f"new {i}"], [rows], [f"fresh {i}"])

        (hit, *_) = own.search(rows)
        assert (hit.doc_id, hit.text) == (f"new {i}", f"fresh {i}")
        # It is in float16 yet.
        assert hit.score == pytest.approx(len(rows), abs=1e-2)
    assert (own.info().n_centroids, own.info().compressed_passages) == (centroids, 890)


@pytest.mark.parametrize("doc_id", ["d000", "d600", "d899"])
def test_upsert_replaces_a_compressed_document(own, documents, doc_id):
    rng = np.random.default_rng(6)
    old, new = documents[doc_id], unit(rng.standard_normal((9, DIM)))

    own.upsert([doc_id], [new], ["new text"], [{"n": -5}])

    (hit, *_) = own.search(new)
    assert (hit.doc_id, hit.text, hit.metadata) == (doc_id, "new text", {"n": -5})
    assert hit.score == pytest.approx(9, abs=1e-2)
    (again,) = own.search(old, doc_ids=[doc_id])
    assert again.score == pytest.approx(maxsim_by_hand(old, new), abs=1e-2)
    assert ids_of(own.search(old, N)).count(doc_id) == 1
    assert (len(own), own.info().deleted, own.verify()) == (N, 1, [])
