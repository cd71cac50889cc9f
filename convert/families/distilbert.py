"""DistilBERT: settings and tensor names."""

from __future__ import annotations

from typing import Any

from mlx_colbert.convert.families.hf_config import ACTIVATION_NAMES, HFConfig
from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.model.config import EncoderConfig

__all__ = ["DISTILBERT"]


def _distilbert(hf: HFConfig) -> EncoderConfig:
    hf.require("is_encoder_decoder", False)
    hf.require("pruned_heads", {})
    # If there is a sinusoidal table, it is stored with the weights.
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


def _distilbert_settings(encoder: EncoderConfig, language: str) -> dict[str, Any]:
    return {
        "model_type": "distilbert",
        "architectures": ["DistilBertModel"],
        "vocab_size": encoder.vocab_size,
        "dim": encoder.hidden_size,
        "n_layers": encoder.n_layers,
        "n_heads": encoder.n_heads,
        "hidden_dim": encoder.intermediate_size,
        "max_position_embeddings": encoder.max_length,
        "activation": ACTIVATION_NAMES.get(encoder.activation, "gelu"),
    }


DISTILBERT = Architecture(
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
    settings=_distilbert_settings,
)
