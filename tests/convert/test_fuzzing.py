"""Spoiled checkpoints either work or are refused with one of this package's errors, in bounded memory.

Hypothesis spoils the files of the test checkpoints: values of JSON, names and offsets of safetensors, bytes of
anything. What such runs have found stands in the tests of test_refusal.py that name it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spoiling import CHECKPOINTS

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
from mlx_colbert.convert.converted import read_checkpoint
from mlx_colbert.errors import ColBERTError
from mlx_colbert.model.hub import Location

pytestmark = pytest.mark.slow

NAMES = sorted(path.name for path in CHECKPOINTS.iterdir())
TEXTS = ["", "the cat [MASK] [Q] ...", "北京 ☕️ Größe"]
NUMBERS = [
    0,
    1,
    -1,
    3,
    2**20,
    2**31,
    2**63,
    10**30,
    10**400,
    -(2**63),
    0.5,
    1e308,
    float("inf"),
    float("nan"),
]
STRINGS = [
    "",
    "a",
    "[MASK]",
    "../x",
    "/etc/passwd",
    "\0",
    "\ud800",
    "x" * 5000,
    "bert",
    "BPE",
    "Unigram",
    "cosine",
]
VALUES = [None, True, False, [], {}, [[]], [None], ["a"], {"a": 1}, {"": None}, *NUMBERS, *STRINGS]

# Each example is one seed: what is drawn depends on the file's own structure.
FUZZING = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SEEDS = st.integers(0, 2**32)


def places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    yield place
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in list(children)[:40]:
        yield from places(child, (*place, key))


def spoiled_json(rng: random.Random, raw: bytes) -> bytes:
    document = {"root": json.loads(raw)}
    for _ in range(rng.choice([1, 1, 2])):
        *above, last = rng.choice([place for place in places(document) if place])
        parent: Any = document
        for key in above:
            parent = parent[key]
        kind = rng.random()
        if kind < 0.6:
            parent[last] = copy.deepcopy(rng.choice(VALUES))
        elif kind < 0.75 and above:
            del parent[last]
        elif kind < 0.9:
            parent[last] = [parent[last]] * rng.choice([1, 3])
        else:
            parent[last] = json.loads("[" * 300 + "]" * 300)
        if not document.get("root"):
            break
    return json.dumps(document.get("root")).encode()


def spoiled_bytes(rng: random.Random, raw: bytes) -> bytes:
    spoiled = bytearray(raw)
    for _ in range(rng.choice([1, 2, 8])):
        at = rng.randrange(len(spoiled) + 1)
        kind = rng.random()
        if kind < 0.3:
            spoiled[at : at + 1] = bytes([rng.randrange(256)])
        elif kind < 0.5:
            spoiled[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7])
        elif kind < 0.7:
            del spoiled[at : at + rng.choice([1, 8, 4096])]
        elif kind < 0.8:
            del spoiled[at:]
        else:
            spoiled[at:at] = rng.choice([b"[", b'"', b"1e999", b"9" * 5000, b"[" * 100_000])
    return bytes(spoiled)


def spoiled_safetensors(rng: random.Random, raw: bytes) -> bytes:
    size = int.from_bytes(raw[:8], "little")
    if rng.random() < 0.7:
        header = spoiled_json(rng, raw[8 : 8 + size])
        return len(header).to_bytes(8, "little") + header + raw[8 + size :]
    return rng.choice([0, size - 1, size + 1, 2**40, 2**63]).to_bytes(8, "little") + raw[8:]


def spoil(rng: random.Random, folder: Path) -> None:
    """Spoils one or two files of a folder, settings more often than weights."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    texts = [path for path in files if path.suffix in (".json", ".metadata", ".txt")]
    for path in rng.choices(texts if rng.random() < 0.8 else files, k=rng.choice([1, 1, 2])):
        raw = path.read_bytes()
        how = {".json": spoiled_json, ".metadata": spoiled_json, ".safetensors": spoiled_safetensors}
        change = how.get(path.suffix, spoiled_bytes) if rng.random() < 0.85 else spoiled_bytes
        try:
            path.write_bytes(change(rng, raw))
        except (ValueError, RecursionError):  # spoiled already
            path.write_bytes(spoiled_bytes(rng, raw))


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> list[Path]:
    names = ("pylate-modernbert", "stanford-bert", "native-xlmr")
    return [convert(CHECKPOINTS / name, tmp_path_factory.mktemp("fuzz") / name) for name in names]


