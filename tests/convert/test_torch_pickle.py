"""PyTorch files without torch: what they hold, and every way tried to make them do more."""

import copyreg
import os
import pickle
import random
import struct
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_colbert.convert.torch_pickle import read_torch_file, torch_file_shapes
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, ColBERTError, UnsafeCheckpointError

FILES = Path(__file__).parents[1] / "data" / "torch"
FORMATS = ["zip.bin", "zip_protocol4.bin", "legacy.bin"]
BOUND = 24 << 20


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def tensor(*, n_elements=4, offset=0, shape=(4,), strides=(1,), kind="FloatStorage", key="0", tail=b""):
    storage = (
        tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), number(n_elements)) + b"Q"
    )
    sizes = [tuple_of(*map(number, sizes)) for sizes in (shape, strides)]
    hooks = name("collections", "OrderedDict") + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + tuple_of(storage, number(offset), *sizes, b"\x89", hooks, tail)
        + b"R"
    )


def state(**tensors):
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in tensors.items()) + b"u."


def write_zip(path, program, *, storages=None, compression=zipfile.ZIP_STORED, extra=None):
    storages = {"0": np.arange(4, dtype="<f4").tobytes()} if storages is None else storages
    entries = {
        "m/data.pkl": program,
        **{f"m/data/{key}": raw for key, raw in storages.items()},
        **(extra or {}),
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, raw in entries.items():
            archive.writestr(entry, raw)
    return path


@pytest.fixture(autouse=True)
def forbidden(monkeypatch):
    """Fails the test if anything is run."""

    def run(*_, **__):
        raise AssertionError("the checkpoint ran something")

    for module, attribute in [(os, "system"), (os, "popen"), (subprocess, "Popen"), (pickle, "loads")]:
        monkeypatch.setattr(module, attribute, run)


@pytest.fixture(params=FORMATS)
def real(request):
    return FILES / request.param


def test_every_supported_type_has_its_values(real):
    tensors = read_torch_file(real)
    assert tensors["float32"].tolist() == [[1.0, -2.0, 0.5], [3.0, 4.0, 5.0]]
    assert tensors["float16"].tolist() == [1.5, -0.25] and tensors["float16"].dtype == np.float16
    assert tensors["float64"].tolist() == [0.1]
    assert tensors["int64"].tolist() == [[0, 1, -(2**40)]]
    assert tensors["uint8"].tolist() == [0, 255]
    assert tensors["bool"].tolist() == [True, False, True]
    assert tensors["scalar"].shape == () and tensors["scalar"] == 9.0


def test_bfloat16_becomes_float32(real):
    tensors = read_torch_file(real)
    assert tensors["bfloat16"].tolist() == [1.0, -2.0, 3.140625]
    assert tensors["bfloat16"].dtype == tensors["empty"].dtype == np.float32
    assert torch_file_shapes(real)["empty"] == ("BF16", (0, 3))


def test_views_are_contiguous_copies_of_their_part(real):
    tensors = read_torch_file(real)
    assert tensors["transposed"].tolist() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    assert tensors["offset"].tolist() == [8.0, 9.0, 10.0, 11.0]
    assert tensors["shared"].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert tensors["tied"] is tensors["offset"]
    assert all(array.flags.c_contiguous for array in tensors.values())


def test_parameters_are_tensors_and_extras_are_left_out(real):
    tensors = read_torch_file(real)
    assert tensors["parameter"].tolist() == [7.0, 8.0]
    assert not {"steps", "note", "size", "dtype", "_metadata"} & tensors.keys()


def test_nested_state_dict_is_named():
    with pytest.raises(CheckpointError, match="nested under 'state_dict'"):
        read_torch_file(FILES / "nested.bin")


def test_expanded_tensor_is_refused_with_the_way_out():
    with pytest.raises(
        UnsafeCheckpointError, match=r"'w' reads 4 elements from a storage of 1.*contiguous copy"
    ):
        read_torch_file(FILES / "expanded.bin")


def test_missing_file_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        read_torch_file(tmp_path / "none.bin")


def test_hand_built_state_dict_is_read(tmp_path):
    path = write_zip(tmp_path / "w.bin", state(w=tensor(shape=(2, 2), strides=(1, 2))))
    assert read_torch_file(path)["w"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


class Reduced:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned",)


ARGUMENT = text("touch /tmp/owned")
CALLS = [
    ("posix.system", pickle.dumps({"w": Reduced()}, protocol=2)),
    ("posix.system", pickle.dumps({"w": Reduced()}, protocol=4)),
    ("os.system", name("os", "system") + tuple_of(ARGUMENT) + b"R."),
    ("INST os.system", b"(" + ARGUMENT + b"ios\nsystem\n."),
    ("builtins.eval", b"(" + name("builtins", "eval") + ARGUMENT + b"o."),
    ("builtins.getattr", text("builtins") + text("getattr") + b"\x93."),
    (
        "torch._utils._rebuild_tensor_v2.__globals__",
        name("torch._utils", "_rebuild_tensor_v2.__globals__") + b".",
    ),
    ("torch._utils._rebuild_tensor_v2", text("torch") + text("_utils._rebuild_tensor_v2") + b"\x93."),
    ("torch.load", name("torch", "load") + tuple_of(ARGUMENT) + b"R."),
    ("torch.hub.load", name("torch", "hub.load") + b"."),
    ("EXT1", b"\x82\x01."),
    ("EXT4", b"\x84\x01\x00\x00\x00."),
    ("NEWOBJ", name("collections", "OrderedDict") + b")\x81."),
    ("PERSID", b"P../../etc/passwd\n."),
    ("calls torch.FloatStorage", name("torch", "FloatStorage") + b")R."),
    ("calls collections.OrderedDict", name("collections", "OrderedDict") + tuple_of(b"]") + b"R."),
    ("calls torch._utils._rebuild_tensor_v2", name("torch._utils", "_rebuild_tensor_v2") + b")R."),
]


@pytest.mark.parametrize(("asked", "program"), CALLS)
@pytest.mark.parametrize("container", ["zip", "plain"])
def test_what_weights_do_not_need_is_refused_by_name(tmp_path, asked, program, container):
    path = tmp_path / "pytorch_model.bin"
    if container == "zip":
        write_zip(path, program)
    else:
        path.write_bytes(program)
    with pytest.raises(UnsafeCheckpointError, match="Nothing was run") as caught:
        read_torch_file(path)
    assert asked in str(caught.value)


def test_registered_extension_is_refused(tmp_path):
    copyreg.add_extension("os", "system", 7)
    try:
        with pytest.raises(UnsafeCheckpointError, match="EXT1"):
            read_torch_file(write_zip(tmp_path / "w.bin", b"\x82\x07" + tuple_of(ARGUMENT) + b"R."))
    finally:
        copyreg.remove_extension("os", "system", 7)


@pytest.mark.parametrize("key", [number(1), b")", tuple_of(text("w"))])
def test_key_that_is_not_text_is_refused(tmp_path, key):
    with pytest.raises(CheckpointError, match="key that is not text"):
        read_torch_file(write_zip(tmp_path / "w.bin", b"}(" + text("w") + tensor() + key + b"Nu."))


def test_control_characters_in_a_name_do_not_reach_the_terminal(tmp_path):
    with pytest.raises(UnsafeCheckpointError) as caught:
        read_torch_file(write_zip(tmp_path / "w.bin", text("os") + text("\x1b[2J\u202esystem") + b"\x93."))
    assert "\\x1b" in str(caught.value) and str(caught.value).isascii()


@pytest.mark.parametrize(
    "target", [name("collections", "OrderedDict"), name("torch", "FloatStorage"), tensor(), b"]", b"N"]
)
def test_build_cannot_give_attributes_to_anything(tmp_path, target):
    program = target + tuple_of(b"N", b"}" + text("name") + text("owned") + b"s") + b"b."
    with pytest.raises(CheckpointError, match="lacks a dict"):
        read_torch_file(write_zip(tmp_path / "w.bin", program))


@pytest.mark.parametrize(
    ("problem", "attack"),
    [
        ("reaches outside", tensor(offset=1)),
        ("reaches outside", tensor(shape=(2, 2), strides=(2, 2))),
        ("reaches outside", tensor(shape=(2,), strides=(2**47,))),
        ("reads 1000000000000 elements from a storage of 4", tensor(shape=(10**12,), strides=(0,))),
        ("elements from a storage of", tensor(shape=(2**40, 2**40), strides=(0, 0))),
        ("does not have the length that the file says", tensor(n_elements=8, shape=(8,))),
        ("its tensors need", tensor(n_elements=10**12, shape=(10**12,))),
        ("not a possible number", tensor(offset=-1)),
        ("not a possible number", tensor(strides=(-1,))),
        ("not a possible number", tensor(shape=(-4,))),
        ("not a possible number", tensor(n_elements=2**70)),
        ("not a possible number", tensor(shape=(2**2000,))),
        ("with unusual arguments", tensor(shape=(1,) * 9, strides=(1,) * 9)),
        ("with unusual arguments", tensor(shape=(2, 2), strides=(1,))),
        ("with unusual arguments", tensor(tail=b"}" + text("neg") + b"\x88s")),
        ("no item named", tensor(key="../../../../etc/passwd")),
        ("the description of a storage is not understood", tuple_of(text("module"), text("source")) + b"Q"),
        ("cannot be read", tensor(shape=(0, 2**40, 2**40), strides=(1, 1, 1))),
    ],
)
def test_impossible_tensor_is_refused_with_its_reason(tmp_path, problem, attack):
    with pytest.raises(CheckpointError, match=problem):
        read_torch_file(write_zip(tmp_path / "w.bin", state(w=attack)))


def test_many_overlapping_views_of_one_storage_are_refused(tmp_path):
    views = {f"w{i}": tensor(n_elements=5000, offset=i, shape=(4000,)) for i in range(500)}
    path = write_zip(tmp_path / "w.bin", state(**views), storages={"0": bytes(20_000)})
    with pytest.raises(UnsafeCheckpointError, match="need 8000000 bytes"):
        read_torch_file(path)


def test_one_storage_with_two_types_is_refused(tmp_path):
    program = state(a=tensor(), b=tensor(kind="LongStorage"))
    with pytest.raises(CheckpointError, match="described twice"):
        read_torch_file(write_zip(tmp_path / "w.bin", program))


DOUBLING = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(200))
BOMBS = {
    "memo index": b"Nr\xff\xff\xff\xff.",
    "length of bytes": b"\x8e" + struct.pack("<Q", 2**62) + b".",
    "length of text": b"X\xff\xff\xff\xff.",
    "length of a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "length of a number": b"\x8b\xff\xff\xff\x7f.",
    "deep tuple as key": b"})" + b"\x85" * 30_000 + b"Ns.",
    "doubling tuple as key": b"}" + DOUBLING + b"Ns.",
    "deep tuple": b"}" + text("w") + b")" + b"\x85" * 30_000 + b"s.",
    "dict within itself": b"}q\x00" + text("w") + b"h\x00s.",
    "marks": b"(" * 100_000 + b".",
    "decimal": b"I" + b"9" * 100_000 + b"\n.",
    "no end": b"}" * 1000,
    "nothing": b"",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("container", ["zip", "plain"])
def test_bomb_is_refused_within_bounded_memory(tmp_path, bomb, container):
    path = tmp_path / "w.bin"
    if container == "zip":
        write_zip(path, BOMBS[bomb])
    else:
        path.write_bytes(BOMBS[bomb])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()


def test_endless_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_colbert.convert.pickle_machine.MAX_INSTRUCTIONS", 100)
    with pytest.raises(UnsafeCheckpointError, match="too long"):
        read_torch_file(write_zip(tmp_path / "w.bin", b"N" * 101 + b"."))


def test_compressed_archive_is_refused(tmp_path):
    path = write_zip(tmp_path / "w.bin", state(w=tensor()), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeCheckpointError, match="compressed, or two have the same name, or they overlap"):
        read_torch_file(path)


def test_overlapping_entries_are_refused(tmp_path):
    path = write_zip(tmp_path / "w.bin", state(w=tensor()), storages={"0": bytes(500), "1": bytes(500)})
    raw = path.read_bytes()
    first, second = raw.rindex(b"m/data/0") - 46, raw.rindex(b"m/data/1") - 46
    sizes, large = slice(20, 28), struct.pack("<II", len(raw) - 100, len(raw) - 100)
    forged = bytearray(raw)
    for entry in (first, second):
        forged[entry + sizes.start : entry + sizes.stop] = large
    path.write_bytes(forged)
    with pytest.raises(UnsafeCheckpointError, match="overlapping"):
        read_torch_file(path)


def test_oversized_zip_directory_is_refused_before_it_is_read(tmp_path):
    path = write_zip(tmp_path / "w.bin", state(w=tensor()))
    raw = bytearray(path.read_bytes())
    raw[-10:-6] = struct.pack("<I", 2**31)
    path.write_bytes(raw)
    with pytest.raises(UnsafeCheckpointError, match="directory exceeds"):
        read_torch_file(path)


@pytest.mark.parametrize("extra", [{"m/byteorder": b"big"}, {"n/data.pkl": b"."}])
def test_archive_that_is_not_pytorchs_is_refused(tmp_path, extra):
    with pytest.raises(CheckpointError, match=r"big-endian|not one of PyTorch's"):
        read_torch_file(write_zip(tmp_path / "w.bin", state(w=tensor()), extra=extra))


def test_altered_weights_are_noticed_by_their_checksum(tmp_path):
    path = write_zip(tmp_path / "w.bin", state(w=tensor()))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(np.float32(3).tobytes(), np.float32(4).tobytes(), 1))
    with pytest.raises(CheckpointError, match="CRC"):
        read_torch_file(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04", bytes(1000), b"\x80\x02]."])
def test_what_is_no_checkpoint_gives_one_clear_error(tmp_path, content):
    path = tmp_path / "w.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.bin"):
        read_torch_file(path)


