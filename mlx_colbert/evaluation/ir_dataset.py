"""Datasets of ir_datasets: the door of that library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlx_colbert.errors import InputError, MissingExtraError, said
from mlx_colbert.evaluation.dataset import Dataset

__all__ = ["read_ir_dataset"]

# Datasets that are named in an error.
_NAMED = 6


def read_ir_dataset(name: str, *, allow_unknown: bool = False, max_queries: int | None = None) -> Dataset:
    """A dataset of ir_datasets, which may download it.

    Args:
        name: its name there, such as "beir/scifact/test". It must have documents, queries and judgements.
        allow_unknown: as for `Dataset.check`.
        max_queries: as for `Dataset.check`.

    Raises:
        InputError: if there is no such dataset, it lacks a part, or an id is given twice or is unknown.
        MissingExtraError: if ir_datasets is not installed.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingExtraError(f"the dataset {name}", "eval") from error
    try:
        found = ir_datasets.load(name)
    except KeyError as error:
        raise InputError(f"{name}: ir_datasets does not know this dataset.") from error
    for part in ("docs", "queries", "qrels"):
        if not getattr(found, f"has_{part}")():
            raise InputError(f"{name}: has no {part}. Give {_complete_below(ir_datasets, name)}.")
    qrels: dict[str, dict[str, int]] = {}
    try:
        for row in found.qrels_iter():
            qrels.setdefault(row.query_id, {})[row.doc_id] = int(row.relevance)
        documents = _unique(name, ((doc.doc_id, doc.default_text().strip()) for doc in found.docs_iter()))
        queries = _unique(name, ((query.query_id, query.default_text()) for query in found.queries_iter()))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name}: ir_datasets cannot read it: {said(error)}.") from error
    return Dataset.check(
        name, documents, queries, qrels, allow_unknown=allow_unknown, max_queries=max_queries
    )


def _complete_below(library: Any, name: str) -> str:
    """The datasets below a name that have all three parts, as far as there is room for them."""
    below = sorted(known for known in library.registry if known.startswith(f"{name}/"))
    complete = [known for known in below if library.registry[known].has_qrels()]
    if not complete:
        return "a dataset with docs, queries and qrels"
    return f"{', '.join(complete[:_NAMED])}{' or another' if len(complete) > _NAMED else ''}"


def _unique(name: str, texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text_id, text in texts:
        if text_id in found:
            raise InputError(f"{name}: the id {text_id!r} is given twice.")
        found[text_id] = text
    return found
