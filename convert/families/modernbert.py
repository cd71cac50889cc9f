"""ModernBERT, and Ettin and mmBERT, which are ModernBERTs: settings and tensor names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_colbert.convert.families.hf_config import ACTIVATION_NAMES, HFConfig, is_positive
from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.model.config import EncoderConfig
from mlx_colbert.untrusted import shown

__all__ = ["MODERNBERT"]


def _rope_theta(hf: HFConfig, kind: str, old_key: str, default: float) -> float:
    """The theta of "full_attention" or "sliding_attention", from the nested or the flat settings."""
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
        hf.problems.append(f"config.json: 'rope_parameters' {shown(dict(entry))} is not implemented")
    theta = entry.get("rope_theta", default if flat is None else flat)
    if not is_positive(theta):
        hf.problems.append(f"config.json: 'rope_theta' must be a number > 0, got {shown(theta)}")
        return default
    return float(theta)


def _global_every(hf: HFConfig, n_layers: int) -> int:
    """The period of the layers with global attention."""
    layer_types = hf.optional("layer_types")
    every = hf.integer("global_attn_every_n_layers", 3)
    if layer_types is None:
        return max(every, 1)
    # The list must have one entry for each layer. Another length is refused first, because it may be huge.
    if not isinstance(layer_types, list) or len(layer_types) != n_layers or n_layers > 1024:
        n_layers = 0
    for period in range(1, n_layers + 1):
        if layer_types == ["sliding_attention" if i % period else "full_attention" for i in range(n_layers)]:
            return period
    hf.problems.append(f"config.json: 'layer_types' {shown(layer_types)} is not periodic")
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
    # Until transformers 4.57, a null local theta meant the global theta.
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


def _modernbert_settings(encoder: EncoderConfig, language: str) -> dict[str, Any]:
    return {
        "model_type": "modernbert",
        "architectures": ["ModernBertModel"],
        "vocab_size": encoder.vocab_size,
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.n_layers,
        "num_attention_heads": encoder.n_heads,
        "intermediate_size": encoder.intermediate_size,
        "max_position_embeddings": encoder.max_length,
        "norm_eps": encoder.norm_eps,
        "norm_bias": encoder.norm_bias,
        "attention_bias": encoder.attention_bias,
        "mlp_bias": encoder.mlp_bias,
        "hidden_activation": ACTIVATION_NAMES.get(encoder.activation, "gelu"),
        "global_attn_every_n_layers": encoder.global_every,
        "local_attention": encoder.local_window,
        "global_rope_theta": encoder.global_rope_theta,
        "local_rope_theta": encoder.local_rope_theta,
    }


MODERNBERT = Architecture(
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
    settings=_modernbert_settings,
)
