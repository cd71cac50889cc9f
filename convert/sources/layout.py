"""Finds the layout of a checkpoint, and reads the checkpoint by its layout.

The order of detection and the meaning of each setting are those of `MultiVectorEncoder` in
sentence-transformers 6.2. There is one exception: if the config says "HF_ColBERT" and modules.json lists no
Dense layer, the layout is Stanford's. mxbai-colbert-large-v1 has such an outdated modules.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_colbert.convert.families.registry import architecture_of
from mlx_colbert.convert.problems import Problems
from mlx_colbert.convert.sources.native import read_native
from mlx_colbert.convert.sources.plain import read_plain
from mlx_colbert.convert.sources.pylate import PYLATE_KEYS, read_pylate
from mlx_colbert.convert.sources.sentence_files import read_optional
from mlx_colbert.convert.sources.settings import Settings
from mlx_colbert.convert.sources.source import Source
from mlx_colbert.convert.sources.stanford import read_stanford
from mlx_colbert.convert.weights import read_weights
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError
from mlx_colbert.model.config import MAX_PREFIX
from mlx_colbert.model.hub import CHANGES
from mlx_colbert.model.modules import Module, read_modules
from mlx_colbert.untrusted import read_json

__all__ = ["read_source"]

# Files that change the model -> what they are, and what to do.
_CHANGES = {
    "adapter": "an adapter (LoRA) changes the weights beside it, and is not read here. Merge it first "
    "with peft's merge_and_unload(), and save the merged model.",
    "colbert_linear": "BGE-M3's projection is not read. Save the model with PyLate or sentence-transformers, "
    "or remove the file to convert the encoder alone.",
}


def read_source(folder: Path, language: str | None = None, ignore_config_keys: Iterable[str] = ()) -> Source:
    """A checkpoint, read by its layout.

    Its `problems` list the settings that are not understood.

    Args:
        folder: the checkpoint.
        language: the language whose adapters are used, if there are some for each language. None: the
            default.
        ignore_config_keys: settings to ignore if they are not understood.

    Raises:
        CheckpointNotFoundError: if there is no config.json, or no weights.
        CheckpointError: if the architecture is unknown, or a file cannot be read.
    """
    st_path = folder / "config_sentence_transformers.json"
    sentence = read_optional(st_path)
    modules = read_modules(folder)
    is_native = sentence.get("model_type") == "MultiVectorEncoder"
    is_pylate = sentence.get("model_type") == "ColBERT" or any(key in sentence for key in PYLATE_KEYS)
    has_dense = any(module.kind == "Dense" for module in modules)
    is_stanford = _is_hf_colbert(read_optional(folder / "config.json")) and not (is_native or has_dense)

    backbone = folder if is_stanford else _backbone_folder(folder, modules)
    if not (backbone / "config.json").is_file():
        raise CheckpointNotFoundError(
            folder, f"{backbone.name}/config.json is missing, so this is not a checkpoint."
        )
    config = read_json(backbone / "config.json")
    architecture = architecture_of(config, str(backbone / "config.json"), language)
    _refuse_changes([folder, backbone, *(module.folder for module in modules)])
    weights = read_weights(backbone)
    inner = "" if backbone == folder else f"{backbone.name}/"
    source = Source("plain", backbone, config, architecture, weights)
    source.problems = Problems(ignore_config_keys)
    source.modules[inner] = weights
    if _is_hf_colbert(config):
        source.unused = ("linear.weight",)
    settings = Settings(sentence, st_path.name, source.problems)
    if is_stanford:
        read_stanford(source)
    elif is_native:
        read_native(source, modules, settings)
    elif is_pylate:
        read_pylate(source, modules, settings)
    else:
        read_plain(source, modules, settings)
    source.problems += [
        f"the {task} prefix has {len(prefix)} characters; at most {MAX_PREFIX} are allowed"
        for task, prefix in source.prefixes.items()
        if len(prefix) > MAX_PREFIX
    ]
    return source


def _is_hf_colbert(config: Mapping[str, Any]) -> bool:
    architectures = config.get("architectures")
    return isinstance(architectures, list) and "HF_ColBERT" in architectures


def _refuse_changes(folders: Iterable[Path]) -> None:
    """Refuse folders with a file that changes the model: the weights alone are not the model.

    Raises:
        CheckpointError: if there is such a file. The error names it.
    """
    for folder in folders:
        for name in (*CHANGES, "adapter_model.safetensors", "adapter_model.bin"):
            if (folder / name).exists():
                kind = "adapter" if name.startswith("adapter") else "colbert_linear"
                raise CheckpointError(folder / name, _CHANGES[kind])


def _backbone_folder(folder: Path, modules: list[Module]) -> Path:
    if modules and modules[0].kind != "Transformer":
        raise CheckpointError(
            folder, f"modules.json: starts with a {modules[0].kind}, not with a Transformer."
        )
    return modules[0].folder if modules else folder
