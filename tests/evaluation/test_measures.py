"""Measures: by hand, against trec_eval, and on real judgements."""

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ir_measures", reason="ir-measures is not installed (extra 'eval')")

from mlx_colbert.errors import InputError, MissingExtraError
from mlx_colbert.evaluation.judgements import read_qrels
from mlx_colbert.evaluation.measures import check_measures, measured, ordered

XQUAD = Path("examples/data/xquad-en/qrels/test.tsv")


def only(run, qrels, name):
    """The value of the only query."""
    (value,) = measured({"q": run}, {"q": qrels}, [name])[name].values()
    return value


@pytest.mark.parametrize(
    ("ranking", "relevance", "expected"),
    [
        ("ab", {"a": 1}, 1.0),
        ("ab", {"b": 1}, 1 / math.log2(3)),
        ("abc", {"a": 1, "c": 1}, (1 + 1 / 2) / (1 + 1 / math.log2(3))),
        ("ba", {"a": 2, "b": 1}, (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))),
        # Judged, and not relevant: no gain and no loss.
        ("ba", {"a": 3, "b": -1}, 1 / math.log2(3)),
        ("x", {"a": 1}, 0.0),
        ("", {"a": 1}, 0.0),
    ],
)
def test_ndcg_is_the_hand_computed_value(ranking, relevance, expected):
    assert only(dict.fromkeys(ranking, 1.0), relevance, "nDCG@10") == pytest.approx(expected)


def test_other_measures_are_the_hand_computed_values():
    ranking, relevance = dict.fromkeys("xaybz", 0.0), {"a": 1, "b": 2, "gone": 1}

    assert only(ranking, relevance, "RR@10") == 1 / 2
    assert only(ranking, relevance, "R@3") == pytest.approx(1 / 3)
    assert only(ranking, relevance, "AP@100") == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert (only(ranking, relevance, "Success@1"), only(ranking, relevance, "Success@5")) == (0.0, 1.0)


def test_order_of_the_run_decides_and_not_its_scores():
    assert only({"x": 0.0, "a": 9.0}, {"a": 1}, "RR@10") == 1 / 2


def test_judged_query_without_hits_has_zero_and_an_unjudged_one_is_left_out():
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 0}, "q4": {"a": 1}}
    run = {"q1": {"a": 1.0}, "q3": {"a": 1.0}, "q4": {}, "more": {"a": 1.0}}

    assert measured(run, qrels, ["RR@10"]) == {"RR@10": {"q1": 1.0, "q2": 0.0, "q4": 0.0}}
    assert measured({}, qrels, ["RR@10"])["RR@10"] == {"q1": 0.0, "q2": 0.0, "q4": 0.0}


@pytest.mark.parametrize("name", ["nDCC@10", "nDCG@", "nDCG@0", "nDCG@-1", "nDCG(", "", "__import__('os')"])
def test_unknown_measure_is_refused(name):
    with pytest.raises(InputError, match=r"the measure .* (is not known|cannot be computed)"):
        check_measures([name])


def test_measures_are_named_as_ir_measures_writes_them_and_once():
    assert check_measures(["NDCG@10", "nDCG@10", "MAP", "MRR"]) == ["nDCG@10", "AP", "RR"]


def test_relevance_that_trec_eval_cannot_hold_is_refused():
    assert only({"a": 1.0}, {"a": 1_000_000}, "nDCG@10") == 1.0
    with pytest.raises(InputError, match=r"a relevance is 2,000,000,000\. Give at most 1,000,000"):
        only({"a": 1.0}, {"a": 2_000_000_000}, "nDCG@10")


def test_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'mlx-colbert\[eval\]'"):
        check_measures(["RR"])


def test_judgements_without_a_relevant_document_are_refused():
    with pytest.raises(InputError, match="no query has a relevant document"):
        measured({"q": {"a": 1.0}}, {"q": {"a": 0}}, ["RR@10"])


# Measure → the name that trec_eval gives it.
TREC = {
    "nDCG@10": "ndcg_cut_10",
    "AP": "map",
    "AP@5": "map_cut_5",
    "RR": "recip_rank",
    "R@5": "recall_5",
    "Success@5": "success_5",
    "P@5": "P_5",
}


def trec_eval(run, qrels):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed")
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, set(TREC.values()))
    return evaluator.evaluate(run)


IDS = st.sampled_from([f"d{number}" for number in range(12)])
# float32, because trec_eval reads no more of a score. Few values, so that there are ties.
SCORES = st.sampled_from([0.0, 0.5, 1.0, 1.5, -2.0, 3.25])


@given(
    run=st.dictionaries(st.sampled_from("rstu"), st.dictionaries(IDS, SCORES, min_size=1), min_size=1),
    qrels=st.dictionaries(st.sampled_from("rstu"), st.dictionaries(IDS, st.integers(0, 3)), min_size=1),
)
def test_measures_are_those_of_trec_eval_also_with_ties(run, qrels):
    judged = {query: row for query, row in qrels.items() if any(row.values())}
    if not judged:
        return
    expected = trec_eval(run, judged)

    found = measured({query: ordered(hits) for query, hits in run.items()}, qrels, list(TREC))

    for name, theirs in TREC.items():
        assert found[name].keys() == judged.keys()
        for query, value in found[name].items():
            assert value == pytest.approx(expected.get(query, {}).get(theirs, 0.0), abs=1e-9)


def test_measures_are_those_of_trec_eval_on_real_judgements():
    qrels = read_qrels(XQUAD)
    documents = sorted({document for row in qrels.values() for document in row})
    # A run with an answer at every second query, at changing ranks.
    run = {}
    for number, (query, row) in enumerate(qrels.items()):
        some = [documents[(number * 7 + place) % len(documents)] for place in range(20)]
        if number % 2:
            some.insert(number % 20, next(iter(row)))
        run[query] = {document: float(-place) for place, document in enumerate(dict.fromkeys(some))}
    expected = trec_eval(run, qrels)

    found = measured(run, qrels, list(TREC))

    assert len(found["AP"]) == 1190
    for name, theirs in TREC.items():
        assert found[name] == pytest.approx({query: row[theirs] for query, row in expected.items()})
        assert len(set(found[name].values())) > 1
