"""ColBERT.load: converted folders, the cache, the hub."""

from __future__ import annotations

import json

import pytest
from spoiling import CHECKPOINTS, edit, edit_tensors

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
from mlx_colbert.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
)


def test_missing_folder_that_is_no_hub_id_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"there is no such folder, and this is not a hub id"):
        convert("./no/such/folder", tmp_path / "model")


def test_converted_folder_is_not_converted_again(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    with pytest.raises(CheckpointError, match="is a converted model already"):
        convert(folder, tmp_path / "again")


def test_source_that_is_not_converted_is_converted_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path / "cache"))
    first = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy")
    (folder,) = (tmp_path / "cache").iterdir()
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    second = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy")
    assert first.fingerprint == second.fingerprint
    assert [path for path in (tmp_path / "cache").iterdir()] == [folder]
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_changed_source_is_converted_anew(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path / "cache"))
    source = copy("pylate-bert")
    ColBERT.load(source, backend="numpy")
    edit(source / "config_sentence_transformers.json", query_length=20)
    assert ColBERT.load(source, backend="numpy").config.colbert.query_length == 20


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_converted_folder_that_lacks_a_file_says_which(tmp_path, file):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(CheckpointNotFoundError, match=file):
        ColBERT.load(folder, backend="numpy")


def test_converted_folder_with_an_unknown_setting_is_refused(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["attention_sinks"] = 4
    config["colbert"]["query_length"] = "long"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="'attention_sinks' is not understood"):
        ColBERT.load(folder, backend="numpy")


def test_converted_folder_with_wrong_tensors_lists_them(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.pop("layers.0.mlp.up.bias"))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up\.bias is missing"):
        ColBERT.load(folder, backend="numpy")


def test_changed_tokenizer_of_a_converted_folder_is_noticed(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text + " ", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json was changed after the conversion"):
        ColBERT.load(folder, backend="numpy")


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"encoder": {"n_layers": 10**9}}, "n_layers must be at most 1024"),
        ({"encoder": {"norm_eps": 10**400}}, "'norm_eps' cannot be an integer of 1329 bits"),
        ({"encoder": {"norm_eps": 1e300}}, "'norm_eps' must be a number > 0"),
        (
            {
                "encoder": {"position": "rope", "max_length": 2**20},
                "colbert": {"do_query_expansion": True, "query_length": 2**20},
            },
            "filled up to 1048576 tokens; at most 1024",
        ),
        (
            {"colbert": {"expansion_token_id": 10**30}},
            "'expansion_token_id' cannot be an integer of 100 bits",
        ),
        ({"colbert": {"expansion_token_id": -1}}, "'expansion_token_id' must be a token id"),
    ],
)
def test_absurd_value_of_a_converted_folder_is_refused(tmp_path, sections, complaint):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for section, changes in sections.items():
        config[section].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=complaint):
        ColBERT.load(folder, backend="numpy")


def test_hub_that_is_out_of_reach_says_so(monkeypatch):
    with pytest.raises(CheckpointNotFoundError, match="and it could not be downloaded from the hub"):
        ColBERT.load("owner/not-there", backend="numpy")
