"""ONNX files: what exporters write is read exactly; what is damaged or hostile is refused in little memory."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoiling import CHECKPOINTS, refusal

from mlx_colbert import ColBERT
from mlx_colbert.cli import main
from mlx_colbert.convert import convert
from mlx_colbert.convert.onnx_file import onnx_file_shapes, read_onnx_file
from mlx_colbert.convert.weights import read_weights
from mlx_colbert.errors import CheckpointError, UnsafeCheckpointError
from mlx_colbert.model.folder import read_config, sha256_of
from mlx_colbert.model.safetensors_file import read_safetensors

ONNX = Path(__file__).parents[1] / "data" / "onnx"


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def tensor(name: str, array: np.ndarray | None = None, *more: bytes, kind: int = 1) -> bytes:
    """An initializer of a graph."""
    array = np.ones((3, 2), np.float32) if array is None else array
    dims = b"".join(field(1, size) for size in array.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, array.tobytes()) + b"".join(more))


def node(name: str, kind: str, inputs: list[str], outputs: list[str] = ()) -> bytes:
    texts = [*((1, text) for text in inputs), *((2, text) for text in outputs), (3, name), (4, kind)]
    return field(1, b"".join(field(number, text) for number, text in texts))


# A graph whose one matrix has a module's name.
MATRIX = tensor("onnx::MatMul_7") + node("/layer/dense/MatMul", "MatMul", ["x", "onnx::MatMul_7"])


@pytest.fixture
def write(tmp_path):
    def written(*parts: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(field(1, 8) + field(7, b"".join(parts)))
        return path

    return written


def reference(name: str) -> dict[str, np.ndarray]:
    """The tensors of the checkpoint that was exported, by the names that its class has for them."""
    tensors = read_safetensors(CHECKPOINTS / name / "model.safetensors")
    new = {"gamma": "weight", "beta": "bias"}
    names = {key: ".".join(new.get(part, part) for part in key.split(".")) for key in tensors}
    return {names[key]: value for key, value in tensors.items() if not key.startswith("pooler.")}


@pytest.mark.parametrize("name", ["pylate-bert", "plain-modernbert"])
def test_float_export_has_the_tensors_of_its_checkpoint(name):
    found, expected = read_onnx_file(ONNX / f"{name}.onnx"), reference(name)
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])
        assert found[key].flags.aligned and found[key].flags.c_contiguous


@pytest.mark.parametrize(("file", "name"), [
    ("pylate-bert-int8", "pylate-bert"),
    ("native-distilbert-int8-columns", "native-distilbert"),
])  # fmt: skip
def test_quantised_export_is_within_half_a_step_of_its_checkpoint(file, name):
    found, expected = read_onnx_file(ONNX / f"{file}.onnx"), reference(name)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        step = max(value.max(), 0) - min(value.min(), 0) if "embeddings." in key else 2 * np.abs(value).max()
        # The integers of a table may be rounded once more, by the rounded zero point.
        slack = 0 if value.ndim == 1 else step / 254 * (1.01 if "embeddings." in key else 0.51)
        assert np.abs(found[key] - value).max() <= slack, key


def test_shapes_are_those_of_the_tensors():
    shapes = onnx_file_shapes(ONNX / "pylate-bert-int8.onnx")
    tensors = read_onnx_file(ONNX / "pylate-bert-int8.onnx")
    assert {name: shape for name, (_, shape) in shapes.items()} == {n: t.shape for n, t in tensors.items()}
    assert {code for code, _ in shapes.values()} == {"F32", "I8", "U8"}


def onnx_checkpoint(folder: Path, file: str, place: str = "model.onnx") -> Path:
    shutil.copytree(CHECKPOINTS / "pylate-bert", folder)
    (folder / "model.safetensors").unlink()
    (folder / place).parent.mkdir(exist_ok=True)
    shutil.copy(ONNX / file, folder / place)
    return folder


@pytest.mark.parametrize(
    "place", ["model.onnx", "onnx/model.onnx", "onnx/model_quantized.onnx", "model_int8.onnx"]
)
def test_float_checkpoint_gives_the_same_model_as_its_safetensors(tmp_path, place):
    source = onnx_checkpoint(tmp_path / "source", "pylate-bert.onnx", place)
    convert(source, tmp_path / "onnx")
    convert(CHECKPOINTS / "pylate-bert", tmp_path / "other")
    assert sha256_of(tmp_path / "onnx/model.safetensors") == sha256_of(tmp_path / "other/model.safetensors")
    recorded = read_config(tmp_path / "onnx").source
    assert recorded.weights[place] == sha256_of(ONNX / "pylate-bert.onnx")
    assert recorded.weight_bits is None


def test_quantised_checkpoint_records_its_file_and_its_bits(tmp_path):
    source = onnx_checkpoint(tmp_path / "source", "pylate-bert-int8.onnx")
    convert(source, tmp_path / "model")
    recorded = read_config(tmp_path / "model").source
    assert recorded.weights["model.onnx"] == sha256_of(ONNX / "pylate-bert-int8.onnx")
    assert recorded.weight_bits == 8
    other = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy").encode_document("the cat sat")
    rows = ColBERT.load(tmp_path / "model", backend="numpy").encode_document("the cat sat")
    assert (rows * other).sum(axis=1).min() > 0.99 and not np.array_equal(rows, other)


def test_safetensors_win_over_onnx(tmp_path):
    source = Path(shutil.copytree(CHECKPOINTS / "pylate-bert", tmp_path / "source"))
    (source / "model.onnx").write_bytes(b"not read")
    assert "model.safetensors" in read_config(convert(source, tmp_path / "model")).source.weights


def test_checkpoint_with_nothing_but_onnx_is_fetched_from_the_hub(hub, tmp_path):
    hub.add("owner/model", onnx_checkpoint(tmp_path / "source", "pylate-bert.onnx", "onnx/model.onnx"))
    model = ColBERT.load("owner/model", backend="numpy")
    expected = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy")
    np.testing.assert_array_equal(model.encode_document("the cat"), expected.encode_document("the cat"))


def test_pointer_of_git_lfs_is_named(tmp_path):
    source = onnx_checkpoint(tmp_path / "source", "pylate-bert.onnx")
    (source / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is a git-lfs pointer" in refusal(source)


def test_verified_conversion_of_onnx_says_what_it_was_not_compared_with(tmp_path, capsys):
    source = onnx_checkpoint(tmp_path / "source", "pylate-bert.onnx")
    arguments = ["convert", "--hf-path", str(source), "--mlx-path", str(tmp_path / "m"), "--verify", "--json"]
    assert main(arguments) == 1
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert "sentence-transformers: not compared, the original's weights are ONNX." in notes


def test_matrix_of_a_node_is_turned_and_named_after_its_module(write):
    found = read_onnx_file(
        write(
            tensor("onnx::MatMul_7", np.arange(6, dtype=np.float32).reshape(3, 2)),
            node("/layer/dense/MatMul", "MatMul", ["x", "onnx::MatMul_7"]),
        )
    )
    assert found.keys() == {"layer.dense.weight"}
    assert found["layer.dense.weight"].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_tensors_that_are_stored_once_get_all_their_names(write):
    shared = tensor("norm.a.bias", np.zeros(2, np.float32))
    found = read_onnx_file(
        write(MATRIX, shared, node("Identity_3", "Identity", ["norm.a.bias"], ["norm.b.bias"]))
    )
    assert found.keys() == {"layer.dense.weight", "norm.a.bias", "norm.b.bias"}


def test_constants_of_the_exporter_are_no_weights(write):
    names = ["/layer/Constant_output_0", "onnx::Add_12", "val_3"]
    integers = tensor("position.ids", np.arange(2), kind=7)
    found = read_onnx_file(write(MATRIX, *map(tensor, names), integers))
    assert found.keys() == {"layer.dense.weight"}


@pytest.mark.parametrize(("kind", "stored"), [
    (1, np.array([[1.5, -2.0]], np.float32)),
    (10, np.array([[1.5, -2.0]], np.float16)),
    (11, np.array([[1.5, -2.0]], np.float64)),
    (16, np.array([[0x3FC0, 0xC000]], np.uint16)),
])  # fmt: skip
def test_floats_of_each_width_are_read(write, kind, stored):
    found = read_onnx_file(write(MATRIX, tensor("a.weight", stored, kind=kind)))
    assert found["a.weight"].tolist() == [[1.5, -2.0]]


def test_type_of_half_precision_weights_is_kept(tmp_path, write):
    write(tensor("w", np.ones((2, 2), np.float16), kind=10), node("/a/MatMul", "MatMul", ["x", "w"]))
    assert read_weights(tmp_path).dtypes == {"float16"}


def quantised(scale: np.ndarray, *, kind: int = 3, zero: int | None = None) -> list[bytes]:
    parts = [
        tensor("w_quantized", np.array([[1, -2], [3, 4]], np.int8), kind=kind),
        tensor("w_scale", scale),
        node("/dense/MatMul_quant", "MatMulInteger", ["x", "w_quantized", "z", "w_zero_point"]),
    ]
    if zero is not None:
        # As protobuf lists it, a negative number has 64 bits.
        parts.append(field(5, field(2, 3) + field(8, "w_zero_point") + field(5, varint(zero))))
    return parts


def test_integers_are_widened_by_step_and_zero_point(write):
    found = read_onnx_file(write(*quantised(np.array(0.5, np.float32), zero=-1)))
    assert found["dense.weight"].tolist() == [[1.0, 2.0], [-0.5, 2.5]]


def test_integers_with_a_step_per_column_are_widened_by_it(write):
    found = read_onnx_file(write(*quantised(np.array([0.5, 10], np.float32))))
    assert found["dense.weight"].tolist() == [[0.5, 1.5], [-20, 40]]


def test_step_that_overflows_gives_infinity_and_no_warning(write):
    found = read_onnx_file(write(*quantised(np.array(3e38, np.float32))))
    assert found["dense.weight"].tolist()[0][1] == np.inf


def told(path: Path, error: type[Exception] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        read_onnx_file(path)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_export_without_module_names_says_so(write):
    path = write(tensor("onnx::MatMul_7"), node("MatMul_12", "MatMul", ["x", "onnx::MatMul_7"]))
    assert "no node names the module" in told(path)


@pytest.mark.parametrize(("parts", "reason"), [
    ([MATRIX, tensor("a.weight", None, field(13, b"\x0a\x08location"))], "keeps its weights in another file"),
    ([MATRIX, tensor("a.weight", None, field(14, 1))], "keeps its weights in another file"),
    ([MATRIX, field(1, b"") * 5_001], "more than 5000 fields"),
    ([field(5, field(1, b"\x01" * 5_001))], "more than 5000 fields"),
    ([MATRIX, tensor("big.weight", np.ones((99, 99), np.float32)),
                  *(node("Identity", "Identity", ["big.weight"], [f"a.{n}"]) for n in range(99))], "need"),
])  # fmt: skip
def test_file_that_asks_for_too_much_is_refused(write, parts, reason, monkeypatch):
    monkeypatch.setattr("mlx_colbert.convert.onnx_file.MAX_FIELDS", 5000)
    assert reason in told(write(*parts), UnsafeCheckpointError)


@pytest.mark.parametrize(("parts", "reason"), [
    ([MATRIX, tensor("a.weight", None, field(1, 2**40))], "unlike its shape"),
    ([MATRIX, tensor("a.weight", None, field(1, -1))], "unlike its shape"),
    ([MATRIX, tensor("a.weight", None, field(1, 0))], "unlike its shape"),
    ([MATRIX, MATRIX], "two tensors"),
    ([MATRIX, tensor("layer.dense.weight")], "two tensors"),
    ([MATRIX[:-1]], "does not end within"),
    ([MATRIX, varint(5 << 3 | 2) + varint(2**63)], "does not end within"),
    ([MATRIX, b"\xff" * 11], "more than 10 bytes"),
    ([MATRIX, varint(5 << 3 | 3)], "wire type 3"),
    ([MATRIX, b"\0\0"], "number 0"),
    ([MATRIX, field(5, 7)], "a number, but must be bytes"),
    ([MATRIX, field(5, field(8, b"\xff\xfe"))], "utf-8"),
    ([MATRIX, field(5, field(8, b"a" * 65_537))], "a name has 65537 bytes"),
    ([MATRIX, node("a" * 65_537, "MatMul", [])], "a name has 65537 bytes"),
    (quantised(np.ones(3, np.float32)), "the steps of"),
    ([MATRIX, tensor("a.weight_quantized", np.ones((2, 2), np.int8), kind=3)], "with a scale"),
    ([tensor("w", np.ones(4, np.float32)), node("/a/MatMul", "MatMul", ["x", "w"])], "has the shape (4,)"),
])  # fmt: skip
def test_damaged_file_is_refused_with_the_reason(write, parts, reason):
    assert reason in told(write(*parts))


def test_file_without_a_graph_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    for content in (b"", b"not protobuf", field(1, 8), field(7, b"") * 2):
        path.write_bytes(content)
        assert "is not ONNX" in told(path)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32))
def test_spoiled_file_is_read_or_refused(tmp_path_factory, seed):
    rng = random.Random(seed)
    spoiled = bytearray((ONNX / rng.choice(["pylate-bert-int8.onnx", "plain-modernbert.onnx"])).read_bytes())
    for _ in range(rng.choice([1, 2, 8])):
        # Names and nodes are few bytes among many: half of the changes hit the part that is not a matrix.
        at = rng.randrange(len(spoiled) if rng.random() < 0.5 else min(20_000, len(spoiled)))
        kind = rng.random()
        if kind < 0.4:
            spoiled[at] ^= 1 << rng.randrange(8)
        elif kind < 0.6:
            spoiled[at : at + 10] = rng.choice([b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\0" * 10])
        elif kind < 0.8:
            del spoiled[at : at + rng.choice([1, 8, 4096])]
        else:
            del spoiled[max(at, 1) :]
    path = tmp_path_factory.getbasetemp() / "spoiled.onnx"
    path.write_bytes(spoiled)
    try:
        found = read_onnx_file(path)
        assert sum(array.nbytes for array in found.values()) <= 8 * len(spoiled)
    except CheckpointError as error:
        assert len(str(error)) < 10_000


# Address space beyond what the process has when it starts to read.
LIMITED = """
import resource, sys
from pathlib import Path
from mlx_colbert.convert.onnx_file import read_onnx_file
from mlx_colbert.convert.weights import read_weights
from mlx_colbert.errors import CheckpointError
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[1:]:
    try:
        read_onnx_file(Path(name))
        print("read")
    except (CheckpointError, OSError) as error:
        print(type(error).__name__, str(error)[-300:])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_bombs_are_refused_in_little_memory(tmp_path):
    nested = b""
    for _ in range(10_000):
        nested = field(5, nested)
    # Millions of empty nodes; messages in messages; a matrix of a terabyte; names and zeros without an end.
    bombs = {
        "nodes": field(7, field(1, b"") * 20_000_000),
        "nested": field(7, field(1, field(5, nested)) + MATRIX),
        "sparse": field(7, MATRIX)[:-1],
        "shapes": field(7, MATRIX + b"".join(tensor(f"a.{n}", None, field(1, 2**62)) for n in range(1000))),
        "names": field(7, node("n" * 50_000_000, "MatMul", ["x"]) + tensor("a" * 50_000_000 + ".")),
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
    with (tmp_path / "sparse").open("ab") as file:
        file.truncate(1 << 40)
    command = [sys.executable, "-c", LIMITED, *(str(tmp_path / name) for name in bombs)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(bombs)
    assert [line.split()[0] for line in lines if line != "read"] == [
        "UnsafeCheckpointError", "OSError", "CheckpointError", "CheckpointError",
    ]  # fmt: skip
    assert "more than 500000 fields" in lines[0]
    # The limit has no room for a map of a terabyte. This is no damage of the file.
    assert "Cannot allocate memory" in "".join(lines)
