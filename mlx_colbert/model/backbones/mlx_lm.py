"""Decoders on MLX: the layers of mlx-lm, with the masks that an encoder needs.

The forward pass of mlx-lm is for generation: it cannot leave out tokens, and tokens cannot attend to later
ones. Only this file imports mlx-lm. The settings are those of `decoder.py`, which imports this file.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import lfm2, qwen3

from mlx_colbert.kernels import Params
from mlx_colbert.types import Array

__all__ = ["encode", "with_decoder"]


def _lfm2(cfg: Any) -> Any:
    args = lfm2.ModelArgs(
        model_type="lfm2",
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.hidden_size,
        num_hidden_layers=cfg.n_layers,
        num_attention_heads=cfg.n_heads,
        num_key_value_heads=cfg.n_kv_heads,
        max_position_embeddings=cfg.max_length,
        norm_eps=cfg.norm_eps,
        conv_bias=False,
        conv_L_cache=cfg.conv_width,
        block_dim=cfg.hidden_size,
        block_ff_dim=cfg.intermediate_size,
        block_multiple_of=1,
        block_ffn_dim_multiplier=1.0,
        block_auto_adjust_ff_dim=False,
        rope_theta=cfg.rope_theta,
        full_attn_idxs=list(cfg.attention_layers),
    )
    return lfm2.Lfm2Model(args)


def _qwen3(cfg: Any) -> Any:
    args = qwen3.ModelArgs(
        model_type="qwen3",
        hidden_size=cfg.hidden_size,
        num_hidden_layers=cfg.n_layers,
        intermediate_size=cfg.intermediate_size,
        num_attention_heads=cfg.n_heads,
        rms_norm_eps=cfg.norm_eps,
        vocab_size=cfg.vocab_size,
        num_key_value_heads=cfg.n_kv_heads,
        max_position_embeddings=cfg.max_length,
        rope_theta=cfg.rope_theta,
        head_dim=cfg.head_size,
        tie_word_embeddings=True,
    )
    return qwen3.Qwen3Model(args)


def with_decoder(params: Params, cfg: Any) -> dict[str, Any]:
    """The parameters. Those of the decoder are in one module of mlx-lm, under the name "decoder".

    Args:
        params: MLX arrays with the names of `expected_shapes`.
        cfg: the decoder's settings.
    """

    def quantization(path: str, layer: Any) -> bool | dict[str, int]:
        """Bits and group size of a matrix, as its shapes tell. False if it is not quantised."""
        if f"{path}.scales" not in params:
            return False
        width = layer.weight.shape[-1]
        packed, scales = params[f"{path}.weight"], params[f"{path}.scales"]
        return {"group_size": width // scales.shape[-1], "bits": packed.shape[-1] * 32 // width}

    module = _lfm2(cfg) if cfg.family == "lfm2" else _qwen3(cfg)
    nn.quantize(module, class_predicate=quantization)
    own = {name: value for name, value in params.items() if not name.startswith("projection.")}
    module.load_weights(list(own.items()), strict=True)
    return {"decoder": module, **{name: value for name, value in params.items() if name not in own}}


def encode(params: Params, cfg: Any, ids: Array, mask: Array) -> mx.array:
    """Hidden states of the last layer: (B, L, H).

    A convolution reads zeros in place of the tokens outside the mask, and adds nothing to these tokens.
    transformers computes LFM2 in the same way.

    Args:
        params: the parameters that `with_decoder` returns.
        cfg: the decoder's settings.
        ids: (B, L) int.
        mask: (B, L) bool, True for the tokens that other tokens attend to. The first token of a row is True.
    """
    module = params["decoder"]
    everything = bool(mask.all())
    attended = mx.array(mask)
    attention: Any = None if cfg.bidirectional else "causal"
    if not everything:
        attention = attended[:, None, None, :]
        if not cfg.bidirectional:
            attention = attention & mx.tri(ids.shape[1], dtype=mx.bool_)
    x: mx.array = module.embed_tokens(mx.array(ids))
    for number, layer in enumerate(module.layers):
        if cfg.family == "qwen3" or number in cfg.attention_layers:
            x = layer(x, attention)
            continue
        normed = layer.operator_norm(x)
        x = x + layer.conv(normed if everything else mx.where(attended[..., None], normed, 0))
        x = x + layer.feed_forward(layer.ffn_norm(x))
    hidden: mx.array = module.embedding_norm(x) if cfg.family == "lfm2" else module.norm(x)
    return hidden
