"""Rows that another engine compressed, imported into a new index: streamed, checked, all or nothing."""

import numpy as np
import pytest

from mlx_colbert.errors import ColBERTError, DuplicateIdError, IndexStoreError, InputError, ShapeError
from mlx_colbert.index import Index, SearchParams
from mlx_colbert.index.writing import compressed_import, merge_policy

LENGTHS = np.array([3, 1, 8, 2, 5])
IDS = list("abcde")
RNG = np.random.default_rng(0)
# 4 bits: a byte is two components.
CODEC = {
    "centroids": RNG.standard_normal((6, 4)).astype(np.float32),
    "codebook": (0.2 * RNG.standard_normal((256, 2))).astype(np.float32),
}
CODES = RNG.integers(0, 6, 19)
RESIDUALS = RNG.integers(0, 256, (19, 2), dtype=np.uint8)


@pytest.fixture
def index(tmp_path, backend):
    with Index.create(tmp_path / "index", 4, nbits=4, backend=backend) as index:
        yield index


def blocks(*cuts):
    return zip(np.split(CODES, cuts), np.split(RESIDUALS, cuts), strict=True)


def import_compressed(index, **changes):
    index.import_compressed(**{**CODEC, "doc_ids": IDS, "lengths": LENGTHS, "blocks": blocks(), **changes})


def expected(query):
    vectors = CODEC["centroids"][CODES] + CODEC["codebook"][RESIDUALS].reshape(19, 4)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    parts = np.split(query @ vectors.T, np.cumsum(LENGTHS)[:-1], axis=1)
    return {doc_id: part.max(axis=1).sum() for doc_id, part in zip(IDS, parts, strict=True)}


def assert_imported(index):
    query = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    hits = index.search(query, params=SearchParams(exact=True))
    assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(expected(query), abs=1e-5)
    assert index.verify() == []


@pytest.mark.parametrize("cuts", [(), (1, 2, 11), (0, 7, 7, 19)])
def test_score_is_that_of_the_normalised_sum_of_centroid_and_residual(index, cuts):
    import_compressed(index, blocks=blocks(*cuts))
    assert_imported(index)


@pytest.mark.parametrize(("largest", "n_segments"), [(1, 5), (4, 4), (12, 2), (19, 1)])
def test_segments_end_with_a_document_and_are_no_larger_than_allowed(index, monkeypatch, largest, n_segments):
    monkeypatch.setattr(merge_policy, "LARGEST_TOKENS", largest)
    monkeypatch.setattr(compressed_import, "BLOCK_ROWS", 2)
    import_compressed(index, blocks=blocks(4, 9))
    assert index.info().segments == n_segments
    assert_imported(index)
    monkeypatch.undo()
    index.compact()
    assert index.info().segments == 1
    assert_imported(index)


def test_texts_and_metadata_are_stored(index):
    import_compressed(index, texts=["tea", None, "b", "c", "d"], metadata=[None, {"n": 1}, None, None, None])
    assert (index.get("a").text, index.get("b").metadata) == ("tea", {"n": 1})
    assert [hit.doc_id for hit in index.search_keywords("tea")] == ["a"]


def test_token_that_decodes_to_nothing_scores_nothing(index):
    codec = {"centroids": np.zeros((6, 4)), "codebook": np.zeros((256, 2))}
    import_compressed(index, **codec)
    assert {hit.score for hit in index.search(np.ones((2, 4)))} == {0.0}


@pytest.mark.parametrize("fill", [lambda index: index.add(["x"], [np.eye(4)]), import_compressed])
def test_index_that_holds_something_is_refused(index, fill):
    fill(index)
    before = len(index)
    with pytest.raises(IndexStoreError, match="is not empty"):
        import_compressed(index)
    assert len(index) == before and index.verify() == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"blocks": [(CODES[:18], RESIDUALS[:18])]}, InputError, "Missing: 1"),
        ({"blocks": [(CODES, RESIDUALS)] * 2}, InputError, "more rows"),
        ({"blocks": [(CODES + 1, RESIDUALS)]}, InputError, "not the number of one of the 6 centroids"),
        ({"blocks": [(CODES - 1, RESIDUALS)]}, InputError, "not the number of one of the 6 centroids"),
        (
            {"blocks": [(CODES.astype(float), RESIDUALS)]},
            InputError,
            "not the number of one of the 6 centroids",
        ),
        ({"blocks": [(CODES, RESIDUALS[:, :1])]}, ShapeError, r"Give \(19, 2\) and uint8"),
        ({"blocks": [(CODES, RESIDUALS.astype(int))]}, ShapeError, r"Give \(19, 2\) and uint8"),
        ({"lengths": LENGTHS[:4]}, ShapeError, "5 doc_ids, but 4 lengths"),
        ({"lengths": LENGTHS - 1}, InputError, "lengths must be integers"),
        ({"lengths": LENGTHS / 1}, InputError, "lengths must be integers"),
        ({"doc_ids": list("abcda")}, DuplicateIdError, "'a'"),
        ({"texts": ["tea"]}, ShapeError, "5 doc_ids, but 1 texts"),
        ({"metadata": [{"n": float("nan")}] + [None] * 4}, InputError, "key 'n' is a number that JSON"),
        ({"codebook": CODEC["codebook"].reshape(128, 4)}, ShapeError, "of 4 bits needs"),
        ({"centroids": CODEC["centroids"][:, :2]}, ShapeError, r"needs \(6, 4\)"),
        ({"centroids": CODEC["centroids"] * 1e6}, InputError, "centroids: a number is not finite"),
        ({"codebook": CODEC["codebook"] * np.nan}, InputError, "codebook: a number is not finite"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_kept(index, changes, error, message):
    with pytest.raises(error, match=message):
        import_compressed(index, **changes)
    assert (len(index), index.info().n_centroids) == (0, 0)
    import_compressed(index)
    assert_imported(index)


def test_error_of_the_stream_is_passed_on_and_nothing_is_kept(index):
    def broken():
        yield from blocks(5)
        raise ColBERTError("the old index is damaged")

    with pytest.raises(ColBERTError, match="the old index is damaged"):
        import_compressed(index, blocks=broken())
    assert (len(index), index.info().n_centroids) == (0, 0)
