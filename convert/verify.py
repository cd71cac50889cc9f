"""Compares a converted model with the known outputs of the original.

There are two references: the published outputs of public checkpoints in `golden.json`, and
`MultiVectorEncoder` of sentence-transformers (torch, float32), if it is installed. This package computes in
float32 for both.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_colbert.counts import counted
from mlx_colbert.errors import CheckpointError
from mlx_colbert.kernels import Backend
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import Task
from mlx_colbert.model.folder import sha256_of
from mlx_colbert.model.hub import locate
from mlx_colbert.types import Array, TokenEmbeddings
from mlx_colbert.untrusted import read_json

__all__ = ["Check", "PublishedReport", "Report", "verify", "verify_published"]

_GOLDEN = Path(__file__).parent / "golden.json"
_KINDS = ("maxsim", "token_vectors", "token_ids")

# Texts that depend on markers, expansion, skiplist, truncation and tokenisation.
_TEXTS = [
    "",
    "a",
    "...!?",
    "Who wrote 'To Kill a Mockingbird'?",
    "Harper Lee's novel, published in 1960, won the Pulitzer Prize.",
    "Größe: 3,5 m², naïve café ☕️ 👩‍🚀",
    "北京是中华人民共和国的首都。",
    "retrieval " * 700,
]
# Smallest cosine that passes, by type of the weights, and by bits of quantised weights. all-MiniLM-L6-v2 has
# 0.999 with 8 bits and 0.88 with 4. There is no limit for 2 bits.
_MIN_COSINE = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.99}
_MIN_COSINE_QUANTIZED = {8: 0.98, 4: 0.7, 2: -1.0}
_MAX_SCORE_DIFFERENCE = 1e-3
# Largest differences that pass if the original weights were 8-bit integers with one step size per matrix: of
# a score per query token, and of one component of a vector. answerai-colbert-small-v1 differs by up to 0.0044
# and 0.083 from its published float32 values. all-MiniLM-L6-v2, quantised in the same way, differs by up to
# 0.057 and 0.105.
_EIGHT_BIT_SCORE = 0.01
_EIGHT_BIT_COMPONENT = 0.1


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: what was compared.
        expected: the value of the reference, or the limit.
        measured: the value of this model.
        passed: whether they agree.
        difference: the largest difference of two numbers. None if no numbers are compared one by one.
        allowed: the largest difference that passes. None if `difference` is None.
    """

    name: str
    expected: str
    measured: str
    passed: bool
    difference: float | None = None
    allowed: float | None = None


@dataclass(frozen=True)
class Report:
    """The comparisons, and the reasons why others were not possible.

    Attributes:
        checks: the comparisons.
        notes: what was not compared, and why.
    """

    checks: list[Check]
    notes: list[str]

    @property
    def passed(self) -> bool:
        """Whether more than the hash of the file was compared, and all comparisons passed."""
        return len(self.checks) > 1 and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class PublishedReport:
    """The comparisons with a checkpoint's published values.

    Attributes:
        id: the hub id of the checkpoint whose values were published.
        revision: the commit that was compared. None for a local folder.
        device: the name of the device that computed.
        checks: the comparisons.
        notes: the reasons why larger differences than usual are allowed.
    """

    id: str
    revision: str | None
    device: str
    checks: list[Check]
    notes: list[str]

    @property
    def passed(self) -> bool:
        """Whether all comparisons passed."""
        return all(check.passed for check in self.checks)


def _golden() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(_GOLDEN.read_text(encoding="utf-8"))
    return values


def _rounded(values: Array) -> str:
    return " ".join(f"{value:.4f}" for value in np.ravel(values)[:6])


