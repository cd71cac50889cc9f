"""Settings of a model: frozen dataclasses with a strict `from_dict`.

The names here are this package's own. `convert/families/` maps the names of Hugging Face to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mlx_colbert.errors import ConfigError
from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.backbones.encoder import EncoderConfig
from mlx_colbert.model.backbones.registry import BACKBONES
from mlx_colbert.model.projection import ProjectionLayer, projection_problems
from mlx_colbert.types import OnOverflow
from mlx_colbert.untrusted import MAX_INTEGER, shown

__all__ = [
    "MAX_PREFIX",
    "ColBERTConfig",
    "Dtype",
    "EncoderConfig",
    "Layout",
    "ModelConfig",
    "OnOverflow",
    "ProjectionLayer",
    "QuantizationConfig",
    "Similarity",
    "SourceConfig",
    "Task",
    "projection_problems",
]

# Types of weights. numpy has no bfloat16.
Dtype = Literal["float32", "float16", "bfloat16"]
# Formats of a checkpoint folder; convert/README.md describes them.
Layout = Literal["stanford", "pylate", "sentence-transformers", "plain"]
Similarity = Literal["maxsim", "meanmaxsim"]
Task = Literal["query", "document"]

_MAX_ID = 2**31
# A query costs as many tokens as it is filled up to. Most published checkpoints fill up to 32, a few to 128.
_MAX_EXPANSION = 1024
# Characters. Every text is tokenised with its prefix; a marker and a prompt have a few hundred characters.
MAX_PREFIX = 4096

_Config = TypeVar("_Config")


def _matches(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type that a dataclass field asks for."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_matches(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint) and isinstance(value, type(get_args(hint)[0]))
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_matches(item, get_args(hint)[0]) for item in value)
    if origin is not None:
        return isinstance(value, Mapping)
    if hint in (int, float) and type(value) is int:
        return abs(value) <= MAX_INTEGER
    if hint is int:
        return False
    return isinstance(value, hint)


def _from_dict(cls: type[_Config], values: Any, where: str) -> _Config:
    """A config dataclass from parsed JSON. One error names every key that is unknown, missing or mistyped."""
    if not isinstance(values, Mapping):
        raise ConfigError(where, [f"expected an object, got {type(values).__name__}"])
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    problems = [f"{key!r} is not understood" for key in sorted(set(values) - set(known))]
    for name, spec in known.items():
        if name not in values:
            if spec.default is MISSING and spec.default_factory is MISSING:
                problems.append(f"{name!r} is missing")
        elif not _matches(values[name], hints[name]):
            problems.append(f"{name!r} cannot be {shown(values[name])}")
    if problems:
        raise ConfigError(where, problems)
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True)
class ColBERTConfig:
    """How texts become token embeddings. The names are those of PyLate's config."""

    # Put before every query: the marker token, with a prompt after it if the checkpoint has one.
    query_prefix: str = ""
    document_prefix: str = ""
    # Longest query in tokens, [CLS], marker and [SEP] included; longer ones are truncated before [SEP].
    query_length: int = 32
    document_length: int = 180
    # Fill queries up with `expansion_token_id`; the filled positions are scored.
    do_query_expansion: bool = False
    # Fill up to this many tokens. None: `query_length` (the classic fixed width).
    expansion_length: int | None = None
    # [MASK], or the end-of-text token where a tokenizer has no [MASK].
    expansion_token_id: int | None = None
    # Whether other tokens attend to the filled positions.
    attend_to_expansion_tokens: bool = False
    # Entries of the vocabulary. The vectors of these tokens are dropped.
    skiplist_words: tuple[str, ...] = ()
    # Whether the vectors are dropped from queries, from documents, or from both.
    skiplist_tasks: tuple[Task, ...] = ("document",)
    # "meanmaxsim" divides MaxSim by the number of query tokens.
    similarity: Similarity = "maxsim"

    def __post_init__(self) -> None:
        problems = [
            f"{name!r} must be at least 3 ([CLS], a token, [SEP]), got {getattr(self, name)}"
            for name in ("query_length", "document_length")
            if getattr(self, name) < 3
        ]
        if self.do_query_expansion and self.expansion_token_id is None:
            problems.append("query expansion needs 'expansion_token_id'")
        if self.expansion_token_id is not None and not 0 <= self.expansion_token_id < _MAX_ID:
            problems.append(f"'expansion_token_id' must be a token id, got {self.expansion_token_id}")
        if self.expansion_length is not None and not 1 <= self.expansion_length <= self.query_length:
            problems.append(
                f"'expansion_length' must be in 1..{self.query_length}, got {self.expansion_length}"
            )
        problems += [
            f"{name!r} has {len(getattr(self, name))} characters; at most {MAX_PREFIX} are allowed"
            for name in ("query_prefix", "document_prefix")
            if len(getattr(self, name)) > MAX_PREFIX
        ]
        filled = self.expansion_length or self.query_length
        if self.do_query_expansion and filled > _MAX_EXPANSION:
            problems.append(f"queries are filled up to {filled} tokens; at most {_MAX_EXPANSION} are allowed")
        if problems:
            raise ConfigError("ColBERT settings", problems)


