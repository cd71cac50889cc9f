"""Measures of rankings: nDCG, MAP, MRR, recall, success at k. The one place that calls ir-measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from subprocess import SubprocessError
from typing import Any, TypeAlias

from mlx_colbert.errors import InputError, MissingExtraError, said

__all__ = [
    "DEFAULT_MEASURES",
    "MAX_RELEVANCE",
    "Qrels",
    "Run",
    "Values",
    "check_measures",
    "measured",
    "ordered",
]

# Query id → document id → relevance. More is better, 0 or less is not relevant.
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
# Query id → document id → score, the best document first.
Run: TypeAlias = Mapping[str, Mapping[str, float]]
# Measure → query id → value in [0, 1].
Values: TypeAlias = dict[str, dict[str, float]]

# In the words of ir-measures: RR is the reciprocal rank, its mean is MRR. The mean of AP is MAP. R is recall.
DEFAULT_MEASURES = ("nDCG@10", "AP@100", "RR@10", "R@100", "Success@5")

# trec_eval needs memory for each level of relevance, and is silently wrong if it gets none.
MAX_RELEVANCE = 1_000_000


def check_measures(names: Sequence[str]) -> list[str]:
    """The names of measures as ir-measures writes them.

    Raises:
        InputError: if a measure is not known, or cannot be computed here.
        MissingExtraError: if ir-measures is not installed.
    """
    return [str(measure) for measure in _parsed(names)]


def measured(run: Run, qrels: Qrels, names: Sequence[str] = DEFAULT_MEASURES) -> Values:
    """The value of each measure for each judged query.

    The documents of a query are ranked in the order of the run. A judged query that is not in the run, or for
    which the run has no document, has the value 0. Queries without a relevant document are left out, because
    no ranking can be right for them. A document that is not judged counts as not relevant.

    Args:
        run: for each query its documents, best first.
        qrels: the judgements.
        names: measures of ir-measures, such as "nDCG@10".

    Raises:
        InputError: if a measure is not known or cannot be computed for these ids, no query has a relevant
            document, or a relevance is above 1,000,000.
        MissingExtraError: if ir-measures is not installed.
    """
    measures = _parsed(names)
    judged = {query: dict(row) for query, row in qrels.items() if any(value > 0 for value in row.values())}
    if not judged:
        raise InputError("no query has a relevant document. Give judgements with a relevance above 0.")
    if (highest := max(value for row in judged.values() for value in row.values())) > MAX_RELEVANCE:
        raise InputError(f"a relevance is {highest:,}. Give at most {MAX_RELEVANCE:,}.")
    # ir-measures orders by score. Ranks as scores keep the order of the run, also between equal scores.
    ranked = {
        query: {document: -float(rank) for rank, document in enumerate(run[query])}
        for query in judged
        if run.get(query)
    }
    values: Values = {str(measure): dict.fromkeys(judged, 0.0) for measure in measures}
    if not ranked:
        return values
    try:
        for metric in _library().iter_calc(measures, judged, ranked):
            values[str(metric.measure)][metric.query_id] = float(metric.value)
    except (OSError, RuntimeError, ValueError, SubprocessError) as error:
        # Some measures are computed by programs with their own conditions, such as numbers as ids.
        raise InputError(f"ir-measures cannot compute {', '.join(values)}: {said(error)}.") from error
    return values


def ordered(scores: Mapping[str, float]) -> dict[str, float]:
    """The documents of a query, best first. Of equal scores, the greater id is first, as in trec_eval.

    So whoever reads the scores from a file gets the same order, and the same values of the measures.

    >>> ordered({"a": 1.0, "b": 2.0, "c": 1.0})
    {'b': 2.0, 'c': 1.0, 'a': 1.0}
    """
    by_id = sorted(scores.items(), key=lambda item: item[0], reverse=True)
    return dict(sorted(by_id, key=lambda item: item[1], reverse=True))


def _library() -> Any:
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError("a measure of quality", "eval") from error
    return ir_measures


def _parsed(names: Sequence[str]) -> list[Any]:
    library = _library()
    measures: list[Any] = []
    for name in names:
        try:
            measure = library.parse_measure(name)
        except (NameError, ValueError) as error:
            advice = f"Give measures of ir-measures, such as {', '.join(DEFAULT_MEASURES)}"
            raise InputError(f"the measure {name!r} is not known: {said(error)}. {advice}.") from error
        if not library.DefaultPipeline.supports(measure) or measure.params.get("cutoff", 1) < 1:
            raise InputError(f"the measure {name!r} cannot be computed here. Its cutoff must be 1 or more.")
        # Written twice, it would be computed twice.
        if measure not in measures:
            measures.append(measure)
    if not measures:
        raise InputError("measures is empty. Give at least one.")
    return measures
