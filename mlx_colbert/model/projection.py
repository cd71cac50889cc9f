"""The layers between hidden states and token embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlx_colbert.kernels import EncoderOps, Params
from mlx_colbert.model.backbones.backbone import Module
from mlx_colbert.types import Activation

__all__ = ["ProjectionLayer", "project", "projection_modules", "projection_problems"]

# Published layers have at most a few thousand components.
_MAX_DIM = 1 << 16


@dataclass(frozen=True)
class ProjectionLayer:
    """One layer of the projection: activation(x W^T + b). A residual layer adds x or x R^T."""

    in_features: int
    out_features: int
    bias: bool = False
    activation: Activation = "identity"
    residual: bool = False


def projection_problems(hidden_size: int, projection: tuple[ProjectionLayer, ...]) -> list[str]:
    """A sentence for each layer that does not fit behind the one before it, or is too wide."""
    problems, width = [], hidden_size
    for number, layer in enumerate(projection):
        if layer.in_features != width:
            problems.append(
                f"projection layer {number} reads {layer.in_features} components, but its input has {width}"
            )
        width = layer.out_features
        if width > _MAX_DIM:
            problems.append(
                f"projection layer {number} has {width} components; at most {_MAX_DIM} are allowed"
            )
    return problems


def projection_modules(projection: tuple[ProjectionLayer, ...]) -> Iterator[Module]:
    """The modules that have parameters, by their names in a converted model."""
    for number, part in enumerate(projection):
        yield f"projection.{number}", (part.out_features, part.in_features), part.bias
        if part.residual and part.in_features != part.out_features:
            yield f"projection.{number}.residual", (part.out_features, part.in_features), False


def project(ops: EncoderOps, params: Params, projection: tuple[ProjectionLayer, ...], x: Any) -> Any:
    """Unit token embeddings (B, L, D) from hidden states (B, L, H).

    A layer is activation(x W^T + b). A residual layer adds x, or x R^T if the width changes.
    """
    for number, layer in enumerate(projection):
        out = ops.activate(layer.activation, ops.linear(params, f"projection.{number}", x))
        if layer.residual:
            same = layer.in_features == layer.out_features
            out += x if same else ops.linear(params, f"projection.{number}.residual", x)
        x = out
    return ops.normalize(x)
