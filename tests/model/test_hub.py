"""Checkpoints from the hub and back, against a hub on the loopback."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from decoders import DECODERS, skip_decoder
from hub import ENVIRONMENT, TOKEN, URL
from spoiling import CHECKPOINTS, modules

from mlx_colbert import ColBERT
from mlx_colbert.cli import main
from mlx_colbert.errors import CheckpointNotFoundError
from mlx_colbert.model.folder import commit_folder


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in CHECKPOINTS.iterdir()))
def test_every_layout_loads_from_the_hub_as_from_its_folder(hub, name):
    backend = "mlx" if name in DECODERS else "numpy"
    skip_decoder(name, backend)
    hub.add(f"owner/{name}", CHECKPOINTS / name)
    model = ColBERT.load(f"owner/{name}", backend=backend)
    expected = ColBERT.load(CHECKPOINTS / name, backend=backend)
    assert model.revision == hub.repositories[f"owner/{name}"].refs["main"]
    np.testing.assert_array_equal(model.encode_document("the cat"), expected.encode_document("the cat"))


def cli(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command."""
    stderr = io.StringIO()
    with redirect_stderr(stderr), redirect_stdout(io.StringIO()):
        code = main(list(arguments))
    return code, stderr.getvalue()


def told(tmp_path, hub_id: str, *arguments: str) -> str:
    """The one line with which `convert` refuses a repository; nothing is left of its target."""
    target = tmp_path / "out" / "model"
    code, stderr = cli("convert", "--hf-path", hub_id, "--mlx-path", str(target), *arguments)
    assert code == 1
    assert stderr.count("\n") == 1 and stderr.startswith(f"mlx-colbert: error: checkpoint {hub_id}: ")
    assert not target.parent.exists() or list(target.parent.iterdir()) == []
    return stderr


def test_only_the_files_that_are_read_are_fetched(hub):
    names = """onnx/model.onnx onnx/config.json openvino/tokenizer.json tf_model.h5 model.fp16.safetensors
        pytorch_model.bin 1_Dense/pytorch_model.bin README.md eval.txt 2_Old/model.safetensors"""
    others = dict.fromkeys(names.split(), b"unwanted")
    hub.add("owner/model", CHECKPOINTS / "pylate-bert", **others)
    ColBERT.load("owner/model", backend="numpy")
    assert hub.fetched() == sorted(
        str(path.relative_to(CHECKPOINTS / "pylate-bert"))
        for path in (CHECKPOINTS / "pylate-bert").rglob("*")
        if path.is_file()
    )


def test_of_two_layouts_in_one_repository_only_one_is_fetched(hub, tmp_path):
    shutil.copytree(CHECKPOINTS / "stanford-bert", tmp_path / "both")
    for path in (CHECKPOINTS / "pylate-bert").iterdir():
        target = (
            tmp_path / "both" if path.name in ("modules.json", "1_Dense") else tmp_path / "both" / "0_Bert"
        )
        target.mkdir(exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target / path.name)
    shutil.move(tmp_path / "both/0_Bert/config_sentence_transformers.json", tmp_path / "both")
    modules(tmp_path / "both", lambda entries: entries[0].update(path="0_Bert"))
    hub.add("owner/both", tmp_path / "both")
    ColBERT.load("owner/both", backend="numpy")
    weights = [name for name in hub.fetched() if name.endswith(".safetensors")]
    assert weights == ["0_Bert/model.safetensors", "1_Dense/model.safetensors"]


def test_pickled_weights_are_fetched_only_where_there_are_no_others(hub):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert-old", **{"pytorch_model.bin": b"unwanted"})
    ColBERT.load("owner/model", backend="numpy")
    assert [name for name in hub.fetched() if name.endswith(".bin")] == ["1_Dense/pytorch_model.bin"]


def test_second_load_fetches_nothing_and_works_offline(hub, monkeypatch):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    ColBERT.load("owner/model", backend="numpy")
    hub.log.clear()
    ColBERT.load("owner/model", backend="numpy")
    assert hub.fetched() == []
    hub.log.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (
        ColBERT.load("owner/model", backend="numpy").revision == hub.repositories["owner/model"].refs["main"]
    )
    assert hub.log == []


