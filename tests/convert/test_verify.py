"""What `--verify` compares, without the hub and without torch."""

from __future__ import annotations

import json
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_colbert import ColBERT
from mlx_colbert.cli import main
from mlx_colbert.convert import convert, verify

DATA = Path(__file__).parents[1] / "data"
CHECKPOINTS = DATA / "checkpoints"


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
    assert (
        "sentence-transformers: not compared, the original needs its own code, which is never run here."
        in notes
    )


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


def golden_of(name: str, *, model: str, shift: float = 0.0) -> dict[str, list[dict[str, Any]]]:
    """golden.json for a test checkpoint, of sentence-transformers' outputs in tests/data/reference."""
    texts = json.loads((DATA / "texts.json").read_text(encoding="utf-8"))
    reference = dict(np.load(DATA / "reference" / f"{name}.npz"))
    ids = np.split(reference["query_ids"], np.cumsum(reference["query_id_lengths"])[:-1])
    vectors = np.split(reference["document_vectors"], np.cumsum(reference["document_lengths"])[:-1])
    common = {"model": model, "source": "tests/data/reference"}
    scores = {"scores": (reference["scores"][3] + shift).tolist(), "rtol": 1e-3, "atol": 1e-3}
    rows = {"first_dims": vectors[2][:, :5].tolist(), "atol": 2e-3}
    return {
        "maxsim": [common | {"query": texts["queries"][3], "documents": texts["documents"]} | scores],
        "token_vectors": [common | {"task": "document", "text": texts["documents"][2]} | rows],
        "token_ids": [common | {"task": "query", "text": texts["queries"][4], "input_ids": ids[4].tolist()}],
    }


@pytest.fixture
def golden(tmp_path, monkeypatch):
    """Writes a golden.json that is used in place of the package's own."""

    def write(values: dict[str, Any]) -> None:
        (tmp_path / "golden.json").write_text(json.dumps(values))
        monkeypatch.setattr(verify, "_GOLDEN", tmp_path / "golden.json")

    return write


def test_model_of_the_hub_is_verified_in_a_table(hub, golden, capsys, backend):
    revision = hub.add("owner/model", CHECKPOINTS / "stanford-bert").refs["main"]
    golden(golden_of("stanford-bert", model="owner/model"))
    assert main(["verify-model", "owner/model", "--backend", backend]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["case", "expected", "measured", "difference", "allowed"]
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["ok", "MaxSim"],
        ["ok", "document"],
        ["ok", "token"],
    ]
    differences = [float(line.split()[-2]) for line in lines[1:3]]
    assert max(differences) < 1e-4
    assert re.fullmatch(rf"owner/model at revision {revision}, .*: passed\.", lines[4])


def test_model_that_differs_fails_and_shows_by_how_much(hub, golden, capsys):
    hub.add("owner/model", CHECKPOINTS / "stanford-bert")
    golden(golden_of("stanford-bert", model="owner/model", shift=0.25))
    assert main(["verify-model", "owner/model", "--backend", "numpy", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [check["passed"] for check in told["checks"]] == [False, True, True]
    assert told["checks"][0]["difference"] == pytest.approx(0.25, abs=1e-3) and told["passed"] is False
    assert main(["verify-model", "owner/model", "--backend", "numpy"]) == 1
    assert "1 of 3 FAILED" in capsys.readouterr().out


def test_converted_folder_is_verified_as_what_it_was_converted_from(hub, golden, tmp_path, capsys):
    hub.add("owner/model", CHECKPOINTS / "stanford-bert")
    golden(golden_of("stanford-bert", model="owner/model"))
    convert("owner/model", tmp_path / "model", dtype="float16")
    assert main(["verify-model", str(tmp_path / "model"), "--backend", "numpy"]) in (0, 1)
    assert "owner/model at revision" in capsys.readouterr().out


def test_model_with_other_tokens_fails_without_a_difference(hub, golden, capsys):
    hub.add("owner/model", CHECKPOINTS / "pylate-roberta")
    golden(golden_of("stanford-bert", model="owner/model"))
    assert main(["verify-model", "owner/model", "--backend", "numpy", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert checks[1]["expected"].endswith(" vectors") and checks[1]["difference"] is None
    assert [check["passed"] for check in checks] == [False, False, False]


def test_model_without_published_values_lists_those_with_some(capsys):
    assert main(["verify-model", str(CHECKPOINTS / "stanford-bert"), "--backend", "numpy"]) == 1
    message = capsys.readouterr().err
    assert (
        "no published values of 'stanford-bert' are known. If it is a copy of one of these, name that: --published ID"
        in message
    )
    assert all(f"- {case['model']}\n" in message for case in verify._golden()["maxsim"])


NAME = "answerdotai/answerai-colbert-small-v1"


def test_real_colbert_in_eight_bits_is_near_its_published_values(answerai, capsys):
    assert main(["verify-model", str(answerai), "--published", NAME, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    scores = [check for check in told["checks"] if check["name"].startswith("MaxSim")]
    assert len(scores) == 3 and max(check["difference"] for check in scores) < 0.15
    assert "8-bit integers" in told["notes"][0] and told["id"] == NAME


def test_eight_bits_do_not_excuse_what_they_do_not_explain(answerai):
    model = ColBERT.load(answerai, backend="numpy")
    # No positions: as wrong as the wrong table.
    model._params["embeddings.position.weight"] = 0 * model._params["embeddings.position.weight"]
    assert not all(check.passed for check in verify._published(model, NAME))


def test_float_weights_get_no_tolerance_of_integers(answerai):
    model = ColBERT.load(answerai, backend="numpy")
    source = replace(model.config.source, weight_bits=None)
    model.config = replace(model.config, source=source)
    assert not all(check.passed for check in verify._published(model, NAME))


def test_folder_is_compared_with_the_checkpoint_that_is_named(golden, capsys):
    golden(golden_of("stanford-bert", model="owner/model"))
    folder = str(CHECKPOINTS / "stanford-bert")
    assert main(["verify-model", folder, "--backend", "numpy"]) == 1
    assert main(["verify-model", folder, "--backend", "numpy", "--published", "owner/model"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("owner/model, ")
