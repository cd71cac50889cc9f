"""Writes tiny random checkpoints in the layouts that ColBERT libraries leave on disk.

    python make_checkpoints.py stanford    # with colbert-ai
    python make_checkpoints.py pylate      # with pylate
    python make_checkpoints.py native      # with sentence-transformers 6
    python make_checkpoints.py plain       # with sentence-transformers 6

Each subcommand runs where its own library is installed; README.md has the versions. Weights are seeded by
the checkpoint's name, so a second run writes the same tensors.
"""

from __future__ import annotations

import json
import shutil
import string
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_backbones import (
    MAX_TOKENS,
    Family,
    randomise,
    tokenizer_config,
    write_backbone,
    write_json,
)

CHECKPOINTS = Path(__file__).parent / "checkpoints"

DIM = 16
HIDDEN = 32


def fresh_directory(name: str) -> Path:
    """The empty directory of a checkpoint."""
    path = CHECKPOINTS / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


# --- colbert-ai -------------------------------------------------------------------------------------------


def write_stanford(name: str, family: Family, scratch: Path, *, half: bool = False, **settings: Any) -> None:
    """Writes a checkpoint with colbert-ai's own `BaseColBERT.save`, then blanks what names this machine."""
    from colbert.infra.config import ColBERTConfig
    from colbert.modeling.base_colbert import BaseColBERT

    path = fresh_directory(name)
    markers = ("[unused0]", "[unused1]") if family == "xlm-roberta" else ()
    backbone = write_backbone(scratch / name, family, extra_tokens=markers)
    colbert = BaseColBERT(str(backbone), ColBERTConfig(dim=DIM, **settings))
    randomise(colbert.model, name)
    colbert.save(str(path))
    if half:
        (path / "model.safetensors").unlink()
        colbert.model.half().save_pretrained(path, safe_serialization=False)

    metadata = read_json(path / "artifact.metadata")
    metadata |= {"root": "experiments", "name": "2026-01/01/00.00.00", "meta": {"version": "colbert-v0.4"}}
    (path / "artifact.metadata").write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")


def make_stanford(scratch: Path) -> None:
    """The stanford-* checkpoints."""
    write_stanford(
        "stanford-bert",
        "bert",
        scratch,
        query_maxlen=16,
        doc_maxlen=40,
        attend_to_mask_tokens=False,
        mask_punctuation=True,
    )
    write_stanford(
        "stanford-bert-bin",
        "bert",
        scratch,
        half=True,
        query_maxlen=12,
        doc_maxlen=32,
        attend_to_mask_tokens=True,
        mask_punctuation=False,
    )
    write_stanford(
        "stanford-xlmr",
        "xlm-roberta",
        scratch,
        query_maxlen=20,
        doc_maxlen=48,
        attend_to_mask_tokens=False,
        mask_punctuation=True,
    )


# --- PyLate -----------------------------------------------------------------------------------------------


