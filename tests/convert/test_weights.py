"""Weights of a checkpoint folder: the layouts, the order of preference, and indexes that lie."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert.convert.weights import read_weights, widest
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from mlx_colbert.model.safetensors_file import write_safetensors
from mlx_colbert.untrusted import MAX_JSON_BYTES

TORCH = Path(__file__).parents[1] / "data" / "torch"
ONE, TWO = np.array([1.0], np.float32), np.array([2.0], np.float32)


def write_index(folder, weight_map, *, stem="model.safetensors"):
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def sharded(tmp_path):
    write_safetensors(tmp_path / "model-1.safetensors", {"a": ONE})
    write_safetensors(tmp_path / "model-2.safetensors", {"b": TWO})
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return tmp_path


def test_safetensors_come_before_pytorch(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"w": ONE})
    shutil.copy(TORCH / "zip.bin", tmp_path / "pytorch_model.bin")
    weights = read_weights(tmp_path)
    assert weights.tensors.keys() == {"w"}
    assert weights.files == {
        "model.safetensors": hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    }


def test_pytorch_file_is_read_where_it_is_all_there_is(tmp_path):
    shutil.copy(TORCH / "zip.bin", tmp_path / "pytorch_model.bin")
    weights = read_weights(tmp_path)
    assert weights.tensors["bfloat16"].tolist() == [1.0, -2.0, 3.140625]
    assert weights.files.keys() == {"pytorch_model.bin"}


def test_shards_are_joined(sharded):
    weights = read_weights(sharded)
    assert {name: array.tolist() for name, array in weights.tensors.items()} == {"a": [1.0], "b": [2.0]}
    assert weights.files.keys() == {
        "model.safetensors.index.json",
        "model-1.safetensors",
        "model-2.safetensors",
    }


def test_pytorch_shards_are_joined(tmp_path):
    shutil.copy(TORCH / "legacy.bin", tmp_path / "pytorch_model-1.bin")
    names = read_weights_names(TORCH / "legacy.bin", tmp_path / "single")
    write_index(tmp_path, dict.fromkeys(names, "pytorch_model-1.bin"), stem="pytorch_model.bin")
    assert read_weights(tmp_path).tensors.keys() == set(names)


def read_weights_names(file, folder):
    folder.mkdir()
    shutil.copy(file, folder / "pytorch_model.bin")
    return list(read_weights(folder).tensors)


@pytest.mark.parametrize(("dtype", "expected"), [("float32",) * 2, ("float16",) * 2, ("bfloat16",) * 2])
def test_type_on_disk_is_reported(tmp_path, dtype, expected):
    write_safetensors(tmp_path / "model.safetensors", {"w": ONE}, dtype=dtype)
    assert read_weights(tmp_path).dtypes == {expected}


def test_widest_type_holds_all_values(tmp_path):
    assert [widest({"float16"}), widest({"bfloat16", "float16"}), widest({"float32", "float16"})] == [
        "float16",
        "float32",
        "float32",
    ]
    shutil.copy(TORCH / "zip.bin", tmp_path / "pytorch_model.bin")
    assert read_weights(tmp_path).dtypes == {"float32", "float16", "bfloat16"}


def test_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        CheckpointNotFoundError, match=r"model\.safetensors, .*pytorch_model\.bin\.index\.json"
    ) as caught:
        read_weights(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_all_differences_between_index_and_shards_are_reported_at_once(sharded):
    write_index(sharded, {"a": "model-1.safetensors", "c": "model-2.safetensors", "d": "model-3.safetensors"})
    with pytest.raises(CheckpointError) as caught:
        read_weights(sharded)
    assert caught.value.problems == [
        "model-2.safetensors lacks 'c'.",
        "model-2.safetensors holds 'b', unlike the index.",
        "model-3.safetensors is missing.",
    ]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../other/model.safetensors",
            "/etc/passwd",
            "sub/model.safetensors",
            "..\\model.safetensors",
            "..",
        ),
        *(
            "C:model.safetensors",
            "model.safetensors\n",
            "model.bin",
            ".safetensors",
            "a\x00.safetensors",
            "",
            3,
            None,
        ),
    ],
)
def test_index_may_not_name_files_elsewhere(sharded, name):
    write_index(sharded, {"a": name})
    with pytest.raises(UnsafeCheckpointError, match="not weight files of its own folder"):
        read_weights(sharded)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', "[" * 100_000]
)
def test_damaged_index_gives_a_clear_error(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json: (is not JSON|contains a |has no weight_map)"):
        read_weights(sharded)


def test_oversized_index_is_not_read(sharded):
    os.truncate(sharded / "model.safetensors.index.json", MAX_JSON_BYTES + 1)
    with pytest.raises(CheckpointError, match=f"has {MAX_JSON_BYTES + 1} bytes"):
        read_weights(sharded)


def test_symlinks_as_in_the_hub_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots"
    blobs.mkdir()
    snapshot.mkdir()
    write_safetensors(blobs / "0abc", {"w": ONE})
    (snapshot / "model.safetensors").symlink_to("../blobs/0abc")
    assert read_weights(snapshot).tensors["w"].tolist() == [1.0]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_git_lfs_pointer_is_recognised(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match=r"git-lfs pointer.*git lfs pull"):
        read_weights(tmp_path)


def test_weights_that_are_not_finite_are_all_named(tmp_path):
    tensors = {"a": np.array([np.nan]), "b": np.array([np.inf]), "c": ONE, "n": np.array([1])}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path)
    assert caught.value.problems == ["tensor 'a' holds NaN or infinity.", "tensor 'b' holds NaN or infinity."]


def test_file_of_integers_alone_holds_no_weights(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"ids": np.array([1, 2])})
    with pytest.raises(CheckpointError, match="no floating-point weights"):
        read_weights(tmp_path)
