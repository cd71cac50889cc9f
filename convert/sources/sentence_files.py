"""Reads the files that sentence-transformers and PyLate write beside a backbone into a `Source`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_colbert.convert.problems import Problems
from mlx_colbert.convert.sources.dense import normalizes_tokens, read_dense
from mlx_colbert.convert.sources.settings import Settings
from mlx_colbert.convert.sources.source import Source
from mlx_colbert.model.config import Similarity
from mlx_colbert.model.hub import SENTENCE_CONFIGS
from mlx_colbert.model.modules import Module
from mlx_colbert.untrusted import read_json, shown

__all__ = [
    "SENTENCE_KEYS",
    "read_layers",
    "read_optional",
    "read_prompts",
    "read_similarity",
    "read_transformer",
    "refuse_lengths",
]

SENTENCE_KEYS = frozenset(
    # truncate_dim is an argument of the encoding in sentence-transformers. MultiVectorEncoder does not read
    # it.
    ("__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
)


def read_optional(path: Path) -> dict[str, Any]:
    """The settings in a file. An empty dict if there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_transformer(source: Source, problems: Problems) -> Settings:
    """Read the settings that sentence-transformers writes beside the backbone into `source`."""
    present = (name for name in SENTENCE_CONFIGS if (source.folder / name).is_file())
    file = next(present, SENTENCE_CONFIGS[0])
    settings = Settings(read_optional(source.folder / file), file, problems)
    known = """max_seq_length do_lower_case query_length document_length query_expansion transformer_task
        modality_config module_output_name unpad_inputs"""
    settings.only(frozenset(known.split()))
    source.max_seq_length = settings.length("max_seq_length")
    source.do_lower_case = settings.flag("do_lower_case", False)
    if settings.text("transformer_task", "feature-extraction") != "feature-extraction":
        problems.append(
            f"{file}: 'transformer_task' {shown(settings.values['transformer_task'])} is not implemented"
        )
    modality = settings.values.get("modality_config")
    last_hidden = {"method": "forward", "method_output_name": "last_hidden_state"}
    if modality is not None and modality != {"text": last_hidden}:
        problems.append(f"{file}: 'modality_config' {shown(modality)} is not implemented")
    return settings


def refuse_lengths(transformer: Settings) -> None:
    """Report lengths of queries and documents in this file, if the layout has them in another file."""
    for key in ("query_length", "document_length", "query_expansion"):
        if transformer.values.get(key) is not None:
            transformer.problems.append(f"{transformer.file}: {key!r} is not implemented for this layout")


def read_prompts(settings: Settings) -> dict[str, str]:
    """The prompts of queries and of documents."""
    prompts = settings.values.get("prompts") or {}
    if not isinstance(prompts, dict):
        settings.problems.append(f"{settings.file}: 'prompts' must be an object")
        return {}
    inner = Settings(prompts, f"{settings.file}: prompts", settings.problems)
    return {task: inner.text(task, "") for task in ("query", "document")}


def read_similarity(settings: Settings, *maxsim: str) -> Similarity:
    """The similarity of a ColBERT. `maxsim` are the names of the usual one."""
    name = settings.text("similarity_fn_name", maxsim[0])
    if name not in (*maxsim, "meanmaxsim"):
        settings.problems.append(f"{settings.file}: 'similarity_fn_name' {shown(name)} is not implemented")
    return "meanmaxsim" if name == "meanmaxsim" else "maxsim"


def read_layers(source: Source, modules: list[Module], problems: Problems, *, sentence: bool) -> list[Module]:
    """Read the Dense modules behind the backbone, and return the token-level modules that follow them.

    Args:
        source: receives the layers.
        modules: the entries of modules.json.
        problems: receives what is not implemented.
        sentence: whether modules for whole sentences are left out, and their Dense module is used for tokens.
    """
    rest: list[Module] = []
    passed_over = ("Pooling", "Normalize") if sentence else ()
    for module in modules[1:]:
        for_tokens = module.kind != "Normalize" or normalizes_tokens(module.folder)
        if module.kind == "Dense" and not rest:
            add_dense(source, module.folder, problems, sentence=sentence)
        elif module.kind in ("MultiVectorMask", "Normalize") and for_tokens:
            rest.append(module)
        elif module.kind not in passed_over:
            problems.append(f"modules.json: a {module.kind} module at this place is not implemented")
    return rest


def add_dense(source: Source, folder: Path, problems: Problems, *, sentence: bool) -> None:
    """Append the Dense module in `folder` to the projection."""
    dense = read_dense(folder, problems, sentence=sentence)
    if dense is None:
        return
    number = len(source.projection)
    source.projection = (*source.projection, dense.layer)
    source.projection_weights |= {
        f"projection.{number}.{name.removeprefix('linear.')}": (dense.weights, name)
        for name in dense.weights.shapes
    }
    source.modules[f"{dense.folder.name}/"] = dense.weights
