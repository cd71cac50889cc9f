"""LEMUR: learned single vectors. The inner product of a query and a passage is an estimate of their MaxSim.

MaxSim is a sum over the vectors of the query: Σ_q g(q), where g(q) is the largest similarity of q with the
passage. A hidden layer of random features ψ turns a vector into many numbers, and g is fitted as a linear
function of these: g(q) ≈ w·ψ(q). So a query becomes Σ_q ψ(q), and a passage becomes its w: one least-squares
solution on a sample of vectors, which all passages share. A new passage is fitted alone.

From each g, the mean of g over some passages is subtracted. That is the same for each passage, so no order
changes, and what remains is what distinguishes passages.

Source: Jääsaari, Hyvönen and Roos 2026, "LEMUR: Learned Multi-Vector Retrieval" (arXiv 2601.21853), in its
form without training of the hidden layer. Here, 600 steps of training improved recall by 0.01 or less
(docs/first-stage.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from mlx_colbert.checks import check_whole
from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.first_stage.encoder_file import read_encoder, write_encoder
from mlx_colbert.kernels import get_search_ops
from mlx_colbert.types import Array, TokenEmbeddings

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend

__all__ = ["Lemur", "LemurSettings"]

# Passages that are fitted at once: 16 MiB of similarities at 16,384 sampled vectors.
_PASSAGES = 256
# Vectors whose features are computed at once: 32 MiB at 2,048 features.
_ROWS = 4096
# The part of the mean square of the features that is added to their squares. 0.1 has a lower recall on CoSQA.
_RIDGE = 0.01
# The arrays of the file, with the number of their axes.
_ARRAYS = {"centre": 1, "weights": 2, "biases": 1, "sample": 2, "means": 1}


@dataclass(frozen=True)
class LemurSettings:
    """The size of the vectors, and of the sample that they are fitted on."""

    # Random features: the number of components of a vector.
    n_features: int = 2048
    # Vectors of the sample, from queries and passages.
    n_sampled: int = 16384
    # The seed of the features and of the sample.
    seed: int = 42

    def __post_init__(self) -> None:
        check_whole(self.n_features, "n_features", at_least=1)
        check_whole(self.n_sampled, "n_sampled", at_least=1)
        check_whole(self.seed, "seed", at_least=0)


class Lemur:
    """Encodes token embeddings as single vectors for a search by inner product.

    Attributes:
        settings: the size of the vectors.
        fingerprint: the fingerprint of the model of the token embeddings, if it is known.

    >>> rows = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    >>> passages = TokenEmbeddings(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.full(10, 4))
    >>> lemur = Lemur.fit(passages, settings=LemurSettings(n_features=64), backend="numpy")
    >>> scores = lemur.encode_query(passages[:1]) @ lemur.encode_document(passages).T
    >>> scores.shape, int(scores.argmax())
    ((1, 10), 0)
    """

    kind = "lemur"

    def __init__(
        self,
        settings: LemurSettings,
        arrays: dict[str, Array],
        *,
        fingerprint: str | None = None,
        backend: Backend = "auto",
    ) -> None:
        self.settings = settings
        self.fingerprint = fingerprint
        self._values = arrays
        self._ops = get_search_ops(backend)

    @classmethod
    def fit(
        cls,
        documents: TokenEmbeddings,
        queries: TokenEmbeddings | None = None,
        settings: LemurSettings | None = None,
        *,
        fingerprint: str | None = None,
        backend: Backend = "auto",
    ) -> Self:
        """Draw the features and the sample.

        Args:
            documents: a sample of the passages, some hundreds or more, or all of them.
            queries: queries as users ask them, some hundreds if possible. Half of the sample is from them.
                Without them, it is from the passages alone, and recall is lower.
            settings: the size of the vectors and of the sample.
            fingerprint: the fingerprint of the model of the token embeddings.
            backend: the kernels.

        Raises:
            InputError: if there are no passages.
            ShapeError: if D differs.
        """
        settings = settings or LemurSettings()
        if not len(documents.vectors):
            raise InputError("there are no passages to fit on. Give at least one.")
        if queries is not None and queries.dim != documents.dim:
            raise ShapeError(f"queries have {queries.dim} components, but passages have {documents.dim}.")
        rng = np.random.default_rng(settings.seed)
        parts = [documents.vectors]
        if queries is not None and len(queries.vectors):
            parts = [queries.vectors, documents.vectors]
        sample = np.concatenate([_drawn(rng, part, settings.n_sampled // len(parts)) for part in parts])
        centre = documents.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = np.sqrt(np.square(sample - centre).sum(axis=1).mean()) or 1
        shape = (documents.dim, settings.n_features)
        arrays = {
            "centre": centre,
            "weights": (rng.standard_normal(shape) / spread).astype(np.float32),
            "biases": rng.standard_normal(settings.n_features).astype(np.float32),
            "sample": sample,
            "means": np.zeros(len(sample), np.float32),
        }
        fitted = cls(settings, arrays, fingerprint=fingerprint, backend=backend)
        for start in range(0, len(documents), _PASSAGES):
            arrays["means"] += fitted._largest(documents[start : start + _PASSAGES]).sum(axis=1)
        arrays["means"] /= len(documents)
        return fitted

    @property
    def dim(self) -> int:
        """D of the token embeddings."""
        return len(self._values["centre"])

    @property
    def size(self) -> int:
        """The number of components of a vector."""
        return self.settings.n_features

    def encode_query(self, queries: TokenEmbeddings) -> Array:
        """The vectors of queries: (n, size) float32.

        Raises:
            ShapeError: if D differs.
            InputError: if a query has no token embeddings.
        """
        self._check(queries, "query")
        return np.stack([self._features(rows).sum(axis=0) for rows in queries])

    def encode_document(self, documents: TokenEmbeddings) -> Array:
        """The vectors of passages: (N, size) float32. Each is one least-squares solution.

        Raises:
            ShapeError: if D differs.
            InputError: if a passage has no token embeddings.
        """
        self._check(documents, "passage")
        encoded = np.empty((len(documents), self.size), np.float32)
        for start in range(0, len(documents), _PASSAGES):
            largest = self._largest(documents[start : start + _PASSAGES])
            encoded[start : start + _PASSAGES] = (largest - self._values["means"][:, None]).T @ self._solver
        return encoded

    def save(self, path: str | Path) -> None:
        """Write the settings, the features and the sample to a file (.npz)."""
        write_encoder(path, self.kind, asdict(self.settings), self.fingerprint, self._values)

    @classmethod
    def load(cls, path: str | Path, *, backend: Backend = "auto") -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: if it is not such a file.
        """
        settings, fingerprint, arrays = read_encoder(path, cls.kind, LemurSettings, _ARRAYS)
        return cls(settings, arrays, fingerprint=fingerprint, backend=backend)

    def _check(self, texts: TokenEmbeddings, what: str) -> None:
        if texts.dim != self.dim:
            raise ShapeError(f"token embeddings have {texts.dim} components, but the encoder has {self.dim}.")
        if not texts.lengths.all():
            raise InputError(f"{what} {int(np.argmin(texts.lengths))} has no token embeddings.")

    def _features(self, rows: Array) -> Array:
        """The features of vectors: (n, size) float32."""
        values = self._values
        features = (np.asarray(rows, np.float32) - values["centre"]) @ values["weights"]
        features += values["biases"]
        return np.maximum(features, 0, out=features)

    def _largest(self, documents: TokenEmbeddings) -> Array:
        """The largest similarity of each vector of the sample with each passage: (n_sampled, N)."""
        sample = self._values["sample"]
        return self._ops.maxsim(TokenEmbeddings(sample, np.ones(len(sample), np.int64)), documents)

    @cached_property
    def _solver(self) -> Array:
        """What makes a solution of targets: (n_sampled, size)."""
        sample = self._values["sample"]
        features = np.concatenate(
            [self._features(sample[start : start + _ROWS]) for start in range(0, len(sample), _ROWS)]
        )
        squares = features.T @ features
        # In float64: the squares are nearly singular.
        squares = squares.astype(np.float64)
        squares[np.diag_indices(len(squares))] += _RIDGE * np.trace(squares) / len(squares)
        return np.linalg.solve(squares, features.T).T.astype(np.float32)


def _drawn(rng: np.random.Generator, vectors: Array, n: int) -> Array:
    """Up to n of the vectors, in float32."""
    chosen = np.sort(rng.choice(len(vectors), min(n, len(vectors)), replace=False))
    return np.asarray(vectors[chosen], np.float32)
