"""The model families: how each one's settings and tensor names map to this package's.

A family is one entry of `REGISTRY`, keyed by the `model_type` of its config.json: a function that reads
the settings, and a table of names. The runtime knows none of these names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_colbert.config import EncoderConfig
from mlx_colbert.convert.decoders import channels_last, read_lfm2, read_pplx_qwen3, read_qwen3
from mlx_colbert.convert.hf_config import HFConfig, is_positive
from mlx_colbert.decoder import DecoderConfig
from mlx_colbert.encoder import expected_shapes
from mlx_colbert.errors import CheckpointError, ConfigError
from mlx_colbert.types import Array

__all__ = ["REGISTRY", "Architecture", "architecture_of", "canonical_tensors", "read_encoder_config"]


@dataclass(frozen=True)
class Architecture:
    """One model family.

    Attributes:
        read: its encoder (or decoder) settings from its config.json.
        prefixes: what may stand before its tensor names; the bare model's "" among them.
        modules: canonical module -> its modules; several are joined along the output axis.
        layer: where layer {i} lies.
        layer_modules: the same within a layer; empty for a decoder, which keeps its names.
        heads: beginnings of tensor names that belong to parts not used here.
        reorder: the axes of a tensor, by its canonical name, in this package's order.
    """

    read: Callable[[HFConfig], EncoderConfig | DecoderConfig]
    prefixes: tuple[str, ...]
    modules: Mapping[str, str]
    layer: str
    layer_modules: Mapping[str, tuple[str, ...]]
    heads: tuple[str, ...]
    reorder: Callable[[str, Array], Array] = lambda _, tensor: tensor

    def sources(self, canonical: str) -> tuple[str, ...]:
        """The family's names, without prefix, of the tensors behind a canonical one."""
        if not self.layer_modules:
            return (canonical,)
        module, _, suffix = canonical.rpartition(".")
        if module.startswith("layers."):
            _, number, rest = module.split(".", 2)
            place = self.layer.format(i=number)
            return tuple(f"{place}.{name}.{suffix}" for name in self.layer_modules[rest])
        return (f"{self.modules[module]}.{suffix}",)


def _bert(hf: HFConfig) -> EncoderConfig:
    hf.require("position_embedding_type", "absolute")
    hf.require("is_decoder", False)
    hf.require("add_cross_attention", False)
    hf.require("is_encoder_decoder", False)
    hf.require("pruned_heads", {})
    return EncoderConfig(
        vocab_size=hf.integer("vocab_size"),
        hidden_size=hf.integer("hidden_size"),
        n_layers=hf.integer("num_hidden_layers"),
        n_heads=hf.integer("num_attention_heads"),
        intermediate_size=hf.integer("intermediate_size"),
        max_length=hf.integer("max_position_embeddings"),
        position="absolute",
        type_vocab_size=hf.integer("type_vocab_size", 2),
        norm_eps=hf.number("layer_norm_eps", 1e-12),
        activation=hf.activation("hidden_act"),
    )


def _roberta(hf: HFConfig) -> EncoderConfig:
    base = _bert(hf)
    pad = hf.integer("pad_token_id", 1)
    return replace(
        base, max_length=max(base.max_length - pad - 1, 1), position_offset=pad + 1, position_skip_id=pad
    )


def _distilbert(hf: HFConfig) -> EncoderConfig:
    hf.require("is_encoder_decoder", False)
    hf.require("pruned_heads", {})
    # The sinusoidal table, where there is one, is stored among the weights.
    hf.flag("sinusoidal_pos_embds", False)
    return EncoderConfig(
        vocab_size=hf.integer("vocab_size"),
        hidden_size=hf.integer("dim"),
        n_layers=hf.integer("n_layers"),
        n_heads=hf.integer("n_heads"),
        intermediate_size=hf.integer("hidden_dim"),
        max_length=hf.integer("max_position_embeddings"),
        position="absolute",
        norm_eps=1e-12,  # fixed in transformers' modeling_distilbert.py
        activation=hf.activation("activation"),
    )


def _rope_theta(hf: HFConfig, kind: str, old_key: str, default: float) -> float:
    """The theta of "full_attention" or "sliding_attention", from the nested or the flat dialect."""
    nested = hf.optional("rope_parameters")
    flat = hf.number(old_key, default) if hf.values.get(old_key) is not None else None
    hf.optional(old_key)
    if nested is None:
        return default if flat is None else flat
    entry = nested.get(kind) if isinstance(nested, Mapping) else None
    if not isinstance(entry, Mapping):
        hf.problems.append(f"config.json: 'rope_parameters' has no {kind!r}")
        return default
    unknown = {key: value for key, value in entry.items() if key not in ("rope_theta", "rope_type")}
    if unknown or entry.get("rope_type", "default") != "default":
        hf.problems.append(f"config.json: 'rope_parameters' {dict(entry)!r} is not implemented")
    theta = entry.get("rope_theta", default if flat is None else flat)
    if not is_positive(theta):
        hf.problems.append(f"config.json: 'rope_theta' must be a number > 0, got {theta!r}")
        return default
    return float(theta)


