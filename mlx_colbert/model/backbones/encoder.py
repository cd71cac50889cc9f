"""One forward pass for every BERT-like encoder, written over the kernels of a backend; decoders are mlx-lm's.

Parameters are a flat dict of canonical names and the settings a frozen dataclass; there is no
`nn.Module`, as MLX readers would expect: the same function then serves numpy and MLX, and
`mx.value_and_grad` works on the dict. Quantised weights concern `ops.linear` and `ops.embedding` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from mlx_colbert.errors import InputError
from mlx_colbert.kernels import EncoderOps, Params
from mlx_colbert.model.backbones.decoder import DecoderConfig, decoder_modules
from mlx_colbert.model.config import EncoderConfig, ProjectionLayer
from mlx_colbert.types import Array

__all__ = ["encode", "expected_shapes", "linear_names", "project"]


def _layer_shapes(cfg: EncoderConfig, layer: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """(name, weight shape, has bias) of each module of one layer."""
    hidden, up = cfg.hidden_size, cfg.intermediate_size * (2 if cfg.gated_mlp else 1)
    prefix = f"layers.{layer}"
    yield f"{prefix}.attention.qkv", (3 * hidden, hidden), cfg.attention_bias
    yield f"{prefix}.attention.out", (hidden, hidden), cfg.attention_bias
    if not (cfg.norm_first and layer == 0):
        yield f"{prefix}.attention.norm", (hidden,), cfg.norm_bias
    yield f"{prefix}.mlp.up", (up, hidden), cfg.mlp_bias and cfg.mlp_up_bias
    yield f"{prefix}.mlp.down", (hidden, cfg.intermediate_size), cfg.mlp_bias
    yield f"{prefix}.mlp.norm", (hidden,), cfg.norm_bias
    if cfg.adapter_size:
        yield f"{prefix}.adapter.down", (cfg.adapter_size, hidden), True
        yield f"{prefix}.adapter.up", (hidden, cfg.adapter_size), True


def _encoder_modules(cfg: EncoderConfig) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    yield "embeddings.token", (cfg.vocab_size, cfg.token_width or cfg.hidden_size), False
    if cfg.token_width:
        yield "embeddings.widen", (cfg.hidden_size, cfg.token_width), True
    if cfg.position == "absolute":
        yield "embeddings.position", (cfg.max_length + cfg.position_offset, cfg.hidden_size), False
    if cfg.type_vocab_size:
        yield "embeddings.type", (cfg.type_vocab_size, cfg.hidden_size), False
    yield "embeddings.norm", (cfg.hidden_size,), cfg.norm_bias
    for layer in range(cfg.n_layers):
        yield from _layer_shapes(cfg, layer)
    if cfg.norm_first:
        yield "final_norm", (cfg.hidden_size,), cfg.norm_bias


def _modules(
    cfg: EncoderConfig | DecoderConfig, projection: tuple[ProjectionLayer, ...]
) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """(name, weight shape, has bias) of each module of the model."""
    if isinstance(cfg, DecoderConfig):
        yield from ((name, shape, False) for name, shape in decoder_modules(cfg))
    else:
        yield from _encoder_modules(cfg)
    for number, part in enumerate(projection):
        yield f"projection.{number}", (part.out_features, part.in_features), part.bias
        if part.residual and part.in_features != part.out_features:
            yield f"projection.{number}.residual", (part.out_features, part.in_features), False


def expected_shapes(
    cfg: EncoderConfig | DecoderConfig, projection: tuple[ProjectionLayer, ...]
) -> dict[str, tuple[int, ...]]:
    """Every parameter's name and shape, unquantised."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape, has_bias in _modules(cfg, projection):
        shapes[f"{name}.weight"] = shape
        if has_bias:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def linear_names(cfg: EncoderConfig | DecoderConfig) -> list[str]:
    """The large matrices, which quantisation applies to: the token table and the products of the layers."""
    return [
        name
        for name, shape, _ in _modules(cfg, ())
        if len(shape) == 2 and name not in ("embeddings.position", "embeddings.type")
    ]


@lru_cache(maxsize=16)
def _alibi_slopes(n_heads: int) -> Array:
    """How fast the scores of each head fall with the distance of two tokens: (H,) float32.

    A geometric sequence for 2^k heads; the heads beyond take every other slope of twice as many.

    Source: Press et al. 2022, section 3, and the authors' code.
    """
    power = 1 << (n_heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4.0 / power * np.arange(1, 2 * (n_heads - power), 2))
    return np.concatenate([slopes, between]).astype(np.float32)


def _position_ids(cfg: EncoderConfig, ids: Array) -> Array:
    """Rows of the position table for `ids` (B, L).

    RoBERTa counts only tokens other than its padding token, also where that token stands in a text.
    """
    if cfg.position_skip_id is None:
        return np.broadcast_to(np.arange(ids.shape[1]) + cfg.position_offset, ids.shape)
    counted = ids != cfg.position_skip_id
    positions: Array = np.cumsum(counted, axis=1) * counted + cfg.position_offset - 1
    return positions


