"""The codec: it compresses a token embedding to the number of a centroid and a few bits for the residual.

Let e be the token embedding, c its centroid, and b the vector that the residual bytes encode, all in the same
random rotation:

    e ≈ gain · (c + scale · b)

The rotation spreads the residual evenly over the components, and `scale` gives it unit variance. So one
codebook for normally distributed numbers fits every dimension and every collection. Each residual byte
chooses one of 256 codewords of 8 / nbits components. A byte for two, four or eight components together is
more precise than separate bits for each component. `gain` restores the length of e.

The score of a query token is q·e = gain · (q·c + scale · q·b). The choice of candidates has computed q·c
already, so a search never decodes a whole vector.

Source: PLAID (Santhanam et al. 2022) for centroids and residuals; RaBitQ (Gao & Long 2024) for the rotation
with a scale per vector; vector quantisation of a normal source as in Gersho & Gray 1992, chapter 11.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mlx_colbert.index.storage.kmeans import Assigner, nearest_centroid, train_centroids
from mlx_colbert.kernels import SearchOps
from mlx_colbert.kernels.threads import one_blas_thread
from mlx_colbert.progress import Part
from mlx_colbert.types import Array, CompressedRows

Bits = Literal[1, 2, 4, 8]
# More centroids make smaller residuals. A centroid needs D + 4 bytes, so with this number centroids need two
# bytes per token at D = 128.
_TOKENS_PER_CENTROID = 64
# So that a code fits in 16 bits.
_MAX_CENTROIDS = 65536
# Sampled tokens per centroid. More of them do not improve recall measurably.
SAMPLE_PER_CENTROID = 32
_SEED = 42
# The codebooks for 1, 2, 4 and 8 bits, side by side: (256, 15) float32.
CODEBOOKS_NAME = "codebooks.npy"
# Vectors to convert at a time.
_BLOCK_ROWS = 65536
# The part of the training that the centroids take. The rest is the distances to them.
_CENTROIDS_PART = 0.75
# A token is an outlier if it is further from its centroid than this part of the sample.
_OUTLIER_QUANTILE = 0.99
# New centroids are added if outliers are this many times as frequent as in the sample.
_OUTLIER_EXCESS = 3.0
_OUTLIERS_PER_CENTROID = 32
_MAX_GAIN = np.float32(1e4)


@dataclass(frozen=True, eq=False)
class Codec:
    """Compresses token embeddings and decodes them.

    Attributes:
        nbits: bits per component.
        levels: (K, D) int8, the rotated centroids as multiples of `steps`. Float32 if they come from another
            engine, because they must not change.
        steps: (K,) float32.
        codebook: (256, 8 / nbits) float32, the components that each residual byte encodes.
        rotation: (D, D) float32, orthogonal: rotated = vectors @ rotation. (0, 0) for a codec from another
            engine, whose rows have the scale 1.
        outlier_distance: a unit vector is an outlier if its squared distance to its centroid is larger than
            this. 0 if the codec gets no more centroids.
        probe_weights: (K,) float32, one over the lengths of the centroids. The mean of a wide cluster is
            short, but only its direction matters to find the nearest tokens.
    """

    nbits: Bits
    levels: Array
    steps: Array
    codebook: Array
    rotation: Array
    outlier_distance: float
    probe_weights: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "probe_weights", 1 / np.maximum(row_norms(self.centroids), 1e-6))

    @classmethod
    def imported(cls, nbits: Bits, centroids: Array, codebook: Array) -> Codec:
        """The codec of another engine, which normalises decoded vectors. It never gets more centroids.

        Args:
            nbits: bits per component.
            centroids: (K, D), finite.
            codebook: (256, 8 / nbits), finite.
        """
        steps, rotation = np.ones(len(centroids), np.float32), np.zeros((0, 0), np.float32)
        return cls(nbits, centroids.astype(np.float32), steps, codebook.astype(np.float32), rotation, 0.0)

    @property
    def centroids(self) -> Array:
        """The rotated centroids (K, D) float32. They are computed at each access, so keep them."""
        return self._nearest(slice(None))

    def _nearest(self, codes: Array | slice) -> Array:
        """The rotated centroids (n, D) float32 of codes (n,)."""
        centroids: Array = self.levels[codes] * self.steps[codes, None]
        return centroids

    @property
    def dim(self) -> int:
        """D."""
        return int(self.levels.shape[1])

    @property
    def residual_bytes(self) -> int:
        """The number of residual bytes of one token."""
        return self.dim * self.nbits // 8

    @property
    def n_centroids(self) -> int:
        """K."""
        return len(self.levels)

    @one_blas_thread()
    def rotated(self, vectors: Array) -> Array:
        """Vectors (n, D) in the axes of the codec: (n, D) float32."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        return vectors @ self.rotation if len(self.rotation) else vectors

    def encode(self, ops: SearchOps, assigner: Assigner, vectors: Array) -> CompressedRows:
        """The compressed rows of token embeddings (n, D)."""
        rows = self.rotated(vectors)
        lengths = row_norms(rows)
        # The centroids are for unit vectors. The residual of a short vector would be nearly its centroid.
        rows = rows / np.maximum(lengths, 1e-12)[:, None]
        codes = assigner.assign(ops, rows)
        centroids = self._nearest(codes)
        residuals, scales = self._encoded_residuals(ops, rows - centroids)
        decoded = centroids + scales[:, None] * self._words(residuals)
        # Limited, because a vector may decode to almost zero.
        gains = lengths / np.maximum(row_norms(decoded), 1 / _MAX_GAIN)
        return CompressedRows(codes.astype(code_type(self.n_centroids)), residuals, scales, gains)

    def _encoded_residuals(self, ops: SearchOps, residuals: Array) -> tuple[Array, Array]:
        """Residuals (n, D) as bytes (n, D · nbits / 8), and the scale (n,) of each row.

        The argument may be overwritten.
        """
        n, dim = residuals.shape
        norms = np.sqrt(np.einsum("nd,nd->n", residuals, residuals) / dim)
        if len(self.rotation):
            residuals /= np.maximum(norms, 1e-12)[:, None]
        parts = residuals.reshape(-1, 8 // self.nbits)
        encoded = nearest_centroid(ops, parts, self.codebook).astype(np.uint8).reshape(n, -1)
        words = self._words(encoded)
        energy = np.einsum("nd,nd->n", words, words)
        # The scale of least squares.
        scales = np.einsum("nd,nd->n", residuals, words) / np.maximum(energy, 1e-12)
        if len(self.rotation):
            scales *= norms
        return encoded, np.maximum(scales, 0, dtype=np.float32)

    def _words(self, residuals: Array) -> Array:
        """The vectors (n, D) float32 that residual bytes (n, D · nbits / 8) encode."""
        # One item per byte: to take whole codewords is ten times as fast as to take their components.
        words = np.ascontiguousarray(self.codebook).view(f"V{32 // self.nbits}").ravel()
        return words.take(residuals).view(np.float32)

    def imported_rows(self, codes: Array, residuals: Array) -> CompressedRows:
        """Rows that another engine compressed: unit vectors in the direction of centroid plus residual.

        Args:
            codes: (n,) integers.
            residuals: (n, D · nbits / 8) uint8.
        """
        norms = row_norms(self._nearest(codes) + self._words(residuals))
        gains = 1 / np.maximum(norms, 1 / _MAX_GAIN)
        return CompressedRows(
            codes.astype(code_type(self.n_centroids)), residuals, np.ones_like(gains), gains
        )

    @one_blas_thread()
    def decode(self, rows: CompressedRows) -> Array:
        """The token embeddings (n, D) float32 of compressed rows, in the axes of the model."""
        vectors = self.decode_rotated(rows)
        return np.asarray(vectors @ self.rotation.T) if len(self.rotation) else vectors

    def decode_rotated(self, rows: CompressedRows) -> Array:
        """The token embeddings (n, D) float32 of compressed rows, in the axes of the codec."""
        vectors: Array = self._nearest(rows.codes) + rows.scales[:, None] * self._words(rows.residuals)
        vectors *= rows.gains[:, None]
        return vectors

    def outliers(self, ops: SearchOps, assigner: Assigner, sample: Array) -> Array:
        """The vectors (n, D) of a sample that are far from every centroid, rotated and of unit length."""
        rows = unit_rows(self.rotated(sample))
        return rows[_squared_distances(ops, assigner, rows) > self.outlier_distance]

    def extended(self, ops: SearchOps, outliers: Array) -> Codec:
        """The codec with new centroids for outliers (n, D) after the old ones. Old codes stay valid."""
        n_new = min(max(1, len(outliers) // _OUTLIERS_PER_CENTROID), _MAX_CENTROIDS - self.n_centroids)
        levels, steps = _levels(train_centroids(ops, outliers, n_new, seed=_SEED + self.n_centroids))
        return replace(
            self,
            levels=np.concatenate([self.levels, levels]),
            steps=np.concatenate([self.steps, steps]),
        )

    @property
    def is_extensible(self) -> bool:
        """Whether it may get more centroids."""
        return self.outlier_distance > 0 and self.n_centroids < _MAX_CENTROIDS

    def needs_centroids(self, n_outliers: int, n_sampled: int) -> bool:
        """Whether a sample has so many outliers that the codec needs more centroids."""
        excess = _OUTLIER_EXCESS * (1 - _OUTLIER_QUANTILE) * n_sampled
        return n_outliers > max(excess, _OUTLIERS_PER_CENTROID)


def n_centroids_for(n_tokens: int) -> int:
    """The number of centroids K for a collection of n_tokens.

    >>> n_centroids_for(1_280_000), n_centroids_for(10**9), n_centroids_for(5)
    (20000, 65536, 1)
    """
    return max(1, min(n_tokens // _TOKENS_PER_CENTROID, _MAX_CENTROIDS))


@one_blas_thread()
def train_codec(
    ops: SearchOps,
    sample: Array,
    *,
    n_centroids: int,
    nbits: Bits,
    overwrite: bool = False,
    told: Part = lambda part: None,
) -> Codec:
    """A codec whose centroids are trained on a sample of the token embeddings.

    The same sample gives the same codec.

    Args:
        ops: the kernels.
        sample: (S, D) float, S >= 1.
        n_centroids: the most centroids.
        nbits: bits per component of a residual.
        overwrite: use the memory of the sample, which must be float16, and change its values.
        told: called again and again meanwhile, in this thread.
    """
    dim = sample.shape[1]
    gaussian = np.random.default_rng(_SEED).standard_normal((dim, dim))
    rotation = np.linalg.qr(gaussian)[0].astype(np.float32)
    rows = sample if overwrite else np.empty(sample.shape, np.float16)
    for start in range(0, len(sample), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        rows[block] = unit_rows(sample[block].astype(np.float32)) @ rotation
    levels, steps = _levels(
        train_centroids(ops, rows, n_centroids, seed=_SEED, told=lambda part: told(part * _CENTROIDS_PART))
    )
    codec = Codec(nbits, levels, steps, normal_codebook(nbits), rotation, 0.0)
    assigner = Assigner.build(ops, codec.centroids)
    distances = []
    for start in range(0, len(rows), _BLOCK_ROWS):
        end = min(start + _BLOCK_ROWS, len(rows))
        distances.append(_squared_distances(ops, assigner, rows[start:end].astype(np.float32)))
        told(_CENTROIDS_PART + (1 - _CENTROIDS_PART) * end / len(rows))
    # Above 0, because 0 means that the codec gets no more centroids.
    bound = max(float(np.quantile(np.concatenate(distances), _OUTLIER_QUANTILE)), 1e-6)
    return replace(codec, outlier_distance=bound)


def code_type(n_centroids: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type for a code.

    >>> code_type(256), code_type(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.min_scalar_type(max(n_centroids - 1, 0)))


def row_norms(vectors: Array) -> Array:
    """The length (n,) of each vector of (n, D)."""
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)))


def unit_rows(vectors: Array) -> Array:
    """The vectors (n, D) at unit length. A zero vector stays zero."""
    unit: Array = vectors / np.maximum(row_norms(vectors), 1e-12)[:, None]
    return unit


@cache
def normal_codebook(nbits: Bits) -> Array:
    """256 codewords (256, 8 / nbits) float32 for components that are independent and standard normal.

    They are trained as vectors. Their error is a tenth (1 bit) to a sixth (2 and 4 bits) smaller than that of
    the best levels for single components. They are part of the package, because the training takes seconds,
    and so that they are the same everywhere.
    """
    codebooks = np.load(Path(__file__).with_name(CODEBOOKS_NAME))
    first = sum(8 // smaller for smaller in get_args(Bits) if smaller < nbits)
    codebook = np.ascontiguousarray(codebooks[:, first : first + 8 // nbits])
    codebook.flags.writeable = False
    return codebook


def _levels(centroids: Array) -> tuple[Array, Array]:
    """Centroids (K, D) as int8 multiples of a float32 step. The residuals contain the rounding error."""
    steps = np.maximum(np.abs(centroids).max(axis=1), 1e-6).astype(np.float32) / np.float32(127)
    return np.rint(centroids / steps[:, None]).astype(np.int8), steps


def _squared_distances(ops: SearchOps, assigner: Assigner, rows: Array) -> Array:
    differences = rows - assigner.centroids[assigner.assign(ops, rows)]
    return np.asarray(np.einsum("nd,nd->n", differences, differences))