def test_every_truncation_is_noticed(tmp_path, real):
    raw, path = real.read_bytes(), tmp_path / "w.bin"
    for length in range(0, len(raw), 41):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError):
            read_torch_file(path)


def mutated(raw, chance):
    """A copy with a few bytes changed, cut out or repeated."""
    result = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(result)), chance.randint(0, 8)
        changes = [
            bytes([chance.randrange(256)]),
            b"",
            result[at : at + length] * 2,
            chance.randbytes(length),
        ]
        result[at : at + chance.choice([1, length])] = chance.choice(changes)
    return bytes(result)


def outcome(path):
    """The tensors, or None for a refusal; any other exception is a failure."""
    try:
        return read_torch_file(path)
    except ColBERTError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("part", ["whole", "pickle"])
def test_mutated_files_give_tensors_or_our_errors(tmp_path, real, part):
    chance, path, raw = random.Random(0), tmp_path / "w.bin", real.read_bytes()
    if part == "pickle" and real.name != "legacy.bin":
        with zipfile.ZipFile(real) as archive:
            folder = archive.namelist()[0].split("/")[0]
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
    tracemalloc.start()
    try:
        for _ in range(60):
            path.write_bytes(mutated(raw, chance))
            if part == "pickle" and real.name != "legacy.bin":
                changed = {**entries, f"{folder}/data.pkl": mutated(entries[f"{folder}/data.pkl"], chance)}
                with zipfile.ZipFile(path, "w") as archive:
                    for entry, content in changed.items():
                        archive.writestr(entry, content)
            outcome(path)
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()


