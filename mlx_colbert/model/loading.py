"""Loads the parts of a model from a folder or the hub. A checkpoint is converted the first time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from mlx_colbert.checks import check_whole
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from mlx_colbert.kernels import Backend, EncoderOps, Params, get_encoder_ops
from mlx_colbert.model import folder as checkpoint
from mlx_colbert.model.config import Dtype, ModelConfig
from mlx_colbert.model.hub import locate
from mlx_colbert.model.kept import files_stamp, loaded_once
from mlx_colbert.model.tokenizer import Tokenizer
from mlx_colbert.stages import fact, stage
from mlx_colbert.untrusted import check_size, reading

__all__ = ["LoadedParts", "load_parts"]


@dataclass(frozen=True)
class LoadedParts:
    """The parts of a `ColBERT`.

    Attributes:
        config: its settings.
        params: the weights, as the backend's arrays.
        tokenizer: its tokenizer.
        ops: the kernels of the backend.
        source: the folder or hub id, as the caller gave it.
        lengths: query_length and document_length, if the caller gave them.
    """

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    ops: EncoderOps
    source: str
    lengths: Mapping[str, int]


def load_parts(
    path_or_hub_id: str | Path,
    *,
    backend: Backend = "auto",
    dtype: Dtype | None = None,
    revision: str | None = None,
    query_length: int | None = None,
    document_length: int | None = None,
) -> LoadedParts:
    """The parts of a model; arguments and errors are those of `ColBERT.load`."""
    if dtype not in (None, *get_args(Dtype)):
        raise ConfigError("dtype", [f"{dtype!r} is not one of {', '.join(get_args(Dtype))}"])
    lengths = {"query_length": query_length, "document_length": document_length}
    given = {name: check_whole(length, name) for name, length in lengths.items() if length is not None}
    # Checked now: without the backend, a download or a conversion would be in vain.
    get_encoder_ops(backend)
    location = locate(path_or_hub_id, revision=revision)
    folder = location.folder
    if not checkpoint.is_converted(folder):
        # transformers takes seconds to import and is needed for conversion only.
        from mlx_colbert.convert.converted import convert_to_cache

        folder = convert_to_cache(location)
    key = (str(path_or_hub_id), revision, backend, dtype, *sorted(given.items()), files_stamp(folder))
    loaded: LoadedParts = loaded_once(
        str(path_or_hub_id), key, lambda: _loaded(str(path_or_hub_id), folder, backend, dtype, given)
    )
    fact("model", f"{loaded.source}, {loaded.config.dim} components, from {folder}")
    fact("model computes with", f"{loaded.ops.name}, {loaded.ops.device()}")
    return loaded


@stage("load the model")
def _loaded(
    source: str, folder: Path, backend: Backend, dtype: Dtype | None, lengths: dict[str, int]
) -> LoadedParts:
    """The parts of a converted model."""
    config = _with_lengths(checkpoint.read_config(folder), lengths)
    ops = config.encoder.ops(backend)
    if ops.name == "numpy" and dtype not in (None, "float32"):
        raise ConfigError("dtype", [f"{dtype} needs the MLX backend: numpy computes in float32"])
    tensors = checkpoint.read_tensors(folder, config)
    if ops.name == "numpy":
        tensors = checkpoint.dequantized(tensors, config)
    params = config.encoder.prepared(ops.load_params(tensors, dtype or ops.default_dtype(config.dtype)))
    return LoadedParts(config, params, _tokenizer(folder, config), ops, source, lengths)


def _with_lengths(config: ModelConfig, lengths: Mapping[str, Any]) -> ModelConfig:
    return replace(config, colbert=replace(config.colbert, **lengths)) if lengths else config


def _tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """The tokenizer of a converted folder, which must be the one that was converted."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointNotFoundError(folder, "tokenizer.json is missing.")
    check_size(path)
    with reading(path):
        content = path.read_bytes()
    # The fingerprint, by which an index knows its model, depends on this hash.
    if hashlib.sha256(content).hexdigest() != config.tokenizer_sha256:
        raise CheckpointError(
            folder, "tokenizer.json was changed after the conversion. Convert the checkpoint again."
        )
    return Tokenizer(path, config.colbert, content)
