"""Texts, ids, metadata and embeddings as people have them: columns of tables, generators, arrays of numpy."""

import numpy as np
import pytest

from mlx_colbert import ColBERT, Index, Retriever, TokenEmbeddings, maxsim
from mlx_colbert.errors import InputError, ShapeError

TEXTS = ["Tea is steeped.", "Snow is white.", "Coal is black."]
IDS = ["tea", "snow", "coal"]
ROWS = [
    np.eye(2, dtype=np.float32),
    np.array([[0.6, 0.8]], np.float32),
    np.array([[1, 0], [0, 1]], np.float32),
]


def pandas_column(values):
    return pytest.importorskip("pandas").DataFrame({"column": list(values)})["column"]


def polars_column(values):
    return pytest.importorskip("polars").DataFrame({"column": list(values)})["column"]


def pyarrow_column(values):
    return pytest.importorskip("pyarrow").table({"column": list(values)})["column"]


def datasets_column(values):
    return pytest.importorskip("datasets").Dataset.from_dict({"column": list(values)})["column"]


COLUMNS = [pandas_column, polars_column, pyarrow_column, datasets_column]
ITERABLES = [list, tuple, iter, np.array, lambda values: (value for value in values), *COLUMNS]


@pytest.fixture
def model(data):
    return ColBERT.load(data / "checkpoints" / "pylate-bert", backend="numpy")


@pytest.mark.parametrize("of", ITERABLES)
def test_texts_and_ids_of_every_kind_are_taken(of, model, tmp_path):
    expected = model.encode_document(TEXTS)

    np.testing.assert_array_equal(model.encode_document(of(TEXTS)).vectors, expected.vectors)
    assert len(model.encode_query(of(TEXTS))) == 3
    assert [hit.text for hit in model.rerank("tea", of(TEXTS), doc_ids=of(IDS))] == [
        hit.text for hit in model.rerank("tea", TEXTS)
    ]
    with Retriever.create(tmp_path / "index", model) as retriever:
        ids = retriever.add(of(TEXTS), of(IDS), iter([{"n": 0}, None, {"n": 2}]))
        assert ids == IDS and all(type(doc_id) is str for doc_id in ids)
        assert [len(hits) for hits in retriever.search(of(["tea", "snow"]), 2)] == [2, 2]
        assert {hit.doc_id for hit in retriever.search("tea", doc_ids=of(["snow", "coal"]))} == {
            "snow",
            "coal",
        }
        assert len(retriever.rerank("tea", of(IDS))) == 3
        retriever.delete(of(["tea"]))
        assert [type(hit.text) for hit in retriever.search("tea")] == [str, str]


def as_lists(rows):
    return [row.tolist() for row in rows]


@pytest.mark.parametrize(
    "of",
    [
        list,
        tuple,
        TokenEmbeddings.pack,
        as_lists,
        lambda rows: np.array([*rows, None], object)[:-1],
        lambda rows: pandas_column(rows),
        lambda rows: pandas_column(as_lists(rows)),
        lambda rows: pandas_column([np.array([*row, None], object)[:-1] for row in rows]),
        lambda rows: polars_column(as_lists(rows)),
        lambda rows: pyarrow_column(as_lists(rows)).to_pandas(),
        lambda rows: datasets_column(as_lists(rows)),
    ],
)
def test_embeddings_of_every_kind_are_taken(of, tmp_path):
    query = np.array([[1.0, 0.0]], np.float32)
    expected = [1.0, pytest.approx(0.6), 1.0]

    assert maxsim(query, of(ROWS)).tolist() == expected
    packed = TokenEmbeddings.pack(of(ROWS))
    assert packed.lengths.tolist() == [2, 1, 2] and packed.vectors.dtype.kind == "f"
    with Index.create(tmp_path / "index", 2) as index:
        index.add(IDS, of(ROWS))
        assert {hit.doc_id: hit.score for hit in index.search(query)} == pytest.approx(
            dict(zip(IDS, [1.0, 0.6, 1.0], strict=True)), abs=1e-3
        )


@pytest.mark.parametrize("table", ["pandas", "polars", "lazy", "datasets", "pyarrow"])
def test_table_is_refused_with_what_to_give(table, model):
    columns = {"text": TEXTS, "id": IDS}
    if table in ("pandas", "polars"):
        value = pytest.importorskip(table).DataFrame(columns)
    elif table == "lazy":
        value = pytest.importorskip("polars").LazyFrame(columns)
    elif table == "datasets":
        value = pytest.importorskip("datasets").Dataset.from_dict(columns)
    else:
        value = pytest.importorskip("pyarrow").table(columns)

    with pytest.raises(InputError, match="Give one of its columns"):
        model.encode_document(value)


@pytest.mark.parametrize("values", [set(TEXTS), dict.fromkeys(TEXTS), 7, None, b"text"])
def test_values_without_an_order_or_elements_are_refused(values, model):
    with pytest.raises(InputError, match="Give a list"):
        model.encode_document(values)


def test_missing_text_of_a_column_is_named_by_its_position(model):
    for of in (pandas_column, polars_column):
        with pytest.raises(InputError, match="document 1 must be a string"):
            model.encode_document(of(["tea", None]))


def test_column_of_numbers_is_no_column_of_embeddings():
    for values in (np.ones(3), np.array([1, None], object)):
        with pytest.raises(ShapeError):
            TokenEmbeddings.pack(values)
