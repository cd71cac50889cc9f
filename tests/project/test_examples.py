"""The examples, run as their readers run them, with a real model."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from llm_server import send_json
from tiny_llama import write_llama

from mlx_colbert import Retriever, merge_index

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NUMBERED = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))


def importable(*names: str) -> bool:
    try:
        return all(importlib.util.find_spec(name) for name in names)
    except ModuleNotFoundError:  # of a parent package
        return False


needs_mlx_lm = pytest.mark.skipif(
    not importable("mlx_lm", "mlx.core"), reason="mlx-lm, the extra [rag], is not installed"
)
needs_dspy = pytest.mark.skipif(not importable("dspy"), reason="DSPy is not installed")
needs_txtai = pytest.mark.skipif(not importable("txtai"), reason="txtai is not installed")
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib, the extra [plot], is not installed"
)


def run(script: Path | str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def output(script: Path | str, *arguments: object) -> str:
    done = run(script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_lists_every_example():
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")

    assert len(NUMBERED) == 8
    others = ["fetch_models.py", "machines/dask_cluster.py", "machines/mlx_launch.py"]
    assert [name for name in [*NUMBERED, *others] if f"[`{name}`]({name})" not in readme] == []


@pytest.mark.parametrize("name", NUMBERED)
def test_example_without_a_model_says_in_one_line_what_to_do(name, tmp_path):
    copied = shutil.copy(EXAMPLES / name, tmp_path)  # beside it there is no demo folder

    done = run(copied)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "Run `make demo`" in done.stderr


def test_01_finds_the_two_documents_about_the_novel_first(answerai):
    lines = output("01_search.py", "--model", answerai).splitlines()

    assert lines[0].startswith("Who wrote 'To Kill a Mockingbird'?")
    assert [line.split()[2] for line in lines[1:]][:2] == ["0", "2"]


def test_02_finds_the_note_about_bicycles(answerai):
    lines = output("02_index_folder.py", "--model", answerai).splitlines()

    assert lines[0].startswith("6 passages")
    assert lines[2].startswith("1. ") and "bicycle.md#1" in lines[2]


def test_02_takes_a_folder_and_a_question(answerai, tmp_path):
    (tmp_path / "cat.txt").write_text("The cat sleeps on the stove.", encoding="utf-8")
    (tmp_path / "tax.txt").write_text("Taxes are due in May.", encoding="utf-8")

    lines = output("02_index_folder.py", tmp_path, "When must I pay taxes?", "--model", answerai).splitlines()

    assert "tax.txt#1" in lines[2] and "cat.txt#1" in lines[3]


def test_03_shows_each_change(answerai):
    text = output("03_update.py", "--model", answerai)

    _, added, upserted, _, reopened = re.split(r"^\d\. ", text, flags=re.MULTILINE)
    assert "1. library: The library opens at ten" in added
    assert "1. library: The library opens at nine" in upserted and "2. market:" in upserted
    assert "1. library: The library opens at nine" in reopened
    assert "'market' in index: False; 'pool' in index: True" in reopened


def test_04_brings_the_answer_from_the_ninth_place_to_the_first(answerai):
    by_keywords, reranked = output("04_rerank.py", "--model", answerai).split("reranked\n")

    assert "p25 " not in by_keywords
    assert reranked.splitlines()[0].split()[1] == "p25"
    assert reranked.splitlines()[0].endswith("(was number 9)")


@needs_matplotlib
def test_05_prints_the_sum_and_draws_it(answerai, tmp_path):
    picture = tmp_path / "new" / "why.png"

    lines = output("05_explain.py", "--model", answerai, "--out", picture).splitlines()

    *rows, total, last = lines
    similarities = [float(row.split()[1]) for row in rows]
    assert "Mocking" in {row.split()[2] for row in rows}
    assert float(total.split()[1]) == pytest.approx(sum(similarities), abs=0.01)
    assert str(picture) in last
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n") and len(data) > 10_000
    assert min(struct.unpack(">II", data[16:24])) > 500  # width and height in pixels


def hidden(module: str, folder: Path) -> dict[str, str]:
    """The environment of a process that lacks a module."""
    (folder / f"{module}.py").write_text(f'raise ModuleNotFoundError("No module named {module}")\n')
    return {"PYTHONPATH": str(folder)}


def test_05_names_the_extra_that_is_missing(answerai, tmp_path):
    done = run("05_explain.py", "--model", answerai, **hidden("matplotlib", tmp_path))

    assert done.returncode == 1 and "MaxSim" in done.stdout
    assert done.stderr.strip().endswith("Install it with: pip install 'mlx-colbert[plot]'")


@pytest.fixture
def small_index(data, tmp_path) -> Path:
    model = data / "checkpoints" / "pylate-bert"
    with Retriever.create(tmp_path / "index", model, backend="numpy") as retriever:
        retriever.add(["Leaves are green.", "Snow is white.", "Coal is black."], ["leaf", "snow", "coal"])
    return tmp_path / "index"


@needs_mlx_lm
@pytest.mark.parametrize(
    "chat_template", [None, "{{ messages[0]['content'] }} assistant:"], ids=["plain", "chat"]
)
def test_06_streams_an_answer_and_marks_the_sources_that_it_cites(small_index, tmp_path, chat_template):
    llm = write_llama(tmp_path / "llm", ["Green", "[3]", "indeed", "[9]", "[1]"], chat_template=chat_template)
    question = "What colour are leaves?"

    text = output("06_rag.py", question, "--index", small_index, "--llm", llm, "-k", 3)

    answer, sources = text.split("\n\nSources (* is cited):\n")
    assert answer.split("\n", 1)[1].split() == ["Green", "[3]", "indeed", "[9]", "[1]"]
    with Retriever.open(small_index, backend="numpy") as retriever:
        first, second, third = (hit.doc_id for hit in retriever.search(question))
    assert [line.split(":")[0] for line in sources.splitlines()] == [
        f"* [1] {first}",
        f"  [2] {second}",
        f"* [3] {third}",
    ]


@needs_mlx_lm
def test_06_answers_with_a_real_language_model_from_the_right_source(answerai, smollm2, tmp_path):
    with Retriever.create(tmp_path / "index", answerai, backend="numpy") as retriever:
        ice = "The last glacial ran from 74,000 years until the end of the Pleistocene, 11,600 years ago."
        retriever.add([ice, "The library opens at ten."], ["ice", "library"])

    question = "When did the last ice age end?"
    text = output("06_rag.py", question, "--index", tmp_path / "index", "--llm", smollm2, "-k", 1)

    answer, sources = text.split("\n\nSources (* is cited):\n")
    assert "11,600" in answer and "[1] ice: The last glacial" in sources


def test_06_names_the_extra_that_is_missing(small_index, tmp_path):
    done = run("06_rag.py", "--index", small_index, "--llm", "any/model", **hidden("mlx_lm", tmp_path))

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "pip install 'mlx-colbert[rag" in done.stderr


@needs_dspy
def test_07_answers_with_the_passages_that_the_index_finds(small_index, llm_server):
    llm_server.behave["/v1/chat/completions"] = dspy_answer

    text = output(
        "07_dspy.py",
        *("What colour are leaves?", "--index", small_index, "-k", 1),
        *("--lm", "openai/tiny", "--api-base", f"http://127.0.0.1:{llm_server.port}/v1"),
    )

    with Retriever.open(small_index, backend="numpy") as retriever:
        (hit,) = retriever.search("What colour are leaves?", 1)
    assert text.splitlines() == [
        "What colour are leaves?",
        "green",
        "",
        "Sources:",
        f"  {hit.doc_id}: {hit.text}...",
    ]
    assert hit.text in json.dumps(llm_server.asked[-1][2])


def dspy_answer(handler, body):
    content = "[[ ## answer ## ]]\ngreen\n\n[[ ## completed ## ]]"
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    send_json(
        handler,
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "tiny",
            "choices": [choice],
            "usage": usage,
        },
    )


@pytest.mark.parametrize(("name", "module"), [("07_dspy.py", "dspy"), ("08_txtai.py", "txtai")])
def test_07_and_08_name_the_package_that_is_missing(small_index, tmp_path, data, name, module):
    where = {"dspy": ("--index", small_index), "txtai": ("--model", data / "checkpoints" / "pylate-bert")}

    done = run(name, *where[module], **hidden(module, tmp_path))

    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"Install it with: pip install {module}")


@needs_txtai
def test_08_brings_the_answer_to_the_candidates_of_txtai(answerai):
    by_keywords, reranked = output("08_txtai.py", "--model", answerai).split("reranked\n")

    assert by_keywords.startswith("by keywords") and by_keywords.count("\n") == 4
    assert reranked.splitlines()[0].split()[1] == "p25"


TINY = ROOT / "tests" / "data" / "checkpoints" / "pylate-bert"


@pytest.fixture
def many_rows(tmp_path):
    """Rows for more than one shard."""
    path = tmp_path / "rows.tsv"
    path.write_text("".join(f"r{number}\tthe colour of number {number}\n" for number in range(600)))
    return path


def merged(tmp_path, parts):
    merge_index(tmp_path / "merged", parts)
    with Retriever.open(tmp_path / "merged") as retriever:
        return list(retriever.store)


def test_mlx_launch_encodes_parts_that_can_be_merged(tmp_path, many_rows):
    launch = Path(sys.executable).with_name("mlx.launch")
    launch = launch if launch.exists() else Path(shutil.which("mlx.launch") or "")
    if not (importable("mlx.core") and launch.is_file()):
        pytest.skip("mlx.launch is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = EXAMPLES / "machines" / "mlx_launch.py"
    command = [
        launch,
        "-n",
        "2",
        "--starting-port",
        port,
        "--python",
        sys.executable,
        "--",
        script,
        many_rows,
    ]
    command += ["--model", TINY, "--parts", tmp_path / "parts", "--backend", "numpy"]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    parts = sorted((tmp_path / "parts").iterdir())
    assert [part.name for part in parts] == ["part-1-of-2", "part-2-of-2"], done.stdout + done.stderr
    assert merged(tmp_path, parts) == [f"r{number}" for number in range(600)]


def test_dask_encodes_and_merges(tmp_path, many_rows):
    pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    output("machines/dask_cluster.py", many_rows, "--model", TINY, "--index", tmp_path / "out", "--shards", 3)
    with Retriever.open(tmp_path / "out") as retriever:
        assert list(retriever.store) == [f"r{number}" for number in range(600)]
