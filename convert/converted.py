"""The reading half of the converter: a checkpoint under canonical names, and the folder written from it.

1. `sources` finds the layout; 2. `families` maps settings and tensors to canonical names; 3. `tokenization`
makes one tokenizer.json; 4. the folder is written beside its target and then renamed, so no half-written
folder stays. This half does not use `ColBERT`, because `mlx_colbert.model.loading` calls it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlx_colbert._version import __version__
from mlx_colbert.convert.draft import in_place_at_once, remove_folder, remove_stale_drafts
from mlx_colbert.convert.families.registry import read_encoder_config
from mlx_colbert.convert.parameters import canonical_tensors, tensor_sources
from mlx_colbert.convert.sources.layout import read_source
from mlx_colbert.convert.tokenization import convert_tokenizer
from mlx_colbert.convert.weights import widest
from mlx_colbert.errors import CheckpointError, ColBERTError, ConfigError
from mlx_colbert.model.config import Dtype, ModelConfig, QuantizationConfig, SourceConfig, projection_problems
from mlx_colbert.model.folder import (
    cache_folder,
    commit_folder,
    quantized_names,
    read_config,
    sha256_of,
    shape_problems,
    stored_shapes,
)
from mlx_colbert.model.hub import Location, read_files
from mlx_colbert.model.parameters import expected_shapes
from mlx_colbert.model.quantization import quantize
from mlx_colbert.model.safetensors_file import safetensors_shapes, write_safetensors
from mlx_colbert.stages import stage
from mlx_colbert.types import Array
from mlx_colbert.untrusted import shown

__all__ = [
    "Converted",
    "convert_to_cache",
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
    location: Location,
    *,
    dtype: Dtype | None = None,
    language: str | None = None,
    ignore_config_keys: Iterable[str] = (),
) -> Converted:
    """A checkpoint under canonical names.

    Args:
        location: where it is.
        dtype: type of the weights to write. None: the widest that they have on disk.
        language: the language whose adapters are kept, if there are some for each language. None: the
            default.
        ignore_config_keys: settings to ignore if they are not understood.

    Raises:
        CheckpointError: if something is not understood, missing, not expected or of the wrong shape. The
            error lists all of it.
    """
    source = read_source(location.folder, language, ignore_config_keys)
    problems = source.problems
    encoder = read_encoder_config(source.architecture, source.config, problems)
    problems += [
        f"the setting {shown(key)} cannot be ignored: it is missing, or it is understood"
        for key in sorted(problems.ignored - problems.met)
    ]
    sources: dict[str, tuple[str, ...]] = {}
    if encoder is not None:
        shapes = {name: shape for name, (_, shape) in source.weights.shapes.items()}
        sources, tensor_problems = tensor_sources(source.architecture, encoder, shapes, unused=source.unused)
        expected = {
            name: shape
            for name, shape in expected_shapes(encoder, source.projection).items()
            if name.startswith("projection.")
        }
        wrong = shape_problems(source.projection_shapes, expected)
        problems += tensor_problems + [f"tensor {problem}" for problem in wrong]
        problems += projection_problems(encoder.hidden_size, source.projection)
    if problems.n_unknown:
        problems.append(
            "if you know that a setting does not change the vectors, ignore it with --ignore-config-key NAME"
        )
    # Checked before gigabytes of weights are read.
    if problems or encoder is None:
        raise CheckpointError(location.id, problems)
    tensors = source.weights.read({name for names in sources.values() for name in names})
    tensors, not_floats = canonical_tensors(source.architecture, sources, tensors)
    if not_floats:
        raise CheckpointError(location.id, not_floats)
    tokenizer = convert_tokenizer(source, encoder)
    if encoder.position != "absolute":
        # Without a table of positions, the lengths of the checkpoint may be larger than the trained
        # positions.
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
            weight_bits=source.weights.bits,
            ignored_config_keys=tuple(sorted(problems.met)),
        ),
        dtype=dtype or widest(source.dtypes),
        weights_sha256="",
        tokenizer_sha256="",
    )
    return Converted(config, {**tensors, **source.projection_tensors()}, tokenizer.json)


def quantized(model: Converted, settings: QuantizationConfig) -> Converted:
    """The model with its large matrices quantised.

    Raises:
        ConfigError: if no matrix has a width that is a multiple of the group size.
    """
    names = quantized_names(model.config, settings)
    if not names:
        raise ConfigError(
            "quantization", [f"group size {settings.group_size} divides the width of no matrix"]
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
    """The model with the first `dim` components of its token embeddings, at unit length again.

    Raises:
        ConfigError: if the model has no projection, or fewer components, or if its last layer is residual and
            reads `dim` components.
    """
    config = model.config
    if not config.projection:
        raise ConfigError(
            "dim", [f"{config.source.id} has no projection to shorten. projection_dim makes one"]
        )
    if not 1 <= dim <= config.dim:
        raise ConfigError("dim", [f"must be in 1..{config.dim}, got {dim}"])
    if dim == config.dim:
        return model
    last, prefix = config.projection[-1], f"projection.{len(config.projection) - 1}."
    if last.residual and dim == last.in_features:
        problem = (
            f"its last layer reads {dim} components too. It would then add its input unchanged, which "
            "would be another model"
        )
        raise ConfigError("dim", [f"{problem}. Choose a smaller or a larger number"])
    tensors = dict(model.tensors)
    if last.residual and last.in_features == last.out_features:
        # The layer adds its input unchanged. For a shorter output, a matrix selects components of the input.
        tensors[f"{prefix}residual.weight"] = np.eye(last.in_features, dtype=np.float32)
    tensors.update({name: tensors[name][:dim] for name in tensors if name.startswith(prefix)})
    projection = (*config.projection[:-1], replace(last, out_features=dim))
    return replace(model, config=replace(config, projection=projection), tensors=tensors)


def write_folder(model: Converted, folder: Path) -> ModelConfig:
    """Write config.json, model.safetensors and tokenizer.json into an existing folder.

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