PIECES = [
    *(
        b"}",
        b"]",
        b")",
        b"(",
        b"N",
        b"\x88",
        b"t",
        b"u",
        b"s",
        b"e",
        b"a",
        b"b",
        b"R",
        b"Q",
        b"\x85",
        b"\x86",
    ),
    *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"\x94", b"\x93", b"\x87", b"\x81", b"o", b"K\x05", b"."),
    *(text("w"), text("storage"), text("0"), number(-1), number(2**80), tensor(), tensor(shape=(2,))),
    *(name("collections", "OrderedDict"), name("torch", "FloatStorage"), name("os", "system")),
    *(
        name("torch._utils", "_rebuild_tensor_v2"),
        name("torch._utils", "_rebuild_parameter"),
        name("torch", "Size"),
    ),
]


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_order_of_instructions_gives_tensors_or_our_errors(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "program.bin"
    tensors = outcome(write_zip(path, b"".join(pieces) + b"."))
    assert tensors is None or all(isinstance(array, np.ndarray) for array in tensors.values())


# A tuple that contains itself twice over, 60 levels deep: as text it has 2^60 parts.
ENDLESS = b")" + b"q\x00h\x00\x86" * 60
OF_UNKNOWN_TYPE = {
    "module and name": ENDLESS + text("x") + b"\x93",
    "name": text("x") + ENDLESS + b"\x93",
    "id of a storage": ENDLESS + b"Q",
    "key": b"}(" + ENDLESS + b"K\x05u",
    "number of elements": tuple_of(
        text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), ENDLESS
    )
    + b"Q",
    "argument": name("torch", "Size") + b"(" + ENDLESS + b"tR",
    "state dict": ENDLESS,
}


