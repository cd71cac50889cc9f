"""safetensors files: what is written is read back, here and by the others; damage gives one clear error."""

import json
import random
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, ColBERTError
from mlx_colbert.model.safetensors_file import (
    bfloat16_to_float32,
    float32_to_bfloat16,
    read_safetensors,
    safetensors_shapes,
    write_safetensors,
)


@pytest.fixture
def tensors():
    return {
        "w": np.array([[1.0, -2.0], [0.5, 3.0], [4.0, 1.5]], np.float32),
        "packed": np.array([[1, 2**32 - 1]], np.uint32),
        "flags": np.array([True, False, True]),
        "number": np.array(2.0, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }


def write_raw(path, header, data=b""):
    """A file of any header, honest or not."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_written_tensors_are_read_back(tmp_path, tensors, dtype):
    write_safetensors(tmp_path / "m.safetensors", tensors, dtype=dtype)
    read = read_safetensors(tmp_path / "m.safetensors")
    assert {name: array.tolist() for name, array in read.items()} == {
        n: a.tolist() for n, a in tensors.items()
    }
    assert {name: array.shape for name, array in read.items()} == {n: a.shape for n, a in tensors.items()}
    assert read["packed"].dtype == np.uint32
    assert read["w"].dtype == {"float16": np.float16}.get(dtype, np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_mlx_loads_what_was_written(tmp_path, tensors, dtype):
    mx = pytest.importorskip("mlx.core")
    write_safetensors(tmp_path / "m.safetensors", tensors, dtype=dtype)
    loaded, metadata = mx.load(str(tmp_path / "m.safetensors"), return_metadata=True)
    assert metadata == {"format": "mlx"}
    assert loaded["w"].dtype == getattr(mx, dtype) and loaded["packed"].dtype == mx.uint32
    assert {name: array.tolist() for name, array in loaded.items()} == {
        n: a.tolist() for n, a in tensors.items()
    }


def test_the_library_loads_what_was_written(tmp_path, tensors):
    write_safetensors(tmp_path / "m.safetensors", tensors, dtype="float16")
    loaded = load_file(tmp_path / "m.safetensors")
    assert loaded["w"].tolist() == tensors["w"].tolist() and loaded["w"].dtype == np.float16


def test_what_the_library_writes_is_read(tmp_path, tensors):
    save_file(tensors, tmp_path / "m.safetensors")
    assert read_safetensors(tmp_path / "m.safetensors")["w"].tolist() == tensors["w"].tolist()


def test_same_tensors_give_the_same_bytes_in_any_order(tmp_path, tensors):
    write_safetensors(tmp_path / "a", tensors)
    write_safetensors(tmp_path / "b", dict(reversed(tensors.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_transposed_array_is_written_in_row_order(tmp_path, tensors):
    write_safetensors(tmp_path / "m", {"t": tensors["w"].T})
    assert read_safetensors(tmp_path / "m")["t"].tolist() == [[1.0, 0.5, 4.0], [-2.0, 3.0, 1.5]]


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even():
    # bfloat16 has 8 significant bits: next to 1 come 1 + 1/128 (0x3f81) and 1 + 2/128 (0x3f82).
    values = np.array([1 + 1 / 256, 1 + 3 / 256, 1 + 1.01 / 256, -1 - 3 / 256, np.inf], np.float32)
    bits = float32_to_bfloat16(values)
    assert [hex(b) for b in bits] == ["0x3f80", "0x3f82", "0x3f81", "0xbf82", "0x7f80"]
    assert bfloat16_to_float32(bits).tolist() == [1.0, 1.015625, 1.0078125, -1.015625, np.inf]


def test_nan_stays_nan_in_bfloat16():
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001], np.uint32).view(np.float32)
    assert np.isnan(bfloat16_to_float32(float32_to_bfloat16(nans))).all()


@pytest.mark.parametrize(("dtype", "value"), [("float16", 70000.0), ("bfloat16", 3.4e38), ("float32", 1e39)])
def test_overflow_is_refused_and_leaves_no_file(tmp_path, dtype, value):
    with pytest.raises(CheckpointError, match="tensor 'big' has the value"):
        write_safetensors(tmp_path / "m", {"big": np.array([1.0, value])}, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file(tmp_path, tensors):
    write_safetensors(tmp_path / "m", tensors)
    with pytest.raises(CheckpointError, match="type object"):
        write_safetensors(tmp_path / "m", {"x": np.array([None])})
    assert read_safetensors(tmp_path / "m").keys() == tensors.keys()
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_replacing_a_file_leaves_the_arrays_read_from_it(tmp_path, tensors):
    write_safetensors(tmp_path / "m", tensors)
    before = read_safetensors(tmp_path / "m")
    write_safetensors(tmp_path / "m", {"w": np.zeros(1)})
    assert before["w"].tolist() == tensors["w"].tolist()
    assert not before["w"].flags.writeable


def test_only_the_named_tensors_are_read_and_missing_ones_are_all_named(tmp_path, tensors):
    write_safetensors(tmp_path / "m", tensors)
    assert read_safetensors(tmp_path / "m", names=["w"]).keys() == {"w"}
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(tmp_path / "m", names=["w", "x", "y"])
    assert caught.value.problems == ["has no tensor 'x'.", "has no tensor 'y'."]


def test_shapes_are_told_without_reading(tmp_path, tensors):
    write_safetensors(tmp_path / "m", tensors, dtype="bfloat16")
    shapes = safetensors_shapes(tmp_path / "m")
    assert (
        shapes["w"] == ("BF16", (3, 2)) and shapes["packed"] == ("U32", (1, 2)) and shapes["number"][1] == ()
    )


def test_type_that_numpy_lacks_is_named_with_its_tensor(tmp_path):
    path = write_raw(tmp_path / "m", {"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"ab")
    with pytest.raises(CheckpointError, match="tensor 'w' has the type F8_E4M3"):
        read_safetensors(path)


def test_unaligned_tensor_is_read_aligned(tmp_path):
    entries = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    encoded = json.dumps(entries).encode()
    path = write_raw(
        tmp_path / "m", encoded + b" " * (-len(encoded) % 8), b"\x01" + np.float32(2.5).tobytes()
    )
    read = read_safetensors(path)
    assert read["b"].tolist() == [2.5] and read["b"].flags.aligned


def test_missing_file_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        read_safetensors(tmp_path / "m")


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "no byte": b"",
    "text": b"<html>404 not found</html>",
    "zeros": bytes(64),
    "header of 2^60 bytes": struct.pack("<Q", 1 << 60) + b"{}",
    "header of 200 MB": struct.pack("<Q", 200_000_000) + b"{}",
    "no JSON": struct.pack("<Q", 2) + b"{{",
    "a list": struct.pack("<Q", 2) + b"[]",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_file_gives_one_clear_error(tmp_path, damage):
    (tmp_path / "m").write_bytes(DAMAGED[damage])
    with pytest.raises(CheckpointError, match=r"/m: cannot be read.*Fetch it again"):
        read_safetensors(tmp_path / "m")


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"w": F32}, bytes(7)),
        ({"w": F32}, bytes(9)),
        ({"w": F32, "v": F32}, bytes(8)),
        ({"w": {**F32, "data_offsets": [4, 12]}}, bytes(12)),
        ({"w": {**F32, "data_offsets": [8, 0]}}, bytes(8)),
        ({"w": {**F32, "shape": [3]}}, bytes(8)),
        ({"w": {**F32, "shape": [-2]}}, bytes(8)),
        ({"w": {**F32, "shape": [2**63, 2]}}, bytes(8)),
        ({"w": {**F32, "shape": [2] + [1] * 100}}, bytes(8)),
        ({"w": {**F32, "dtype": "F128"}}, bytes(8)),
    ],
)
def test_header_that_does_not_fit_the_data_is_refused(tmp_path, header, data):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_safetensors(write_raw(tmp_path / "m", header, data))


@pytest.mark.slow
def test_mutated_and_truncated_files_give_tensors_or_our_errors(tmp_path, tensors):
    write_safetensors(tmp_path / "good", tensors)
    raw, chance = (tmp_path / "good").read_bytes(), random.Random(0)
    for _ in range(500):
        changed = bytearray(raw[: chance.choice([len(raw), chance.randrange(len(raw))])])
        for _ in range(min(len(changed), chance.randint(0, 3))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        (tmp_path / "m").write_bytes(changed)
        try:
            read_safetensors(tmp_path / "m")
        except ColBERTError:
            pass
