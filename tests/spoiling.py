"""Spoils copies of the test checkpoints, and tells how the converter refuses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from mlx_colbert.convert import convert
from mlx_colbert.errors import CheckpointError

CHECKPOINTS = Path(__file__).parent / "data" / "checkpoints"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(source: Path, error: type[Exception] = CheckpointError) -> str:
    """The message with which `source` is refused, nothing written."""
    target = source.parent / "target"
    with pytest.raises(error) as caught:
        convert(source, target)
    assert sorted(path.name for path in source.parent.iterdir()) == [source.name]
    return str(caught.value)


def modules(source: Path, change) -> None:
    path = source / "modules.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
