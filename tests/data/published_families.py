"""Families whose code is published beside a checkpoint, as transformers classes for `MultiVectorEncoder`.

JinaBERT and BertHash are written here again, after what is known of them: README.md says what that is.
xlm-roberta-flash-implementation is the published code itself, from a folder that is no part of this project:

    XLM_ROBERTA_FLASH=FOLDER python make_references.py
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

FLASH_CODE = os.environ.get("XLM_ROBERTA_FLASH")


class JinaBertConfig(BertConfig):
    """Settings of jinaai/jina-bert-implementation."""

    def __init__(self, feed_forward_type: str = "original", **settings: Any) -> None:
        super().__init__(**settings)
        self.feed_forward_type = feed_forward_type
        self.position_embedding_type = settings.get("position_embedding_type", "absolute")


def alibi_slopes(n_heads: int) -> list[float]:
    """The slopes of ALiBi's authors: a geometric sequence, or one interleaved with the next longer one."""
    if math.log2(n_heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n_heads) - 3)))
        return [start * start**i for i in range(n_heads)]
    power = 2 ** math.floor(math.log2(n_heads))
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: n_heads - power]


class JinaBertLayer(nn.Module):
    """Attention with a bias by distance, then a gated MLP; both normalised afterwards."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.n_heads = config.num_attention_heads
        self.gate = {"geglu": nn.GELU(), "reglu": nn.ReLU()}[config.feed_forward_type]
        projections = {name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")}
        output = nn.ModuleDict({"dense": nn.Linear(hidden, hidden), "LayerNorm": nn.LayerNorm(hidden, eps)})
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(projections), "output": output})
        self.mlp = nn.ModuleDict(
            {
                "gated_layers": nn.Linear(hidden, 2 * inner, bias=False),
                "wo": nn.Linear(inner, hidden),
                "layernorm": nn.LayerNorm(hidden, eps),
            }
        )

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """(B, L, H) to (B, L, H); `bias` (B, heads, L, L) is added to the scores."""
        batch, length, hidden = x.shape
        q, k, v = (
            self.attention["self"][name](x).view(batch, length, self.n_heads, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(hidden // self.n_heads) + bias
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, length, hidden)
        output = self.attention["output"]
        x = output["LayerNorm"](output["dense"](mixed) + x)
        first, second = self.mlp["gated_layers"](x).chunk(2, dim=-1)
        return self.mlp["layernorm"](self.mlp["wo"](self.gate(first) * second) + x)


class JinaBertModel(PreTrainedModel):
    """The encoder of jinaai/jina-bert-implementation."""

    config_class = JinaBertConfig
    base_model_prefix = "bert"

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__(config)
        hidden = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, hidden),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, hidden),
                "LayerNorm": nn.LayerNorm(hidden, config.layer_norm_eps),
            }
        )
        layers = nn.ModuleList(JinaBertLayer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.slopes = alibi_slopes(config.num_attention_heads)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> BaseModelOutput:
        """Hidden states (B, L, H) of ids and mask (B, L)."""
        types = self.embeddings["token_type_embeddings"].weight[0]
        x = self.embeddings["LayerNorm"](self.embeddings["word_embeddings"](input_ids) + types)
        positions = torch.arange(input_ids.shape[1])
        distances = (positions[:, None] - positions).abs()
        bias = -torch.tensor(self.slopes)[:, None, None] * distances
        hidden_keys = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        for layer in self.encoder["layer"]:
            x = layer(x, bias + hidden_keys)
        return BaseModelOutput(last_hidden_state=x)


class BertHashConfig(BertConfig):
    """Settings of NeuML's BertHashModel."""

    model_type = "bert_hash"

    def __init__(self, projections: int = 5, **settings: Any) -> None:
        super().__init__(**settings)
        self.projections = projections


class HashTokens(nn.Module):
    """A table of few columns, and the layer that widens them."""

    def __init__(self, config: BertHashConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.projections)
        self.projections = nn.Linear(config.projections, config.hidden_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, L) to (B, L, H)."""
        return self.projections(self.embeddings(ids))


class BertHashModel(BertModel):
    """A BERT with `HashTokens`."""

    config_class = BertHashConfig

    def __init__(self, config: BertHashConfig) -> None:
        super().__init__(config, add_pooling_layer=False)
        self.embeddings.word_embeddings = HashTokens(config)

    def get_input_embeddings(self) -> nn.Module:
        """The table, whose rows are the vocabulary."""
        return self.embeddings.word_embeddings.embeddings


def flash_classes() -> tuple[Any, Any]:
    """Configuration and model of the published xlm-roberta-flash-implementation."""
    if FLASH_CODE is None:
        sys.exit("XLM_ROBERTA_FLASH must name the folder of the published xlm-roberta-flash-implementation.")
    folder = Path(FLASH_CODE).resolve()
    sys.path.insert(0, str(folder.parent))
    native = importlib.import_module("transformers.models.xlm_roberta.modeling_xlm_roberta")
    # The code imports it from transformers 4; absolute positions, which no checkpoint here has, call it.
    native.create_position_ids_from_input_ids = None
    settings = importlib.import_module(f"{folder.name}.configuration_xlm_roberta")
    modeling = importlib.import_module(f"{folder.name}.modeling_xlm_roberta")

    class Tokenless:
        """The model loads a tokenizer for an `encode` of its own."""

        @staticmethod
        def from_pretrained(*_: object, **__: object) -> None:
            """Nothing."""

    modeling.AutoTokenizer = Tokenless

    class Model(modeling.XLMRobertaModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config, add_pooling_layer=False)

    return settings.XLMRobertaFlashConfig, Model


def classes_of(config: dict[str, Any]) -> tuple[Any, Any] | None:
    """The classes of a config.json; None where transformers has its own."""
    match config.get("model_type"), config.get("position_embedding_type"):
        case "bert", "alibi":
            return JinaBertConfig, JinaBertModel
        case "bert_hash", _:
            return BertHashConfig, BertHashModel
        case "xlm-roberta", "rotary":
            return flash_classes()
    return None


def _loading(model_class: Any) -> Any:
    """The class with a `from_pretrained` that runs `__init__`, which transformers 5 would not do on the CPU."""

    class Loading(model_class):  # type: ignore[misc]
        @classmethod
        def from_pretrained(cls, path: str, *_: object, config: Any, **__: object) -> Any:
            model = model_class(config)
            prefix = model_class.base_model_prefix + "."
            state = load_file(Path(path) / "model.safetensors")
            state.pop("linear.weight", None)
            model.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()})
            return model.float().eval()

    return Loading


@contextmanager
def registered(path: Path) -> Iterator[None]:
    """transformers' Auto classes know the family of the checkpoint in `path`."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    classes = classes_of(config)
    if classes is None:
        yield
        return
    config_class, model_class = classes
    AutoConfig.register(config["model_type"], config_class, exist_ok=True)
    AutoModel.register(config_class, _loading(model_class), exist_ok=True)
    yield
    del AutoModel._model_mapping._extra_content[config_class]
    mapping = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    del mapping._extra_content[config["model_type"]]
