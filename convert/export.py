"""From an MLX model folder back to a checkpoint that PyLate and sentence-transformers read, without torch.

The backbone is written as the family of transformers that has its settings. What was written is read again
before the folder appears: settings and tokens must be those of the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mlx_colbert.checks import check_choice
from mlx_colbert.convert.draft import in_place_at_once
from mlx_colbert.convert.export_layouts import TOKEN_MODULE, TokenNames, sentence_files
from mlx_colbert.convert.families.registry import REGISTRY, architecture_of, read_encoder_config
from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.convert.problems import Problems
from mlx_colbert.convert.sources.dense import activation_path
from mlx_colbert.convert.sources.layout import read_source
from mlx_colbert.convert.tokenization import convert_tokenizer
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, TargetExistsError
from mlx_colbert.model.config import EncoderConfig, ModelConfig
from mlx_colbert.model.folder import dequantized, is_converted, read_config, read_tensors, sha256_of
from mlx_colbert.model.safetensors_file import write_safetensors
from mlx_colbert.model.tokenizer import Tokenizer
from mlx_colbert.types import Array
from mlx_colbert.untrusted import check_size

__all__ = ["Target", "export"]

Target = Literal["pylate", "sentence-transformers"]

# Usual names of the token that fills batches up.
_PAD_TOKENS = ("[PAD]", "<pad>", "<|padding|>")
# What the tokenizer must do as before: markers, special tokens in texts, punctuation, scripts, truncation.
_TEXTS = [
    "",
    "a",
    "...!?",
    "Who wrote [MASK] <mask> [CLS]?",
    "Größe: 3,5 m², café ☕️",
    "北京是首都。",
    "word " * 900,
]


def export(folder: str | Path, target: str | Path, *, to: Target = "pylate") -> Path:
    """Write an MLX model folder as a checkpoint of PyLate or sentence-transformers.

    Both are read by sentence-transformers 6 (`MultiVectorEncoder`), which computes the same vectors from them
    in float32. Quantised weights are written as the float32 numbers that they stand for.

    Args:
        folder: a model folder that `convert` wrote.
        target: the folder to write. It must not exist. It appears when it is complete.
        to: "pylate" or "sentence-transformers". The second one has a place for all settings.

    Returns:
        The folder written.

    Raises:
        TargetExistsError: if `target` exists.
        CheckpointError: if the folder is not such a model, or the checkpoint has no place for one of its
            settings.
    """
    check_choice(to, "to", get_args(Target))
    source, path = Path(folder), Path(target)
    if path.exists() or path.is_symlink():
        raise TargetExistsError(path, advice="Remove it, or choose another folder.")
    if not source.is_dir():
        raise CheckpointNotFoundError(source, "there is no such folder.")
    if not is_converted(source):
        raise CheckpointError(source, "is not a model folder of this package. Convert it first.")
    config = read_config(source)
    values = _settings(source, config)
    tokens = _read_tokens(source, config)
    files = sentence_files(source, config, tokens, to)
    pad_id = _pad_id(tokens, values)
    with in_place_at_once(path) as draft:
        _write_json(draft / "config.json", {**values, "pad_token_id": pad_id, "dtype": "float32"})
        shutil.copyfile(source / "tokenizer.json", draft / "tokenizer.json")
        _write_json(draft / "tokenizer_config.json", _tokenizer_settings(config, tokens, pad_id))
        for name, content in files.items():
            (draft / name).parent.mkdir(exist_ok=True)
            _write_json(draft / name, content)
        _write_weights(draft, source, config, architecture_of(values, str(source)), to)
        _check(draft, source, config)
    return path


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _settings(source: Path, config: ModelConfig) -> dict[str, Any]:
    """The config.json of the backbone.

    Raises:
        CheckpointError: if no family that needs no code of its own has these settings.
    """
    encoder = config.encoder
    if not isinstance(encoder, EncoderConfig):
        raise CheckpointError(source, "is a decoder. Only encoders can be written.")
    names = []
    for name, architecture in REGISTRY.items():
        if architecture.settings is None:
            continue
        names.append(name)
        values = architecture.settings(encoder, config.source.language or "")
        problems = Problems()
        # What this package reads from it decides.
        if read_encoder_config(architecture, values, problems) == encoder and not problems:
            return values
    raise CheckpointError(
        source,
        "cannot be written: in transformers, models with its settings need code beside the weights. "
        f"Can be written: {', '.join(names)}.",
    )


def _pad_id(tokens: TokenNames, values: Mapping[str, Any]) -> int:
    """The id of the token that fills batches up. No text sees it."""
    if "pad_token_id" in values:
        return int(values["pad_token_id"])
    special = {name: number for number, name in tokens.added.items()}
    return next((special[name] for name in _PAD_TOKENS if name in special), min(special.values(), default=0))


def _tokenizer_settings(config: ModelConfig, tokens: TokenNames, pad_id: int) -> dict[str, Any]:
    """The contents of tokenizer_config.json."""
    mask = config.colbert.expansion_token_id
    names = {
        "unk_token": tokens.unknown,
        "pad_token": tokens.name(pad_id),
        # PyLate fills queries up with it.
        "mask_token": None if mask is None else tokens.name(mask),
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.encoder.max_length,
        "clean_up_tokenization_spaces": False,
        # Token types are 0 everywhere, which is what a model takes without them.
        "model_input_names": ["input_ids", "attention_mask"],
        **{key: name for key, name in names.items() if name is not None},
    }


def _read_tokens(source: Path, config: ModelConfig) -> TokenNames:
    """The names of the tokens.

    Raises:
        CheckpointError: if tokenizer.json is not the one that was converted.
    """
    path = source / "tokenizer.json"
    if not path.is_file() or sha256_of(path) != config.tokenizer_sha256:
        raise CheckpointError(source, "tokenizer.json was changed after the conversion. Convert it again.")
    check_size(path)
    # What `ColBERT.load` would refuse is refused.
    Tokenizer(path, config.colbert)
    return TokenNames.read(path)


def _write_weights(
    draft: Path, source: Path, config: ModelConfig, architecture: Architecture, to: Target
) -> None:
    """Write the weights of the backbone, and of each layer of the projection."""
    tensors = dequantized(read_tensors(source, config), config)
    dtype = config.dtype if config.quantization is None else "float32"
    backbone: dict[str, Array] = {}
    for target, tensor in tensors.items():
        if not target.startswith("projection."):
            names = architecture.sources(target)
            backbone.update(zip(names, np.split(tensor, len(names)), strict=True))
    write_safetensors(draft / "model.safetensors", backbone, dtype=dtype)
    for number, layer in enumerate(config.projection):
        prefix = f"projection.{number}."
        parts = {
            name if name.startswith("residual.") else f"linear.{name}": tensor
            for target, tensor in tensors.items()
            if target.startswith(prefix)
            for name in [target.removeprefix(prefix)]
        }
        place = draft / f"{number + 1}_Dense"
        place.mkdir(exist_ok=True)
        write_safetensors(place / "model.safetensors", parts, dtype=dtype)
        values = {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias,
            "activation_function": activation_path(layer.activation),
            "use_residual": layer.residual,
            # PyLate refuses these settings. Its layers are always for tokens.
            **({} if to == "pylate" else TOKEN_MODULE),
        }
        _write_json(place / "config.json", values)


def _check(draft: Path, source: Path, config: ModelConfig) -> None:
    """Read the checkpoint again.

    Raises:
        CheckpointError: if a setting or a token is another one.
    """
    read = read_source(draft, None, ())
    problems = list(read.problems)
    encoder = read_encoder_config(read.architecture, read.config, read.problems)
    if encoder is not None and not problems:
        converted = convert_tokenizer(read, encoder)
        before = Tokenizer(source / "tokenizer.json", config.colbert)
        after = Tokenizer(draft / "tokenizer.json", converted.colbert, converted.json.encode())
        pairs = {
            "the encoder": (encoder, config.encoder),
            "the projection": (read.projection, config.projection),
            "queries and documents": (converted.colbert, config.colbert),
            "the tokens of texts": (_ids(after), _ids(before)),
        }
        problems = [f"{what} would not be the same" for what, (new, old) in pairs.items() if new != old]
    if problems:
        raise CheckpointError(source, ["cannot be written", *problems])


def _ids(tokenizer: Tokenizer) -> list[list[int]]:
    rows = [*tokenizer.queries(_TEXTS).rows, *tokenizer.documents(_TEXTS).rows]
    return [row.ids[row.scored].tolist() for row in rows]