def case(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


@FUZZING
@given(seed=SEEDS)
def test_spoiled_checkpoint_is_converted_or_refused(tmp_path, seed):
    rng = random.Random(seed)
    folder = case(CHECKPOINTS / rng.choice(NAMES), tmp_path / "case")
    spoil(rng, folder)
    try:
        read_checkpoint(Location(folder, "case"))
    except ColBERTError as error:
        assert len(str(error)) < 10_000


@FUZZING
@given(seed=SEEDS)
def test_spoiled_model_works_or_is_refused(tmp_path, converted, seed):
    rng = random.Random(seed)
    folder = case(rng.choice(converted), tmp_path / "case")
    spoil(rng, folder)
    try:
        # The hash as who spoils on purpose would write it.
        values = json.loads((folder / "config.json").read_bytes())
        values["tokenizer_sha256"] = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        (folder / "config.json").write_text(json.dumps(values))
    except (ValueError, TypeError, RecursionError):
        pass
    try:
        model = ColBERT.load(folder, backend="numpy")
        model.similarity(model.encode_query(TEXTS), model.encode_document(TEXTS))
    except ColBERTError as error:
        assert len(str(error)) < 10_000


def _swell(path: Path) -> None:
    """Makes a file a terabyte long; it takes no room on the disk."""
    path.touch()
    os.truncate(path, 1 << 40)


def _swell_header(path: Path) -> None:
    path.write_bytes((90 << 20).to_bytes(8, "little"))
    os.truncate(path, 90 << 20)


def _move_token(path: Path) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    values["model"]["vocab"]["the"] = 2**31
    path.write_text(json.dumps(values), encoding="utf-8")


SIZE = "has 1099511627776 bytes; no real file of this kind has more than "
# The file, what is done to it, and the reason of the refusal.
BOMBS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("config.json", _swell, SIZE),
    ("modules.json", _swell, SIZE),
    ("sentence_bert_config.json", _swell, SIZE),
    ("tokenizer.json", _swell, SIZE),
    ("tokenizer_config.json", _swell, SIZE),
    ("vocab.txt", _swell, SIZE),
    ("chat_template.jinja", _swell, SIZE),
    ("additional_chat_templates/a.jinja", _swell, SIZE),
    # The limit of this test has no room for a map of a terabyte. This is no damage of the file.
    ("model.safetensors", _swell, "Cannot allocate memory"),
    ("model.safetensors", _swell_header, "no real one has more than 4194304"),
    ("config.json", lambda path: path.write_text("[" * 5_000_000), "nested too deeply"),
    ("tokenizer.json", lambda path: path.write_text("[" * 2_000_000), "the tokenizer cannot be read"),
    (
        "tokenizer.json",
        lambda path: path.write_text("[" + "[]," * 20_000_000 + "[]]"),
        "no real tokenizer has more",
    ),
    ("vocab.txt", lambda path: path.write_text("\n" * 60_000_000), "no real tokenizer has more"),
    ("tokenizer.json", _move_token, "has the id 2147483648, beyond the 520 rows"),
]

# Address space beyond what the process has when it starts to read.
LIMIT = """
import resource, sys
from pathlib import Path
from mlx_colbert.convert.conversion import convert
from mlx_colbert.errors import CheckpointError
import transformers.models.bert.tokenization_bert, transformers.models.auto.tokenization_auto
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[2:]:
    try:
        convert(Path(sys.argv[1]) / name, Path(sys.argv[1]) / "target")
        print("converted")
    except (CheckpointError, OSError) as error:
        print(type(error).__name__, str(error).replace("\\n", " ")[-400:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_bombs_are_refused_in_little_memory(tmp_path):
    for number, (file, change, _) in enumerate(BOMBS):
        path = case(CHECKPOINTS / "pylate-bert", tmp_path / str(number)) / file
        path.parent.mkdir(exist_ok=True)
        change(path)
    command = [sys.executable, "-c", LIMIT, str(tmp_path), *map(str, range(len(BOMBS)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for (file, _, reason), told in zip(BOMBS, done.stdout.splitlines(), strict=True):
        assert reason in told, file
