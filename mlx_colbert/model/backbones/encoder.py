"""One forward pass for all BERT-like encoders, on the kernels of a backend.

Parameters are a flat dict of canonical names; settings are a frozen dataclass. There is no `nn.Module`, as
MLX readers may expect, so one function works with numpy and with MLX, and `mx.value_and_grad` works on the
dict. Only `ops.linear` and `ops.embedding` know of quantised weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from mlx_colbert.errors import ConfigError
from mlx_colbert.kernels import Backend, EncoderOps, Params, get_encoder_ops
from mlx_colbert.model.backbones.backbone import MAX_FLOAT, MAX_LAYERS, Module, check_ids
from mlx_colbert.types import Activation, Array

__all__ = ["EncoderConfig"]


@dataclass(frozen=True)
class EncoderConfig:
    """Independent choices that describe every BERT-like encoder. `convert/README.md` lists them by family."""

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
    # "absolute": a learned table. "rope": rotary. "alibi": scores fall with the distance.
    position: Literal["absolute", "rope", "alibi"]
    # The row of the first position in the position table. XLM-R counts from pad_token_id + 1.
    position_offset: int = 0
    # A token with this id takes position `position_offset - 1` and is not counted (RoBERTa's rule).
    position_skip_id: int | None = None
    # Columns of the token table, if a linear layer widens them to hidden_size. 0: hidden_size columns.
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
    # If the MLP has biases, `mlp.up` has one too.
    mlp_up_bias: bool = True
    # up -> activation -> down, or (activation(a) * b) -> down with [a, b] = up(x).
    gated_mlp: bool = False
    activation: Activation = "gelu"
    # Width of the adapter after each MLP. The norm of the MLP is applied before and after it. 0: no adapter.
    adapter_size: int = 0
    # Layer i attends to all tokens if i % global_every == 0, else to local_window // 2 tokens on each side.
    # 1: every layer attends to all tokens.
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
            problems.append("'adapter_size' must be 0 if 'norm_first' is true")
        numbers = ("norm_eps", "global_rope_theta", "local_rope_theta")
        problems += [
            f"{name!r} must be a number > 0, got {getattr(self, name)}"
            for name in numbers
            if not 0 < getattr(self, name) < MAX_FLOAT
        ]
        if self.global_every > 1 and self.local_window < 2:
            problems.append(f"local attention needs local_window >= 2, got {self.local_window}")
        if problems:
            raise ConfigError("encoder settings", problems)

    def is_global(self, layer: int) -> bool:
        """Whether layer `layer` attends to the whole text."""
        return layer % self.global_every == 0

    def modules(self) -> Iterator[Module]:
        """The modules that have parameters, by their names in a converted model."""
        yield from _modules(self)

    def ops(self, backend: Backend) -> EncoderOps:
        """The kernels of the backend. Every backend computes an encoder."""
        return get_encoder_ops(backend)

    def prepared(self, params: Params) -> Params:
        """The parameters, unchanged."""
        return params

    def encode(self, ops: EncoderOps, params: Params, ids: Array, mask: Array) -> Any:
        """Hidden states of the last layer (B, L, H) for token ids (B, L). The mask is (B, L) bool."""
        check_ids(ids, self.vocab_size)
        return _encoded(ops, params, self, ids, mask)


def _layer_shapes(cfg: EncoderConfig, layer: int) -> Iterator[Module]:
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


def _modules(cfg: EncoderConfig) -> Iterator[Module]:
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


@lru_cache(maxsize=16)
def _alibi_slopes(n_heads: int) -> Array:
    """For each head, how much the score falls per token of distance: (H,) float32.

    A geometric sequence for 2^k heads. Further heads take every second slope of twice as many heads.

    Source: Press et al. 2022, section 3, and the authors' code.
    """
    power = 1 << (n_heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4.0 / power * np.arange(1, 2 * (n_heads - power), 2))
    return np.concatenate([slopes, between]).astype(np.float32)


def _position_ids(cfg: EncoderConfig, ids: Array) -> Array:
    """Rows of the position table for `ids` (B, L).

    RoBERTa does not count its padding token, not even if that token is part of a text.
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
    """The input of an adapter plus its output, after the norm: (B, L, H) to (B, L, H).

    Source: Pfeiffer et al. 2022, section 3.
    """
    narrow = ops.activate(cfg.activation, ops.linear(params, f"layers.{layer}.adapter.down", x))
    x = x + ops.linear(params, f"layers.{layer}.adapter.up", narrow)
    return ops.layer_norm(params, f"layers.{layer}.mlp.norm", x, cfg.norm_eps)


def _encoded(ops: EncoderOps, params: Params, cfg: EncoderConfig, ids: Array, mask: Array) -> Any:
    """Hidden states of the last layer: (B, L, H)."""
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
