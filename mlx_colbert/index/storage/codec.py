"""The centroid codec: a token embedding as the number of a centroid and a few bits for what is left.

With e the token embedding, c its centroid and b what the residual bytes stand for, all rotated at random:

    e ≈ gain · (c + scale · b)

The rotation spreads the residual evenly over the components and `scale` brings it to unit variance, so one
codebook, made for normally distributed numbers, serves every dimension and every collection. Each residual
byte chooses one of 256 codewords of 8 / nbits components: a byte says more about two, four or eight
components together than about each alone. `gain` restores the length of e.

The score of a query token is q·e = gain · (q·c + scale · q·b): q·c is known from the choice of candidates, so
no vector is ever put together.

Source: PLAID (Santhanam et al. 2022) for centroids and residuals; RaBitQ (Gao & Long 2024) for the rotation
with a scale per vector; vector quantisation of a normal source as in Gersho & Gray 1992, chapter 11.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from mlx_colbert.index.storage.files import SMALL_HEADER_BYTES, FileRecord, Folder, NpyFile, write_folder
from mlx_colbert.index.storage.kmeans import Assigner, nearest_centroid, train_centroids
from mlx_colbert.kernels import SearchOps
from mlx_colbert.kernels.threads import one_blas_thread
from mlx_colbert.types import Array, CodedRows

Bits = Literal[1, 2, 4, 8]
# More centroids leave smaller residuals; a centroid costs D + 4 bytes, so that these cost two bytes per token
# at D = 128.
_TOKENS_PER_CENTROID = 64
# Codes of 16 bits.
_MAX_CENTROIDS = 65536
# Sampled tokens per centroid: k-means on more gains nothing that recall shows.
SAMPLE_PER_CENTROID = 32
_SEED = 42
# Of 1, 2, 4 and 8 bits, side by side: (256, 15) float32.
CODEBOOKS_NAME = "codebooks.npy"
# Rows converted at a time.
_BLOCK_ROWS = 65536
# The largest absolute value in each: with those of scales and gains, no score overflows.
_FILES = {"levels.npy": 1e6, "steps.npy": 1e6, "codebook.npy": 1e6, "rotation.npy": 2.0}
# A token further from its centroid than this part of the sample is an outlier.
_OUTLIER_QUANTILE = 0.99
# New centroids are made where outliers are this many times as frequent as in the sample.
_OUTLIER_EXCESS = 3.0
_OUTLIERS_PER_CENTROID = 32
_MAX_GAIN = np.float32(1e4)


@dataclass(frozen=True)
class CodecRecord:
    """What the catalog says of the codec.

    Attributes:
        number: names the folder; never used again once committed.
        label: what its files have in their headers; None in a codec of format 2.
        nbits: bits per component.
        n_centroids: K.
        outlier_distance: as in `Codec`.
        files: one record per file.
    """

    number: int
    label: str | None
    nbits: int
    n_centroids: int
    outlier_distance: float
    files: tuple[FileRecord, ...]

    def folder(self, root: Path) -> Folder:
        """Its files, in the folder of an index."""
        return Folder(codec_folder(root, self.number), self.files, self.label)


@dataclass(frozen=True, eq=False)
class Codec:
    """What turns token embeddings into codes and back.

    Attributes:
        nbits: bits per component.
        levels: (K, D) int8, the rotated centroids as multiples of `steps`; or float32, where they were taken
            over from another engine and must stay what they are.
        steps: (K,) float32.
        codebook: (256, 8 / nbits) float32, the components that a residual byte stands for.
        rotation: (D, D) float32, orthogonal: rotated = vectors @ rotation; (0, 0) for a codec taken over from
            another engine, whose rows have the scale 1.
        outlier_distance: squared distance to the centroid beyond which a unit vector is an outlier; 0 for
            none.
        probe_weights: (K,) float32, one over the centroids' lengths. The mean of a wide cluster is short; to
            find the nearest tokens, it is its direction that counts.
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
    def taken_over(cls, nbits: Bits, centroids: Array, codebook: Array) -> Codec:
        """The codec of another engine, which normalises what it decodes; it never gets more centroids.

        Args:
            nbits: bits per component.
            centroids: (K, D), finite.
            codebook: (256, 8 / nbits), finite.
        """
        steps, rotation = np.ones(len(centroids), np.float32), np.zeros((0, 0), np.float32)
        return cls(nbits, centroids.astype(np.float32), steps, codebook.astype(np.float32), rotation, 0.0)

    @property
    def centroids(self) -> Array:
        """The rotated centroids (K, D) float32, made anew each time: who multiplies by them keeps them."""
        return self._nearest(slice(None))

    def _nearest(self, codes: Array | slice) -> Array:
        """The rotated centroids of codes (n,): (n, D) float32."""
        centroids: Array = self.levels[codes] * self.steps[codes, None]
        return centroids

    @property
    def dim(self) -> int:
        """D."""
        return int(self.levels.shape[1])

    @property
    def residual_bytes(self) -> int:
        """Bytes of a token's residual."""
        return self.dim * self.nbits // 8

    @property
    def n_centroids(self) -> int:
        """K."""
        return len(self.levels)

    @one_blas_thread()
    def rotated(self, vectors: Array) -> Array:
        """Vectors (n, D) in the codec's own axes: (n, D) float32."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        return vectors @ self.rotation if len(self.rotation) else vectors

    def encode(self, ops: SearchOps, assigner: Assigner, vectors: Array) -> CodedRows:
        """Token embeddings (n, D) coded."""
        rows = self.rotated(vectors)
        lengths = row_norms(rows)
        # The centroids are for unit rows; the residual of a short row would be nearly its centroid.
        rows = rows / np.maximum(lengths, 1e-12)[:, None]
        codes = assigner.assign(ops, rows)
        centroids = self._nearest(codes)
        residuals, scales = self._coded_residuals(ops, rows - centroids)
        decoded = centroids + scales[:, None] * self._words(residuals)
        # Bounded for a vector that decodes to nearly nothing.
        gains = lengths / np.maximum(row_norms(decoded), 1 / _MAX_GAIN)
        return CodedRows(codes.astype(code_type(self.n_centroids)), residuals, scales, gains)

    def _coded_residuals(self, ops: SearchOps, residuals: Array) -> tuple[Array, Array]:
        """Residuals (n, D) as bytes (n, D · nbits / 8), and the scale (n,) of each row.

        The argument may be overwritten.
        """
        n, dim = residuals.shape
        norms = np.sqrt(np.einsum("nd,nd->n", residuals, residuals) / dim)
        if len(self.rotation):
            residuals /= np.maximum(norms, 1e-12)[:, None]
        parts = residuals.reshape(-1, 8 // self.nbits)
        coded = nearest_centroid(ops, parts, self.codebook).astype(np.uint8).reshape(n, -1)
        words = self._words(coded)
        energy = np.einsum("nd,nd->n", words, words)
        # The scale of least squares.
        scales = np.einsum("nd,nd->n", residuals, words) / np.maximum(energy, 1e-12)
        if len(self.rotation):
            scales *= norms
        return coded, np.maximum(scales, 0, dtype=np.float32)

    def _words(self, residuals: Array) -> Array:
        """What residual bytes (n, D · nbits / 8) stand for: (n, D) float32."""
        # One item per byte: taking whole codewords is ten times as fast as taking their components.
        words = np.ascontiguousarray(self.codebook).view(f"V{32 // self.nbits}").ravel()
        return words.take(residuals).view(np.float32)

    def unit_coded(self, codes: Array, residuals: Array) -> CodedRows:
        """Rows that another engine coded: unit vectors in the direction of centroid plus residual.

        Args:
            codes: (n,) integers.
            residuals: (n, D · nbits / 8) uint8.
        """
        norms = row_norms(self._nearest(codes) + self._words(residuals))
        gains = 1 / np.maximum(norms, 1 / _MAX_GAIN)
        return CodedRows(codes.astype(code_type(self.n_centroids)), residuals, np.ones_like(gains), gains)

    @one_blas_thread()
    def decode(self, rows: CodedRows) -> Array:
        """The token embeddings (n, D) float32 that coded rows stand for, in the axes of the model."""
        vectors = self.decode_rotated(rows)
        return np.asarray(vectors @ self.rotation.T) if len(self.rotation) else vectors

    def decode_rotated(self, rows: CodedRows) -> Array:
        """The same in the codec's own axes, as `rotated` gives them."""
        vectors: Array = self._nearest(rows.codes) + rows.scales[:, None] * self._words(rows.residuals)
        vectors *= rows.gains[:, None]
        return vectors

    def outliers(self, ops: SearchOps, assigner: Assigner, sample: Array) -> Array:
        """The rows (n, D), rotated and of unit length, of a sample that lie far from every centroid."""
        rows = unit_rows(self.rotated(sample))
        return rows[_squared_distances(ops, assigner, rows) > self.outlier_distance]

    def extended(self, ops: SearchOps, outliers: Array) -> Codec:
        """The codec with centroids for outliers (n, D) after the others, whose codes stay valid."""
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
        """Whether a sample has so many outliers that the codec should be extended for it."""
        excess = _OUTLIER_EXCESS * (1 - _OUTLIER_QUANTILE) * n_sampled
        return n_outliers > max(excess, _OUTLIERS_PER_CENTROID)


