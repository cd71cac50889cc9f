"""Writes tiny random checkpoints of the families that no ColBERT library saves: python make_descendants.py

jina-colbert-v1-en, jina-colbert-v2, colbert-xm and colbert-muvera-nano, in their published layouts. README.md
has the versions, and what published_families.py needs.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from make_checkpoints import DIM, fresh_directory
from published_families import classes_of
from safetensors.torch import save_file
from tiny_backbones import MAX_TOKENS, randomise, tokenizer_config, train_tokenizer, write_json
from tokenizers import AddedToken
from transformers import XmodConfig, XmodModel

JINA_BERT, FLASH = "jinaai/jina-bert-implementation", "jinaai/xlm-roberta-flash-implementation"

# What the four have in common, but for JinaBERT's width.
SIZES = {
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "use_cache": True,
}


def auto_map(repository: str, settings: str, model: str) -> dict[str, str]:
    """Where the code of a family is published."""
    where = f"{repository}--" if repository else ""
    return {"AutoConfig": where + settings, "AutoModel": where + model}


def write_tokenizer(path: Path, kind: Any, markers: tuple[str, ...], *, pylate: bool = False) -> int:
    """Writes the tokenizer with markers behind its vocabulary, and returns its size."""
    tokenizer = train_tokenizer(kind)
    # PyLate adds its markers as ordinary tokens, and pads with the mask.
    known = [marker for marker in markers if tokenizer.token_to_id(marker) is None]
    if pylate:
        tokenizer.add_tokens(known)
    else:
        tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in known])
    tokenizer.save(str(path / "tokenizer.json"))
    settings = tokenizer_config(kind)
    if pylate:
        settings["pad_token"] = settings["mask_token"]
    write_json(path / "tokenizer_config.json", settings)
    size: int = tokenizer.get_vocab_size()
    return size


def write_weights(path: Path, model: torch.nn.Module, dtype: torch.dtype, prefix: str) -> int:
    """Writes the randomised parameters of `model` under `prefix`, and returns its width."""
    randomise(model, path.name)
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    if prefix:
        generator = torch.Generator().manual_seed(len(path.name))
        width = int(model.config.hidden_size)
        state["linear.weight"] = 0.2 * torch.randn(DIM, width, generator=generator)
    tensors = {name: value.detach().to(dtype).contiguous() for name, value in state.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return int(model.config.hidden_size)


def write_metadata(path: Path, markers: tuple[str, str], **settings: Any) -> None:
    """Writes artifact.metadata, as colbert-ai does but without the settings of a training run."""
    metadata = {
        "query_token_id": markers[0],
        "doc_token_id": markers[1],
        "query_token": "[Q]",
        "doc_token": "[D]",
        "similarity": "cosine",
        "interaction": "colbert",
        "dim": DIM,
        "mask_punctuation": True,
        **settings,
    }
    (path / "artifact.metadata").write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")


def new_model(config: dict[str, Any]) -> torch.nn.Module:
    """A model of a family that transformers does not have."""
    classes = classes_of(config)
    assert classes is not None
    model: torch.nn.Module = classes[1](classes[0](**config))
    return model


def make_jina_bert() -> None:
    """jina-colbert-v1-en: six heads, so that the slopes of ALiBi are no plain power."""
    path = fresh_directory("stanford-jina-bert")
    markers = ("[unused0]", "[unused1]")
    config = {
        **SIZES,
        "_name_or_path": "",
        "architectures": ["HF_ColBERT"],
        "attn_implementation": None,
        "auto_map": auto_map(JINA_BERT, "configuration_bert.JinaBertConfig", "modeling_bert.JinaBertModel"),
        "emb_pooler": "mean",
        "feed_forward_type": "geglu",
        "gradient_checkpointing": False,
        "hidden_size": 48,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 8192,
        "model_type": "bert",
        "num_attention_heads": 6,
        "pad_token_id": 0,
        "position_embedding_type": "alibi",
        "torch_dtype": "float32",
        "transformers_version": "4.37.2",
        "type_vocab_size": 2,
        "vocab_size": write_tokenizer(path, "bert", markers),
    }
    write_json(path / "config.json", config)
    write_weights(path, new_model(config), torch.float32, "bert.")
    write_metadata(path, markers, query_maxlen=16, doc_maxlen=200, attend_to_mask_tokens=False)


def make_xlmr_flash() -> None:
    """jina-colbert-v2: markers after <mask>, all of the fill attended."""
    path = fresh_directory("stanford-xlmr-flash")
    markers = ("[QueryMarker]", "[DocumentMarker]")
    config = {
        **SIZES,
        "_name_or_path": "jinaai/jina-embeddings-v3-xlm-large-pairs-vol5",
        "architectures": ["HF_ColBERT"],
        "auto_map": auto_map(
            FLASH, "configuration_xlm_roberta.XLMRobertaFlashConfig", "modeling_xlm_roberta.XLMRobertaModel"
        ),
        "bos_token_id": 0,
        "emb_pooler": None,
        "eos_token_id": 2,
        "layer_norm_eps": 1e-05,
        "load_trained_adapters": False,
        "lora_adaptations": None,
        "lora_alpha": 1,
        "lora_dropout_p": 0.0,
        "lora_main_params_trainable": False,
        "lora_prompts": None,
        "lora_rank": 4,
        "matryoshka_dimensions": None,
        "max_position_embeddings": MAX_TOKENS + 2,
        "model_type": "xlm-roberta",
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "rotary_emb_base": 20000.0,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.30.2",
        "truncate_dim": None,
        "type_vocab_size": 1,
        "use_flash_attn": True,
        "use_reentrant": False,
        "vocab_size": write_tokenizer(path, "xlm-roberta", markers),
    }
    write_json(path / "config.json", config)
    write_weights(path, new_model(config), torch.bfloat16, "roberta.")
    write_metadata(path, markers, query_maxlen=20, doc_maxlen=200, attend_to_mask_tokens=True)


def make_xmod() -> None:
    """colbert-xm: three languages, of which the second is the default."""
    path = fresh_directory("stanford-xmod")
    markers = ("[unused0]", "[unused1]")
    config = {
        **SIZES,
        "_name_or_path": "facebook/xmod-base",
        "adapter_layer_norm": False,
        "adapter_reduction_factor": 2,
        "adapter_reuse_layer_norm": True,
        "architectures": ["HF_ColBERT"],
        "bos_token_id": 0,
        "default_language": "de_DE",
        "eos_token_id": 2,
        "languages": ["en_XX", "de_DE", "zh_CN"],
        "layer_norm_eps": 1e-05,
        "ln_before_adapter": True,
        "max_position_embeddings": MAX_TOKENS + 2,
        "model_type": "xmod",
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "pre_norm": False,
        "torch_dtype": "float32",
        "transformers_version": "4.36.2",
        "type_vocab_size": 1,
        "vocab_size": write_tokenizer(path, "xlm-roberta", markers),
    }
    write_json(path / "config.json", config)
    model = XmodModel(XmodConfig(**config), add_pooling_layer=False)
    write_weights(path, model, torch.float32, "roberta.")
    write_metadata(path, markers, query_maxlen=20, doc_maxlen=48, attend_to_mask_tokens=False)


def make_bert_hash() -> None:
    """colbert-muvera-nano: PyLate's files around a token table of four columns."""
    path = fresh_directory("pylate-bert-hash")
    code = auto_map("", "configuration_bert_hash.BertHashConfig", "modeling_bert_hash.BertHashModel")
    config = {
        **SIZES,
        "architectures": ["BertHashModel"],
        "auto_map": code,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": MAX_TOKENS,
        "model_type": "bert_hash",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "projections": 4,
        "torch_dtype": "float32",
        "transformers_version": "4.55.4",
        "type_vocab_size": 2,
        "vocab_size": write_tokenizer(path, "bert", ("[Q] ", "[D] "), pylate=True),
    }
    write_json(path / "config.json", config)
    width = write_weights(path, new_model(config), torch.float32, "")
    entries = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": kind} for i, (place, kind) in enumerate(entries)
    ]
    (path / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    settings = {
        "model_type": "ColBERT",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 16,
        "document_length": 40,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
        "do_query_expansion": True,
    }
    write_json(path / "config_sentence_transformers.json", settings)
    write_json(path / "sentence_bert_config.json", {"max_seq_length": 39, "do_lower_case": False})
    dense = path / "1_Dense"
    dense.mkdir()
    head = {"in_features": width, "out_features": DIM, "bias": False}
    identity = "torch.nn.modules.linear.Identity"
    write_json(dense / "config.json", {**head, "activation_function": identity, "use_residual": False})
    generator = torch.Generator().manual_seed(len(path.name))
    weight = 0.2 * torch.randn(DIM, width, generator=generator)
    save_file({"linear.weight": weight}, dense / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    make_jina_bert()
    make_xlmr_flash()
    make_xmod()
    make_bert_hash()
