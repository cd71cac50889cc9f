"""Tiny language models that mlx-lm loads: one says a fixed answer, one is random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

# Like ChatML: every message between two control tokens.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> "
    "{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def _write(
    folder: Path,
    tensors: dict[str, np.ndarray],
    words: list[str],
    *,
    special: list[str],
    template: str | None,
    **config: object,
) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
    settings = {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(words),
        "tie_word_embeddings": False,
        "eos_token_id": 1,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(",", "isolated")]
    )
    if special:
        tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "eos_token": "</s>",
        **({"chat_template": template} if template else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def write_llama(folder: Path, answer: list[str], *, chat_template: str | None, **config: object) -> Path:
    """A Llama that says `answer` whatever it is asked: each word is one token and determines the next."""
    words = ["<unk>", "</s>", *answer]
    size, inner = len(words), 16
    # One-hot embeddings pass the layer unchanged, as its weights are 0; the head then picks the next word.
    embedding, head = np.zeros((2, size, inner), np.float32)
    embedding[np.arange(size), np.arange(size)] = 1
    for word, following in zip(["<unk>", *answer], [*answer, "</s>"], strict=True):
        head[words.index(following), words.index(word)] = 1
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
    for name in ("q", "k", "v", "o"):
        tensors[f"model.layers.0.self_attn.{name}_proj.weight"] = np.zeros((inner, inner), np.float32)
    for name in ("gate", "up", "down"):
        tensors[f"model.layers.0.mlp.{name}_proj.weight"] = np.zeros((inner, inner), np.float32)
    for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        tensors[f"model.{name}.weight"] = np.ones(inner, np.float32)
    sizes = {"hidden_size": inner, "intermediate_size": inner, **config}
    return _write(folder, tensors, words, special=[], template=chat_template, **sizes)


def write_random_llama(folder: Path, *, template: str | None = CHAT_TEMPLATE, **config: object) -> Path:
    """A Llama with random weights and control tokens, whose tokens are words."""
    control = ["<|im_start|>", "<|im_end|>"]
    words = ["<unk>", "</s>", *control, "system", "user", "assistant", ",", *(f"w{n}" for n in range(40))]
    size, inner = len(words), 16
    random = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (size, inner), "lm_head": (size, inner)}
    shapes |= {f"model.layers.0.self_attn.{name}_proj": (inner, inner) for name in "qkvo"}
    shapes |= {f"model.layers.0.mlp.{name}_proj": (inner, inner) for name in ("gate", "up", "down")}
    tensors = {
        f"{name}.weight": random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        tensors[f"model.{name}.weight"] = np.ones(inner, np.float32)
    sizes = {"hidden_size": inner, "intermediate_size": inner, **config}
    return _write(folder, tensors, words, special=control, template=template, **sizes)
