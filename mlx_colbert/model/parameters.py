"""The names and shapes of a model's parameters."""

from __future__ import annotations

from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.projection import ProjectionLayer, projection_modules

__all__ = ["expected_shapes", "linear_names"]


def expected_shapes(
    backbone: Backbone, projection: tuple[ProjectionLayer, ...]
) -> dict[str, tuple[int, ...]]:
    """Name and shape of each parameter before quantisation."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape, has_bias in (*backbone.modules(), *projection_modules(projection)):
        shapes[f"{name}.weight"] = shape
        if has_bias:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def linear_names(backbone: Backbone) -> list[str]:
    """The names of the large matrices, which may be quantised: the token table and those of the layers."""
    return [
        name
        for name, shape, _ in backbone.modules()
        if len(shape) == 2 and name not in ("embeddings.position", "embeddings.type")
    ]
