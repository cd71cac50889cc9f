"""The benchmarks of examples/bench: their metrics by hand values, the scripts end to end on tiny inputs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mlx_colbert import Retriever
from mlx_colbert.convert import convert as mlx_convert

pytestmark = pytest.mark.slow

BENCH = Path(__file__).parents[2] / "examples" / "bench"

needs_bm25s = pytest.mark.skipif(importlib.util.find_spec("bm25s") is None, reason="bm25s is not installed")


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up while it is executed.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("quality", monkeypatch)


@pytest.fixture
def maxsim(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("maxsim", monkeypatch)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Three documents; two judged queries, one judged irrelevant only, one not judged."""
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    documents = [("c", "Tea", "is steeped."), ("a", "", "Coffee is brewed."), ("b", "Bread", "is baked.")]
    rows = [json.dumps({"_id": i, "title": title, "text": text}) for i, title, text in documents]
    (folder / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    queries = {"q1": "how to steep tea", "q2": "brewed coffee", "q3": "nothing", "q4": "baked"}
    rows = [json.dumps({"_id": i, "text": text}) for i, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(rows), encoding="utf-8")
    qrels = "query-id\tcorpus-id\tscore\nq1\tc\t1\nq2\ta\t2\nq3\ta\t0\n"
    (folder / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    return folder


def results(path: Path, name: str, figures: dict[str, tuple[float, float | None]]) -> Path:
    """What `mlx-colbert eval --json` prints, as far as the table and the picture need it: system → nDCG@10 and p."""
    systems = {
        system: {
            "bytes": 30_000,
            "ms": 1.5,
            "measures": {
                "nDCG@10": {
                    "mean": mean,
                    "low": mean - 0.1,
                    "high": mean + 0.1,
                    "against": None if p is None else {"p_value": p},
                }
            },
        }
        for system, (mean, p) in figures.items()
    }
    row = {"dataset": name, "n_documents": 10, "n_queries": 1200, "systems": systems}
    path.write_text(json.dumps({"datasets": [row]}), encoding="utf-8")
    return path


def test_quality_prints_one_table_of_several_results(quality, tmp_path, capsys) -> None:
    one = results(
        tmp_path / "1.json", "tea", {"exact": (0.5, None), "4bit": (0.51, 0.02), "bm25": (0.4, 0.03)}
    )
    other = results(tmp_path / "2.json", "bees", {"exact": (0.75, None), "bm25": (0.5, 0.01)})

    quality.main(["table", str(one), str(other)])

    assert capsys.readouterr().out.splitlines() == [
        "| nDCG@10 | documents | queries | exact | 4bit | bm25 |",
        "|---|--:|--:|--:|--:|--:|",
        # Two comparisons: p must be below 0.025.
        "| tea | 10 | 1,200 | 0.500 | 0.510* | 0.400 |",
        "| bees | 10 | 1,200 | 0.750 |  | 0.500* |",
    ]
    quality.main(["table", str(other), "--bytes"])
    assert "| 0.750 (3.0 kB) | 0.500* (3.0 kB) |" in capsys.readouterr().out
    quality.main(["table", str(other), "--intervals"])
    assert "| 0.750 [0.650, 0.850] | 0.500* [0.400, 0.600] |" in capsys.readouterr().out


def test_quality_draws_pictures_for_light_and_dark_pages(quality, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plot')")
    file = results(tmp_path / "1.json", "tea", {"exact": (0.5, None), "bm25": (0.4, 0.03)})

    quality.main(["plot", str(file), "--out", str(tmp_path / "light.png")])
    quality.main(["plot", str(file), "--out", str(tmp_path / "dark.png"), "--dark"])

    light, dark = ((tmp_path / name).read_bytes() for name in ("light.png", "dark.png"))
    assert light.startswith(b"\x89PNG") and dark.startswith(b"\x89PNG") and light != dark
    with pytest.raises(SystemExit, match=r"the measure 'R@1' was not computed\. Give one of nDCG@10"):
        quality.main(["plot", str(file), "--out", str(tmp_path / "light.png"), "--measure", "R@1"])


def test_first_stage_prints_a_row_for_each_encoder(monkeypatch, beir, capsys) -> None:
    first_stage = load("first_stage", monkeypatch)
    model = "tests/data/checkpoints/pylate-bert"

    first_stage.main(["--model", model, "--data", str(beir), "--queries", "1", "--fit-queries", "1"])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny: 3 passages, ")
    names = [line.split("|")[1].split(",")[0].strip() for line in lines if line.startswith("| ")]
    assert names[:2] == ["first stage", "the index"]
    assert {"MUVERA 10 · 2^5 · 32", "LEMUR"} < set(names)


@pytest.mark.parametrize("script", sorted(path.name for path in BENCH.glob("*.py")))
def test_every_script_starts(script) -> None:
    words = [sys.executable, BENCH / script, "--help"]

    found = subprocess.run(words, capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stderr


def test_maxsim_prints_json_of_every_dim(maxsim, capsys) -> None:
    small = ["--documents", "8", "--query-tokens", "4", "--length", "2", "9", "--rounds", "2"]

    maxsim.main([*small, "--dim", "8", "16", "--json"])

    report = json.loads(capsys.readouterr().out)
    assert [run["dim"] for run in report["runs"]] == [8, 16]
    results = {row["name"]: row for row in report["runs"][0]["results"]}
    assert results[maxsim.BASELINE]["ratio"] == 1.0
    assert report["runs"][0]["largest_difference"] < 1e-5
    assert "numpy" in report["machine"]["versions"]


def test_maxsim_prints_a_table(maxsim, capsys) -> None:
    maxsim.main(["--documents", "3", "--length", "2", "2", "--rounds", "1", "--dim", "4"])

    out = capsys.readouterr().out
    assert out.startswith("`python examples/bench/maxsim.py --documents 3")
    assert f"| {maxsim.BASELINE} |" in out


def test_maxsim_refuses_to_time_implementations_that_disagree(maxsim) -> None:
    scorers = {maxsim.BASELINE: lambda: np.zeros(2), "broken": lambda: np.array([0.0, np.nan])}

    with pytest.raises(SystemExit, match="broken differs"):
        maxsim.largest_difference(scorers, 32)


def test_the_ratio_is_the_median_of_the_ratios_within_a_round(maxsim) -> None:
    rows = maxsim.summary({maxsim.BASELINE: [1.0, 10.0, 2.0], "other": [2.0, 20.0, 8.0]})

    assert [row["ratio"] for row in rows] == [1.0, 2.0]
    assert (rows[1]["median_ms"], rows[1]["min_ms"], rows[1]["max_ms"]) == (8.0, 2.0, 20.0)


def test_startup_prints_every_step_and_the_whole(tmp_path, data) -> None:
    model = data / "checkpoints" / "pylate-bert"
    with Retriever.create(tmp_path / "index", model) as retriever:
        retriever.add(["Tea is steeped."], ["tea"])
    command = [
        sys.executable,
        BENCH / "startup.py",
        "--index",
        tmp_path / "index",
        "--model",
        model,
        "--rounds",
        "1",
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "load of the last minute" in done.stdout
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 9 and rows[-1] == "`mlx-colbert search`, the whole command"


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """Forty documents of four tokens around ten meanings, and two queries, as `search.py encode` writes them."""
    rng = np.random.default_rng(0)
    rows = np.eye(16)[rng.integers(0, 10, 160)] + 0.1 * rng.standard_normal((160, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "vectors.f16").write_bytes(rows.astype(np.float16).tobytes())
    np.save(folder / "lengths.npy", np.full(40, 4))
    np.savez(folder / "queries.npz", vectors=rows[:6].astype(np.float32), lengths=np.array([2, 4]))
    meta = {"dim": 16, "qrels": [{"0": 1}, {"1": 1, "39": 1}]}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return folder


def test_search_measures_each_engine_and_cuts_the_collection(encoded: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "search.py"), "run", "--cache", str(encoded), "--documents", "39"]
    command += ["--engines", "nbits-8", "nbits-4", "nbits-4-fast"]
    command += ["--work", str(tmp_path), "--out", str(tmp_path / "out.json")]

    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    exact, compressed, four, fast = found["engines"]
    assert (found["documents"], found["tokens"]) == (39, 156)
    assert [row["engine"] for row in found["engines"]] == ["exact", "nbits-8", "nbits-4", "nbits-4-fast"]
    # Built once for both.
    assert (fast["build_s"], fast["bytes"]) == (four["build_s"], four["bytes"])
    assert (exact["recall10"], exact["recall100"]) == (1.0, 1.0)
    assert compressed["recall10"] > 0.9 and 0 < compressed["ndcg10"] <= 1
    assert compressed["bytes"] > 0 and compressed["p95_ms"] >= compressed["p50_ms"] > 0
    assert printed.count("\n| ") == 5  # a header and four engines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "tiny"]


def test_search_encodes_a_collection(beir: Path, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "search.py"), "encode", "--data", str(beir)]
    command += ["--model", str(data / "checkpoints" / "pylate-bert"), "--cache", str(tmp_path / "cache")]
    subprocess.run(command, check=True, capture_output=True)

    folder = tmp_path / "cache" / "tiny"
    lengths, queries = np.load(folder / "lengths.npy"), np.load(folder / "queries.npz")
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert (folder / "vectors.f16").stat().st_size == 2 * meta["dim"] * lengths.sum()
    assert (len(lengths), len(queries["lengths"]), len(meta["qrels"])) == (3, 2, 2)


def test_encode_measures_what_can_be_had(beir: Path) -> None:
    checkpoint = Path(__file__).parents[1] / "data" / "checkpoints" / "native-bert"
    command = [sys.executable, str(BENCH / "encode.py"), "run", "--checkpoint", str(checkpoint)]
    command += ["--data", str(beir), "--engines", "numpy", "torch", "--passages", "3", "--queries", "2"]

    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    _, numpy_row, torch_row = printed.strip().splitlines()[-3:]
    name, device, *figures = (cell.strip() for cell in numpy_row.strip("|").split("|"))
    assert (name, device) == ("numpy", "CPU (numpy)") and all(float(figure) > 0 for figure in figures)
    assert torch_row == "| torch | not measured: no --peer-python |"


def test_shared_cores_compares_checkouts_beside_busy_processes(data: Path, tmp_path: Path) -> None:
    model = mlx_convert(data / "checkpoints" / "pylate-bert", tmp_path / "model")
    root = str(Path(__file__).parents[2])
    command = [sys.executable, str(BENCH / "shared_cores.py"), "--checkout", f"one={root}", f"two={root}"]
    command += ["--documents", "4", "--rounds", "1", "--busy", "0", "1", "--model", str(model)]
    command += ["--tasks", "maxsim", "encode_query", "search", "kmeans"]

    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    head, _, *rows = printed.strip().splitlines()
    assert head.startswith("| task | busy | one: ms | two: ms | one: CPU ms | two: CPU ms |")
    assert len(rows) == 8 and rows[4].startswith("| maxsim | 1 | ")


@needs_bm25s
def test_collection_measures_syncs_and_searches_of_a_folder(data: Path, tmp_path: Path) -> None:
    model = mlx_convert(data / "checkpoints" / "pylate-bert", tmp_path / "model")
    script = [sys.executable, str(BENCH / "collection.py")]
    make = [
        "make",
        "--model",
        str(model),
        "--files",
        "3",
        "--paragraphs",
        "1",
        "--out",
        str(tmp_path / "made"),
    ]
    subprocess.run([*script, *make], check=True, capture_output=True)
    made = tmp_path / "made"
    before = {path: path.read_bytes() for path in (made / "files").rglob("*.md")}
    measure = ["run", "--folder", str(made / "files"), "--model", str(made / "model"), "--rounds", "1"]

    printed = subprocess.run([*script, *measure], check=True, capture_output=True, text=True).stdout

    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| ")]
    names = [cells[0].split("(")[0].strip(" `") for cells in rows]
    assert "\n3 files, " in printed
    assert names[1:3] == ["first", "second, nothing changed"] and names[5:7] == [
        "search, the whole process",
        "mlx-colbert search",
    ]
    assert len(rows) == 11 and all(float(cell) > 0 for cell in rows[1][1:])
    # The folder itself stays as it is.
    assert {path: path.read_bytes() for path in (made / "files").rglob("*.md")} == before


def test_first_answer_measures_each_step_in_an_environment_that_is_there(data: Path) -> None:
    command = [sys.executable, str(BENCH / "first_answer.py"), "--python", sys.executable]
    command += ["--model", str(data / "checkpoints" / "pylate-bert")]

    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    rows = [line.split("|")[1:-1] for line in printed.splitlines()[4:]]
    names = [name.strip() for name, _ in rows]
    assert names == ["sync a folder of 6 notes", "the first search", "the second search", "all"]
    assert all(float(seconds) > 0 for _, seconds in rows)


def test_first_answer_installs_the_wheel_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = load("first_answer", monkeypatch).installation("uv", Path("dist/a.whl"), "[rag]")

    assert [command[:3] for _, command in steps] == [["uv", "venv", "--seed"], ["uv", "pip", "install"]]
    assert steps[1][1][-1].startswith("mlx-colbert[rag] @ file:///")


def test_serving_loses_nothing_and_prints_a_table(tmp_path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra 'server'")
    (tmp_path / "tea.md").write_text(
        "Steep the leaves for three minutes.\n\nPour the water off after that.\n"
    )
    model = BENCH.parents[1] / "tests" / "data" / "checkpoints" / "native-bert"
    command = [sys.executable, BENCH / "serving.py", "--model", model, "--folder", tmp_path]

    run = subprocess.run([*command, "--clients", "2", "--seconds", "1"], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout[run.stdout.index("{") :])
    assert list(result["phases"]) == ["calm", "overload", "after", "rude"] and result["lost"] == []
    assert "| calm | 2 |" in run.stdout and "| overload | 8 |" in run.stdout
