"""Systems measured on a dataset: rankings, measures, sizes and times, compared with one of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_colbert.checks import check_k
from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.dataset import Dataset
from mlx_colbert.evaluation.measures import DEFAULT_MEASURES, Run, Values, check_measures, measured, ordered
from mlx_colbert.evaluation.significance import compared, estimated
from mlx_colbert.evaluation.systems import (
    DEFAULT_SYSTEMS,
    Built,
    Encoded,
    System,
    built,
    needs_model,
    parse_system,
)
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.progress import Progress, silent

__all__ = ["Evaluation", "SystemResult", "evaluate", "without_self_hits"]

# Queries that are searched at a time for the rankings.
_QUERIES_AT_ONCE = 32
# Queries that are searched one at a time, for the time of a query.
_TIMED_QUERIES = 50


@dataclass(frozen=True, eq=False)
class SystemResult:
    """What a system has reached on a dataset.

    Attributes:
        name: the name of the system.
        run: its rankings.
        values: measure → query → value.
        n_bytes: what it stores of the documents. None: the rankings come from a file.
        n_vectors: the vectors that it stores. None: none, or it is not known.
        build_s: seconds to store the documents, without the encoder.
        ms: the median time of the search of one query, in milliseconds, without the encoder.
        cpu_ms: the same as time of the processor, of all cores together. Other processes hardly change it.
    """

    name: str
    run: Run
    values: Values
    n_bytes: int | None = None
    n_vectors: int | None = None
    build_s: float | None = None
    ms: float | None = None
    cpu_ms: float | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of all systems on a dataset.

    Attributes:
        dataset: the dataset.
        k: how many documents a ranking has at most.
        systems: the results, in the order in which the systems were given.
        against: the name of the system that the others are compared with.
        n_tokens: the token embeddings of the documents, as the model reads them. None: not encoded.
    """

    dataset: Dataset
    k: int
    systems: list[SystemResult]
    against: str
    n_tokens: int | None

    def to_dict(self) -> dict[str, Any]:
        """The results as a JSON object, with intervals and comparisons."""
        (other,) = (result for result in self.systems if result.name == self.against)
        return {
            "dataset": self.dataset.name,
            "n_documents": len(self.dataset.documents),
            "n_queries": len(self.dataset.queries),
            "n_tokens": self.n_tokens,
            "n_unknown": len(self.dataset.unknown),
            "k": self.k,
            "against": self.against,
            "systems": {result.name: _as_object(result, other) for result in self.systems},
        }


def _as_object(result: SystemResult, other: SystemResult) -> dict[str, Any]:
    measures = {}
    for measure, values in result.values.items():
        measures[measure] = vars(estimated(values)) | {"against": None}
        if result is not other:
            measures[measure]["against"] = compared(values, other.values[measure]).to_dict()
    return {
        "bytes": result.n_bytes,
        "vectors": result.n_vectors,
        "build_s": result.build_s,
        "ms": result.ms,
        "cpu_ms": result.cpu_ms,
        "measures": measures,
    }


