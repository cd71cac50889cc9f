"""Writes what sentence-transformers 6 computes from the checkpoints, one npz for each.

    python make_references.py                       # checkpoints/* to reference/*.npz and hostile-ids.json
    python make_references.py MODEL_PATH NPZ_PATH   # one checkpoint anywhere

README.md has the versions and the content of an npz.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from published_families import registered
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import AutoConfig, AutoModel, Qwen3Config, Qwen3Model

DATA = Path(__file__).parent
PACKAGES = ("sentence-transformers", "transformers", "tokenizers", "torch", "numpy")


class PPLXQwen3Config(Qwen3Config):
    """Qwen3 under the name of Perplexity's models."""

    model_type = "bidirectional_pplx_qwen3"


class PPLXQwen3Model(Qwen3Model):
    """Qwen3 whose tokens attend to all others: what the code in Perplexity's repositories comes to."""

    config_class = PPLXQwen3Config

    def __init__(self, config: PPLXQwen3Config) -> None:
        # transformers' own switch, which turns the mask; the flag of a layer counts where there is no mask.
        config.is_causal = False
        super().__init__(config)
        for layer in self.layers:
            layer.self_attn.is_causal = False


AutoConfig.register("bidirectional_pplx_qwen3", PPLXQwen3Config)
AutoModel.register(PPLXQwen3Config, PPLXQwen3Model)

Task = Literal["query", "document"]
Arrays = dict[str, Any]


def has_colbert_head(path: Path) -> bool:
    """Whether a checkpoint projects tokens: a linear layer next to the backbone, or a Dense module."""
    if (path / "modules.json").exists():
        modules = json.loads((path / "modules.json").read_text())
        return any(module["type"].endswith("Dense") for module in modules)
    return "HF_ColBERT" in json.loads((path / "config.json").read_text())["architectures"]


def load(path: Path) -> MultiVectorEncoder:
    """The float32 encoder of a checkpoint.

    A checkpoint without a ColBERT head gives the normalised rows of its last layer: the library would
    otherwise add a random projection.
    """
    float32 = {"dtype": "float32"}
    if has_colbert_head(path):
        encoder = MultiVectorEncoder(str(path), device="cpu", model_kwargs=float32)
    else:
        transformer = Transformer.load(str(path), model_kwargs=float32)
        normalize = Normalize(module_input_name="token_embeddings")
        encoder = MultiVectorEncoder(modules=[transformer, MultiVectorMask(), normalize], device="cpu")
    # A projection read from a half precision file would stay in half precision.
    return encoder.float()


def token_ids(encoder: MultiVectorEncoder, text: str, task: Task) -> np.ndarray[Any, Any]:
    """(T,) int64 ids that reach the transformer for `text` alone, expansion included and padding not."""
    features = encoder.preprocess([text], prompt=encoder.prompts.get(task) or None, task=task)
    kept = features["attention_mask"].bool()
    if "query_expansion_positions" in features:
        kept |= features["query_expansion_positions"].bool()
    ids: np.ndarray[Any, Any] = features["input_ids"][kept].numpy()
    return ids


def flat(name: str, lengths_name: str, parts: list[np.ndarray[Any, Any]]) -> Arrays:
    """The ragged `parts` as one array and their lengths."""
    return {
        name: np.concatenate(parts),
        lengths_name: np.array([len(part) for part in parts], dtype=np.int64),
    }


def reference(encoder: MultiVectorEncoder, texts: dict[str, list[str]]) -> Arrays:
    """The arrays of one npz; README.md lists them."""
    queries = encoder.encode_query(texts["queries"], convert_to_numpy=True)
    documents = encoder.encode_document(texts["documents"], convert_to_numpy=True)
    query_ids = [token_ids(encoder, text, "query") for text in texts["queries"]]
    document_ids = [token_ids(encoder, text, "document") for text in texts["documents"]]
    versions = " ".join(f"{package}=={version(package)}" for package in PACKAGES)
    return {
        **flat("query_vectors", "query_lengths", queries),
        **flat("document_vectors", "document_lengths", documents),
        **flat("query_ids", "query_id_lengths", query_ids),
        **flat("document_ids", "document_id_lengths", document_ids),
        "scores": encoder.similarity(queries, documents).numpy(),
        "versions": np.array(versions),
    }


def write_reference(path: Path, target: Path, texts: dict[str, list[str]]) -> None:
    """Computes and writes one npz."""
    with registered(path):
        arrays = reference(load(path), texts)
    for name in ("query_vectors", "document_vectors", "scores"):
        if arrays[name].dtype != np.float32 or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{path}: {name} is not finite float32")
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, **arrays)


def hostile_ids(path: Path) -> dict[Task, list[list[int]]]:
    """The ids of hostile.json's texts as queries and as documents."""
    entries = json.loads((DATA / "hostile.json").read_text(encoding="utf-8"))
    texts = [entry["text"] * entry["times"] for entry in entries]
    tasks: tuple[Task, ...] = ("query", "document")
    with registered(path):
        encoder = load(path)
        return {task: [token_ids(encoder, text, task).tolist() for text in texts] for task in tasks}


def write_hostile_ids(paths: list[Path]) -> None:
    """Writes the ids of every checkpoint, a line for each."""
    lines = [f'"{path.name}": {json.dumps(hostile_ids(path), separators=(",", ":"))}' for path in paths]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (DATA / "reference" / "hostile-ids.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Writes every reference, or the one asked for."""
    torch.set_num_threads(2)
    texts: dict[str, list[str]] = json.loads((DATA / "texts.json").read_text(encoding="utf-8"))
    if len(sys.argv) == 3:
        write_reference(Path(sys.argv[1]), Path(sys.argv[2]), texts)
    elif len(sys.argv) == 1:
        paths = sorted((DATA / "checkpoints").iterdir())
        for path in paths:
            write_reference(path, DATA / "reference" / f"{path.name}.npz", texts)
        write_hostile_ids(paths)
    else:
        sys.exit("usage: make_references.py [MODEL_PATH NPZ_PATH]")


if __name__ == "__main__":
    main()
