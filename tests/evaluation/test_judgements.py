"""Files of TREC: runs and judgements, written and read."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.judgements import read_qrels, read_run, write_qrels, write_run
from mlx_colbert.evaluation.lines import is_id


def test_run_has_the_columns_of_trec(tmp_path):
    write_run(tmp_path / "a.run", {"q1": {"d2": 2.5, "d1": 1.0}}, "mine")

    assert (tmp_path / "a.run").read_text() == "q1\tQ0\td2\t1\t2.5\tmine\nq1\tQ0\td1\t2\t1.0\tmine\n"


def test_run_is_read_in_the_order_of_its_scores(tmp_path):
    (tmp_path / "a.run").write_text("q1 Q0 a 1 1.0 x\nq1 Q0 b 2 3.0 x\n\nq1 Q0 c 9 1.0 x\nq2 Q0 a 1 -1e3 x\n")

    found = read_run(tmp_path / "a.run")

    # Of equal scores, the greater id is first, as in trec_eval.
    assert [list(hits) for hits in found.values()] == [["b", "c", "a"], ["a"]]


def test_order_that_is_not_that_of_the_scores_is_kept(tmp_path):
    write_run(tmp_path / "a.run", {"q": {"a": 1.0, "b": 5.0, "c": 1.0}}, "mine")

    assert list(read_run(tmp_path / "a.run")["q"]) == ["a", "b", "c"]


def test_scores_that_are_equal_as_float32_keep_the_order(tmp_path):
    one, other = 0.1, float(np.float32(0.1))
    assert one != other
    write_run(tmp_path / "a.run", {"q": {"a": max(one, other), "b": min(one, other)}}, "mine")

    assert list(read_run(tmp_path / "a.run")["q"]) == ["a", "b"]


TEXT_IDS = st.text(min_size=1, max_size=6).filter(is_id)


@given(
    run=st.dictionaries(
        TEXT_IDS, st.dictionaries(TEXT_IDS, st.floats(-1e6, 1e6, width=32), min_size=1), min_size=1
    )
)
def test_run_that_is_written_is_read_as_it_was(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "a.run"
    write_run(path, run, "a system")

    found = read_run(path)

    assert {query: list(hits) for query, hits in found.items()} == {q: list(hits) for q, hits in run.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.run: has no row"),
        ("q Q0 a 1 1.0\n", r"a\.run:1: is no row of a run"),
        ("q Q0 a 1 high x\n", r"a\.run:1: is no row of a run"),
        ("q Q0 a 1 nan x\n", r"a\.run:1: the score is nan"),
        ("q Q0 a 1 inf x\n", r"a\.run:1: the score is inf"),
        ("q Q0 a 1 1 x\nq Q0 a 2 0 x\n", r"a\.run:2: query 'q' has document 'a' already"),
    ],
)
def test_run_that_cannot_be_used_is_named(tmp_path, text, message):
    (tmp_path / "a.run").write_text(text)

    with pytest.raises(InputError, match=message):
        read_run(tmp_path / "a.run")


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.run").write_bytes(b"\xff\xfe")

    with pytest.raises(InputError, match="is not UTF-8"):
        read_run(tmp_path / "a.run")


def test_judgements_of_trec_and_of_beir_are_read(tmp_path):
    (tmp_path / "trec").write_text("q1 0 d1 1\nq1 0 d2 0\nq1 0 d1 1\n")
    (tmp_path / "beir").write_text("query-id\tcorpus-id\tscore\nq 1\td 1\t1\n")

    assert read_qrels(tmp_path / "trec") == {"q1": {"d1": 1, "d2": 0}}
    assert read_qrels(tmp_path / "beir") == {"q 1": {"d 1": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "q1\td1\t2\nq1\td2\t-1\n",
        "query_id\tdoc_id\trelevance\nq1\td1\t2\nq1\td2\t-1\n",
        "qid 0 docid rel\nq1 0 d1 2\nq1 0 d2 -1\n",
        "query-id\tcorpus-id\tscore\r\nq1\td1\t2.0\r\nq1\td2\t-1.0\r\n",
    ],
)
def test_header_and_whole_numbers_with_a_dot_are_read(tmp_path, text):
    (tmp_path / "qrels").write_bytes(text.encode())

    assert read_qrels(tmp_path / "qrels") == {"q1": {"d1": 2, "d2": -1}}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"query-id": "q1", "corpus-id": "d1"}',
        '{"query-id": null, "corpus-id": "d1", "score": 1}',
        "[" * 100_000,
    ],
)
def test_judgement_of_json_that_cannot_be_used_is_named(tmp_path, line):
    (tmp_path / "test.jsonl").write_text(f'{{"query-id": 1, "corpus-id": "d1", "score": 1}}\n{line}\n')

    with pytest.raises(InputError, match=r"test\.jsonl:2: is no judgement\. Write"):
        read_qrels(tmp_path / "test.jsonl")


def test_compressed_run_is_read(tmp_path):
    (tmp_path / "a.run.gz").write_bytes(gzip.compress(b"q1\tQ0\ta\t1\t2.0\tx\r\n"))

    assert read_run(tmp_path / "a.run.gz") == {"q1": {"a": 2.0}}


def test_judgements_that_are_written_are_read_as_they_were(tmp_path):
    qrels = {"q 1": {"d 1": 2, "d2": 0}, "q2": {"d2": -1}}
    write_qrels(tmp_path / "qrels", qrels)

    assert read_qrels(tmp_path / "qrels") == qrels


@pytest.mark.parametrize("wrong", ["", " ", "a\tb", "a\nb", "a\r", "a\n", "\ufeffa"])
def test_id_that_would_break_a_line_is_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="cannot be written to a file"):
        write_run(tmp_path / "a.run", {"q": {wrong: 1.0}}, "mine")
