"""MUVERA: fixed-dimensional encodings. Their inner product is about the MaxSim of a query and a passage.

The space is cut into 2^k partitions by k random planes. A query adds its vectors in each partition, a passage
takes the mean of its vectors there. So a query vector meets the mean of the passage vectors near to it. This
is repeated with other planes, and each time with another random projection to fewer dimensions.

Modern models need a centre: their vectors are all near one direction, so that planes through the origin
hardly divide them, and what they have in common hides the rest. So the mean of the passage vectors is
subtracted from all vectors. That subtracts nearly the same number from the MaxSim of each passage.

Source: Dhulipala et al. 2024, "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from mlx_colbert.checks import check_whole
from mlx_colbert.errors import InputError, ShapeError
from mlx_colbert.first_stage.encoder_file import read_encoder, write_encoder
from mlx_colbert.kernels.blocks import blocks
from mlx_colbert.kernels.threads import mapped
from mlx_colbert.types import Array, TokenEmbeddings

__all__ = ["Muvera", "MuveraSettings"]

# Vectors that are projected at once: 5 MiB at 10 repetitions of 32 components.
_ROWS = 4096
_MAX_PLANES = 10


@dataclass(frozen=True)
class MuveraSettings:
    """The size of the encodings: n_repetitions · 2^n_planes · n_components numbers."""

    # Independent repetitions. The result is their mean.
    n_repetitions: int = 10
    # Random planes of a repetition: 2^n_planes partitions.
    n_planes: int = 5
    # Numbers of a partition. D of the vectors or more: D, and there is no projection.
    n_components: int = 32
    # The seed of the planes and projections.
    seed: int = 42

    def __post_init__(self) -> None:
        check_whole(self.n_repetitions, "n_repetitions", at_least=1)
        check_whole(self.n_planes, "n_planes", at_least=0)
        check_whole(self.n_components, "n_components", at_least=1)
        check_whole(self.seed, "seed", at_least=0)
        if self.n_planes > _MAX_PLANES:
            raise InputError(f"n_planes is {self.n_planes}. Give {_MAX_PLANES} or less.")


class Muvera:
    """Encodes token embeddings as single vectors for a search by inner product.

    Attributes:
        settings: the size of the encodings.
        fingerprint: the fingerprint of the model of the token embeddings, if it is known.
        centre: (D,) float32, the mean of the passage vectors.

    >>> rows = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    >>> passages = TokenEmbeddings(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.full(10, 4))
    >>> muvera = Muvera.fit(passages, MuveraSettings(n_repetitions=20, n_planes=2, n_components=8))
    >>> scores = muvera.encode_query(passages[:1]) @ muvera.encode_document(passages).T
    >>> scores.shape, int(scores.argmax())
    ((1, 10), 0)
    """

    kind = "muvera"

    def __init__(self, settings: MuveraSettings, centre: Array, *, fingerprint: str | None = None) -> None:
        self.centre = np.ascontiguousarray(centre, np.float32)
        self.fingerprint = fingerprint
        dim = len(self.centre)
        self.settings = settings = replace(settings, n_components=min(settings.n_components, dim))
        n = settings.n_repetitions
        rng = np.random.default_rng(settings.seed)
        self._planes = rng.standard_normal((dim, n * settings.n_planes)).astype(np.float32)
        signs = rng.integers(0, 2, (dim, n * settings.n_components)) * 2 - 1
        if settings.n_components == dim:
            # A random projection to all dimensions would only add noise.
            signs = np.tile(np.eye(dim), n) * np.sqrt(dim)
        self._projections = (signs / np.sqrt(settings.n_components)).astype(np.float32)
        sides = np.arange(1 << settings.n_planes)[:, None] >> np.arange(settings.n_planes) & 1
        # The number of planes between two partitions.
        self._distances = (sides[:, None] != sides).sum(axis=2).astype(np.uint8)

    @classmethod
    def fit(
        cls,
        documents: TokenEmbeddings,
        settings: MuveraSettings | None = None,
        *,
        fingerprint: str | None = None,
    ) -> Self:
        """Compute the centre, the mean of the vectors of some passages.

        Args:
            documents: a sample of the passages, or all of them.
            settings: the size of the encodings.
            fingerprint: the fingerprint of the model of the token embeddings.

        Raises:
            InputError: if there are no passages, or a setting cannot be used.
        """
        if not len(documents.vectors):
            raise InputError("there are no passages to fit on. Give at least one.")
        mean = documents.vectors.mean(axis=0, dtype=np.float64)
        return cls(settings or MuveraSettings(), mean, fingerprint=fingerprint)

    @property
    def dim(self) -> int:
        """D of the token embeddings."""
        return len(self.centre)

    @property
    def size(self) -> int:
        """The number of components of an encoding."""
        return self.settings.n_repetitions * self.settings.n_components << self.settings.n_planes

    def encode_query(self, queries: TokenEmbeddings) -> Array:
        """The encodings of queries: (n, size) float32.

        The inner product with that of a passage is about the MaxSim of the vectors without the centre.

        Raises:
            ShapeError: if D differs.
        """
        return self._encoded(queries, self._query_weights) / np.float32(self.settings.n_repetitions)

    def encode_document(self, documents: TokenEmbeddings) -> Array:
        """The encodings of passages: (N, size) float32.

        Raises:
            ShapeError: if D differs.
            InputError: if a passage has no token embeddings.
        """
        if not documents.lengths.all():
            raise InputError(f"passage {int(np.argmin(documents.lengths))} has no token embeddings.")
        return self._encoded(documents, self._document_weights)

    def save(self, path: str | Path) -> None:
        """Write the settings and the centre to a file (.npz)."""
        write_encoder(path, self.kind, asdict(self.settings), self.fingerprint, {"centre": self.centre})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: if it is not such a file.
        """
        settings, fingerprint, arrays = read_encoder(path, cls.kind, MuveraSettings, {"centre": 1})
        return cls(settings, arrays["centre"], fingerprint=fingerprint)

    def _encoded(self, texts: TokenEmbeddings, weights_of: Callable[[Array], Array]) -> Array:
        """The encodings of texts (n, size).

        Args:
            texts: the texts.
            weights_of: a function of the partitions (T, repetitions) of the vectors of a text. It returns
                the weight of each vector in each cell: (repetitions, partitions, T).
        """
        if texts.dim != self.dim:
            raise ShapeError(f"token embeddings have {texts.dim} components, but the encoder has {self.dim}.")
        n, size = self.settings.n_repetitions, self.settings.n_components
        encoded = np.empty((len(texts), n, 1 << self.settings.n_planes, size), np.float32)

        def encode(part: slice) -> None:
            first, last = texts.offsets[[part.start, part.stop]]
            rows = np.asarray(texts.vectors[first:last], np.float32) - self.centre
            partitions = self._partitions(rows)
            projected = (rows @ self._projections).reshape(len(rows), n, size).swapaxes(0, 1)
            for number in range(part.start, part.stop):
                own = slice(texts.offsets[number] - first, texts.offsets[number + 1] - first)
                np.matmul(weights_of(partitions[own]), projected[:, own], out=encoded[number])

        for _ in mapped(encode, list(blocks(texts.offsets, _ROWS))):
            pass
        return encoded.reshape(len(texts), self.size)

    def _partitions(self, rows: Array) -> Array:
        """The partition of each vector in each repetition: (T, repetitions)."""
        n, n_planes = self.settings.n_repetitions, self.settings.n_planes
        sides = (rows @ self._planes > 0).reshape(len(rows), n, n_planes)
        partitions: Array = sides @ (1 << np.arange(n_planes))
        return partitions

    def _query_weights(self, partitions: Array) -> Array:
        """One for each vector, in its partition."""
        numbers = np.arange(1 << self.settings.n_planes)[:, None]
        weights: Array = (partitions.T[:, None] == numbers).astype(np.float32)
        return weights

    def _document_weights(self, partitions: Array) -> Array:
        """Equal parts for the vectors of a partition. An empty one has that from the nearest partition."""
        weights = self._query_weights(partitions)
        counts = weights.sum(axis=2)
        weights /= np.maximum(counts, 1)[..., None]
        repetitions, empty = np.nonzero(counts == 0)
        nearest = self._distances[:, partitions].argmin(axis=1)
        weights[repetitions, empty, nearest[empty, repetitions]] = 1
        return weights