def n_centroids_for(n_tokens: int) -> int:
    """K for a collection of that many tokens.

    >>> n_centroids_for(1_280_000), n_centroids_for(10**9), n_centroids_for(5)
    (20000, 65536, 1)
    """
    return max(1, min(n_tokens // _TOKENS_PER_CENTROID, _MAX_CENTROIDS))


@one_blas_thread()
def train_codec(ops: SearchOps, sample: Array, *, n_centroids: int, nbits: Bits) -> Codec:
    """A codec whose centroids are trained on a sample of the token embeddings (S, D), S >= 1.

    The same sample gives the same codec.
    """
    dim = sample.shape[1]
    gaussian = np.random.default_rng(_SEED).standard_normal((dim, dim))
    rotation = np.linalg.qr(gaussian)[0].astype(np.float32)
    rows = np.empty(sample.shape, np.float16)
    for start in range(0, len(sample), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        rows[block] = unit_rows(sample[block].astype(np.float32)) @ rotation
    levels, steps = _levels(train_centroids(ops, rows, n_centroids, seed=_SEED))
    codec = Codec(nbits, levels, steps, normal_codebook(nbits), rotation, 0.0)
    assigner = Assigner.build(ops, codec.centroids)
    distances = [
        _squared_distances(ops, assigner, rows[start : start + _BLOCK_ROWS].astype(np.float32))
        for start in range(0, len(rows), _BLOCK_ROWS)
    ]
    # Above 0, which would say that the codec may not get more centroids.
    bound = max(float(np.quantile(np.concatenate(distances), _OUTLIER_QUANTILE)), 1e-6)
    return replace(codec, outlier_distance=bound)


def codec_folder(root: Path, number: int) -> Path:
    """The folder of a codec."""
    return root / f"codec-{number:06d}"


def write_codec(root: Path, number: int, label: str, codec: Codec) -> tuple[FileRecord, ...]:
    """The records of the files of a codec, which is on the disk when this returns."""
    arrays = (codec.levels, codec.steps, codec.codebook, codec.rotation)
    files = (NpyFile.of(name, array) for name, array in zip(_FILES, arrays, strict=True))
    return write_folder(codec_folder(root, number), label, files)


def open_codec(root: Path, record: CodecRecord, *, dim: int) -> Codec:
    """The codec, in memory.

    Raises:
        IndexDamagedError: if a file is missing, or disagrees with the catalog in size, header or content.
    """
    folder = record.folder(root)
    folder.expect(_FILES)
    if record.nbits not in get_args(Bits) or dim * record.nbits % 8 or record.n_centroids < 1:
        raise folder.damaged("levels.npy", "the catalog gives it a size that is not possible")
    n = record.n_centroids
    rotated = folder.length("rotation.npy", "<f4", SMALL_HEADER_BYTES) > 0
    whole = folder.length("levels.npy", "|i1", SMALL_HEADER_BYTES) == n * dim
    arrays = [
        folder.read("levels.npy", "|i1" if whole else "<f4", (n, dim)),
        folder.read("steps.npy", "<f4", (n,)),
        folder.read("codebook.npy", "<f4", (256, 8 // record.nbits)),
        folder.read("rotation.npy", "<f4", (dim, dim) if rotated else (0, 0)),
    ]
    for (name, largest), array in zip(_FILES.items(), arrays, strict=True):
        # A NaN is not in the range either.
        if not (np.abs(array) <= largest).all():
            raise folder.damaged(name, "it holds a number that cannot be")
    levels, steps, codebook, rotation = arrays
    return Codec(cast(Bits, record.nbits), levels, steps, codebook, rotation, record.outlier_distance)


def code_type(n_centroids: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type that holds a code.

    >>> code_type(256), code_type(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.min_scalar_type(max(n_centroids - 1, 0)))


def row_norms(vectors: Array) -> Array:
    """The length of each row of (n, D): (n,)."""
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)))


def unit_rows(vectors: Array) -> Array:
    """The rows (n, D) at unit length; a zero row stays."""
    unit: Array = vectors / np.maximum(row_norms(vectors), 1e-12)[:, None]
    return unit


@cache
def normal_codebook(nbits: Bits) -> Array:
    """256 codewords (256, 8 / nbits) float32 for components that are independent and standard normal.

    Trained as vectors, which leaves a tenth (1 bit) to a sixth (2 and 4 bits) less error than the best levels
    for each component alone. They ship with the package, since to train them takes seconds, and so that they
    are the same everywhere.
    """
    codebooks = np.load(Path(__file__).with_name(CODEBOOKS_NAME))
    first = sum(8 // smaller for smaller in get_args(Bits) if smaller < nbits)
    codebook = np.ascontiguousarray(codebooks[:, first : first + 8 // nbits])
    codebook.flags.writeable = False
    return codebook


def _levels(centroids: Array) -> tuple[Array, Array]:
    """Centroids (K, D) as int8 multiples of a float32 step; what that rounds off goes to the residuals."""
    steps = np.maximum(np.abs(centroids).max(axis=1), 1e-6).astype(np.float32) / np.float32(127)
    return np.rint(centroids / steps[:, None]).astype(np.int8), steps


def _squared_distances(ops: SearchOps, assigner: Assigner, rows: Array) -> Array:
    differences = rows - assigner.centroids[assigner.assign(ops, rows)]
    return np.asarray(np.einsum("nd,nd->n", differences, differences))