def _published(model: ColBERT, model_id: str) -> Iterator[Check]:
    """The comparisons with the values in golden.json for this checkpoint."""
    golden, config = _golden(), model.config.colbert
    eight_bit = model.config.source.weight_bits == 8
    for case in golden["maxsim"]:
        # One checkpoint was published with query expansion and later without.
        if case["model"] != model_id or case.get("do_query_expansion", config.do_query_expansion) != (
            config.do_query_expansion
        ):
            continue
        query = model.encode_query([case["query"]])
        scores = model.similarity(query, model.encode_document(case["documents"]))[0]
        expected = np.array(case["scores"])
        allowed = case["atol"] + case["rtol"] * float(np.abs(expected).min())
        if eight_bit:
            allowed += _EIGHT_BIT_SCORE * len(query.vectors)
        yield _compared(f"MaxSim of {case['query']!r}", expected, scores, allowed)
    for case in golden["token_vectors"]:
        if case["model"] != model_id:
            continue
        encode = model.encode_query if case["task"] == "query" else model.encode_document
        expected = np.array(case["first_dims"])
        vectors = encode([case["text"]])[0]
        name = f"{case['task']} vectors of {case['text']!r}"
        measured = vectors[:, : expected.shape[1]]
        if measured.shape != expected.shape:
            yield Check(name, counted(len(expected), "vector"), counted(len(vectors), "vector"), False)
            continue
        yield _compared(name, expected, measured, case["atol"] + (_EIGHT_BIT_COMPONENT if eight_bit else 0.0))
    for case in golden["token_ids"]:
        if case["model"] == model_id:
            ids = model.token_ids(case["text"], case["task"])
            yield Check(
                f"token ids of {case['text']!r}", _ids(case["input_ids"]), _ids(ids), ids == case["input_ids"]
            )


def _compared(name: str, expected: Array, measured: Array, allowed: float) -> Check:
    difference = float(np.abs(measured - expected).max())
    return Check(name, _rounded(expected), _rounded(measured), difference <= allowed, difference, allowed)


def _eight_bit_note(model: ColBERT) -> list[str]:
    """A note about the allowed differences, if the original weights were 8-bit integers."""
    if model.config.source.weight_bits != 8:
        return []
    return [
        "The original weights are 8-bit integers, but the published values come from float32 weights. "
        f"Allowed: {_EIGHT_BIT_SCORE} of a score per query token, {_EIGHT_BIT_COMPONENT} of a component."
    ]


def verify_published(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    backend: Backend = "auto",
    published: str | None = None,
) -> PublishedReport:
    """Compare a checkpoint, converted or not, with its published values.

    Args:
        path_or_hub_id: a hub id, or a folder.
        revision: branch, tag or commit on the hub.
        backend: "auto", "mlx" or "numpy".
        published: the hub id of the checkpoint, if a folder is a copy of it. None: the id of the model.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or has no known published values.
    """
    model = ColBERT.load(path_or_hub_id, backend=backend, dtype="float32", revision=revision)
    name = published or model.config.source.id
    checks = list(_published(model, name))
    if not checks:
        known = sorted({case["model"] for kind in _KINDS for case in _golden()[kind]})
        advice = "If it is a copy of one of these, name that: --published ID (published=)."
        reason = f"no published values of {name!r} are known. {advice}"
        raise CheckpointError(path_or_hub_id, [reason, *known])
    return PublishedReport(name, model.config.source.revision, model.device, checks, _eight_bit_note(model))


def _ids(ids: list[int]) -> str:
    return " ".join(map(str, ids[:8]))