def test_commit_that_was_converted_is_loaded_without_the_hub_and_its_library(hub):
    hub.add("owner/commit", CHECKPOINTS / "pylate-bert")
    model = ColBERT.load("owner/commit", backend="numpy")
    hub.log.clear()
    again = ColBERT.load("owner/commit", backend="numpy", revision=model.revision)
    assert hub.log == [] and (again.revision, again.fingerprint) == (model.revision, model.fingerprint)
    code = (
        "import sys; from mlx_colbert import ColBERT;"
        "ColBERT.load('owner/commit', backend='numpy', revision=sys.argv[1]).encode_query('why?');"
        "print([m for m in ('huggingface_hub', 'mlx_colbert.convert', 'transformers') if m in sys.modules])"
    )
    argv = [sys.executable, "-c", code, model.revision]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and hub.log == []


def test_damaged_conversion_of_a_commit_is_made_again(hub):
    hub.add("owner/damaged", CHECKPOINTS / "pylate-bert")
    model = ColBERT.load("owner/damaged", backend="numpy")
    weights = commit_folder("owner/damaged", model.revision) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    again = ColBERT.load("owner/damaged", backend="numpy", revision=model.revision)
    np.testing.assert_array_equal(again.encode_query("tea"), model.encode_query("tea"))


def test_repository_that_is_not_cached_cannot_be_loaded_offline(hub, monkeypatch, tmp_path):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in told(tmp_path, "owner/model")