def _global_every(hf: HFConfig, n_layers: int) -> int:
    """The period of the layers with global attention."""
    layer_types = hf.optional("layer_types")
    every = hf.integer("global_attn_every_n_layers", 3)
    if layer_types is None:
        return max(every, 1)
    # Another length than that of the layers is never periodic; an absurd one is not looped over.
    if not isinstance(layer_types, list) or len(layer_types) != n_layers or n_layers > 1024:
        n_layers = 0
    for period in range(1, n_layers + 1):
        if layer_types == ["sliding_attention" if i % period else "full_attention" for i in range(n_layers)]:
            return period
    hf.problems.append(f"config.json: 'layer_types' {layer_types!r} is not periodic")
    return 1


def _modernbert(hf: HFConfig) -> EncoderConfig:
    hf.require("is_causal", False)
    hf.require("causal_mask", False)
    hf.require("is_decoder", False)
    hf.require("rope_scaling")
    hf.require("position_embedding_type", "absolute", "sans_pos")  # read by no version of the model
    hf.optional("layer_norm_eps")  # written beside norm_eps, which is what counts
    hidden, heads = hf.integer("hidden_size"), hf.integer("num_attention_heads")
    hf.require("head_dim", hidden // max(heads, 1))
    n_layers = hf.integer("num_hidden_layers")
    every = _global_every(hf, n_layers)
    global_theta = _rope_theta(hf, "full_attention", "global_rope_theta", 160000.0)
    # Until transformers 4.57 a null local theta meant the global one.
    shared = "local_rope_theta" in hf.values and hf.values["local_rope_theta"] is None
    local_theta = _rope_theta(
        hf, "sliding_attention", "local_rope_theta", global_theta if shared else 10000.0
    )
    return EncoderConfig(
        vocab_size=hf.integer("vocab_size"),
        hidden_size=hidden,
        n_layers=n_layers,
        n_heads=heads,
        intermediate_size=hf.integer("intermediate_size"),
        max_length=hf.integer("max_position_embeddings"),
        position="rope",
        norm_first=True,
        norm_eps=hf.number("norm_eps", 1e-5),
        norm_bias=hf.flag("norm_bias", False),
        attention_bias=hf.flag("attention_bias", False),
        mlp_bias=hf.flag("mlp_bias", False),
        gated_mlp=True,
        activation=hf.activation("hidden_activation"),
        global_every=every,
        local_window=hf.integer("local_attention", 128),
        global_rope_theta=global_theta,
        local_rope_theta=local_theta,
    )


_BERT_MODULES = {
    "embeddings.token": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
_BERT_LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention.norm": ("attention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp.norm": ("output.LayerNorm",),
}
_BERT_HEADS = ("pooler.", "cls.", "lm_head.", "classifier.", "qa_outputs.", "dropout.")

_ROBERTA = Architecture(
    read=_roberta,
    prefixes=("roberta.", ""),
    modules=_BERT_MODULES,
    layer="encoder.layer.{i}",
    layer_modules=_BERT_LAYER,
    heads=_BERT_HEADS,
)


def _decoder(read: Callable[[HFConfig], DecoderConfig]) -> Architecture:
    """A decoder: mlx-lm computes it under the names that the checkpoint has."""
    return Architecture(
        read=read,
        prefixes=("model.", ""),
        modules={"embeddings.token": "embed_tokens"},  # where the prefix is recognised
        layer="",
        layer_modules={},
        heads=("lm_head.",),
        reorder=channels_last,
    )


REGISTRY: dict[str, Architecture] = {
    "bert": Architecture(
        read=_bert,
        prefixes=("bert.", ""),
        modules=_BERT_MODULES,
        layer="encoder.layer.{i}",
        layer_modules=_BERT_LAYER,
        heads=_BERT_HEADS,
    ),
    "roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": Architecture(
        read=_distilbert,
        prefixes=("distilbert.", ""),
        modules={
            "embeddings.token": "embeddings.word_embeddings",
            "embeddings.position": "embeddings.position_embeddings",
            "embeddings.norm": "embeddings.LayerNorm",
        },
        layer="transformer.layer.{i}",
        layer_modules={
            "attention.qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            "attention.out": ("attention.out_lin",),
            "attention.norm": ("sa_layer_norm",),
            "mlp.up": ("ffn.lin1",),
            "mlp.down": ("ffn.lin2",),
            "mlp.norm": ("output_layer_norm",),
        },
        heads=(
            "vocab_transform.",
            "vocab_layer_norm.",
            "vocab_projector.",
            "pre_classifier.",
            "classifier.",
            "qa_outputs.",
        ),
    ),
    "modernbert": Architecture(
        read=_modernbert,
        prefixes=("model.", ""),
        modules={
            "embeddings.token": "embeddings.tok_embeddings",
            "embeddings.norm": "embeddings.norm",
            "final_norm": "final_norm",
        },
        layer="layers.{i}",
        layer_modules={
            "attention.qkv": ("attn.Wqkv",),
            "attention.out": ("attn.Wo",),
            "attention.norm": ("attn_norm",),
            "mlp.up": ("mlp.Wi",),
            "mlp.down": ("mlp.Wo",),
            "mlp.norm": ("mlp_norm",),
        },
        heads=("head.", "decoder.", "classifier."),
    ),
    "lfm2": _decoder(read_lfm2),
    "qwen3": _decoder(read_qwen3),
    "bidirectional_pplx_qwen3": _decoder(read_pplx_qwen3),
}

# Buffers of older transformers versions: they hold 0, 1, 2, … or zeros.
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")


def architecture_of(values: Mapping[str, Any], where: str) -> Architecture:
    """The family of a config.json.

    Raises:
        CheckpointError: if it is unknown.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise CheckpointError(where, f"unknown architecture {model_type!r} (model_type). Supported: {known}.")
    return REGISTRY[model_type]


def read_encoder_config(
    architecture: Architecture, values: Mapping[str, Any]
) -> tuple[EncoderConfig | DecoderConfig | None, list[str]]:
    """The encoder settings of a config.json (None where sizes make no sense), and what is wrong with it."""
    hf = HFConfig(values)
    try:
        config: EncoderConfig | DecoderConfig | None = architecture.read(hf)
    except ConfigError as error:
        return None, [*hf.finish(), *(f"config.json: {problem}" for problem in error.problems)]
    return (config if hf.sizes_known else None), hf.finish()


def _stripped(architecture: Architecture, tensors: Mapping[str, Array]) -> Iterator[tuple[str, str, Array]]:
    """(name on disk, name without prefix and in today's spelling, tensor) of each tensor of the encoder."""
    table = architecture.modules["embeddings.token"] + ".weight"
    prefix = next((p for p in architecture.prefixes if p + table in tensors), architecture.prefixes[-1])
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            if not name.startswith(architecture.heads):
                yield name, f"outside {prefix}: {name}", tensor
            continue
        short = name.removeprefix(prefix)
        # TensorFlow's names, still in the first BERT checkpoints.
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if short.endswith(old):
                short = short.removesuffix(old) + new
        if not short.startswith(architecture.heads) and not short.endswith(_BUFFERS):
            yield name, short, tensor


def canonical_tensors(
    architecture: Architecture,
    config: EncoderConfig | DecoderConfig,
    tensors: Mapping[str, Array],
    *,
    unused: Sequence[str] = (),
) -> tuple[dict[str, Array], list[str]]:
    """The encoder's parameters under their canonical names, and what is wrong with them.

    Args:
        architecture: the family.
        config: its settings.
        tensors: name on disk -> array.
        unused: names on disk that belong to something else.

    Returns:
        canonical name -> array, and one sentence for each tensor missing, extra or of the wrong shape.
    """
    found = {
        short: (name, tensor)
        for name, short, tensor in _stripped(architecture, tensors)
        if name not in unused
    }
    canonical: dict[str, Array] = {}
    problems: list[str] = []
    used: set[str] = set()
    expected = expected_shapes(config, ())
    for target in expected:
        sources = architecture.sources(target)
        missing = [source for source in sources if source not in found]
        used.update(sources)
        if missing:
            problems += [f"tensor {source} is missing" for source in missing]
            continue
        parts = [found[source][1] for source in sources]
        if len({part.shape[1:] for part in parts}) > 1 or any(part.ndim == 0 for part in parts):
            problems.append(f"tensors {', '.join(sources)} have shapes {[part.shape for part in parts]}")
            continue
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        canonical[target] = architecture.reorder(target, joined)
    problems += [f"tensor {found[short][0]} is not expected" for short in sorted(set(found) - used)]
    problems += [
        f"tensor {', '.join(architecture.sources(name))} has shape {value.shape}, expected {expected[name]}"
        for name, value in canonical.items()
        if value.shape != expected[name]
    ]
    integers = [name for name in canonical if canonical[name].dtype.kind != "f"]
    problems += [f"tensor {', '.join(architecture.sources(name))} holds integers" for name in integers]
    return canonical, problems