def _attend(ops: EncoderOps, params: Params, cfg: EncoderConfig, layer: int, x: Any, keys: Any | None) -> Any:
    """Self-attention of one layer: (B, L, H) to (B, L, H)."""
    batch, length, hidden = x.shape
    qkv = ops.linear(params, f"layers.{layer}.attention.qkv", x)
    heads = qkv.reshape(batch, length, 3, cfg.n_heads, hidden // cfg.n_heads).transpose(2, 0, 3, 1, 4)
    q, k, v = heads[0], heads[1], heads[2]
    if cfg.position == "rope":
        theta = cfg.global_rope_theta if cfg.is_global(layer) else cfg.local_rope_theta
        q, k = ops.rope(q, theta), ops.rope(k, theta)
    slopes = _alibi_slopes(cfg.n_heads) if cfg.position == "alibi" else None
    reach = None if cfg.is_global(layer) or length <= cfg.local_window // 2 + 1 else cfg.local_window // 2
    out = ops.attention(q, k, v, keys, reach, slopes).transpose(0, 2, 1, 3).reshape(batch, length, hidden)
    return ops.linear(params, f"layers.{layer}.attention.out", out)


def _mlp(ops: EncoderOps, params: Params, cfg: EncoderConfig, layer: int, x: Any) -> Any:
    """The feed-forward block of one layer: (B, L, H) to (B, L, H)."""
    up = ops.linear(params, f"layers.{layer}.mlp.up", x)
    if cfg.gated_mlp:
        width = cfg.intermediate_size
        up = ops.activate(cfg.activation, up[..., :width]) * up[..., width:]
    else:
        up = ops.activate(cfg.activation, up)
    return ops.linear(params, f"layers.{layer}.mlp.down", up)


def _adapt(ops: EncoderOps, params: Params, cfg: EncoderConfig, layer: int, x: Any) -> Any:
    """What the adapter of one layer adds to its input, and the norm after it: (B, L, H) to (B, L, H).

    Source: Pfeiffer et al. 2022, section 3.
    """
    narrow = ops.activate(cfg.activation, ops.linear(params, f"layers.{layer}.adapter.down", x))
    x = x + ops.linear(params, f"layers.{layer}.adapter.up", narrow)
    return ops.layer_norm(params, f"layers.{layer}.mlp.norm", x, cfg.norm_eps)


def encode(
    ops: EncoderOps, params: Params, cfg: EncoderConfig | DecoderConfig, ids: Array, mask: Array
) -> Any:
    """Hidden states of the last layer.

    Args:
        ops: the kernels.
        params: as `expected_shapes` lists them; a decoder's as `mlx_lm.with_decoder` gives them.
        cfg: the settings of the encoder, or of a decoder, which mlx-lm computes.
        ids: (B, L) int, token ids in [0, vocab_size).
        mask: (B, L) bool, the tokens that others attend to.

    Returns:
        (B, L, H), an array of the backend. Rows are defined for every position, attended to or not.
    """
    # MLX does not check the range of a gather.
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < cfg.vocab_size:
        raise InputError(
            f"token ids {ids.min()}..{ids.max()} exceed the model's vocabulary of {cfg.vocab_size}: "
            "tokenizer.json does not belong to these weights."
        )
    if isinstance(cfg, DecoderConfig):
        # mlx-lm is optional, and takes a second to import.
        from mlx_colbert.model.backbones import mlx_lm

        return mlx_lm.encode(params, cfg, ids, mask)
    x = ops.embedding(params, "embeddings.token", ops.asarray(ids), cfg.token_width or cfg.hidden_size)
    if cfg.token_width:
        x = ops.linear(params, "embeddings.widen", x)
    if cfg.type_vocab_size:
        x += params["embeddings.type.weight"][0]
    if cfg.position == "absolute":
        positions = ops.asarray(_position_ids(cfg, ids))
        x += ops.embedding(params, "embeddings.position", positions, cfg.hidden_size)
    x = ops.layer_norm(params, "embeddings.norm", x, cfg.norm_eps)
    keys = None if mask.all() else ops.asarray(mask)
    for layer in range(cfg.n_layers):
        attention_norm, mlp_norm = f"layers.{layer}.attention.norm", f"layers.{layer}.mlp.norm"
        if cfg.norm_first:
            normed = x if layer == 0 else ops.layer_norm(params, attention_norm, x, cfg.norm_eps)
            x += _attend(ops, params, cfg, layer, normed, keys)
            x += _mlp(ops, params, cfg, layer, ops.layer_norm(params, mlp_norm, x, cfg.norm_eps))
        else:
            x += _attend(ops, params, cfg, layer, x, keys)
            x = ops.layer_norm(params, attention_norm, x, cfg.norm_eps)
            x += _mlp(ops, params, cfg, layer, x)
            x = ops.layer_norm(params, mlp_norm, x, cfg.norm_eps)
            if cfg.adapter_size:
                x = _adapt(ops, params, cfg, layer, x)
    return ops.layer_norm(params, "final_norm", x, cfg.norm_eps) if cfg.norm_first else x


def project(ops: EncoderOps, params: Params, projection: tuple[ProjectionLayer, ...], x: Any) -> Any:
    """Unit token embeddings (B, L, D) from hidden states (B, L, H).

    Each layer is activation(x W^T + b), plus x, or x R^T where the width changes, if it is residual.
    """
    for number, layer in enumerate(projection):
        out = ops.activate(layer.activation, ops.linear(params, f"projection.{number}", x))
        if layer.residual:
            same = layer.in_features == layer.out_features
            out += x if same else ops.linear(params, f"projection.{number}.residual", x)
        x = out
    return ops.normalize(x)