def test_partly_cached_repository_cannot_be_loaded_offline(hub, monkeypatch, tmp_path):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    monkeypatch.setattr(hub, "cut", {"model.safetensors": 99})
    told(tmp_path, "owner/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in told(tmp_path, "owner/model")


def test_branch_that_moves_between_two_requests_does_not_mix_commits(hub):
    repository = hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    first = repository.refs["main"]

    def move(name: str, content: bytes) -> bytes:
        if len(repository.commits) == 1:
            repository.commit({"config.json": b"{}"})
        return content

    hub.spoil = move
    assert ColBERT.load("owner/model", backend="numpy").revision == first


def test_tags_and_commits_are_revisions(hub):
    repository = hub.add("owner/model", CHECKPOINTS / "stanford-bert")
    old = repository.refs["main"]
    repository.refs["v1"] = old
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    assert ColBERT.load("owner/model", backend="numpy", revision="v1").revision == old
    assert ColBERT.load("owner/model", backend="numpy", revision=old).config.source.layout == "stanford"
    assert ColBERT.load("owner/model", backend="numpy").config.source.layout == "pylate"


def test_missing_repository_is_told_in_a_line(hub, tmp_path):
    assert "it has no such repository. If it is private, log in" in told(tmp_path, "owner/missing")


def test_revision_that_is_not_there_is_told_in_a_line(hub, tmp_path):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    assert "has no revision 'v2'" in told(tmp_path, "owner/model", "--revision", "v2")


def test_gated_repository_says_where_to_ask(hub, tmp_path, monkeypatch):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert").gated = True
    assert f"it is gated: accept its terms at {URL}/owner/model" in told(tmp_path, "owner/model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "it is gated" in told(tmp_path, "owner/model")


def test_private_repository_needs_the_token(hub, tmp_path, monkeypatch):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert").private = True
    assert "it has no such repository. If it is private, log in" in told(tmp_path, "owner/model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert ColBERT.load("owner/model", backend="numpy").dim == 16


def test_wrong_token_is_told_in_a_line(hub, tmp_path, monkeypatch):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "needs a valid token" in told(tmp_path, "owner/model")


def test_cut_connection_is_resumed_where_it_broke(hub, monkeypatch):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut = {"model.safetensors": 2}
    model = ColBERT.load("owner/model", backend="numpy")
    np.testing.assert_array_equal(
        model.encode_document("the cat"),
        ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy").encode_document("the cat"),
    )
    assert hub.ranges == ["bytes=80000-", "bytes=120000-"]


def test_download_that_fails_is_taken_up_by_the_next_one(hub, tmp_path, cache):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    hub.spoil = lambda name, content: content[:-1] if name == "model.safetensors" else content
    assert "Consistency check failed" in told(tmp_path, "owner/model")
    assert not list(cache.rglob("*.incomplete"))
    hub.spoil = lambda name, content: content
    hub.log.clear()
    ColBERT.load("owner/model", backend="numpy")
    assert "model.safetensors" in hub.fetched() and "tokenizer.json" not in hub.fetched()


def test_hub_without_an_answer_is_told_in_a_line(hub, tmp_path):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    hub.cut = dict.fromkeys(["model.safetensors"], 10**6)
    hub.spoil = lambda name, content: b"" if name == "model.safetensors" else content
    assert "peer closed connection" in told(tmp_path, "owner/model")


def test_names_that_lead_elsewhere_are_not_fetched(hub, tmp_path, cache):
    evil = {"../evil.json": b"{}", "/evil.json": b"{}", "1_Dense/../../evil.json": b"{}"}
    hub.add("owner/model", CHECKPOINTS / "pylate-bert", **evil)
    ColBERT.load("owner/model", backend="numpy")
    assert not [name for name in hub.fetched() if "evil" in name] and not list(tmp_path.rglob("evil.json"))


def test_index_that_names_files_elsewhere_fetches_none(hub, tmp_path):
    weight_map = {"a": "../../secret.safetensors", "b": "/etc/passwd", "c": 5}
    index = json.dumps({"weight_map": weight_map}).encode()
    repository = hub.add("owner/model", CHECKPOINTS / "plain-bert")
    files = repository.commits[repository.refs["main"]]
    del files["model.safetensors"]
    repository.commit({**files, "model.safetensors.index.json": index, "secret.safetensors": b""})
    target = tmp_path / "model"
    code, stderr = cli("convert", "--hf-path", "owner/model", "--mlx-path", str(target))
    assert code == 1 and "not weight files in its folder. Refused" in stderr
    assert not [name for name in hub.fetched() if "secret" in name]


@pytest.mark.slow
def test_command_line_in_a_process_of_its_own(hub, tmp_path):
    hub.add("owner/model", CHECKPOINTS / "pylate-bert")
    environment = {**os.environ, **ENVIRONMENT, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "mlx_colbert", "convert", "--hf-path"]
    for hub_id, code, message in (("owner/model", 0, ""), ("owner/none", 1, "it has no such repository")):
        target = tmp_path / hub_id
        arguments = [*command, hub_id, "--mlx-path", str(target)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, target.exists()) == (code, code == 0), done.stderr
        assert message in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def unreachable(tmp_path) -> dict[str, str]:
    """The environment of a process whose hub refuses connections, with nothing cached."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        # Bound, but nobody listens.
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        yield {**os.environ, **ENVIRONMENT, **home, "HF_ENDPOINT": url}


def test_hub_that_cannot_be_reached_is_one_error_and_no_chain(unreachable):
    program = "from mlx_colbert import ColBERT; ColBERT.load('owner/model')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=unreachable, capture_output=True, text=True, timeout=120
    )
    lines = done.stderr.strip().splitlines()
    assert lines[-1].endswith(
        "cannot be reached (Connection refused). Check the network, or give the path of a folder "
        "with the model."
    )
    assert done.stderr.count("Traceback") == 1 and "The above exception" not in done.stderr
    assert len(lines) < 25


@pytest.mark.slow
def test_hub_that_cannot_be_reached_is_one_line_on_the_command_line(unreachable):
    command = [sys.executable, "-m", "mlx_colbert", "verify-model", "owner/model"]
    done = subprocess.run(command, env=unreachable, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("mlx-colbert: error: checkpoint owner/model: ")


@pytest.mark.parametrize("fault", ["missing", "private", "gated", "cut"])
def test_what_the_hub_refuses_is_one_error_and_no_chain(hub, fault):
    if fault != "missing":
        repository = hub.add("owner/model", CHECKPOINTS / "pylate-bert")
        repository.private, repository.gated = fault == "private", fault == "gated"
        hub.cut = dict.fromkeys(["model.safetensors"], 10**6) if fault == "cut" else {}
        hub.spoil = lambda name, content: b"" if name == "model.safetensors" and hub.cut else content
    with pytest.raises(CheckpointNotFoundError) as caught:
        ColBERT.load("owner/model", backend="numpy")
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_fault_of_our_own_making_keeps_its_cause(hub, monkeypatch):
    def broken(*arguments, **options):
        raise TypeError("unexpected")

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(CheckpointNotFoundError, match="unexpected") as caught:
        ColBERT.load("owner/model", backend="numpy")
    assert isinstance(caught.value.__cause__, TypeError)
