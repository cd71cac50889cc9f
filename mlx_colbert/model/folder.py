"""Reads and checks a converted model folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from mlx_colbert._version import __version__
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError
from mlx_colbert.model.config import ModelConfig, QuantizationConfig
from mlx_colbert.model.parameters import expected_shapes, linear_names
from mlx_colbert.model.quantization import dequantize
from mlx_colbert.model.safetensors_file import read_safetensors, safetensors_shapes
from mlx_colbert.types import Array
from mlx_colbert.untrusted import read_json, reading

__all__ = [
    "cache_folder",
    "commit_folder",
    "dequantized",
    "is_converted",
    "quantized_names",
    "read_config",
    "read_tensors",
    "sha256_of",
    "shape_problems",
    "stored_shapes",
]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_converted(folder: Path) -> bool:
    """Whether a folder was written by the converter."""
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "mlx-colbert"


def read_config(folder: Path) -> ModelConfig:
    """The settings of a converted model.

    Raises:
        CheckpointNotFoundError: if there is no config.json.
        ConfigError: if a key is not understood. The error names all of them.
    """
    path = folder / "config.json"
    return ModelConfig.from_dict(read_json(path), where=str(path))


def stored_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in model.safetensors. Quantised matrices have their packed shapes."""
    shapes = expected_shapes(config.encoder, config.projection)
    if config.quantization is not None:
        for name in quantized_names(config, config.quantization):
            rows, width = shapes[f"{name}.weight"]
            groups = (rows, width // config.quantization.group_size)
            shapes[f"{name}.weight"] = (rows, width * config.quantization.bits // 32)
            shapes[f"{name}.scales"] = shapes[f"{name}.biases"] = groups
    return shapes


def quantized_names(config: ModelConfig, quantization: QuantizationConfig) -> list[str]:
    """The matrices that quantisation applies to: those whose width is a multiple of the group size."""
    shapes = expected_shapes(config.encoder, ())
    return [
        name
        for name in linear_names(config.encoder)
        if shapes[f"{name}.weight"][1] % quantization.group_size == 0
    ]


def shape_problems(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """A sentence for each tensor that is missing, is not expected or has the wrong shape."""
    problems = [f"{name} is missing" for name in sorted(set(expected) - set(found))]
    problems += [f"{name} is not expected" for name in sorted(set(found) - set(expected))]
    problems += [
        f"{name} has shape {tuple(found[name])}, expected {expected[name]}"
        for name in sorted(set(found) & set(expected))
        if tuple(found[name]) != expected[name]
    ]
    return problems


def read_tensors(folder: Path, config: ModelConfig) -> dict[str, Array]:
    """The tensors of a converted model, as stored.

    Raises:
        CheckpointError: if a tensor is missing, is not expected or has the wrong shape; names all of them.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointNotFoundError(folder, "model.safetensors is missing. Convert the checkpoint again.")
    # Shapes are checked before anything is read: a sparse file of a terabyte takes no room on the disk.
    stored = safetensors_shapes(path)
    problems = shape_problems({name: shape for name, (_, shape) in stored.items()}, stored_shapes(config))
    if problems:
        raise CheckpointError(path, problems)
    tensors = read_safetensors(path)
    # Only the packed matrices of a quantised model are integers; they have scales beside them.
    problems = [
        f"{name} contains integers"
        for name, value in tensors.items()
        if value.dtype.kind != "f" and name.removesuffix(".weight") + ".scales" not in tensors
    ]
    if problems:
        raise CheckpointError(path, problems)
    return tensors


def dequantized(tensors: Mapping[str, Array], config: ModelConfig) -> dict[str, Array]:
    """The tensors with every quantised matrix expanded to float32."""
    if config.quantization is None:
        return dict(tensors)
    widths = expected_shapes(config.encoder, config.projection)
    expanded = {name: value for name, value in tensors.items() if not name.endswith((".scales", ".biases"))}
    for name in quantized_names(config, config.quantization):
        scales, biases = tensors[f"{name}.scales"], tensors[f"{name}.biases"]
        width = widths[f"{name}.weight"][1]
        expanded[f"{name}.weight"] = dequantize(tensors[f"{name}.weight"], scales, biases, width=width)
    return expanded


def cache_folder() -> Path:
    """The folder of converted checkpoints: MLX_COLBERT_CACHE, or mlx-colbert in the user's cache folder."""
    chosen = os.environ.get("MLX_COLBERT_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-colbert"


def commit_folder(hub_id: str, commit: str) -> Path:
    """The folder of the cache for the converted checkpoint of a commit on the hub. It may not exist.

    The files of a commit never change, so nothing else decides.
    """
    key = hashlib.sha256(json.dumps([__version__, hub_id, commit]).encode()).hexdigest()[:16]
    return cache_folder() / f"{hub_id.replace('/', '--')}-{key}"
