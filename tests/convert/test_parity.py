"""Every family and layout against sentence-transformers' outputs, kept in tests/data/reference."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from decoders import skip_decoder

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
from mlx_colbert.model.folder import read_config
from mlx_colbert.model.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "data"
NAMES = sorted(path.name for path in (DATA / "checkpoints").iterdir())
TEXTS = json.loads((DATA / "texts.json").read_text(encoding="utf-8"))
SIDES = [("query", "queries"), ("document", "documents")]

# The project's bars; measured values are in convert/README.md.
MIN_COSINE = 0.99999
MIN_COSINE_FLOAT16 = 0.999
MAX_SCORE_DIFFERENCE = 1e-3


@pytest.fixture(params=NAMES)
def checkpoint(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def reference(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "reference" / f"{name}.npz"))


@cache
def load(name: str, backend: str, dtype: str = "float32") -> ColBERT:
    skip_decoder(name, backend)
    return ColBERT.load(DATA / "checkpoints" / name, backend=backend, dtype=dtype)


def encode(model: ColBERT, side: str, texts: list[str]):
    return model.encode_query(texts) if side == "query" else model.encode_document(texts)


@pytest.mark.parametrize(("side", "texts"), SIDES)
def test_token_ids_are_the_references(checkpoint, side, texts, tmp_path):
    expected = reference(checkpoint)
    folder = convert(DATA / "checkpoints" / checkpoint, tmp_path / "model")
    tokenized = getattr(Tokenizer(folder / "tokenizer.json", read_config(folder).colbert), texts)(
        TEXTS[texts]
    )
    ends = np.cumsum(expected[f"{side}_id_lengths"])
    rows = np.split(expected[f"{side}_ids"], ends[:-1])
    assert [row.ids.tolist() for row in tokenized.rows] == [row.tolist() for row in rows]


@pytest.mark.parametrize(("side", "texts"), SIDES)
def test_vectors_are_the_references(checkpoint, side, texts, backend):
    expected = reference(checkpoint)
    embeddings = encode(load(checkpoint, backend), side, TEXTS[texts])
    assert embeddings.lengths.tolist() == expected[f"{side}_lengths"].tolist()
    cosines = (embeddings.vectors * expected[f"{side}_vectors"]).sum(axis=1)
    assert cosines.min() >= MIN_COSINE


@pytest.mark.slow
def test_scores_are_the_references(checkpoint, backend):
    model = load(checkpoint, backend)
    queries, documents = model.encode_query(TEXTS["queries"]), model.encode_document(TEXTS["documents"])
    difference = np.abs(model.similarity(queries, documents) - reference(checkpoint)["scores"])
    assert difference.max() <= MAX_SCORE_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize(("side", "texts"), SIDES)
def test_a_text_alone_has_the_vectors_that_it_has_in_a_mixed_batch(checkpoint, side, texts, backend):
    model = load(checkpoint, backend)
    together = encode(model, side, TEXTS[texts])
    for text, rows in zip(TEXTS[texts], together, strict=True):
        np.testing.assert_allclose(encode(model, side, [text])[0], rows, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "texts"), SIDES)
def test_float16_weights_keep_the_direction_of_every_vector(checkpoint, side, texts):
    pytest.importorskip("mlx.core")
    model = load(checkpoint, "mlx", "float16")
    embeddings = encode(model, side, TEXTS[texts])
    cosines = (embeddings.vectors * reference(checkpoint)[f"{side}_vectors"]).sum(axis=1)
    assert cosines.min() >= MIN_COSINE_FLOAT16


def test_the_real_minilm_agrees_with_the_reference(minilm, backend):
    expected = reference("minilm")
    model = ColBERT.load(minilm, backend=backend, dtype="float32")
    embeddings = {side: encode(model, side, TEXTS[texts]) for side, texts in SIDES}
    for side, found in embeddings.items():
        assert found.lengths.tolist() == expected[f"{side}_lengths"].tolist()
        assert (found.vectors * expected[f"{side}_vectors"]).sum(axis=1).min() >= MIN_COSINE
    scores = model.similarity(embeddings["query"], embeddings["document"])
    assert np.abs(scores - expected["scores"]).max() <= MAX_SCORE_DIFFERENCE


def test_the_real_colbert_agrees_with_its_onnx_graph(answerai, backend):
    expected = reference("answerai-onnx")
    model = ColBERT.load(answerai, backend=backend, dtype="float32")
    tokens = Tokenizer(answerai / "tokenizer.json", model.config.colbert).documents(TEXTS["documents"])
    np.testing.assert_array_equal(np.concatenate([row.ids for row in tokens.rows]), expected["ids"])
    scored = np.concatenate([row.scored for row in tokens.rows])
    rows = model.encode_document(TEXTS["documents"]).vectors
    assert (rows * expected["vectors"][scored]).sum(axis=1).min() >= MIN_COSINE
    # onnxruntime rounds activations to 8 bits as well, which this package does not.
    cosines = (rows * expected["rounded_vectors"][scored].astype(np.float32)).sum(axis=1)
    assert 0.98 < cosines.min() < MIN_COSINE
