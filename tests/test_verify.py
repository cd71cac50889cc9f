"""What `--verify` compares, without the hub and without torch."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert, verify

CHECKPOINTS = Path(__file__).parent / "data" / "checkpoints"


@pytest.fixture
def folder(tmp_path):
    return convert(CHECKPOINTS / "stanford-bert", tmp_path / "model")


def publish(monkeypatch, folder: Path, shift: float) -> None:
    """Pretends that the checkpoint's own outputs, moved by `shift`, were published."""
    model = ColBERT.load(folder, backend="numpy")
    documents = ["the cat", "a dog"]
    scores = model.similarity(model.encode_query(["cat"]), model.encode_document(documents))[0] + shift
    common = {"model": "stanford-bert", "source": "a test"}
    vectors = (model.encode_document("cat")[:, :5] + shift).tolist()
    golden = {
        "maxsim": [
            common
            | {"query": "cat", "documents": documents, "scores": scores.tolist(), "rtol": 1e-3, "atol": 1e-3},
            common
            | {"model": "another", "query": "cat", "documents": ["x"], "scores": [0.0], "rtol": 0, "atol": 0},
        ],
        "token_vectors": [common | {"task": "document", "text": "cat", "first_dims": vectors, "atol": 2e-3}],
        "token_ids": [
            common | {"task": "query", "text": "cat", "input_ids": model.token_ids("cat", "query")}
        ],
    }
    monkeypatch.setattr(verify, "_golden", lambda: golden)


def test_published_values_of_this_checkpoint_are_compared(monkeypatch, folder):
    publish(monkeypatch, folder, 0.0)
    report = verify.verify(folder)
    assert len(report.checks) == 4
    assert report.passed


def test_published_values_that_differ_do_not_pass(monkeypatch, folder):
    publish(monkeypatch, folder, 0.1)
    report = verify.verify(folder)
    assert [check.passed for check in report.checks] == [True, False, False, True]
    assert not report.passed


def test_nothing_to_compare_with_does_not_pass_and_says_why(folder):
    report = verify.verify(folder)
    assert not report.passed
    assert [check.name for check in report.checks] == ["model.safetensors, sha256"]
    assert any("no published values are known" in note for note in report.notes)


def test_missing_sentence_transformers_is_noted(monkeypatch, folder):
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: None)
    notes = verify.verify(folder, CHECKPOINTS / "stanford-bert", backend="numpy").notes
    assert "sentence-transformers: not compared, it is not installed." in notes


def test_original_that_needs_code_of_its_own_is_not_compared(monkeypatch, folder):
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: object())
    notes = verify.verify(folder, CHECKPOINTS / "pylate-pplx-qwen3", backend="numpy").notes
    assert "sentence-transformers: not compared, the original needs code of its own, never run here." in notes


class Reference:
    """Stands in for sentence-transformers' model: this package's vectors, some of them turned."""

    def __init__(self, folder: Path, turned: float) -> None:
        self.model, self.turned = ColBERT.load(folder, backend="numpy"), turned

    def _vectors(self, embeddings) -> list[np.ndarray]:
        rows = [vectors + self.turned * np.roll(vectors, 1, axis=1) for vectors in embeddings]
        return [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in rows]

    def encode_query(self, texts, *, convert_to_numpy):
        return self._vectors(self.model.encode_query(texts))

    def encode_document(self, texts, *, convert_to_numpy):
        return self._vectors(self.model.encode_document(texts))


@pytest.mark.parametrize(("turned", "passed"), [(0.0, True), (0.05, False)])
def test_vectors_are_compared_with_sentence_transformers(monkeypatch, folder, turned, passed):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.ModuleType("sentence_transformers"))
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(verify, "_reference", lambda path, layout: Reference(folder, turned))
    report = verify.verify(folder, CHECKPOINTS / "stanford-bert", backend="numpy")
    assert len(report.checks) == 6
    assert report.passed is passed


def test_every_packaged_value_names_its_source():
    golden = json.loads((Path(verify.__file__).parent / "golden.json").read_text())
    for kind in ("maxsim", "token_vectors", "token_ids"):
        assert all(case["source"] and case["model"] for case in golden[kind])


def test_weights_changed_after_the_conversion_do_not_pass(monkeypatch, folder):
    publish(monkeypatch, folder, 0.0)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    report = verify.verify(folder)
    assert not report.checks[0].passed
    assert not report.passed