def write_pylate(
    name: str,
    family: Family,
    scratch: Path,
    *,
    denses: list[dict[str, Any]] | None = None,
    do_lower_case: bool = False,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Path:
    """Writes a checkpoint with PyLate's own `ColBERT.save`."""
    from pylate.models import ColBERT, Dense
    from sentence_transformers.models import Transformer

    path = fresh_directory(name)
    backbone = Transformer(str(write_backbone(scratch / name, family)), do_lower_case=do_lower_case)
    heads = [Dense(**dense) for dense in denses or [dict(in_features=HIDDEN, out_features=DIM, bias=False)]]
    model = ColBERT(modules=[backbone, *heads], device="cpu", **settings)
    randomise(model, name)
    # As after training: tokenizing a document leaves max_seq_length at document_length - 1.
    model.tokenize(["text"], is_query=False)
    model.to(dtype).save(str(path), create_model_card=False)
    return path


def write_pylate_old(source: Path, name: str) -> None:
    """Copies a checkpoint in the dialect of PyLate 1.0: no model_type, Dense weights in a pickle."""
    from safetensors.torch import load_file

    path = fresh_directory(name)
    shutil.copytree(source, path, dirs_exist_ok=True)
    settings = read_json(path / "config_sentence_transformers.json")
    for key in ("model_type", "do_query_expansion"):
        del settings[key]
    write_json(path / "config_sentence_transformers.json", settings)

    dense = path / "1_Dense"
    torch.save(load_file(dense / "model.safetensors"), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    head = read_json(dense / "config.json")
    del head["use_residual"]
    write_json(dense / "config.json", head)


def write_pylate_flat(source: Path, name: str) -> None:
    """Copies a ModernBERT checkpoint with the config.json that transformers 4.48 to 4.57 writes."""
    path = fresh_directory(name)
    shutil.copytree(source, path, dirs_exist_ok=True)
    config = read_json(path / "config.json")
    rope = config.pop("rope_parameters")
    del config["layer_types"]
    config["global_rope_theta"] = rope["full_attention"]["rope_theta"]
    config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
    config["position_embedding_type"] = "absolute"
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.48.2"
    write_json(path / "config.json", dict(sorted(config.items())))


def write_pylate_pplx(scratch: Path, name: str) -> None:
    """A Qwen3 that calls itself Perplexity's: the same tensors, and every token attends to all.

    The code that `auto_map` names is not there; nobody may look for it.
    """
    path = write_pylate(
        name, "qwen3", scratch, query_length=20, document_length=48, attend_to_expansion_tokens=True
    )
    config = read_json(path / "config.json")
    config |= {
        "model_type": "bidirectional_pplx_qwen3",
        "architectures": ["PPLXQwen3Model"],
        "auto_map": {
            "AutoConfig": "configuration.PPLXQwen3Config",
            "AutoModel": "modeling.PPLXQwen3Model",
        },
        "use_bidirectional_attention": True,
    }
    write_json(path / "config.json", dict(sorted(config.items())))


def make_pylate_decoders(scratch: Path) -> None:
    """The pylate-* checkpoints of decoders."""
    write_pylate("pylate-lfm2", "lfm2", scratch, dtype=torch.bfloat16, query_length=20, document_length=48)
    write_pylate_pplx(scratch, "pylate-pplx-qwen3")


def make_pylate(scratch: Path) -> None:
    """The pylate-* checkpoints."""
    bert = write_pylate(
        "pylate-bert",
        "bert",
        scratch,
        query_prefix="[unused0]",
        document_prefix="[unused1]",
        query_length=16,
        document_length=40,
        do_query_expansion=True,
        attend_to_expansion_tokens=False,
    )
    write_pylate_old(bert, "pylate-bert-old")
    modernbert = write_pylate(
        "pylate-modernbert",
        "modernbert",
        scratch,
        denses=[
            {"in_features": HIDDEN, "out_features": 64, "bias": False, "use_residual": True},
            {
                "in_features": 64,
                "out_features": 64,
                "bias": True,
                "activation_function": torch.nn.GELU(),
                "use_residual": True,
            },
            {"in_features": 64, "out_features": DIM, "bias": False},
        ],
        do_lower_case=True,
        query_length=24,
        document_length=64,
        do_query_expansion=False,
    )
    write_pylate_flat(modernbert, "pylate-modernbert-flat")
    write_pylate(
        "pylate-modernbert-prompts",
        "modernbert",
        scratch,
        denses=[
            {
                "in_features": HIDDEN,
                "out_features": 64,
                "bias": False,
                "activation_function": torch.nn.Identity(),
                "use_residual": True,
            },
            {
                "in_features": 64,
                "out_features": 12,
                "bias": False,
                "activation_function": torch.nn.Identity(),
                "use_residual": True,
            },
        ],
        do_lower_case=True,
        query_length=40,
        document_length=100,
        do_query_expansion=False,
        prompts={"query": "search_query: ", "document": "search_document: "},
    )
    write_pylate("pylate-roberta", "roberta", scratch, query_length=20, document_length=48)
    write_pylate(
        "pylate-xlmr",
        "xlm-roberta",
        scratch,
        query_length=20,
        document_length=48,
        attend_to_expansion_tokens=True,
    )
    write_pylate(
        "pylate-distilbert",
        "distilbert",
        scratch,
        query_prefix="[unused0]",
        document_prefix="[unused1]",
        query_length=24,
        document_length=40,
        skiplist_words=["the", "of", ",", "."],
        prompts={"query": "search: ", "document": "a document: "},
    )
    make_pylate_decoders(scratch)


# --- sentence-transformers 6 ------------------------------------------------------------------------------


def write_native(
    name: str,
    family: Family,
    scratch: Path,
    *,
    prompts: dict[str, str],
    registered: bool,
    mask: dict[str, Any],
    local_attention: int = 8,
    **settings: Any,
) -> None:
    """Writes a checkpoint with `MultiVectorEncoder.save_pretrained`.

    Args:
        name: the checkpoint's.
        family: its backbone.
        scratch: where the backbone may be written.
        prompts: put in front of texts.
        registered: whether the prompts are special tokens of the tokenizer.
        mask: arguments of MultiVectorMask.
        local_attention: ModernBERT's window.
        settings: arguments of Transformer.
    """
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    path = fresh_directory(name)
    markers = tuple(prompts.values()) if registered else ()
    backbone = write_backbone(scratch / name, family, extra_tokens=markers, local_attention=local_attention)
    dense = Dense(
        HIDDEN,
        DIM,
        bias=False,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
    )
    model = MultiVectorEncoder(
        modules=[
            Transformer(str(backbone), **settings),
            dense,
            MultiVectorMask(**mask),
            Normalize(module_input_name="token_embeddings"),
        ],
        prompts=prompts,
        device="cpu",
    )
    randomise(model, name)
    model.save_pretrained(str(path), create_model_card=False)


def make_native_decoders(scratch: Path) -> None:
    """The native-* checkpoints of decoders."""
    markers = {"query": "[Q] ", "document": "[D] "}
    write_native(
        "native-qwen3",
        "qwen3",
        scratch,
        prompts=markers,
        registered=True,
        mask={"skiplist_words": list(string.punctuation)},
        query_length=24,
        document_length=40,
        query_expansion={"strategy": "min", "attend": False, "length": 16},
    )
    write_native(
        "native-lfm2",
        "lfm2",
        scratch,
        prompts=markers,
        registered=True,
        mask={},
        document_length=64,
        query_expansion={"strategy": "fixed", "attend": True, "length": 16},
    )


def make_native(scratch: Path) -> None:
    """The native-* checkpoints."""
    markers = {"query": "[Q] ", "document": "[D] "}
    words = {"query": "query: ", "document": "passage: "}
    write_native(
        "native-bert",
        "bert",
        scratch,
        prompts=markers,
        registered=True,
        mask={"skiplist_words": list(string.punctuation)},
        document_length=40,
        query_expansion={"strategy": "fixed", "attend": False, "length": 16},
    )
    write_native(
        "native-modernbert",
        "modernbert",
        scratch,
        prompts=markers,
        registered=True,
        mask={"skiplist_words": list(string.punctuation), "skiplist_tasks": ["query", "document"]},
        # Twelve to each side: every expansion token still sees a real one. Where a row sees none, torch's
        # sdpa and eager attention differ and there is no right answer to keep.
        local_attention=24,
        query_length=24,
        document_length=64,
        query_expansion={"strategy": "min", "attend": False, "length": 12},
    )
    write_native(
        "native-xlmr",
        "xlm-roberta",
        scratch,
        prompts=words,
        registered=False,
        mask={},
        document_length=48,
        query_expansion={"strategy": "fixed", "attend": True, "length": 20, "token": "</s>"},
    )
    write_native(
        "native-distilbert",
        "distilbert",
        scratch,
        prompts=words,
        registered=False,
        mask={"skiplist_words": ["the", "of", ",", "not-a-token"]},
        query_length=20,
        document_length=40,
    )
    make_native_decoders(scratch)


def new_model(backbone: Path, auto_class: str, name: str) -> Any:
    """A randomised transformers model of the configuration in `backbone`."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(backbone)
    model = getattr(transformers, auto_class).from_config(config)
    randomise(model, name)
    return model


def copy_tokenizer(backbone: Path, path: Path) -> None:
    """Copies the tokenizer files as they are, without transformers' rewriting."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(backbone / file, path / file)


def write_plain_bert(scratch: Path) -> None:
    """A masked language model with the tokenizer files of 2018."""
    path = fresh_directory("plain-bert")
    backbone = write_backbone(scratch / path.name, "bert")
    new_model(backbone, "AutoModelForMaskedLM", path.name).save_pretrained(path)
    shutil.copyfile(backbone / "vocab.txt", path / "vocab.txt")
    write_json(path / "tokenizer_config.json", tokenizer_config("bert"))


def write_plain_bert_legacy(scratch: Path) -> None:
    """A BERT in torch's format before 1.6, with the position_ids buffer of transformers before 4.31."""
    path = fresh_directory("plain-bert-legacy-bin")
    backbone = write_backbone(scratch / path.name, "bert")
    model = new_model(backbone, "AutoModel", path.name)
    model.config.save_pretrained(path)
    state = model.state_dict() | {"embeddings.position_ids": torch.arange(MAX_TOKENS)[None]}
    torch.save(state, path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    copy_tokenizer(backbone, path)


def write_plain_roberta(scratch: Path) -> None:
    """A RoBERTa in several safetensors files."""
    path = fresh_directory("plain-roberta")
    backbone = write_backbone(scratch / path.name, "roberta")
    new_model(backbone, "AutoModel", path.name).save_pretrained(path, max_shard_size="60KB")
    copy_tokenizer(backbone, path)


def write_plain_modernbert(scratch: Path) -> None:
    """A ModernBERT in bfloat16."""
    path = fresh_directory("plain-modernbert")
    backbone = write_backbone(scratch / path.name, "modernbert", local_attention=16)
    new_model(backbone, "AutoModel", path.name).to(torch.bfloat16).save_pretrained(path)
    copy_tokenizer(backbone, path)


def write_plain_st_distilbert(scratch: Path) -> None:
    """A sentence embedding model: one vector per text, so not a ColBERT."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    path = fresh_directory("plain-st-distilbert")
    backbone = write_backbone(scratch / path.name, "distilbert")
    transformer = Transformer(str(backbone), max_seq_length=48)
    model = SentenceTransformer(modules=[transformer, Pooling(HIDDEN), Normalize()], device="cpu")
    randomise(model, path.name)
    model.save_pretrained(str(path), create_model_card=False)


def make_plain(scratch: Path) -> None:
    """The plain-* checkpoints, which have no ColBERT head."""
    write_plain_bert(scratch)
    write_plain_bert_legacy(scratch)
    write_plain_roberta(scratch)
    write_plain_modernbert(scratch)
    write_plain_st_distilbert(scratch)


COMMANDS: dict[str, Callable[[Path], None]] = {
    "stanford": make_stanford,
    "pylate": make_pylate,
    "native": make_native,
    "plain": make_plain,
}


def main() -> None:
    """Runs one subcommand."""
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: make_checkpoints.py {'|'.join(COMMANDS)}")
    with tempfile.TemporaryDirectory() as scratch:
        COMMANDS[sys.argv[1]](Path(scratch))


if __name__ == "__main__":
    main()
