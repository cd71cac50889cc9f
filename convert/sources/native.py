"""Reads the ColBERT format of sentence-transformers 6."""

from __future__ import annotations

from pathlib import Path

from mlx_colbert.convert.problems import Problems
from mlx_colbert.convert.sources.sentence_files import (
    SENTENCE_KEYS,
    read_layers,
    read_prompts,
    read_similarity,
    read_transformer,
)
from mlx_colbert.convert.sources.settings import Settings
from mlx_colbert.convert.sources.source import Expansion, Source
from mlx_colbert.model.config import Task
from mlx_colbert.model.modules import Module
from mlx_colbert.untrusted import read_json, shown

__all__ = ["read_native"]


def read_native(source: Source, modules: list[Module], settings: Settings) -> None:
    """Read a model of sentence-transformers 6: Transformer, Dense…, MultiVectorMask, Normalize."""
    source.layout = "sentence-transformers"
    problems = settings.problems
    settings.only(SENTENCE_KEYS)
    transformer = read_transformer(source, problems)
    source.query_length = transformer.length("query_length")
    source.document_length = transformer.length("document_length")
    source.expansion = _read_expansion(transformer, source.query_length)
    source.prefixes = read_prompts(settings)
    source.similarity = read_similarity(settings, "maxsim")
    rest = read_layers(source, modules, problems, sentence=False)
    masks = [module for module in rest if module.kind == "MultiVectorMask"]
    for module in masks:
        _read_mask(source, module.folder, problems)
    if not any(module.kind == "Normalize" for module in rest):
        problems.append(
            "modules.json: there is no Normalize module for tokens, so the vectors would not have unit length"
        )
    if not masks and source.expansion is not None and not source.expansion.attend:
        problems.append("modules.json: query expansion without a MultiVectorMask is not implemented")


def _read_expansion(settings: Settings, ceiling: int | None) -> Expansion | None:
    """The `query_expansion` object of a native sentence-transformers checkpoint."""
    value = settings.values.get("query_expansion")
    if value is None:
        return None
    if not isinstance(value, dict):
        settings.problems.append(f"{settings.file}: 'query_expansion' must be an object")
        return None
    inner = Settings(value, f"{settings.file}: query_expansion", settings.problems)
    inner.only(frozenset(("strategy", "attend", "token", "length")))
    strategy, length = inner.text("strategy", ""), inner.length("length")
    if strategy not in ("fixed", "min") or length is None:
        settings.problems.append(
            f"{inner.file}: needs a strategy (fixed or min) and a length, got {shown(value)}"
        )
        return None
    if strategy == "min" and ceiling is not None and ceiling < length:
        settings.problems.append(
            f"{settings.file}: 'query_length' {shown(ceiling)} is below the expansion's {shown(length)}"
        )
    token = value.get("token")
    limit = length if strategy == "fixed" else ceiling
    return Expansion(
        length, limit, inner.flag("attend", False), None if token is None else inner.text("token", "")
    )


def _read_mask(source: Source, folder: Path, problems: Problems) -> None:
    mask = Settings(read_json(folder / "config.json"), f"{folder.name}/config.json", problems)
    mask.only(frozenset(("skiplist_words", "skiplist_tasks")))
    source.skiplist_words = mask.words("skiplist_words", ())
    tasks: list[Task] = []
    named = mask.values.get("skiplist_tasks")
    for task in (named,) if isinstance(named, str) else mask.words("skiplist_tasks", ("document",)):
        if task == "query":
            tasks.append("query")
        elif task == "document":
            tasks.append("document")
        else:
            problems.append(f"{mask.file}: unknown task {shown(task)} in 'skiplist_tasks'")
    source.skiplist_tasks = tuple(tasks)