def evaluate(
    dataset: Dataset,
    systems: Sequence[str] = DEFAULT_SYSTEMS,
    *,
    model: ColBERT | None = None,
    runs: Mapping[str, Run] | None = None,
    measures: Sequence[str] = DEFAULT_MEASURES,
    against: str | None = None,
    k: int = 100,
    cache: str | Path | None = None,
    keep_self_hits: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Measure systems on a dataset. All of them get the same token embeddings.

    Args:
        dataset: the dataset.
        systems: names of systems (`mlx_colbert.evaluation.systems.parse_system`).
        model: the model. Not needed for "bm25" and for `runs`.
        runs: name → rankings that another program made. They are measured as further systems.
        measures: measures of ir-measures.
        against: the name of the system that the others are compared with. None: the first.
        k: how many documents a ranking has at most.
        cache: a folder that keeps token embeddings (`encoded_texts`). None: they are kept in memory only.
        keep_self_hits: keep hits with the id of the query.
        progress: called while texts are encoded ("encoding") and while queries are searched ("searching …").

    Raises:
        InputError: if a system or measure is not known, a name is given twice, there is nothing to measure,
            a measure cannot be computed for these ids, a run has no query of the dataset, or a system needs a
            model and there is none.
        MissingExtraError: if an extra is not installed.

    >>> from mlx_colbert.evaluation.dataset import Dataset
    >>> texts = {"d1": "tea is steeped", "d2": "bread is baked"}
    >>> dataset = Dataset.check("kitchen", texts, {"q1": "how to steep tea"}, {"q1": {"d1": 1}})
    >>> evaluation = evaluate(dataset, runs={"mine": {"q1": {"d2": 2.0, "d1": 1.0}}}, systems=[])
    >>> evaluation.systems[0].values["RR@10"]
    {'q1': 0.5}
    """
    k = check_k(k)
    names = check_measures(measures)
    parsed = [parse_system(name) for name in systems]
    given = dict(runs or {})
    every = [*systems, *given]
    if not every:
        raise InputError("there is nothing to measure. Give systems or runs.")
    if len(set(every)) < len(every):
        raise InputError(f"systems has a name twice: {', '.join(every)}. Give each once.")
    if against is not None and against not in every:
        raise InputError(f"against is {against!r}, which is none of the systems {', '.join(every)}.")
    for name, run in given.items():
        if run and dataset.queries.keys().isdisjoint(run):
            raise InputError(
                f"the run {name} has no query of dataset {dataset.name}. Give one of the dataset."
            )
    if model is None and (missing := [system.name for system in parsed if needs_model(system)]):
        raise InputError(f"the system {missing[0]} needs a model. Give one (--model).")
    # Some measures are computed by programs that take numbers as ids alone. Try them before hours of work.
    measured(dataset.qrels, dataset.qrels, names)
    encoded = Encoded(dataset, model, cache=None if cache is None else Path(cache), progress=progress)
    results = [
        _measured(system, encoded, names, k, keep_self_hits=keep_self_hits, progress=progress)
        for system in parsed
    ]
    for name, run in given.items():
        kept = run if keep_self_hits else without_self_hits(run, dataset)
        shortened = {query: dict(list(hits.items())[:k]) for query, hits in kept.items()}
        results.append(SystemResult(name, shortened, measured(shortened, dataset.qrels, names)))
    return Evaluation(dataset, k, results, against or every[0], encoded.n_tokens)


def without_self_hits(run: Run, dataset: Dataset) -> dict[str, dict[str, float]]:
    """The run without hits that have the id of their query, unless they are judged.

    In some datasets, such as ArguAna and Quora, the queries are documents too. Each would find itself first.
    """
    return {
        query: {
            document: score
            for document, score in hits.items()
            if document != query or document in dataset.qrels.get(query, {})
        }
        for query, hits in run.items()
    }


def _measured(
    system: System,
    encoded: Encoded,
    names: Sequence[str],
    k: int,
    *,
    keep_self_hits: bool,
    progress: Progress,
) -> SystemResult:
    dataset = encoded.dataset
    if needs_model(system):
        # So the seconds to build are those without the encoder.
        encoded.documents(system.on_overflow)
        _ = encoded.queries
    begun = time.perf_counter()
    with built(system, encoded) as searched:
        build_s = time.perf_counter() - begun
        run: dict[str, dict[str, float]] = {}
        query_ids = list(dataset.queries)
        for start in range(0, len(query_ids), _QUERIES_AT_ONCE):
            positions = range(start, min(start + _QUERIES_AT_ONCE, len(query_ids)))
            # One more, because a query may find itself.
            for place, hits in zip(positions, searched.search(positions, k + 1), strict=True):
                run[query_ids[place]] = ordered(dict(hits))
            progress(f"searching {system.name}", len(run), len(query_ids))
        ms, cpu_ms = _median_ms(searched, len(query_ids), k)
    if not keep_self_hits:
        run = without_self_hits(run, dataset)
    run = {query: dict(list(hits.items())[:k]) for query, hits in run.items()}
    values = measured(run, dataset.qrels, names)
    return SystemResult(system.name, run, values, searched.n_bytes, searched.n_vectors, build_s, ms, cpu_ms)


def _median_ms(searched: Built, n_queries: int, k: int) -> tuple[float, float]:
    """The median times of one query, in milliseconds: on the clock, and of the processor."""
    times, cpu_times = [], []
    for place in range(min(n_queries, _TIMED_QUERIES)):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        searched.search([place], min(k, 10))
        times.append((time.perf_counter() - begun) * 1000)
        cpu_times.append((time.process_time() - cpu_begun) * 1000)
    return statistics.median(times), statistics.median(cpu_times)
