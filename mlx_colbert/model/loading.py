"""Loads the parts of a model from a folder or the hub. A checkpoint is converted the first time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
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

__all__ = ["LoadedParts", "given_lengths", "load_parts", "with_lengths"]

# A branch or a tag may move, a commit never does.
_COMMIT = re.compile("[0-9a-f]{40}")


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
    """The parts of a model. The arguments are those of `ColBERT.load`.

    Raises:
        CheckpointError: if there is no such checkpoint, or its files cannot be used.
        ConfigError: if a setting is not understood, dtype is not known, or a length is too large.
        BackendError: if the backend is not installed.
    """
    if dtype not in (None, *get_args(Dtype)):
        raise ConfigError("dtype", [f"{dtype!r} is not one of {', '.join(get_args(Dtype))}"])
    given = given_lengths(query_length, document_length)
    # Checked now: without the backend, a download or a conversion would be in vain.
    get_encoder_ops(backend)
    source = str(path_or_hub_id)
    if (known := _converted_before(source, revision)) is not None:
        with suppress(CheckpointError):
            return _kept(source, known, revision, backend, dtype, given)
    return _kept(source, _converted(source, revision), revision, backend, dtype, given)


def given_lengths(query_length: int | None, document_length: int | None) -> dict[str, int]:
    """The lengths that a caller gave, by their names.

    Raises:
        InputError: if one is not an integer.
    """
    lengths = {"query_length": query_length, "document_length": document_length}
    return {name: check_whole(length, name) for name, length in lengths.items() if length is not None}


def _converted(source: str, revision: str | None) -> Path:
    """The folder of a converted model. A checkpoint is converted, and downloaded before if necessary."""
    location = locate(source, revision=revision)
    if checkpoint.is_converted(location.folder):
        return location.folder
    # transformers takes seconds to import and is needed for conversion only.
    from mlx_colbert.convert.converted import convert_to_cache

    return convert_to_cache(location)


def _converted_before(source: str, revision: str | None) -> Path | None:
    """The folder of a commit on the hub that was converted before: without a look at the hub."""
    if revision is None or not _COMMIT.fullmatch(revision) or Path(source).exists():
        return None
    folder = checkpoint.commit_folder(source, revision)
    return folder if checkpoint.is_converted(folder) else None


def _kept(
    source: str,
    folder: Path,
    revision: str | None,
    backend: Backend,
    dtype: Dtype | None,
    given: dict[str, int],
) -> LoadedParts:
    """The parts of a converted model. A process that keeps models loads them once."""
    # "auto" depends on the environment, which a process may take from its client.
    means = get_encoder_ops(backend).name
    key = (source, revision, backend, means, dtype, *sorted(given.items()), files_stamp(folder))
    loaded: LoadedParts = loaded_once(source, key, lambda: _loaded(source, folder, backend, dtype, given))
    fact("model", f"{loaded.source}, {loaded.config.dim} components, from {folder}")
    fact("model computes with", f"{loaded.ops.name}, {loaded.ops.device()}")
    return loaded


@stage("load the model")
def _loaded(
    source: str, folder: Path, backend: Backend, dtype: Dtype | None, lengths: dict[str, int]
) -> LoadedParts:
    """The parts of a converted model."""
    config = with_lengths(checkpoint.read_config(folder), lengths)
    ops = config.encoder.ops(backend)
    if ops.name == "numpy" and dtype not in (None, "float32"):
        raise ConfigError("dtype", [f"{dtype} needs the MLX backend: numpy computes in float32"])
    tensors = checkpoint.read_tensors(folder, config)
    if ops.name == "numpy":
        tensors = checkpoint.dequantized(tensors, config)
    params = config.encoder.prepared(ops.load_params(tensors, dtype or ops.default_dtype(config.dtype)))
    return LoadedParts(config, params, _tokenizer(folder, config), ops, source, lengths)


def with_lengths(config: ModelConfig, lengths: Mapping[str, Any]) -> ModelConfig:
    """The settings with other values of query_length and document_length.

    Raises:
        ConfigError: if a length is too small, or larger than the encoder allows.
    """
    return replace(config, colbert=replace(config.colbert, **lengths)) if lengths else config


def _tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """The tokenizer of a converted folder, which must be the one that was converted."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointNotFoundError(folder, "tokenizer.json is missing. Convert the checkpoint again.")
    check_size(path)
    with reading(path):
        content = path.read_bytes()
    # The fingerprint, by which an index knows its model, depends on this hash.
    if hashlib.sha256(content).hexdigest() != config.tokenizer_sha256:
        raise CheckpointError(
            folder, "tokenizer.json was changed after the conversion. Convert the checkpoint again."
        )
    return Tokenizer(path, config.colbert, content)
