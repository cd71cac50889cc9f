"""The decoder families: the settings in config.json. The tensors keep their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlx_colbert.convert.families.hf_config import HFConfig, is_positive
from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.model.backbones.decoder import DecoderConfig
from mlx_colbert.types import Array
from mlx_colbert.untrusted import shown

__all__ = ["LFM2", "PPLX_QWEN3", "QWEN3"]


def _rope_theta(hf: HFConfig, default: float) -> float:
    """The theta of all layers, from `rope_parameters` (transformers 5) or from the older key."""
    hf.require("rope_scaling")
    nested = hf.optional("rope_parameters")
    theta = hf.number("rope_theta", default)
    if nested is None:
        return theta
    if not isinstance(nested, Mapping) or set(nested) - {"rope_theta", "rope_type"}:
        hf.problems.append(f"config.json: 'rope_parameters' {shown(nested)} is not implemented")
        return theta
    theta = nested.get("rope_theta", theta)
    if nested.get("rope_type", "default") != "default" or not is_positive(theta):
        hf.problems.append(f"config.json: 'rope_parameters' {shown(dict(nested))} is not implemented")
        return default
    return float(theta)


def _lfm2_mlp_width(hf: HFConfig) -> int:
    """The width of the MLP. The number in config.json is adjusted."""
    width = hf.integer("intermediate_size", 12288)
    if "block_ff_dim" in hf.values:
        width = hf.integer("block_ff_dim")
    multiple = hf.integer("block_multiple_of", 256)
    multiplier = hf.number("block_ffn_dim_multiplier", 1.0)
    if hf.flag("block_auto_adjust_ff_dim", True):
        # A huge width must not overflow a float. No tensor has such a width.
        width = int(multiplier * (2 * min(width, 1 << 40) // 3))
        width = max(multiple, 1) * -(-width // max(multiple, 1))
    return width


def _attention_layers(hf: HFConfig, n_layers: int) -> tuple[int, ...]:
    """The numbers of LFM2's layers with attention."""
    kinds, indices = hf.optional("layer_types"), hf.optional("full_attn_idxs")
    if (
        isinstance(kinds, list)
        and len(kinds) == n_layers
        and all(kind in ("conv", "full_attention") for kind in kinds)
    ):
        return tuple(number for number, kind in enumerate(kinds) if kind == "full_attention")
    if kinds is None and isinstance(indices, list) and all(type(index) is int for index in indices):
        return tuple(sorted(indices))
    hf.problems.append(f"config.json: 'layer_types' {shown(kinds)} is not implemented for {n_layers} layers")
    return (0,)


def _read_lfm2(hf: HFConfig) -> DecoderConfig:
    """LiquidAI's LFM2: gated convolutions, and attention in some layers."""
    named, code = hf.optional("architectures"), hf.optional("auto_map")
    if code or named not in (None, ["Lfm2Model"], ["Lfm2ForCausalLM"]):
        hf.problems.append(
            f"config.json: 'architectures' {shown(named)} is another LFM2. It is code in the repository, "
            "as with LFM2.5's bidirectional encoders. It is not implemented, and such code is never run"
        )
    hf.require("is_causal", True)
    hf.require("use_bidirectional_attention", False)
    hidden, heads = hf.integer("hidden_size"), hf.integer("num_attention_heads")
    n_layers = hf.integer("num_hidden_layers")
    theta = _rope_theta(hf, 1000000.0)
    # The first releases repeat these settings under names of Liquid.
    hf.require("theta", theta)
    hf.require("num_heads", heads)
    for key in ("block_dim", "conv_dim", "conv_dim_out"):
        hf.require(key, hidden)
    for key in ("use_pos_enc", "block_use_swiglu"):
        hf.require(key, True)
    hf.require("conv_bias", False)
    for key in ("block_norm_eps", "block_mlp_init_scale", "block_out_init_scale"):
        hf.optional(key)
    for key in ("block_use_xavier_init", "conv_use_xavier_init", "tie_embedding"):
        hf.optional(key)
    return DecoderConfig(
        family="lfm2",
        vocab_size=hf.integer("vocab_size"),
        hidden_size=hidden,
        n_layers=n_layers,
        n_heads=heads,
        n_kv_heads=hf.integer("num_key_value_heads"),
        head_size=hidden // max(heads, 1),
        intermediate_size=_lfm2_mlp_width(hf),
        max_length=hf.integer("max_position_embeddings"),
        norm_eps=hf.number("norm_eps", 1e-5),
        rope_theta=theta,
        attention_layers=_attention_layers(hf, n_layers),
        conv_width=hf.integer("conv_L_cache", 3),
    )


def _qwen3(hf: HFConfig, *, bidirectional: bool) -> DecoderConfig:
    hf.require("hidden_act", "silu")
    hf.require("attention_bias", False)
    hf.require("use_sliding_window", False)
    # These have no effect without use_sliding_window.
    for key in ("sliding_window", "max_window_layers"):
        hf.optional(key)
    n_layers = hf.integer("num_hidden_layers")
    kinds = hf.optional("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or kinds != ["full_attention"] * len(kinds)):
        hf.problems.append(f"config.json: 'layer_types' {shown(kinds)} is not implemented")
    return DecoderConfig(
        family="qwen3",
        vocab_size=hf.integer("vocab_size"),
        hidden_size=hf.integer("hidden_size"),
        n_layers=n_layers,
        n_heads=hf.integer("num_attention_heads"),
        n_kv_heads=hf.integer("num_key_value_heads"),
        head_size=hf.integer("head_dim", 128),
        intermediate_size=hf.integer("intermediate_size"),
        max_length=hf.integer("max_position_embeddings"),
        norm_eps=hf.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(hf, 10000.0),
        bidirectional=bidirectional,
    )


def _read_qwen3(hf: HFConfig) -> DecoderConfig:
    """Alibaba's Qwen3, with causal attention."""
    hf.require("is_causal", True)
    hf.require("use_bidirectional_attention", False)
    hf.require("auto_map")
    return _qwen3(hf, bidirectional=False)


def _read_pplx_qwen3(hf: HFConfig) -> DecoderConfig:
    """Perplexity's Qwen3: every token attends to all tokens.

    Its `auto_map` names code that does only this (PPLXQwen3Model in modeling.py of the repository). The code
    is not run here.
    """
    hf.require("use_bidirectional_attention", True)
    hf.require("is_causal", False)
    hf.optional("auto_map")
    return _qwen3(hf, bidirectional=True)


def _channels_last(name: str, tensor: Array) -> Array:
    """The weight of a convolution in the order of MLX (out, width, 1), from that of torch (out, 1, width)."""
    if not name.endswith("conv.conv.weight") or tensor.ndim != 3 or tensor.shape[1] != 1:
        return tensor
    return tensor.transpose(0, 2, 1)


def _decoder(read: Callable[[HFConfig], DecoderConfig]) -> Architecture:
    """A decoder family. mlx-lm computes it with the names of the checkpoint."""
    return Architecture(
        read=read,
        prefixes=("model.", ""),
        modules={"embeddings.token": "embed_tokens"},  # to recognise the prefix
        layer="",
        layer_modules={},
        heads=("lm_head.",),
        reorder=_channels_last,
    )


LFM2 = _decoder(_read_lfm2)
QWEN3 = _decoder(_read_qwen3)
PPLX_QWEN3 = _decoder(_read_pplx_qwen3)
