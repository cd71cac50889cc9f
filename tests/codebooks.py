"""Makes the codebooks that ship with the index: `python tests/codebooks.py` writes them."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np

from mlx_colbert.index.storage import codec
from mlx_colbert.index.storage.kmeans import _means, nearest_centroid
from mlx_colbert.kernels import get_search_ops

ROUNDS = 25
SEED = 42


def train_codebook(ops, points, words):
    """Codewords (n_words, d) float32 with the least squared error on points (S, d), from ones given."""
    for _ in range(ROUNDS):
        words = _means(points, nearest_centroid(ops, points, words), words)
    return words


def trained_codebook(nbits):
    """256 codewords (256, 8 / nbits) float32 for components that are independent and standard normal."""
    width = 8 // nbits
    points = np.random.default_rng(SEED).standard_normal((1 << 18, 1), np.float32).reshape(-1, width)
    # The best codewords lie as if drawn with this much more spread: Zador 1982.
    spread = ((width + 2) / width) ** 0.5
    ranks = (np.arange(256) + 0.5) / 256
    if width == 1:
        normal = NormalDist(0, spread)
        words = np.array([[normal.inv_cdf(rank)] for rank in ranks])
    elif width == 2:
        # A sunflower: nearly the hexagons that random starting points do not find.
        radii, angles = spread * np.sqrt(-2 * np.log(1 - ranks)), np.arange(256) * np.pi * (3 - 5**0.5)
        words = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    else:
        words = spread * points[:256]
    return train_codebook(get_search_ops("numpy"), points, words.astype(np.float32))


if __name__ == "__main__":
    target = Path(codec.__file__).with_name(codec.CODEBOOKS_NAME)
    np.save(target, np.concatenate([trained_codebook(nbits) for nbits in (1, 2, 4, 8)], axis=1))
