"""Weights of a checkpoint folder: the layouts, the order of preference, and indexes that lie."""

import hashlib
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from spoiling import CHECKPOINTS, edit_tensors, refusal

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
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
        "model-2.safetensors has 'b', but the index says another file.",
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
    with pytest.raises(UnsafeCheckpointError, match="not weight files in its folder"):
        read_weights(sharded)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', "[" * 100_000]
)
def test_damaged_index_gives_a_clear_error(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(
        CheckpointError, match=r"index\.json: (is not JSON|contains a |has no weight_map|cannot be read)"
    ):
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
        read_weights(tmp_path).read("abcn")
    assert caught.value.problems == ["tensor 'a' has NaN or infinity.", "tensor 'b' has NaN or infinity."]


def test_file_of_integers_alone_holds_no_weights(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"ids": np.array([1, 2])})
    with pytest.raises(CheckpointError, match="no floating-point weights"):
        read_weights(tmp_path)


def sparse(path: Path, name: str, shape: tuple[int, ...], dtype: str = "BF16") -> None:
    """A safetensors file of zeros that takes no room on the disk."""
    size = int(np.prod(shape, dtype=np.int64)) * 2
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)


@pytest.mark.parametrize("name", ["embeddings.word_embeddings.weight", "cls.predictions.bias", "unknown"])
def test_sparse_file_of_a_terabyte_is_refused_by_its_header(copy, name):
    source = copy("plain-bert")
    (source / "pytorch_model.bin").unlink(missing_ok=True)
    sparse(source / "model.safetensors", name, (1 << 20, 1 << 19))
    tracemalloc.start()
    try:
        refusal(source)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_sparse_file_behind_a_head_that_is_not_used_is_refused(tmp_path):
    sparse(tmp_path / "model.safetensors", "cls.bias", (1 << 30, 4))
    with pytest.raises(UnsafeCheckpointError, match="have 8,589,934,690 bytes"):
        read_weights(tmp_path).read([])


def test_sparse_dense_layer_is_refused_by_its_header(copy):
    source = copy("pylate-bert")
    sparse(source / "1_Dense" / "model.safetensors", "linear.weight", (1 << 20, 1 << 19))
    assert "projection.0.weight has shape (1048576, 524288)" in refusal(source)


def test_sparse_file_of_a_converted_model_is_refused_by_its_header(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    sparse(folder / "model.safetensors", "embeddings.token.weight", (1 << 20, 1 << 19))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"embeddings\.norm\.bias is missing"):
            ColBERT.load(folder, backend="numpy")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefix_of_a_wrapped_module_is_taken_off(copy, tmp_path, prefix):
    expected = ColBERT.load(CHECKPOINTS / "stanford-bert", backend="numpy").encode_query("a cat")
    source = copy("stanford-bert")

    def wrap(tensors):
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    edit_tensors(source / "model.safetensors", wrap)
    model = ColBERT.load(convert(source, tmp_path / "model"), backend="numpy")
    np.testing.assert_array_equal(model.encode_query("a cat"), expected)


def test_tensor_that_is_there_with_and_without_a_prefix_is_refused(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"w": ONE, "module.w": ONE})
    with pytest.raises(CheckpointError, match="are two tensors with the same name"):
        read_weights(tmp_path)
