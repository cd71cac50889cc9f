"""A checkpoint, as its layout describes it. Names are those on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.convert.problems import Problems
from mlx_colbert.convert.weights import Weights, widest
from mlx_colbert.model.config import Dtype, Layout, ProjectionLayer, Similarity, Task
from mlx_colbert.types import Array

__all__ = ["Expansion", "Source"]


@dataclass(frozen=True)
class Expansion:
    """How queries are filled up.

    Attributes:
        floor: shorter queries are filled up to this many tokens.
        ceiling: longer queries are truncated to this many tokens. None: the general limit.
        attend: whether other tokens attend to the fill.
        token: the token of the fill. None: the mask token of the tokenizer.
    """

    floor: int
    ceiling: int | None
    attend: bool
    token: str | None = None


@dataclass
class Source:
    """A checkpoint under the names that it has on disk.

    Attributes:
        layout: the layout of the checkpoint.
        folder: the folder with config.json, the backbone's weights and the tokenizer.
        config: the backbone's config.json.
        architecture: the family of the backbone.
        weights: the backbone's tensors, by their names on disk.
        unused: names of tensors in `weights` that do not belong to the backbone.
        projection: the layers after the backbone.
        projection_weights: parameter of the projection ("projection.0.weight" …) -> the weights of its
            module, and its name in them.
        modules: folder in the checkpoint ("" or "1_Dense/") -> its weights.
        prefixes: "query" and "document" -> the text that is put before.
        markers: prefixes that the tokenizer must not split.
        query_length: limit in tokens. None: the limit of the tokenizer.
        document_length: the same for documents.
        expansion: how queries are filled up. None: they are not.
        skiplist_words: tokens that are not scored.
        skiplist_tasks: "query", "document" or both: the side on which they are not scored.
        max_seq_length: the limit of the tokenizer, if a file sets one.
        do_lower_case: whether texts are lower-cased first.
        similarity: "maxsim" or "meanmaxsim".
        problems: settings that are not understood, one sentence each.
    """

    layout: Layout
    folder: Path
    config: dict[str, Any]
    architecture: Architecture
    weights: Weights
    unused: tuple[str, ...] = ()
    projection: tuple[ProjectionLayer, ...] = ()
    projection_weights: dict[str, tuple[Weights, str]] = field(default_factory=dict)
    modules: dict[str, Weights] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    query_length: int | None = None
    document_length: int | None = None
    expansion: Expansion | None = None
    skiplist_words: tuple[str, ...] = ()
    skiplist_tasks: tuple[Task, ...] = ("document",)
    max_seq_length: int | None = None
    do_lower_case: bool = False
    similarity: Similarity = "maxsim"
    problems: Problems = field(default_factory=Problems)

    @property
    def dtypes(self) -> set[Dtype]:
        """The floating-point types of the weights on disk. For a Dense module, only the widest type."""
        return {widest(weights.dtypes) for weights in self.modules.values()} | self.weights.dtypes

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of every weight file."""
        return {
            f"{place}{name}": digest
            for place, weights in self.modules.items()
            for name, digest in weights.files.items()
        }

    @property
    def projection_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of the projection."""
        return {name: weights.shapes[own][1] for name, (weights, own) in self.projection_weights.items()}

    def projection_tensors(self) -> dict[str, Array]:
        """The parameters of the projection."""
        return {name: weights.read([own])[own] for name, (weights, own) in self.projection_weights.items()}
