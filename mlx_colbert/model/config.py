"""Settings of the encoder and of ColBERT: frozen dataclasses with a strict `from_dict`.

The names here are this package's own; the families' files in `convert/` map Hugging Face's to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mlx_colbert.errors import ConfigError
from mlx_colbert.model.backbones.decoder import MAX_LAYERS, DecoderConfig
from mlx_colbert.types import Activation
from mlx_colbert.untrusted import shown

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

# Of weights; numpy has no bfloat16.
Dtype = Literal["float32", "float16", "bfloat16"]
# Of a checkpoint, see convert/README.md.
Layout = Literal["stanford", "pylate", "sentence-transformers", "plain"]
# What becomes of a document of more than `document_length` tokens.
OnOverflow = Literal["truncate", "error", "chunk"]
Similarity = Literal["maxsim", "meanmaxsim"]
Task = Literal["query", "document"]

_MAX_FLOAT = 1e38
_MAX_ID = 2**31
# Of a projection's layers; published ones have at most a few thousand.
_MAX_DIM = 1 << 16
# Every query costs this many tokens; published checkpoints fill up to 32, few to 128.
_MAX_EXPANSION = 1024
# Every text is tokenised with its prefix; a marker and a prompt have a few hundred characters.
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
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _from_dict(cls: type[_Config], values: Any, where: str) -> _Config:
    """A config dataclass from parsed JSON; every unknown, missing or mistyped key is reported at once."""
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
class EncoderConfig:
    """Orthogonal choices that cover the BERT-like encoders; see the table in `convert/README.md`."""

    # Rows of the token embedding table.
    vocab_size: int
    # Width of a hidden state.
    hidden_size: int
    n_layers: int
    n_heads: int
    # Width of the MLP; a gated MLP has twice as many rows in `mlp.up`.
    intermediate_size: int
    # Longest sequence in tokens, markers and [SEP] included.
    max_length: int
    # "absolute": a learned table; "rope": rotary, no table; "alibi": scores fall with the distance, no table.
    position: Literal["absolute", "rope", "alibi"]
    # First row used of the position table; XLM-R counts from pad_token_id + 1.
    position_offset: int = 0
    # A token with this id takes position `position_offset - 1` and is not counted (RoBERTa's rule).
    position_skip_id: int | None = None
    # Columns of the token table where a linear layer widens them to hidden_size. 0: hidden_size.
    token_width: int = 0
    # Rows of the token-type table; row 0 is added to every token. 0: no table.
    type_vocab_size: int = 0
    # Normalise before attention and MLP (layer 0 then has no attention norm, and a final norm follows).
    norm_first: bool = False
    norm_eps: float = 1e-12
    # LayerNorm has a bias.
    norm_bias: bool = True
    # Linear layers of the attention have a bias.
    attention_bias: bool = True
    # Linear layers of the MLP have a bias.
    mlp_bias: bool = True
    # Where the MLP has biases, `mlp.up` has one too.
    mlp_up_bias: bool = True
    # up -> activation -> down, or (activation(a) * b) -> down with [a, b] = up(x).
    gated_mlp: bool = False
    activation: Activation = "gelu"
    # Width of the bottleneck after each MLP, which stands between two passes of the MLP's norm. 0: none.
    adapter_size: int = 0
    # Layer i attends globally where i % global_every == 0, else within local_window // 2 tokens
    # on each side. 1: every layer is global.
    global_every: int = 1
    local_window: int = 0
    global_rope_theta: float = 10000.0
    local_rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        problems = [
            f"{name!r} must be at least 1, got {getattr(self, name)}"
            for name in (
                "vocab_size",
                "hidden_size",
                "n_layers",
                "n_heads",
                "intermediate_size",
                "max_length",
                "global_every",
            )
            if getattr(self, name) < 1
        ]
        if self.n_layers > MAX_LAYERS:
            problems.append(f"n_layers must be at most {MAX_LAYERS}, got {self.n_layers}")
        if not problems and self.hidden_size % self.n_heads:
            problems.append(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")
        if not problems and self.position == "rope" and (self.hidden_size // self.n_heads) % 2:
            problems.append("rotary positions need an even head dimension")
        problems += [
            f"{name!r} must be at least 0, got {getattr(self, name)}"
            for name in ("token_width", "adapter_size")
            if getattr(self, name) < 0
        ]
        if self.adapter_size and self.norm_first:
            problems.append("adapters need norms after attention and MLP")
        numbers = ("norm_eps", "global_rope_theta", "local_rope_theta")
        problems += [
            f"{name!r} must be a number > 0, got {getattr(self, name)}"
            for name in numbers
            if not 0 < getattr(self, name) < _MAX_FLOAT
        ]
        if self.global_every > 1 and self.local_window < 2:
            problems.append(f"local attention needs local_window >= 2, got {self.local_window}")
        if problems:
            raise ConfigError("encoder settings", problems)

    def is_global(self, layer: int) -> bool:
        """Whether layer `layer` attends over the whole sequence."""
        return layer % self.global_every == 0


@dataclass(frozen=True)
class ProjectionLayer:
    """One layer of the projection: activation(x W^T + b), plus x or x R^T if residual."""

    in_features: int
    out_features: int
    bias: bool = False
    activation: Activation = "identity"
    residual: bool = False


def projection_problems(hidden_size: int, projection: tuple[ProjectionLayer, ...]) -> list[str]:
    """What keeps the layers from following each other, one sentence each."""
    problems, width = [], hidden_size
    for number, layer in enumerate(projection):
        if layer.in_features != width:
            problems.append(f"projection layer {number} takes {layer.in_features} features, but gets {width}")
        width = layer.out_features
        if width > _MAX_DIM:
            problems.append(f"projection layer {number} makes {width} features, more than {_MAX_DIM}")
    return problems


@dataclass(frozen=True)
class ColBERTConfig:
    """How texts become token embeddings; names as in PyLate's config."""

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
    # Tokens whose vectors are dropped, by vocabulary entry.
    skiplist_words: tuple[str, ...] = ()
    # The sides that drop them.
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
            problems.append(f"queries are to be filled up to {filled} tokens, more than {_MAX_EXPANSION}")
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
    # Which of the checkpoint layouts was read.
    layout: Layout
    # File name -> sha256 of the weight files read.
    weights: Mapping[str, str] = field(default_factory=dict)
    # Version of this package that converted.
    converter: str = ""
    # Whose adapters were kept, of a checkpoint that has some for each language.
    language: str | None = None
    # Bits of the original's weights where they were integers: 8, one step size per matrix. None: floats.
    weight_bits: int | None = None
    # Settings that were not understood and that the user wanted ignored.
    ignored_config_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """The whole `config.json` of a converted model folder."""

    # The backbone; in the file a decoder is called "decoder".
    encoder: EncoderConfig | DecoderConfig
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

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads back."""
        values = asdict(self)
        if self.quantization is None:
            del values["quantization"]
        if isinstance(self.encoder, DecoderConfig):
            values = {"decoder": values.pop("encoder"), **values}
        return {"model_type": "mlx-colbert", "format": 1, **values}

    @classmethod
    def from_dict(cls, values: Any, *, where: str = "config.json") -> ModelConfig:
        """A model's settings from parsed JSON.

        Raises:
            ConfigError: naming every key that is missing, unknown or out of range.
        """
        if not isinstance(values, Mapping) or values.get("model_type") != "mlx-colbert":
            raise ConfigError(where, ["is not the config.json of a converted model"])
        if values.get("format") != 1:
            raise ConfigError(where, [f"format {shown(values.get('format'))} is not 1: upgrade mlx-colbert"])
        parts = {key: value for key, value in values.items() if key not in ("model_type", "format")}
        if ("encoder" in parts) == ("decoder" in parts):
            raise ConfigError(where, ["needs either 'encoder' or 'decoder'"])
        readers: dict[str, type[Any]] = {
            "encoder": EncoderConfig,
            "decoder": DecoderConfig,
            "colbert": ColBERTConfig,
            "source": SourceConfig,
            "quantization": QuantizationConfig,
        }
        for key, reader in readers.items():
            if parts.get(key) is not None:
                parts[key] = _from_dict(reader, parts[key], f"{where}: {key}")
        if "decoder" in parts:
            parts["encoder"] = parts.pop("decoder")
        layers = parts.get("projection")
        if isinstance(layers, list):
            parts["projection"] = tuple(
                _from_dict(ProjectionLayer, layer, f"{where}: projection layer {number}")
                for number, layer in enumerate(layers)
            )
        return _from_dict(cls, parts, where)
