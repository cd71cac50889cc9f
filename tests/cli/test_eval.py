"""`mlx-colbert eval` from the words to the table, the JSON, the runs and the picture."""

import json

import pytest

pytest.importorskip("ir_measures", reason="ir-measures is not installed (extra 'eval')")
pytest.importorskip("bm25s", reason="bm25s is not installed (extra 'eval')")

from mlx_colbert.cli import main
from mlx_colbert.evaluation.judgements import read_run

CHECKPOINT = "tests/data/checkpoints/pylate-bert"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "scifact-tiny"
    (folder / "qrels").mkdir(parents=True)
    documents = {"c": "Tea is steeped.", "a": "Coffee is brewed.", "b": "Bread is baked."}
    rows = [json.dumps({"_id": i, "title": "", "text": text}) for i, text in documents.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    queries = {"q1": "steeped tea", "q2": "brewed coffee"}
    (folder / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": i, "text": t}) for i, t in queries.items())
    )
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tc\t1\nq2\ta\t1\n")
    return folder


def run(*words):
    return main(["eval", *map(str, words)])


def test_table_has_a_row_for_each_system(folder, capsys):
    assert run(folder, "--model", CHECKPOINT, "--backend", "numpy", "--systems", "exact,4bit+pool2,bm25") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scifact-tiny: 3 documents, 2 judged queries, ")
    assert lines[1].split()[:3] == ["system", "nDCG@10", "[95"]
    assert [line.split()[0] for line in lines[2:5]] == ["exact", "4bit+pool2", "bm25"]
    assert lines[4].split()[1:4] == ["1.000", "[1.000,", "1.000]"]


def test_json_has_all_measures_with_intervals_and_comparisons(folder, capsys):
    words = [
        "--model",
        CHECKPOINT,
        "--backend",
        "numpy",
        "--systems",
        "exact,bm25",
        "--measures",
        "RR@10,P@1",
    ]
    assert run(folder, folder, *words, "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["model"], len(found["datasets"])) == (CHECKPOINT, 2)
    (first, second) = found["datasets"]
    assert first["systems"]["bm25"]["measures"]["P@1"]["mean"] == 1.0
    assert first["systems"]["bm25"]["measures"]["RR@10"]["against"].keys() == {
        "difference",
        "low",
        "high",
        "p_value",
        "n_better",
        "n_worse",
    }
    measures = [one["systems"]["exact"]["measures"] for one in (first, second)]
    assert measures[0] == measures[1]


def test_defaults_of_the_options_are_those_of_the_library():
    from mlx_colbert.cli import eval as command
    from mlx_colbert.evaluation.measures import DEFAULT_MEASURES
    from mlx_colbert.evaluation.systems import DEFAULT_SYSTEMS

    assert tuple(command._SYSTEMS.split(",")) == DEFAULT_SYSTEMS
    assert tuple(command._MEASURES.split(",")) == DEFAULT_MEASURES


def test_measure_may_have_parameters(folder, capsys):
    assert run(folder, "--measures", "P(rel=2)@2,SetF(beta=2.0,rel=2),RR", "--json") == 0

    measures = json.loads(capsys.readouterr().out)["datasets"][0]["systems"]["bm25"]["measures"]
    assert list(measures) == ["P(rel=2)@2", "SetF(beta=2.0,rel=2)", "RR"]


def test_run_file_is_for_one_dataset(folder, tmp_path, capsys):
    (tmp_path / "a.run").write_text("q1 Q0 a 1 1.0 x\n")

    assert run(folder, folder, "--run-file", tmp_path / "a.run") == 1

    assert "--run-file is for one dataset, but there are 2" in capsys.readouterr().err


def test_bm25_alone_needs_no_model(folder, capsys):
    assert run(folder, "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["model"], list(found["datasets"][0]["systems"])) == (None, ["bm25"])


def test_runs_are_written_and_measured_again(folder, tmp_path, capsys):
    assert run(folder, "--write-runs", tmp_path / "runs") == 0
    file = tmp_path / "runs" / "scifact-tiny-bm25.run"
    assert read_run(file)["q1"].keys() == {"c", "a", "b"} & read_run(file)["q1"].keys() != set()
    capsys.readouterr()

    assert run(folder, "--run-file", file, "--json") == 0

    systems = json.loads(capsys.readouterr().out)["datasets"][0]["systems"]
    assert list(systems) == ["bm25", "scifact-tiny-bm25.run"]
    means = [one["measures"]["nDCG@10"]["mean"] for one in systems.values()]
    assert means[0] == means[1]


def test_results_with_the_same_name_are_refused(folder, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    for place in (tmp_path / "a.run", tmp_path / "other" / "a.run"):
        place.write_text("q1 Q0 a 1 1.0 x\n")

    files = ["--run-file", tmp_path / "a.run", "--run-file", tmp_path / "other" / "a.run"]
    assert run(folder, *files) == 1
    assert "--run-file: the name a.run is there twice" in capsys.readouterr().err
    assert run(folder, folder, "--write-runs", tmp_path / "runs") == 1
    assert "--write-runs: the name scifact-tiny is there twice" in capsys.readouterr().err


def test_run_of_a_dataset_with_slashes_in_its_name_is_written(folder, tmp_path, monkeypatch, capsys):
    from mlx_colbert.evaluation import beir, reading
    from mlx_colbert.evaluation.dataset import Dataset

    read = beir.read_beir(folder)
    named = Dataset.check("beir/tiny/test", read.documents, read.queries, read.qrels)
    monkeypatch.setattr(reading, "read_ir_dataset", lambda *_, **__: named)

    assert run("irds:beir/tiny/test", "--write-runs", tmp_path / "runs") == 0

    assert read_run(tmp_path / "runs" / "beir-tiny-test-bm25.run").keys() == {"q1", "q2"}


def test_published_lengths_are_those_of_the_dataset(folder, capsys):
    words = [folder, "--model", CHECKPOINT, "--backend", "numpy", "--systems", "exact", "--json"]
    # The published 300 tokens of a document are more than this model can read.
    short = ["--document-length", 64]
    found = []
    for more in ([], ["--published-lengths"], ["--published-lengths", "--query-length", 8]):
        assert run(*words, *short, *more) == 0
        found += json.loads(capsys.readouterr().out)["datasets"]

    assert [(one["query_length"], one["document_length"]) for one in found] == [(16, 64), (48, 64), (8, 64)]
    assert len({one["fingerprint"] for one in found}) == 3


def test_picture_is_drawn(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plot')")
    words = [folder, "--model", CHECKPOINT, "--backend", "numpy", "--systems", "exact,2bit,bm25"]

    assert run(*words, "--plot", tmp_path / "quality.png") == 0

    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--systems", "exact"], "the system exact needs a model"),
        (["--systems", "magic"], "the system 'magic' is not known"),
        (["--measures", "magic@3"], "the measure 'magic@3' is not known"),
        # Computed by a program that reads numbers as ids alone.
        (["--measures", "RR,ERR@10"], "ir-measures cannot compute RR, ERR@10"),
        (["--against", "exact"], "against is 'exact'"),
        (["--split", "dev"], r"no judgements qrels/dev.tsv"),
        (["--plot", "quality.xyz"], "the format 'xyz' is not known"),
        (["--plot", "nowhere/quality.png"], "there is no folder nowhere"),
        (["--write-runs", __file__], "File exists"),
        (["--cache", __file__], "File exists"),
    ],
)
def test_wrong_options_are_told_before_anything_is_measured(folder, words, message, capsys, monkeypatch):
    if "--plot" in words:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plot')")
    monkeypatch.setattr(
        "mlx_colbert.evaluation.experiment._measured", lambda *_, **__: pytest.fail("measured already")
    )

    assert run(folder, *words) == 1

    assert message in capsys.readouterr().err
