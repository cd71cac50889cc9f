"""The Dense and Normalize modules of a sentence-transformers or PyLate checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_colbert.convert.problems import Problems
from mlx_colbert.convert.sources.settings import Settings
from mlx_colbert.convert.weights import Weights, read_weights
from mlx_colbert.model.config import ProjectionLayer
from mlx_colbert.types import Activation
from mlx_colbert.untrusted import MAX_INTEGER, read_json, shown

__all__ = ["Dense", "activation_path", "normalizes_tokens", "read_dense"]

# The activations of a Dense module, by their class paths in torch.
_TORCH_ACTIVATIONS: dict[str, Activation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
}


@dataclass(frozen=True)
class Dense:
    """One layer of a projection.

    Attributes:
        layer: its settings.
        folder: the folder of its files.
        weights: its tensors: "linear.weight", "linear.bias", "residual.weight".
    """

    layer: ProjectionLayer
    folder: Path
    weights: Weights


def normalizes_tokens(folder: Path) -> bool:
    """Whether the Normalize module in a folder is for token embeddings. By default it is for sentences."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("module_input_name") == "token_embeddings"


def read_dense(folder: Path, problems: Problems, *, sentence: bool) -> Dense | None:
    """The Dense module in a folder. None if it is not implemented; then `problems` has the reason.

    Args:
        folder: the folder with its config.json and weights.
        problems: receives what is not implemented.
        sentence: whether a module for whole sentences may be used for tokens.

    Raises:
        CheckpointError: if its files cannot be read.
    """
    file = f"{folder.name}/config.json"
    values = read_json(folder / "config.json")
    settings = Settings(values, file, problems)
    name = settings.text("activation_function", "")
    if name not in _TORCH_ACTIVATIONS:
        problems.append(f"{file}: unknown activation {shown(name or None)}")
    inputs = settings.text("module_input_name", "token_embeddings")
    if inputs != "token_embeddings" and not (sentence and inputs == "sentence_embedding"):
        problems.append(f"{file}: 'module_input_name' {shown(inputs)} is not implemented")
    if settings.text("module_output_name", inputs) != inputs:
        problems.append(
            f"{file}: 'module_output_name' {shown(values['module_output_name'])} is not implemented"
        )
    known = (
        "in_features out_features bias activation_function use_residual module_input_name module_output_name"
    )
    settings.only(frozenset(known.split()))
    sizes = [values.get(key) for key in ("in_features", "out_features")]
    if not all(type(size) is int and 0 < size <= MAX_INTEGER for size in sizes):
        problems.append(f"{file}: 'in_features' and 'out_features' must be positive, got {shown(sizes)}")
        return None
    layer = ProjectionLayer(
        in_features=values["in_features"],
        out_features=values["out_features"],
        bias=settings.flag("bias", True),
        activation=_TORCH_ACTIVATIONS.get(name, "identity"),
        residual=settings.flag("use_residual", False),
    )
    return Dense(layer, folder, read_weights(folder))


def activation_path(activation: Activation) -> str | None:
    """The class path in torch of an activation."""
    return next((path for path, name in _TORCH_ACTIVATIONS.items() if name == activation), None)