@pytest.mark.parametrize("place", OF_UNKNOWN_TYPE)
def test_object_of_an_unknown_type_is_never_turned_into_text(tmp_path, place):
    for program in (
        OF_UNKNOWN_TYPE[place] + b".",
        b"\x80\x02}(" + text("w") + OF_UNKNOWN_TYPE[place] + b"u.",
    ):
        assert outcome(write_zip(tmp_path / "w.bin", program)) is None


def test_legacy_file_with_a_key_that_is_no_text_is_refused(tmp_path):
    header = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    keys = b"\x80\x02](" + ENDLESS + b"e."
    (tmp_path / "w.bin").write_bytes(b"".join(header) + state(w=tensor()) + keys + bytes(64))
    with pytest.raises(CheckpointError, match="keys of its storages are not a list of strings"):
        read_torch_file(tmp_path / "w.bin")


def test_name_without_an_end_is_not_read_to_the_end_of_the_file(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"cos")
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def append_sparse_entry(path, entry, n_bytes):
    """A zip archive with one more entry: zeros that take no room on the disk."""
    raw = path.read_bytes()
    n_entries, directory_size, directory = struct.unpack("<HII", raw[-12:-2])
    name, records = entry.encode(), raw[directory : directory + directory_size]
    fixed = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, n_bytes, n_bytes, len(name), 0)
    records += b"PK\1\2" + struct.pack("<H", 20) + fixed + struct.pack("<HHHII", 0, 0, 0, 0, directory) + name
    with path.open("r+b") as file:
        file.seek(directory)
        file.write(b"PK\3\4" + fixed + name)
        file.truncate(file.tell() + n_bytes)
        file.seek(0, 2)
        end = file.tell()
        file.write(records + b"PK\5\6")
        file.write(struct.pack("<HHHHIIH", 0, 0, n_entries + 1, n_entries + 1, len(records), end, 0))


@pytest.mark.parametrize("entry", ["m/data.pkl", "m/byteorder"])
def test_long_entry_of_zeros_is_not_read_to_its_end(tmp_path, entry):
    path = tmp_path / "w.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/version", "3")
        if entry != "m/data.pkl":
            archive.writestr("m/data.pkl", state(w=tensor()))
    append_sparse_entry(path, entry, 1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"cannot be read|big-endian"):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_small_view_of_a_large_storage_needs_little_memory(tmp_path, container):
    n, start = 16 << 20, 9 << 20
    raw = np.zeros(n, "<f4")
    raw[start : start + 4] = [1, 2, 3, 4]
    program = state(a=tensor(n_elements=n, offset=start))
    path = tmp_path / "weights.bin"
    if container == "zip":
        write_zip(path, program, storages={"0": raw.tobytes()})
    else:
        header = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        keys = b"\x80\x02](" + text("0") + b"e."
        path.write_bytes(b"".join([*header, program, keys, n.to_bytes(8, "little"), raw.tobytes()]))
    tracemalloc.start()
    found = read_torch_file(path)["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert peak < BOUND
