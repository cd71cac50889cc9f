from __future__ import annotations

import numpy as np
import pytest

from mlx_colbert import TokenEmbeddings, explain, maxsim
from mlx_colbert.errors import ShapeError
from mlx_colbert.model.scoring import maxsim_pairwise

# colbert_scores of PyLate's documentation: queries (3, 4, 1), documents (3, 3, 1).
QUERIES = np.array([[[1], [0], [0], [0]], [[0], [2], [0], [0]], [[0], [0], [3], [0]]], np.float32)
DOCUMENTS = np.array([[[10], [0], [1]], [[0], [100], [1]], [[1], [0], [1000]]], np.float32)


def test_padded_queries_and_documents_give_the_documented_scores(backend):
    expected = [[10, 100, 1000], [20, 200, 2000], [30, 300, 3000]]
    assert maxsim(QUERIES, DOCUMENTS, backend=backend).tolist() == expected


def test_one_query_gives_one_row(backend):
    assert maxsim(QUERIES[1], DOCUMENTS, backend=backend).tolist() == [20, 200, 2000]


def test_ragged_and_padded_documents_score_alike(backend):
    rows = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    mask = np.arange(5) < np.array([[2], [5], [1]])
    ragged = [rows[i, : mask[i].sum()] for i in range(3)]
    padded = maxsim(rows[0], rows, document_mask=mask, backend=backend)
    np.testing.assert_allclose(padded, maxsim(rows[0], ragged, backend=backend), rtol=1e-5)


def test_padding_never_wins_over_negative_similarities(backend):
    query = np.array([[1.0, 0.0]], np.float32)
    documents = np.array([[[-0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]], np.float32)
    mask = np.array([[True, False, False]])
    assert maxsim(query, documents, document_mask=mask, backend=backend).tolist() == [-0.5]


def test_masked_query_rows_do_not_count(backend):
    mask = np.array([[True, False, False, False]] * 3)
    scores = maxsim(QUERIES, DOCUMENTS, query_mask=mask, backend=backend)
    assert scores.tolist() == [[10, 100, 1000], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type_is_scored_in_float32(backend, dtype):
    scores = maxsim(QUERIES[0].astype(dtype), list(DOCUMENTS.astype(dtype)), backend=backend)
    assert scores.dtype == np.float32
    assert scores.tolist() == [10, 100, 1000]


def test_many_queries_of_different_lengths_score_as_each_alone(backend):
    rng = np.random.default_rng(1)
    queries = [rng.standard_normal((n, 8)).astype(np.float32) for n in (3, 1, 6)]
    documents = [rng.standard_normal((n, 8)).astype(np.float32) for n in (40, 2)]
    together = maxsim(queries, documents, backend=backend)
    alone = [maxsim(query, documents, backend=backend) for query in queries]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_list_longer_than_a_block_scores_as_when_packed(backend, search_ops, monkeypatch):
    monkeypatch.setattr(search_ops, "maxsim_rows", 7)
    rng = np.random.default_rng(2)
    documents = [rng.standard_normal((n, 4)).astype(np.float32) for n in (3, 5, 20, 1, 1, 6)]
    packed = maxsim(documents[0], TokenEmbeddings.pack(documents), backend=backend)
    np.testing.assert_allclose(maxsim(documents[0], documents, backend=backend), packed, rtol=1e-5)


def test_no_documents_give_no_scores(backend):
    assert maxsim(QUERIES[0], [], backend=backend).shape == (0,)
    assert maxsim(list(QUERIES), [], backend=backend).shape == (3, 0)


@pytest.mark.parametrize(
    ("query", "documents", "message"),
    [
        (np.ones((2, 3)), [np.ones((2, 4))], "queries have D = 3, documents have D = 4"),
        (np.ones((2, 3)), [np.ones((0, 3))], "text 0 has no token embeddings"),
        (np.ones((0, 3)), [np.ones((2, 3))], "queries: text 0 has no token embeddings"),
        (np.ones(3), [np.ones((2, 3))], "queries: a single array must be padded"),
        (np.ones((2, 3)), np.ones((2, 3)), "documents: a single array must be padded"),
        (np.ones((2, 3)), [np.ones((2, 3)), np.ones((2, 4))], "of the same D"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(query, documents, message):
    with pytest.raises(ShapeError, match=message):
        maxsim(query, documents, backend="numpy")


def test_mask_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match="the mask has the shape"):
        maxsim(QUERIES[0], DOCUMENTS, document_mask=np.ones((3, 2), bool), backend="numpy")


def test_mask_beside_ragged_documents_is_refused():
    with pytest.raises(ShapeError, match="only a padded"):
        maxsim(QUERIES[0], list(DOCUMENTS), document_mask=np.ones((3, 3), bool), backend="numpy")


def test_pairwise_scores_are_the_diagonal(backend):
    queries, documents = TokenEmbeddings.pack(QUERIES), TokenEmbeddings.pack(DOCUMENTS)
    assert maxsim_pairwise(queries, documents, backend=backend).tolist() == [10, 200, 3000]


def test_pairwise_refuses_different_counts():
    with pytest.raises(ShapeError, match="3 queries, but 2 documents"):
        maxsim_pairwise(list(QUERIES), list(DOCUMENTS[:2]), backend="numpy")


def test_explanation_names_the_winning_token_and_sums_to_maxsim():
    rng = np.random.default_rng(2)
    query, document = rng.standard_normal((3, 8)), rng.standard_normal((5, 8))
    matches = explain(query, document, list("abc"), list("VWXYZ"))
    best = (query.astype(np.float32) @ document.astype(np.float32).T).argmax(axis=1)
    assert [match.document_token for match in matches] == ["VWXYZ"[i] for i in best]
    total = sum(match.similarity for match in matches)
    assert total == pytest.approx(maxsim(query, [document], backend="numpy")[0], rel=1e-5)


def test_explanation_refuses_texts_that_do_not_fit_the_rows():
    with pytest.raises(ShapeError, match="rows, but 2 and "):
        explain(QUERIES[0], DOCUMENTS[0], ["a", "b"], ["x", "y", "z"])