@dataclass(frozen=True)
class QuantizationConfig:
    """MLX's affine quantisation of the large matrices."""

    bits: int
    group_size: int

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8) or self.group_size not in (32, 64, 128):
            raise ConfigError(
                "quantization settings",
                [f"bits must be 2, 4 or 8, group_size 32, 64 or 128; got {self.bits} and {self.group_size}"],
            )


@dataclass(frozen=True)
class SourceConfig:
    """Where the weights came from."""

    # Hub id, or the name of the local folder.
    id: str
    # Commit of the hub repository; None for a local folder.
    revision: str | None
    # The layout of the checkpoint.
    layout: Layout
    # File name -> sha256 of the weight files read.
    weights: Mapping[str, str] = field(default_factory=dict)
    # Version of this package that converted the checkpoint.
    converter: str = ""
    # The language whose adapters were kept, if the checkpoint has adapters for each language.
    language: str | None = None
    # 8 if the original weights were 8-bit integers with one step size per matrix. None: they were floats.
    weight_bits: int | None = None
    # Settings that were not understood, and that the user chose to ignore.
    ignored_config_keys: tuple[str, ...] = ()


def _chosen(settings: Backbone | ColBERTConfig | ProjectionLayer) -> dict[str, Any]:
    """The settings that differ from their defaults. So a setting of a later version changes nothing here."""
    values = ((field.name, getattr(settings, field.name), field.default) for field in fields(settings))
    return {name: value for name, value, default in values if value != default}


@dataclass(frozen=True)
class ModelConfig:
    """The whole `config.json` of a converted model folder."""

    # The backbone. In the file its name is that of its kind, "encoder" or "decoder".
    encoder: Backbone
    projection: tuple[ProjectionLayer, ...]
    colbert: ColBERTConfig
    source: SourceConfig
    # Type of the stored weights.
    dtype: Dtype
    # sha256 of model.safetensors and of tokenizer.json.
    weights_sha256: str
    tokenizer_sha256: str
    quantization: QuantizationConfig | None = None

    def __post_init__(self) -> None:
        problems = projection_problems(self.encoder.hidden_size, self.projection)
        for name in ("query_length", "document_length"):
            if getattr(self.colbert, name) > self.encoder.max_length:
                length, limit = getattr(self.colbert, name), self.encoder.max_length
                problems.append(f"{name} {length} exceeds the encoder's {limit} positions")
        if problems:
            raise ConfigError("model settings", problems)

    @property
    def dim(self) -> int:
        """D of the token embeddings."""
        return self.projection[-1].out_features if self.projection else self.encoder.hidden_size

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, the tokenizer and every setting that changes the embeddings."""
        parts = [
            _chosen(self.encoder),
            _chosen(self.colbert),
            [_chosen(layer) for layer in self.projection],
        ]
        files = [self.weights_sha256, self.tokenizer_sha256]
        text = json.dumps([*parts, *files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads back."""
        values = asdict(self)
        if self.quantization is None:
            del values["quantization"]
        (kind,) = (name for name, cls in BACKBONES.items() if type(self.encoder) is cls)
        values = {kind: values.pop("encoder"), **values}
        return {"model_type": "mlx-colbert", "format": 1, **values}

    @classmethod
    def from_dict(cls, values: Any, *, where: str = "config.json") -> ModelConfig:
        """A model's settings from parsed JSON.

        Raises:
            ConfigError: if a key is missing, unknown or out of range. The error names all of them.
        """
        if not isinstance(values, Mapping) or values.get("model_type") != "mlx-colbert":
            raise ConfigError(where, ["this is not the config.json of a converted model"])
        if values.get("format") != 1:
            raise ConfigError(
                where, [f"its format is {shown(values.get('format'))}, not 1. Upgrade mlx-colbert"]
            )
        parts = {key: value for key, value in values.items() if key not in ("model_type", "format")}
        kinds = [name for name in BACKBONES if name in parts]
        if len(kinds) != 1:
            raise ConfigError(where, [f"must have either {' or '.join(map(repr, BACKBONES))}"])
        readers: dict[str, type[Any]] = {
            **BACKBONES,
            "colbert": ColBERTConfig,
            "source": SourceConfig,
            "quantization": QuantizationConfig,
        }
        for key, reader in readers.items():
            if parts.get(key) is not None:
                parts[key] = _from_dict(reader, parts[key], f"{where}: {key}")
        parts["encoder"] = parts.pop(kinds[0])
        layers = parts.get("projection")
        if isinstance(layers, list):
            parts["projection"] = tuple(
                _from_dict(ProjectionLayer, layer, f"{where}: projection layer {number}")
                for number, layer in enumerate(layers)
            )
        return _from_dict(cls, parts, where)
