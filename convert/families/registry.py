"""The model families. They map settings and tensor names of Hugging Face to those of this package.

A family is one entry of `REGISTRY`: a function that reads the settings, and a table of names. Only the
converter knows these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_colbert.convert.families.bert import BERT, BERT_HASH, JINA_BERT, ROBERTA, XLM_ROBERTA_FLASH, XMOD
from mlx_colbert.convert.families.decoders import LFM2, PPLX_QWEN3, QWEN3
from mlx_colbert.convert.families.distilbert import DISTILBERT
from mlx_colbert.convert.families.hf_config import HFConfig
from mlx_colbert.convert.families.modernbert import MODERNBERT
from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.convert.problems import Problems
from mlx_colbert.errors import CheckpointError, ConfigError
from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.untrusted import shown

__all__ = ["REGISTRY", "architecture_of", "read_encoder_config"]


# By the `model_type` in config.json. If published code uses the model_type of another family, also by its
# position_embedding_type.
REGISTRY: dict[str, Architecture] = {
    "bert": BERT,
    "bert (alibi)": JINA_BERT,
    "bert_hash": BERT_HASH,
    "bidirectional_pplx_qwen3": PPLX_QWEN3,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
    "lfm2": LFM2,
    "modernbert": MODERNBERT,
    "qwen3": QWEN3,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "xlm-roberta (rotary)": XLM_ROBERTA_FLASH,
    "xmod": XMOD,
}


def architecture_of(values: Mapping[str, Any], where: str, language: str | None = None) -> Architecture:
    """The family of a config.json.

    Args:
        values: the settings.
        where: the file, for errors.
        language: the language whose adapters are used, if there are some for each language. None: the
            default.

    Raises:
        CheckpointError: if the family is unknown, or has no adapters for the language.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise CheckpointError(
            where, f"unknown architecture {shown(model_type)} (model_type). Supported: {known}."
        )
    positions = values.get("position_embedding_type")
    variant = f"{model_type} ({positions})" if isinstance(positions, str) else model_type
    architecture = REGISTRY.get(variant, REGISTRY[model_type])
    if architecture.adapters:
        return replace(architecture, language=_language(values, where, language))
    if language is not None:
        raise CheckpointError(where, "has no adapters for languages. Remove --language.")
    return architecture


def _language(values: Mapping[str, Any], where: str, chosen: str | None) -> str:
    """The language of the adapters to use.

    Raises:
        CheckpointError: if there is no such language, or if none was chosen and there is no default.
    """
    languages = values.get("languages")
    languages = [name for name in languages if isinstance(name, str)] if isinstance(languages, list) else []
    language = values.get("default_language") if chosen is None else chosen
    if not isinstance(language, str) or language not in languages:
        problem = (
            "names no default_language" if language is None else f"has no adapters for {shown(language)}"
        )
        raise CheckpointError(where, f"{problem}. Choose one with --language: {', '.join(languages)}.")
    return language


def read_encoder_config(
    architecture: Architecture, values: Mapping[str, Any], problems: Problems
) -> Backbone | None:
    """The encoder settings of a config.json; None if a size is not possible.

    Args:
        architecture: the family.
        values: the settings.
        problems: receives what is wrong with them.
    """
    hf = HFConfig(values, problems)
    config: Backbone | None = None
    try:
        config = architecture.read(hf)
    except ConfigError as error:
        problems += [f"config.json: {problem}" for problem in error.problems]
    hf.finish()
    return config if hf.sizes_known else None
