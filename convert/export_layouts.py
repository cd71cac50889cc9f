"""The files beside a backbone that make it a ColBERT, as PyLate and sentence-transformers 6 write them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_colbert.errors import CheckpointError
from mlx_colbert.model.config import ColBERTConfig, ModelConfig, Task

__all__ = ["TOKEN_MODULE", "TokenNames", "sentence_files"]

# What sentence-transformers needs for a module that is for tokens, and not for one vector per text.
TOKEN_MODULE = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}

_NATIVE = "sentence_transformers.base.modules"
_MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"


@dataclass(frozen=True)
class TokenNames:
    """The tokens of a tokenizer.json.

    Attributes:
        path: the file.
        all: id → token.
        added: the same for the tokens that no text is cut within, such as [CLS] and the markers.
        unknown: the token of unknown words, if there is one.
    """

    path: Path
    all: dict[int, str]
    added: dict[int, str]
    unknown: str | None

    @classmethod
    def read(cls, path: Path) -> TokenNames:
        """The tokens of a tokenizer.json that was checked."""
        values = json.loads(path.read_text(encoding="utf-8"))
        vocab = values["model"]["vocab"]
        # A dict from token to id, or for Unigram a list of (token, score).
        if isinstance(vocab, dict):
            names = {number: token for token, number in vocab.items()}
        else:
            names = {number: entry[0] for number, entry in enumerate(vocab)}
        added = {token["id"]: token["content"] for token in values.get("added_tokens", [])}
        unknown = values["model"].get("unk_token")
        return cls(path, {**names, **added}, added, unknown if isinstance(unknown, str) else None)

    def name(self, number: int) -> str:
        """The token with an id.

        Raises:
            CheckpointError: if there is none.
        """
        if number not in self.all:
            raise CheckpointError(self.path, f"has no token with the id {number}.")
        return self.all[number]


def sentence_files(
    source: Path,
    config: ModelConfig,
    tokens: TokenNames,
    to: Literal["pylate", "sentence-transformers"],
) -> dict[str, Any]:
    """The JSON files of a layout: name in the checkpoint → content.

    Args:
        source: the model folder, for errors.
        config: its settings.
        tokens: its tokens.
        to: the layout.

    Raises:
        CheckpointError: if PyLate has no place for a setting.
    """
    if to == "pylate":
        return _pylate(source, config, tokens)
    return _native(config, tokens)


def _modules(dense: list[str], kinds: dict[str, str], first: str) -> list[dict[str, Any]]:
    """The entries of modules.json: the backbone and the modules after it, by their folders."""
    paths = {"": first, **{name: kinds[name.partition("_")[2]] for name in dense}}
    return [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(paths.items())
    ]


def _native(config: ModelConfig, tokens: TokenNames) -> dict[str, Any]:
    colbert = config.colbert
    n_dense = len(config.projection)
    mask, normalize = f"{n_dense + 1}_MultiVectorMask", f"{n_dense + 2}_Normalize"
    folders = [*(f"{number}_Dense" for number in range(1, n_dense + 1)), mask, normalize]
    kinds = {
        "Dense": f"{_NATIVE}.dense.Dense",
        "MultiVectorMask": _MASK,
        "Normalize": f"{_NATIVE}.normalize.Normalize",
    }
    transformer: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
        "document_length": colbert.document_length,
    }
    floor = colbert.expansion_length
    if not colbert.do_query_expansion or floor is not None:
        transformer["query_length"] = colbert.query_length
    if colbert.do_query_expansion:
        transformer["query_expansion"] = {
            "strategy": "fixed" if floor is None else "min",
            "attend": colbert.attend_to_expansion_tokens,
            "token": tokens.name(colbert.expansion_token_id or 0),
            "length": colbert.query_length if floor is None else floor,
        }
    return {
        "modules.json": _modules(folders, kinds, f"{_NATIVE}.transformer.Transformer"),
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": {
            "model_type": "MultiVectorEncoder",
            "prompts": {"query": colbert.query_prefix, "document": colbert.document_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": colbert.similarity,
        },
        f"{mask}/config.json": {
            "skiplist_words": list(colbert.skiplist_words),
            "skiplist_tasks": list(colbert.skiplist_tasks),
        },
        f"{normalize}/config.json": TOKEN_MODULE,
    }


def _pylate(source: Path, config: ModelConfig, tokens: TokenNames) -> dict[str, Any]:
    colbert = config.colbert
    problems = _beyond_pylate(config)
    markers = {}
    prefixes: dict[Task, str] = {"query": colbert.query_prefix, "document": colbert.document_prefix}
    for task, prefix in prefixes.items():
        markers[task] = _marker(prefix, tokens)
        if prefix and not markers[task]:
            problems.append(f"the {task} prefix {prefix!r} does not begin with a token of its own")
    if problems:
        advice = "sentence-transformers has a place for all settings: --to sentence-transformers"
        raise CheckpointError(source, ["cannot be written for PyLate", *problems, advice])
    folders = [f"{number}_Dense" for number in range(1, len(config.projection) + 1)]
    kinds = {"Dense": "pylate.models.Dense.Dense"}
    return {
        "modules.json": _modules(folders, kinds, "sentence_transformers.models.Transformer"),
        "sentence_bert_config.json": {"max_seq_length": config.encoder.max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "model_type": "ColBERT",
            "prompts": {task: prefix.removeprefix(markers[task]) for task, prefix in prefixes.items()},
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            "query_prefix": markers["query"],
            "document_prefix": markers["document"],
            "query_length": colbert.query_length,
            "document_length": colbert.document_length,
            "do_query_expansion": colbert.do_query_expansion,
            "attend_to_expansion_tokens": colbert.attend_to_expansion_tokens,
            "skiplist_words": list(colbert.skiplist_words),
        },
    }


def _beyond_pylate(config: ModelConfig) -> list[str]:
    """The settings that PyLate has no place for."""
    colbert: ColBERTConfig = config.colbert
    problems = []
    if not config.projection:
        problems.append("there is no projection, and PyLate would add a random one")
    if colbert.expansion_length is not None:
        problems.append(
            f"queries are filled up to {colbert.expansion_length} tokens, but may have {colbert.query_length}"
        )
    if colbert.skiplist_words and colbert.skiplist_tasks != ("document",):
        problems.append(
            f"words are left out of {' and '.join(colbert.skiplist_tasks)} texts, not of documents alone"
        )
    if colbert.similarity != "maxsim":
        problems.append(f"the similarity is {colbert.similarity}")
    return problems


def _marker(prefix: str, tokens: TokenNames) -> str:
    """The token that a prefix begins with, if texts are never cut within it. Else an empty text."""
    return max((name for name in tokens.added.values() if prefix.startswith(name)), key=len, default="")
