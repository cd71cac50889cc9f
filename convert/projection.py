"""Fits a projection on the user's texts, for an encoder without a ColBERT head."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from mlx_colbert.convert.converted import Converted, write_folder
from mlx_colbert.documents.files import read_passages
from mlx_colbert.documents.passage import encoded_text
from mlx_colbert.errors import ConfigError, InputError
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import ProjectionLayer

__all__ = ["fit_projection"]

# The eigenvectors of a 384 x 384 matrix do not change after far fewer passages. More would only take time.
MAX_TEXTS = 5000


def fit_projection(model: Converted, texts: Path, dim: int) -> Converted:
    """The model with a linear layer to `dim` components after its encoder.

    The rows of the layer are the leading eigenvectors of the second moment of the unit token embeddings. This
    is PCA without centring. MaxSim needs only dot products. Of all linear maps, this one keeps the dot
    products best, by least squares (Eckart & Young 1936).

    Args:
        model: a model without a projection.
        texts: a file or folder that `read_passages` reads; its first 5,000 passages are used.
        dim: components of a token embedding.

    Raises:
        ConfigError: if the model has a projection already, or `dim` is out of range.
        InputError: if the texts have fewer tokens than `dim`.
    """
    hidden = model.config.encoder.hidden_size
    if model.config.projection:
        raise ConfigError("projection_dim", [f"{model.config.source.id} has a projection already"])
    if not 1 <= dim < hidden:
        raise ConfigError("projection_dim", [f"must be in 1..{hidden - 1}, got {dim}"])
    moment, n_tokens = np.zeros((hidden, hidden)), 0
    with tempfile.TemporaryDirectory() as folder:
        write_folder(model, Path(folder))
        # The result must not depend on the machine.
        encoder = ColBERT.load(folder, dtype="float32")
        passages = islice(read_passages([texts]), MAX_TEXTS)
        while chunk := [encoded_text(item.text, item.position) for item in islice(passages, 512)]:
            vectors = encoder.encode_document(chunk).vectors
            moment += vectors.T.astype(np.float64) @ vectors
            n_tokens += len(vectors)
    if n_tokens < dim:
        raise InputError(f"{texts}: {n_tokens} tokens are not enough for a projection to {dim} components.")
    axes = np.linalg.eigh(moment)[1][:, ::-1][:, :dim].T
    # The sign of an eigenvector is arbitrary. A fixed sign makes the result reproducible.
    signs = np.sign(axes[np.arange(dim), np.abs(axes).argmax(axis=1)])
    weight = (axes * signs[:, None]).astype(np.float32)
    config = replace(model.config, projection=(ProjectionLayer(hidden, dim),))
    return replace(model, config=config, tensors={**model.tensors, "projection.0.weight": weight})
