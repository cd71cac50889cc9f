"""The model families: how each one's settings and tensor names map to this package's.

A family is one entry of `REGISTRY`: a function that reads the settings, and a table of names. The runtime
knows none of these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_colbert.convert.families.bert import BERT, BERT_HASH, JINA_BERT, ROBERTA, XLM_ROBERTA_FLASH, XMOD
from mlx_colbert.convert.families.decoders import LFM2, PPLX_QWEN3, QWEN3
from mlx_colbert.convert.families.hf_config import HFConfig
from mlx_colbert.convert.families.modernbert import MODERNBERT
from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.errors import CheckpointError, ConfigError
from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.config import EncoderConfig

__all__ = ["REGISTRY", "architecture_of", "read_encoder_config"]


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


_DISTILBERT = Architecture(
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
)

# By the `model_type` of config.json, and by its position_embedding_type where published code shares the
# model_type of another family.
REGISTRY: dict[str, Architecture] = {
    "bert": BERT,
    "bert (alibi)": JINA_BERT,
    "bert_hash": BERT_HASH,
    "bidirectional_pplx_qwen3": PPLX_QWEN3,
    "camembert": ROBERTA,
    "distilbert": _DISTILBERT,
    "lfm2": LFM2,
    "modernbert": MODERNBERT,
    "qwen3": QWEN3,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "xlm-roberta (rotary)": XLM_ROBERTA_FLASH,
    "xmod": XMOD,
}


def architecture_of(values: Mapping[str, Any], where: str, language: str | None = None) -> Architecture:
    """The family of a config.json.

    Args:
        values: the settings.
        where: the file, for errors.
        language: whose adapters to use where there are some for each language. None: the default one.

    Raises:
        CheckpointError: if the family is unknown, or has no adapters for the language.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise CheckpointError(where, f"unknown architecture {model_type!r} (model_type). Supported: {known}.")
    variant = f"{model_type} ({values.get('position_embedding_type')})"
    architecture = REGISTRY.get(variant, REGISTRY[model_type])
    if architecture.adapters:
        return replace(architecture, language=_language(values, where, language))
    if language is not None:
        raise CheckpointError(where, f"has no adapters for languages: leave --language {language} out.")
    return architecture


def _language(values: Mapping[str, Any], where: str, chosen: str | None) -> str:
    """The language whose adapters are used.

    Raises:
        CheckpointError: if there is no such one, or none was chosen and there is no default.
    """
    languages = values.get("languages")
    languages = [name for name in languages if isinstance(name, str)] if isinstance(languages, list) else []
    language = values.get("default_language") if chosen is None else chosen
    if not isinstance(language, str) or language not in languages:
        problem = "names no default_language" if language is None else f"has no adapters for {language!r}"
        raise CheckpointError(where, f"{problem}. Choose one with --language: {', '.join(languages)}.")
    return language


def read_encoder_config(
    architecture: Architecture, values: Mapping[str, Any]
) -> tuple[Backbone | None, list[str]]:
    """The encoder settings of a config.json (None where sizes make no sense), and what is wrong with it."""
    hf = HFConfig(values)
    try:
        config: Backbone | None = architecture.read(hf)
    except ConfigError as error:
        return None, [*hf.finish(), *(f"config.json: {problem}" for problem in error.problems)]
    return (config if hf.sizes_known else None), hf.finish()
