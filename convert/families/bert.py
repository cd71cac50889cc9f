"""BERT and its descendants: settings and tensor names.

Several are published as code beside a checkpoint. That code is never run; this file says what it computes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlx_colbert.convert.families.hf_config import ACTIVATION_NAMES, HFConfig
from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.model.config import EncoderConfig
from mlx_colbert.types import Activation
from mlx_colbert.untrusted import shown

__all__ = ["BERT", "BERT_HASH", "JINA_BERT", "ROBERTA", "XLM_ROBERTA_FLASH", "XMOD"]


def _sizes(hf: HFConfig) -> EncoderConfig:
    """The settings that all of these families have."""
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
    )


def _bert(hf: HFConfig) -> EncoderConfig:
    hf.require("position_embedding_type", "absolute")
    return replace(_sizes(hf), activation=hf.activation("hidden_act"))


def _roberta(hf: HFConfig) -> EncoderConfig:
    base = _bert(hf)
    pad = hf.integer("pad_token_id", 1)
    return replace(
        base, max_length=max(base.max_length - pad - 1, 1), position_offset=pad + 1, position_skip_id=pad
    )


def _bert_hash(hf: HFConfig) -> EncoderConfig:
    """NeuML's BertHashModel: a BERT whose token table has a few columns, which a linear layer widens."""
    hf.implementation("BertHashConfig")
    return replace(_bert(hf), token_width=hf.integer("projections", 5))


def _jina_bert(hf: HFConfig) -> EncoderConfig:
    """jinaai/jina-bert-implementation: symmetric ALiBi, and a gated MLP without a bias before its gate."""
    hf.implementation("JinaBertConfig")
    hf.optional("emb_pooler")  # only for one vector per text
    hf.optional("hidden_act")  # not used by a gated MLP
    hf.require("position_embedding_type", "alibi")
    gates: dict[object, Activation] = {"geglu": "gelu", "reglu": "relu"}
    kind = hf.optional("feed_forward_type")
    if not isinstance(kind, str) or kind not in gates:
        hf.problems.append(f"config.json: 'feed_forward_type' = {shown(kind)} is not implemented")
    return replace(
        _sizes(hf),
        position="alibi",
        gated_mlp=True,
        mlp_up_bias=False,
        activation=gates.get(kind, "gelu"),
    )


def _xlm_roberta_flash(hf: HFConfig) -> EncoderConfig:
    """jinaai/xlm-roberta-flash-implementation: XLM-R with rotary positions and the names of flash-attn."""
    hf.implementation("XLMRobertaFlashConfig")
    hf.require("position_embedding_type", "rotary")
    hf.require("rotary_emb_interleaved", False)
    hf.require("rotary_emb_scale_base")
    hf.require("last_layer_subset", False)
    hf.require("pad_vocab_size_multiple", 1)
    hf.require("task_instructions")
    if hf.optional("load_trained_adapters"):
        hf.problems.append(
            "config.json: 'load_trained_adapters' = True: LoRA adapters are not merged here. Merge them first"
        )
    # Not used without those adapters, or only for one vector per text.
    for key in (
        *("lora_adaptations", "lora_rank", "lora_alpha", "lora_dropout_p", "lora_main_params_trainable"),
        "emb_pooler",
    ):
        hf.optional(key)
    base = _sizes(hf)
    hf.require("rotary_emb_dim", base.hidden_size // base.n_heads)
    return replace(
        base,
        position="rope",
        max_length=max(base.max_length - hf.integer("pad_token_id", 1) - 1, 1),
        activation=hf.activation("hidden_act"),
        global_rope_theta=hf.number("rotary_emb_base", 10000.0),
    )


def _xmod(hf: HFConfig) -> EncoderConfig:
    """X-MOD: an XLM-R with one adapter for each language in each layer."""
    hf.optional("languages")
    hf.optional("default_language")
    hf.require("pre_norm", False)
    hf.require("adapter_layer_norm", False)
    hf.require("adapter_reuse_layer_norm", True)
    hf.require("ln_before_adapter", True)
    base = _roberta(hf)
    return replace(base, adapter_size=base.hidden_size // max(hf.integer("adapter_reduction_factor", 2), 1))


def _bert_settings(encoder: EncoderConfig, language: str) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": encoder.vocab_size,
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.n_layers,
        "num_attention_heads": encoder.n_heads,
        "intermediate_size": encoder.intermediate_size,
        "max_position_embeddings": encoder.max_length,
        # transformers cannot leave the table out.
        "type_vocab_size": max(encoder.type_vocab_size, 1),
        "layer_norm_eps": encoder.norm_eps,
        "hidden_act": ACTIVATION_NAMES.get(encoder.activation, "gelu"),
    }


def _roberta_settings(encoder: EncoderConfig, language: str) -> dict[str, Any]:
    return {
        **_bert_settings(encoder, language),
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaModel"],
        "max_position_embeddings": encoder.max_length + encoder.position_offset,
        "pad_token_id": max(encoder.position_offset - 1, 0),
    }


def _xmod_settings(encoder: EncoderConfig, language: str) -> dict[str, Any]:
    return {
        **_roberta_settings(encoder, language),
        "model_type": "xmod",
        "architectures": ["XmodModel"],
        "pre_norm": False,
        "adapter_layer_norm": False,
        "adapter_reuse_layer_norm": True,
        "ln_before_adapter": True,
        "adapter_reduction_factor": encoder.hidden_size // max(encoder.adapter_size, 1),
        "languages": [language],
        "default_language": language,
    }


_MODULES = {
    "embeddings.token": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
_LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention.norm": ("attention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp.norm": ("output.LayerNorm",),
}
_HEADS = ("pooler.", "cls.", "lm_head.", "classifier.", "qa_outputs.", "dropout.")


BERT = Architecture(
    read=_bert,
    prefixes=("bert.", ""),
    modules=_MODULES,
    layer="encoder.layer.{i}",
    layer_modules=_LAYER,
    heads=_HEADS,
    settings=_bert_settings,
)

BERT_HASH = replace(
    BERT,
    read=_bert_hash,
    settings=None,
    modules={
        **_MODULES,
        "embeddings.token": "embeddings.word_embeddings.embeddings",
        "embeddings.widen": "embeddings.word_embeddings.projections",
    },
)

JINA_BERT = replace(
    BERT,
    read=_jina_bert,
    settings=None,
    layer_modules={
        **_LAYER,
        "mlp.up": ("mlp.gated_layers",),
        "mlp.down": ("mlp.wo",),
        "mlp.norm": ("mlp.layernorm",),
    },
)

ROBERTA = replace(BERT, read=_roberta, prefixes=("roberta.", ""), settings=_roberta_settings)

XLM_ROBERTA_FLASH = replace(
    ROBERTA,
    read=_xlm_roberta_flash,
    settings=None,
    modules={**_MODULES, "embeddings.norm": "emb_ln"},
    layer="encoder.layers.{i}",
    layer_modules={
        "attention.qkv": ("mixer.Wqkv",),
        "attention.out": ("mixer.out_proj",),
        "attention.norm": ("norm1",),
        "mlp.up": ("mlp.fc1",),
        "mlp.down": ("mlp.fc2",),
        "mlp.norm": ("norm2",),
    },
)

XMOD = replace(
    ROBERTA,
    read=_xmod,
    settings=_xmod_settings,
    layer_modules={
        **_LAYER,
        "adapter.down": ("output.adapter_modules.{language}.dense1",),
        "adapter.up": ("output.adapter_modules.{language}.dense2",),
    },
    adapters="output.adapter_modules",
)
