"""The reading half of the converter: a checkpoint under canonical names, and the folder written from it.

1. `sources` finds the layout; 2. `families` maps settings and tensors to canonical names; 3. `tokenization`
makes one tokenizer.json; 4. the folder is written beside its target and then renamed, so no half-written
folder stays. This half knows no `ColBERT`: `mlx_colbert.model.loading` calls it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlx_colbert._version import __version__
from mlx_colbert.convert.families.registry import read_encoder_config
from mlx_colbert.convert.parameters import canonical_tensors
from mlx_colbert.convert.sources.source import read_source
from mlx_colbert.convert.tokenization import convert_tokenizer
from mlx_colbert.convert.weights import widest
from mlx_colbert.errors import CheckpointError, ConfigError
from mlx_colbert.model.config import Dtype, ModelConfig, QuantizationConfig, SourceConfig, projection_problems
from mlx_colbert.model.folder import (
    cache_folder,
    quantized_names,
    sha256_of,
    shape_problems,
)
from mlx_colbert.model.hub import Location
from mlx_colbert.model.parameters import expected_shapes
from mlx_colbert.model.quantization import quantize
from mlx_colbert.model.safetensors_file import write_safetensors
from mlx_colbert.types import Array

__all__ = [
    "Converted",
    "convert_to_cache",
    "in_place_at_once",
    "quantized",
    "read_checkpoint",
    "shortened",
    "write_folder",
]


@dataclass(frozen=True)
class Converted:
    """A model in memory, ready to be written.

    Attributes:
        config: its settings; the sha256 of its files are filled in when it is written.
        tensors: canonical name -> array.
        tokenizer_json: the contents of tokenizer.json.
    """

    config: ModelConfig
    tensors: dict[str, Array]
    tokenizer_json: str


def read_checkpoint(
    location: Location, *, dtype: Dtype | None = None, language: str | None = None
) -> Converted:
    """A checkpoint under canonical names.

    Args:
        location: where it lies.
        dtype: type of the weights to write. None: the widest that they have on disk.
        language: whose adapters to keep where there are some for each language. None: the default one.

    Raises:
        CheckpointError: listing everything that is not understood, missing, extra or of the wrong shape.
    """
    source = read_source(location.folder, language)
    encoder, config_problems = read_encoder_config(source.architecture, source.config)
    problems = source.problems + config_problems
    tensors: dict[str, Array] = {}
    if encoder is not None:
        tensors, tensor_problems = canonical_tensors(
            source.architecture, encoder, source.weights.tensors, unused=source.unused
        )
        expected = {
            name: shape
            for name, shape in expected_shapes(encoder, source.projection).items()
            if name.startswith("projection.")
        }
        found = {name: value.shape for name, value in source.projection_tensors.items()}
        problems += tensor_problems + [f"tensor {problem}" for problem in shape_problems(found, expected)]
        problems += projection_problems(encoder.hidden_size, source.projection)
    if problems or encoder is None:
        raise CheckpointError(location.id, problems)
    tokenizer = convert_tokenizer(source, encoder)
    if encoder.position != "absolute":
        # There is no table that would end; the checkpoint's own lengths may go beyond the trained positions.
        longest = max(tokenizer.colbert.query_length, tokenizer.colbert.document_length)
        encoder = replace(encoder, max_length=max(encoder.max_length, longest))
    config = ModelConfig(
        encoder=encoder,
        projection=source.projection,
        colbert=tokenizer.colbert,
        source=SourceConfig(
            location.id,
            location.revision,
            source.layout,
            source.files,
            __version__,
            source.architecture.language or None,
        ),
        dtype=dtype or widest(source.dtypes),
        weights_sha256="",
        tokenizer_sha256="",
    )
    return Converted(config, {**tensors, **source.projection_tensors}, tokenizer.json)


def quantized(model: Converted, settings: QuantizationConfig) -> Converted:
    """The model with its large matrices quantised."""
    names = quantized_names(model.config, settings)
    if not names:
        raise ConfigError(
            "quantization", [f"no matrix has a width that group size {settings.group_size} divides"]
        )
    tensors = dict(model.tensors)
    for name in names:
        packed, scales, biases = quantize(
            tensors[f"{name}.weight"],
            bits=settings.bits,
            group_size=settings.group_size,
            dtype=model.config.dtype,
        )
        tensors.update({f"{name}.weight": packed, f"{name}.scales": scales, f"{name}.biases": biases})
    return replace(model, config=replace(model.config, quantization=settings), tensors=tensors)


def shortened(model: Converted, dim: int) -> Converted:
    """The model with the first `dim` components of its token embeddings, which are then of unit length again.

    Raises:
        ConfigError: if the model has no projection, a narrower one, or a residual layer that reads as many.
    """
    config = model.config
    if not config.projection:
        raise ConfigError("dim", [f"{config.source.id} has no projection; projection_dim fits one"])
    if not 1 <= dim <= config.dim:
        raise ConfigError("dim", [f"must be in 1..{config.dim}, got {dim}"])
    if dim == config.dim:
        return model
    last, prefix = config.projection[-1], f"projection.{len(config.projection) - 1}."
    if last.residual and dim == last.in_features:
        problem = (
            f"{dim} components are as many as its last layer reads: what it adds could not be told from that"
        )
        raise ConfigError("dim", [f"{problem}. Take fewer or more"])
    tensors = dict(model.tensors)
    if last.residual and last.in_features == last.out_features:
        # The layer adds its input as it is; a shorter output has to select from it.
        tensors[f"{prefix}residual.weight"] = np.eye(last.in_features, dtype=np.float32)
    tensors.update({name: tensors[name][:dim] for name in tensors if name.startswith(prefix)})
    projection = (*config.projection[:-1], replace(last, out_features=dim))
    return replace(model, config=replace(config, projection=projection), tensors=tensors)


@contextmanager
def in_place_at_once(target: Path) -> Iterator[Path]:
    """A folder to fill beside `target`, renamed to it at the end, or removed after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        yield draft
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_folder(model: Converted, folder: Path) -> ModelConfig:
    """Writes config.json, model.safetensors and tokenizer.json into an existing folder.

    Returns:
        The settings as written, with the sha256 of the files.
    """
    weights, tokenizer = folder / "model.safetensors", folder / "tokenizer.json"
    write_safetensors(weights, model.tensors, dtype=model.config.dtype)
    tokenizer.write_text(model.tokenizer_json, encoding="utf-8")
    config = replace(model.config, weights_sha256=sha256_of(weights), tokenizer_sha256=sha256_of(tokenizer))
    text = json.dumps(config.to_dict(), indent=2)
    ModelConfig.from_dict(json.loads(text))
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    return config


def _cache_key(location: Location) -> str:
    """A name that changes with the checkpoint's files."""
    folder = location.folder
    files = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())
    stats = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    text = json.dumps([__version__, str(folder), location.revision, stats])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def convert_to_cache(location: Location) -> Path:
    """The converted folder of a checkpoint in the user's cache, converted now if it is not there yet."""
    name = location.id.replace("/", "--")
    target = cache_folder() / f"{name}-{_cache_key(location)}"
    if not target.is_dir():
        model = read_checkpoint(location)
        try:
            with in_place_at_once(target) as draft:
                write_folder(model, draft)
        except OSError:
            # Another process has renamed its own, equal folder into place meanwhile.
            if not target.is_dir():
                raise
    return target
