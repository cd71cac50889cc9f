"""Reads the ColBERT format of PyLate."""

from __future__ import annotations

import string

from mlx_colbert.convert.sources.sentence_files import (
    SENTENCE_KEYS,
    read_layers,
    read_prompts,
    read_similarity,
    read_transformer,
    refuse_lengths,
)
from mlx_colbert.convert.sources.settings import Settings
from mlx_colbert.convert.sources.source import Expansion, Source
from mlx_colbert.model.modules import Module

__all__ = ["PYLATE_KEYS", "read_pylate"]

# Keys of config_sentence_transformers.json that only a ColBERT has.
PYLATE_KEYS = (
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "skiplist_words",
)


def read_pylate(source: Source, modules: list[Module], settings: Settings) -> None:
    """Read a PyLate model: Transformer, Dense…. Masking and normalisation have no modules."""
    source.layout = "pylate"
    problems = settings.problems
    settings.only(SENTENCE_KEYS | set(PYLATE_KEYS))
    # Old models say "cosine": ColBERT had no own name for its similarity then.
    source.similarity = read_similarity(settings, "maxsim", "MaxSim", "cosine")
    refuse_lengths(read_transformer(source, problems))
    read_layers(source, modules, problems, sentence=True)
    prompts = read_prompts(settings)
    markers = []
    for task in ("query", "document"):
        marker = settings.text(f"{task}_prefix", "")
        source.prefixes[task] = marker + prompts.get(task, "").removeprefix(marker)
        markers.append(marker)
    source.markers = tuple(markers)
    length = settings.length("query_length")
    source.document_length = settings.length("document_length")
    if settings.flag("do_query_expansion", True) and any(key in settings.values for key in PYLATE_KEYS):
        # The older key is used only if the newer key is absent. A null of the newer key means false.
        older = (
            settings.flag("attend_to_mask_tokens", False)
            and "attend_to_expansion_tokens" not in settings.values
        )
        attend = settings.flag("attend_to_expansion_tokens", older)
        source.expansion = Expansion(length or 32, length or 32, attend)
    else:
        source.query_length = length
    # The default of PyLate. A model that is not from PyLate, and has no marker, has no skiplist.
    is_pylate = settings.values.get("model_type") == "ColBERT" or any(
        f"{task}_prefix" in settings.values for task in ("query", "document")
    )
    source.skiplist_words = settings.words("skiplist_words", tuple(string.punctuation) if is_pylate else ())
