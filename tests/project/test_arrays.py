"""Arrays of every kind are taken wherever token embeddings are, and NaN nowhere."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mlx_colbert import ColBERT, Index, TokenEmbeddings, explain, maxsim
from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.model.pooling import pool
from mlx_colbert.model.scoring import maxsim_pairwise
from mlx_colbert.types import as_array

# Values that bfloat16 holds exactly.
ROWS = np.array([[1.0, 0.0], [0.5, -0.25], [0.0, 1.0]], np.float32)
OTHER = np.array([[0.0, 1.0], [-1.0, 0.5]], np.float32)


class WithArray:
    """Nothing but `__array__`."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return self._values


class WithDLPack:
    """Nothing but DLPack, and a shape."""

    def __init__(self, values):
        self._values = np.ascontiguousarray(values)
        self.shape = self._values.shape

    def __dlpack__(self, **options):
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._values.__dlpack_device__()


class Bfloat16Tensor:
    """What torch's tensors do: numpy cannot read one of bfloat16, or one in a graph."""

    dtype = "torch.bfloat16"

    def __init__(self, values):
        self._values = values
        self.shape = values.shape

    def __len__(self):
        return len(self._values)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Got unsupported ScalarType BFloat16")

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return self._values


def _mlx(dtype):
    def make(values):
        mx = pytest.importorskip("mlx.core")
        return mx.array(values).astype(getattr(mx, dtype))

    return make


def _torch(values):
    torch = pytest.importorskip("torch")
    return torch.tensor(values, dtype=torch.bfloat16, requires_grad=True)


KINDS = {
    "numpy": np.array,
    "float16": lambda values: values.astype(np.float16),
    "lists": lambda values: values.tolist(),
    "tuples": lambda values: tuple(map(tuple, values.tolist())),
    "list of rows": list,
    "DLPack": WithDLPack,
    "no shape": WithArray,
    "like torch": Bfloat16Tensor,
    "mlx": _mlx("float32"),
    "mlx bfloat16": _mlx("bfloat16"),
    "torch bfloat16": _torch,
}


@pytest.fixture(params=KINDS)
def kind(request):
    if "torch b" in request.param and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    return KINDS[request.param]


def test_array_of_any_kind_is_the_same_array(kind):
    assert np.array_equal(as_array(kind(ROWS)), ROWS)
    assert np.array_equal(as_array(WithArray(ROWS)), ROWS)


def test_scores_are_those_of_numpy_arrays(kind):
    expected = maxsim(ROWS, [ROWS, OTHER], backend="numpy")
    assert np.array_equal(maxsim(kind(ROWS), [kind(ROWS), kind(OTHER)], backend="numpy"), expected)
    several = maxsim([kind(ROWS), kind(OTHER)], [kind(OTHER)], backend="numpy")
    assert np.array_equal(several, maxsim([ROWS, OTHER], [OTHER], backend="numpy"))
    assert np.array_equal(maxsim_pairwise([kind(ROWS)], [kind(OTHER)], backend="numpy"), several[0])
    assert explain(kind(ROWS), kind(OTHER), list("abc"), list("XY")) == explain(ROWS, OTHER, "abc", "XY")


@pytest.mark.parametrize("name", ["numpy", "DLPack", "like torch", "mlx", "mlx bfloat16"])
def test_padded_arrays_of_any_kind_are_scored(name):
    padded = np.stack([ROWS, ROWS[::-1]])
    expected = maxsim(OTHER, padded, backend="numpy")
    assert np.array_equal(maxsim(OTHER, KINDS[name](padded), backend="numpy"), expected)


def test_index_adds_and_searches_them(kind, tmp_path):
    with Index.create(tmp_path / "index", 2, nbits=4, backend="numpy") as index:
        index.add(["a", "b"], [kind(ROWS), kind(OTHER)])
        index.upsert(["b"], [kind(OTHER)])
        one, several = index.search(kind(ROWS), 1), index.search([kind(ROWS), kind(OTHER)], 1)
        assert [hit.doc_id for hit in one] == ["a"]
        assert [hits[0].doc_id for hits in several] == ["a", "b"]


@pytest.mark.parametrize("values", ["text", {"a": 1}, [[1.0], [1.0, 2.0]], object(), [[object()]]])
def test_what_is_no_array_is_refused(values, tmp_path):
    with pytest.raises((ShapeError, InputError)):
        maxsim(ROWS, [values], backend="numpy")
    with Index.create(tmp_path / "index", 2, nbits=4) as index:
        with pytest.raises((ShapeError, InputError)):
            index.add(["a"], [values])
        with pytest.raises((ShapeError, InputError)):
            index.search([values])


@pytest.mark.parametrize("wrong", ["query", "document"])
def test_nan_is_refused_everywhere(backend, wrong, tmp_path):
    spoilt = ROWS.copy()
    spoilt[1, 0] = np.nan
    query, document = (spoilt, ROWS) if wrong == "query" else (ROWS, spoilt)
    for score in (
        lambda: maxsim(query, [OTHER, document], backend=backend),
        lambda: maxsim_pairwise([query], [document], backend=backend),
        lambda: explain(query, document, list("abc"), list("abc")),
        lambda: pool(TokenEmbeddings.pack([spoilt]), 2),
    ):
        with pytest.raises(InputError, match="NaN"):
            score()
    with Index.create(tmp_path / "index", 2, nbits=4, backend=backend) as index:
        with pytest.raises(InputError, match="not finite"):
            index.add(["a"], [spoilt])
        with pytest.raises(InputError, match="not finite"):
            index.search(spoilt)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_packing_refuses_a_component_that_is_not_finite(dtype, value):
    spoilt = ROWS.astype(dtype)
    spoilt[1, 0] = value
    with pytest.raises(InputError, match="text 1: a component is NaN or infinite"):
        TokenEmbeddings.pack([ROWS.astype(dtype), spoilt])


def test_packing_takes_components_whose_sum_overflows():
    large = np.full((2, 2), np.finfo(np.float32).max)
    assert np.array_equal(TokenEmbeddings.pack([large])[0], large)


@pytest.mark.parametrize("rows", [np.array([["a", "b"]]), np.array([[1j, 2j]]), np.array([[None, 1]])])
def test_packing_refuses_what_is_no_real_number(rows):
    with pytest.raises(InputError, match="not real numbers"):
        TokenEmbeddings.pack([rows])


def test_matrix_of_a_vector_per_text_is_no_query_of_a_model(data):
    model = ColBERT.load(data / "checkpoints" / "pylate-bert", backend="numpy")
    documents = model.encode_document(["one", "two"])
    pooled = 3 * np.ones((4, model.dim), np.float32)
    for scores in (model.similarity, model.similarity_pairwise):
        with pytest.raises(InputError, match="row 0 has the length"):
            scores(pooled, documents[:1])
        with pytest.raises(InputError, match="row 0 has the length"):
            scores(documents[:1], pooled)
