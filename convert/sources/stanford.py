"""Reads the format of Stanford ColBERT."""

from __future__ import annotations

import string

from mlx_colbert.convert.sources.sentence_files import read_optional
from mlx_colbert.convert.sources.settings import Settings
from mlx_colbert.convert.sources.source import Expansion, Source
from mlx_colbert.counts import counted
from mlx_colbert.model.config import ProjectionLayer
from mlx_colbert.untrusted import shown

__all__ = ["read_stanford"]


def read_stanford(source: Source) -> None:
    """Read a Stanford ColBERT, whose projection is `linear.weight` beside the backbone.

    artifact.metadata has dozens of keys about the training. Only the keys that encoding needs are read.
    """
    source.layout = "stanford"
    problems = source.problems
    source.unused = ("linear.weight",)
    _, shape = source.weights.shapes.get("linear.weight", ("", ()))
    settings = Settings(read_optional(source.folder / "artifact.metadata"), "artifact.metadata", problems)
    if len(shape) != 2:
        problems.append("tensor linear.weight, the projection, is missing, or is not a matrix")
    else:
        source.projection = (ProjectionLayer(shape[1], shape[0]),)
        source.projection_weights = {"projection.0.weight": (source.weights, "linear.weight")}
        dim = settings.values.get("dim")
        if dim is not None and dim != shape[0]:
            problems.append(
                f"artifact.metadata: 'dim' is {shown(dim)}, but linear.weight has {counted(shape[0], 'row')}"
            )
    if settings.text("interaction", "colbert") != "colbert":
        problems.append(
            f"artifact.metadata: 'interaction' {shown(settings.values['interaction'])} is not implemented"
        )
    # "l2" scores -|q - d|^2. For unit rows this is 2 q.d - 2, so the order is that of MaxSim.
    if settings.text("similarity", "cosine") not in ("cosine", "l2"):
        problems.append(
            f"artifact.metadata: 'similarity' {shown(settings.values['similarity'])} is not implemented"
        )
    source.prefixes = {
        "query": (settings.text("query_token_id", "") or "[unused0]") + " ",
        "document": (settings.text("doc_token_id", "") or "[unused1]") + " ",
    }
    source.markers = tuple(source.prefixes.values())
    length = settings.length("query_maxlen") or 32
    source.expansion = Expansion(length, length, settings.flag("attend_to_mask_tokens", False))
    source.document_length = settings.length("doc_maxlen")
    # A null means no skiplist. Without the key, there is one.
    if settings.flag("mask_punctuation", "mask_punctuation" not in settings.values):
        source.skiplist_words = tuple(string.punctuation)
