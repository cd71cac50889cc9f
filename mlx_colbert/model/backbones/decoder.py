"""Decoders as backbones: their settings, and their parameters under the names of mlx-lm.

mlx-lm computes a decoder (`mlx_lm.py`), so the parameters keep its names. The conversion does not need MLX.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mlx_colbert.errors import BackendError, ConfigError
from mlx_colbert.kernels import Backend, EncoderOps, Params, get_encoder_ops
from mlx_colbert.model.backbones.backbone import MAX_FLOAT, MAX_LAYERS, Module, check_ids
from mlx_colbert.types import Array

__all__ = ["DecoderConfig"]


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder without its language-model head, read as an encoder."""

    # mlx-lm's name of the class: gated convolutions and attention (LFM2), or attention alone (Qwen3).
    family: Literal["lfm2", "qwen3"]
    # Rows of the token embedding table.
    vocab_size: int
    # Width of a hidden state.
    hidden_size: int
    n_layers: int
    n_heads: int
    # Heads of the keys and values. n_heads / n_kv_heads query heads share one of them.
    n_kv_heads: int
    # Width of a head.
    head_size: int
    # Width of the gated MLP.
    intermediate_size: int
    # Longest sequence in tokens, special tokens included.
    max_length: int
    norm_eps: float
    rope_theta: float
    # Tokens attend to later tokens too.
    bidirectional: bool = False
    # LFM2: the layers with attention. The other layers are causal convolutions over conv_width tokens.
    attention_layers: tuple[int, ...] = ()
    conv_width: int = 0

    # The converter reads these of every backbone. A decoder has no table of positions or of token types.
    position: ClassVar[str] = "rope"
    type_vocab_size: ClassVar[int] = 0

    def __post_init__(self) -> None:
        sizes = "vocab_size hidden_size n_layers n_heads n_kv_heads head_size intermediate_size max_length"
        problems = [
            f"{name!r} must be at least 1, got {getattr(self, name)}"
            for name in sizes.split()
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name!r} must be a number > 0, got {getattr(self, name)}"
            for name in ("norm_eps", "rope_theta")
            if not 0 < getattr(self, name) < MAX_FLOAT
        ]
        if self.n_layers > MAX_LAYERS:
            problems.append(f"n_layers must be at most {MAX_LAYERS}, got {self.n_layers}")
        if not problems and self.n_heads % self.n_kv_heads:
            problems.append(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_size % 2:
            problems.append(f"rotary positions need an even head_size, got {self.head_size}")
        if not problems and self.family == "lfm2":
            problems += self._lfm2_problems()
        elif not problems and (self.attention_layers or self.conv_width):
            problems.append(f"{self.family} has no convolutions")
        if problems:
            raise ConfigError("decoder settings", problems)

    def _lfm2_problems(self) -> Iterator[str]:
        layers = self.attention_layers
        if not layers or list(layers) != sorted(set(layers) & set(range(self.n_layers))):
            yield f"'attention_layers' must be ascending numbers of layers, got {layers}"
        if self.conv_width < 2:
            yield f"'conv_width' must be at least 2, got {self.conv_width}"
        if self.head_size * self.n_heads != self.hidden_size:
            yield f"{self.n_heads} heads of {self.head_size} are not equal to hidden_size {self.hidden_size}"
        if self.bidirectional:
            yield "a bidirectional lfm2 is not implemented"

    def modules(self) -> Iterator[Module]:
        """The modules that have parameters, by their names in mlx-lm. None has a bias."""
        yield from ((name, shape, False) for name, shape in _modules(self))

    def ops(self, backend: Backend) -> EncoderOps:
        """The kernels of MLX, because mlx-lm computes a decoder. Without a GPU, MLX computes on the CPU.

        Raises:
            BackendError: if the backend is numpy, or if MLX or mlx-lm is not installed.
        """
        what = "mlx-lm computes a decoder (LFM2, Qwen3)"
        if importlib.util.find_spec("mlx_lm") is None:
            extras = "decoder" if platform.system() == "Darwin" else "decoder,cpu"
            raise BackendError(
                f"{what}, and is not installed. Install it with: pip install 'mlx-colbert[{extras}]'"
            )
        ops = get_encoder_ops(backend, without_gpu="mlx")
        if ops.name != "mlx":
            raise BackendError(
                f"backend {ops.name}: {what}, and mlx-lm needs MLX. "
                "Use backend='mlx' or --backend mlx, or unset MLX_COLBERT_BACKEND."
            )
        return ops

    def prepared(self, params: Params) -> Params:
        """The parameters. Those of the decoder are in one module of mlx-lm, under the name "decoder"."""
        # mlx-lm is optional, and its import takes a second.
        from mlx_colbert.model.backbones import mlx_lm

        return mlx_lm.with_decoder(params, self)

    def encode(self, ops: EncoderOps, params: Params, ids: Array, mask: Array) -> Any:
        """Hidden states of the last layer (B, L, H) for token ids (B, L). The mask is (B, L) bool."""
        check_ids(ids, self.vocab_size)
        from mlx_colbert.model.backbones import mlx_lm

        return mlx_lm.encode(params, self, ids, mask)


def _attention(cfg: DecoderConfig, out: str, norms: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = cfg.n_heads * cfg.head_size, cfg.n_kv_heads * cfg.head_size
    yield "self_attn.q_proj", (queries, cfg.hidden_size)
    yield "self_attn.k_proj", (keys, cfg.hidden_size)
    yield "self_attn.v_proj", (keys, cfg.hidden_size)
    yield f"self_attn.{out}", (cfg.hidden_size, queries)
    for side in "qk":
        yield f"self_attn.{side}_{norms}", (cfg.head_size,)


def _mlp(cfg: DecoderConfig, gate: str, up: str, down: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, hidden = cfg.intermediate_size, cfg.hidden_size
    yield gate, (wide, hidden)
    yield up, (wide, hidden)
    yield down, (hidden, wide)


def _lfm2_layer(cfg: DecoderConfig, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = cfg.hidden_size
    yield "operator_norm", (hidden,)
    if layer in cfg.attention_layers:
        yield from _attention(cfg, "out_proj", "layernorm")
    else:
        yield "conv.in_proj", (3 * hidden, hidden)
        # The order of MLX: output channels, width, input channels of a group.
        yield "conv.conv", (hidden, cfg.conv_width, 1)
        yield "conv.out_proj", (hidden, hidden)
    yield "ffn_norm", (hidden,)
    yield from _mlp(cfg, "feed_forward.w1", "feed_forward.w3", "feed_forward.w2")


def _qwen3_layer(cfg: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "input_layernorm", (cfg.hidden_size,)
    yield from _attention(cfg, "o_proj", "norm")
    yield "post_attention_layernorm", (cfg.hidden_size,)
    yield from _mlp(cfg, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def _modules(cfg: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "embed_tokens", (cfg.vocab_size, cfg.hidden_size)
    for number in range(cfg.n_layers):
        layer = _lfm2_layer(cfg, number) if cfg.family == "lfm2" else _qwen3_layer(cfg)
        for name, shape in layer:
            yield f"layers.{number}.{name}", shape
    yield "embedding_norm" if cfg.family == "lfm2" else "norm", (cfg.hidden_size,)