_converting = threading.Lock()


def _cache_key(location: Location) -> str:
    """A name that changes with the files of a local checkpoint."""
    folder = location.folder
    files = [(str(path.relative_to(folder)), path.stat()) for path in read_files(folder)]
    stats = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    text = json.dumps([__version__, str(folder), stats])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@stage("find or convert the checkpoint")
def convert_to_cache(location: Location) -> Path:
    """The converted folder of a checkpoint in the user's cache, converted now if it is not there yet."""
    if location.revision is not None:
        target = commit_folder(location.id, location.revision)
    else:
        target = cache_folder() / f"{location.id}-{_cache_key(location)}"
    # transformers cannot be imported in two threads at once, and the second one finds the folder.
    with _converting:
        if _is_complete(target):
            return target
        remove_folder(target)
        if target.parent.is_dir():
            # A checkpoint that has changed since has another name in the cache.
            remove_stale_drafts(target.parent, "[^/]+-[0-9a-f]{16}")
        model = read_checkpoint(location)
        try:
            with in_place_at_once(target) as draft:
                write_folder(model, draft)
        except OSError:
            # Another process has made the same folder in the meantime.
            if not _is_complete(target):
                raise
        return target


def _is_complete(folder: Path) -> bool:
    """Whether a folder of the cache has all its files. The weights are checked by their length and shapes.

    After a full disk, or if the machine stopped while it wrote, files may be missing or cut short. If the
    system cannot read them now, they are left alone.

    Raises:
        OSError: if the system cannot read a file.
    """
    try:
        config = read_config(folder)
        shapes = safetensors_shapes(folder / "model.safetensors")
        tokenizer = sha256_of(folder / "tokenizer.json")
    except (ColBERTError, FileNotFoundError):
        return False
    stored = {name: shape for name, (_, shape) in shapes.items()}
    return tokenizer == config.tokenizer_sha256 and not shape_problems(stored, stored_shapes(config))
