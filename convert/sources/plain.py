"""Reads an encoder without a ColBERT head."""

from __future__ import annotations

from mlx_colbert.convert.sources.sentence_files import (
    read_layers,
    read_prompts,
    read_transformer,
    refuse_lengths,
)
from mlx_colbert.convert.sources.settings import Settings
from mlx_colbert.convert.sources.source import Source
from mlx_colbert.model.modules import Module

__all__ = ["read_plain"]


def read_plain(source: Source, modules: list[Module], settings: Settings) -> None:
    """Read an encoder without a ColBERT head: the result is its token embeddings.

    Pooling and the normalisation of the pooled vector are left out. A Dense layer after the pooling is
    applied to every token, as in MultiVectorEncoder.
    """
    refuse_lengths(read_transformer(source, settings.problems))
    source.prefixes = read_prompts(settings)
    read_layers(source, modules, settings.problems, sentence=True)
