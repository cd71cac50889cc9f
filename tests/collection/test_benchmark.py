"""The user's own questions as a benchmark."""

import math

import pytest

pytest.importorskip("ir_measures", reason="ir-measures is not installed (extra 'eval')")

from mlx_colbert.collection.benchmark import Question, bench, read_questions
from mlx_colbert.errors import InputError


@pytest.fixture
def notes(collection, files):
    files.write("tea.md", "steep the kettle " * 10)
    files.write("bees.md", "honey dances here " * 10)
    files.write("roof.md", "slate leaks today " * 10)
    collection.sync()
    return collection


def test_measures_are_those_of_the_files(notes):
    questions = [
        Question("steep the kettle", ("tea.md",)),
        Question("honey dances", ("notes/bees.md", "roof.md")),
        Question("jazz lawyer asphalt quantum", ()),
        Question("slate leaks", ("lost.md",)),
    ]
    found = bench([notes], questions, 1)
    assert (found.n_questions, found.n_without_answer, found.unknown) == (4, 1, ["lost.md"])
    semantic = found.modes["semantic"]
    assert semantic.recall == pytest.approx((1 + 0.5 + 0) / 3)
    assert semantic.mrr == pytest.approx(2 / 3)
    assert semantic.ndcg == pytest.approx(2 / 3)
    assert (semantic.silent_rightly, semantic.silent_wrongly) == (1.0, 0.0)
    assert semantic.missed == ["slate leaks"]
    assert found.modes["keyword"].silent_rightly is None
    assert all(mode.ms > 0 for mode in found.modes.values())


def test_later_hit_is_discounted(notes):
    found = bench([notes], [Question("honey honey honey steep", ("tea.md",))], 3).modes["semantic"]
    assert (found.recall, found.mrr) == (1.0, 0.5)
    assert found.ndcg == pytest.approx(1 / math.log2(3))


def test_questions_are_read(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "a", "files": "x.md"}\n\n{"query": "b", "files": []}\n')
    assert read_questions(path) == [Question("a", ("x.md",)), Question("b", ())]


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"query": "a"}', '{"query": " ", "files": []}', '{"query": "a", "files": [1]}']
)
def test_line_that_is_no_question_is_named(tmp_path, line):
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "a", "files": []}\n' + line + "\n")
    with pytest.raises(InputError, match=r"q\.jsonl:2: is not a question\. Write a line such as \{"):
        read_questions(path)


def test_file_without_questions_is_refused(tmp_path):
    (tmp_path / "q.jsonl").write_text("\n")
    with pytest.raises(InputError, match="has no question"):
        read_questions(tmp_path / "q.jsonl")