def _reference(folder: Path, model: ColBERT) -> Any:
    """The original as a MultiVectorEncoder in float32, on the CPU."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense

    def load(path: Path) -> Any:
        return MultiVectorEncoder(str(path), device="cpu", model_kwargs={"dtype": "float32"}).float()

    if model.config.source.layout == "stanford":
        # sentence-transformers would use an outdated modules.json beside a Stanford checkpoint.
        with tempfile.TemporaryDirectory() as copy:
            for path in folder.iterdir():
                if path.name != "modules.json":
                    (Path(copy) / path.name).symlink_to(path.resolve())
            return load(Path(copy))
    encoder = load(folder)
    if not model.config.projection:
        # The library adds a random projection to an encoder without a head.
        kept = [module for module in encoder if not isinstance(module, Dense)]
        encoder = MultiVectorEncoder(modules=kept, prompts=encoder.prompts, device="cpu")
    return encoder


def _needs_code(folder: Path) -> bool:
    """Whether transformers needs code from the repository to load a checkpoint."""
    configs = [*folder.glob("config.json"), *folder.glob("*/config.json")]
    return any("auto_map" in read_json(config) for config in configs)


def _same_texts(model: ColBERT, reference: Any) -> Report:
    """The comparison with sentence-transformers on the texts of this file."""
    report = Report([], [])
    tasks: tuple[Task, ...] = ("query", "document")
    mine, theirs = {}, {}
    for task in tasks:
        mine[task] = model.encode_query(_TEXTS) if task == "query" else model.encode_document(_TEXTS)
        arrays = getattr(reference, f"encode_{task}")(_TEXTS, convert_to_numpy=True)
        theirs[task] = TokenEmbeddings.pack(arrays)
        counts = [embeddings.lengths.tolist() for embeddings in (theirs[task], mine[task])]
        same = counts[0] == counts[1]
        report.checks.append(Check(f"{task} token counts", _ids(counts[0]), _ids(counts[1]), same))
        if not same:
            return report
        cosine = float((mine[task].vectors * theirs[task].vectors).sum(axis=1).min())
        quantized = model.config.quantization
        bar = _MIN_COSINE_QUANTIZED[quantized.bits] if quantized else _MIN_COSINE[model.config.dtype]
        name = f"{task} vectors, smallest cosine"
        report.checks.append(Check(name, f">= {bar}", f"{cosine:.7f}", cosine >= bar))
    if model.config.dtype == "float32" and model.config.quantization is None:
        scores = [model.similarity(both["query"], both["document"]) for both in (mine, theirs)]
        difference = float(np.abs(scores[0] - scores[1]).max())
        limit = _MAX_SCORE_DIFFERENCE
        check = Check("MaxSim, largest difference", f"<= {limit}", f"{difference:.2e}", difference <= limit)
        report.checks.append(check)
    return report


def verify(
    mlx_path: str | Path,
    hf_path: str | Path | None = None,
    *,
    revision: str | None = None,
    backend: Backend = "auto",
) -> Report:
    """Compare a converted model with published values and with the original.

    Args:
        mlx_path: a converted folder.
        hf_path: the original, for the comparison with sentence-transformers. None: published values only.
        revision: the original's revision on the hub.
        backend: "auto", "mlx" or "numpy".

    Raises:
        CheckpointError: if a folder cannot be read.
    """
    model = ColBERT.load(mlx_path, backend=backend, dtype="float32")
    digest = sha256_of(Path(mlx_path) / "model.safetensors")
    intact = digest == model.config.weights_sha256
    checks = [Check("model.safetensors, sha256", model.config.weights_sha256[:16], digest[:16], intact)]
    published = list(_published(model, model.config.source.id))
    checks = checks + published
    notes: list[str] = []
    if published:
        notes += _eight_bit_note(model)
    else:
        notes.append(f"{model.config.source.id}: no published values are known for this checkpoint.")
    if hf_path is None:
        notes.append("sentence-transformers: not compared, the original was not given.")
    elif any(name.endswith(".onnx") for name in model.config.source.weights):
        notes.append("sentence-transformers: not compared, the original's weights are ONNX.")
    elif importlib.util.find_spec("sentence_transformers") is None:
        notes.append("sentence-transformers: not compared, it is not installed.")
    elif _needs_code((location := locate(hf_path, revision=revision)).folder):
        notes.append(
            "sentence-transformers: not compared, the original needs its own code, which is never run here."
        )
    else:
        compared = _same_texts(model, _reference(location.folder, model))
        checks, notes = checks + compared.checks, notes + compared.notes
    return Report(checks, notes)
