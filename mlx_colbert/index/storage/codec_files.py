"""The files of a codec: how they are written and read."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import numpy as np

from mlx_colbert.index.storage.codec import Bits, Codec
from mlx_colbert.index.storage.files import SMALL_HEADER_BYTES, FileRecord, NpyFile, write_folder
from mlx_colbert.index.storage.records import CodecRecord, codec_folder

# The largest absolute value in each file. With the limits of scales and gains, no score overflows.
_FILES = {"levels.npy": 1e6, "steps.npy": 1e6, "codebook.npy": 1e6, "rotation.npy": 2.0}


def write_codec(root: Path, number: int, label: str, codec: Codec) -> tuple[FileRecord, ...]:
    """Write the files of a codec; returns their records. The files are durable when this returns."""
    arrays = (codec.levels, codec.steps, codec.codebook, codec.rotation)
    files = (NpyFile.of(name, array) for name, array in zip(_FILES, arrays, strict=True))
    return write_folder(codec_folder(root, number), label, files)


def open_codec(root: Path, record: CodecRecord, *, dim: int) -> Codec:
    """The codec, in memory.

    Raises:
        IndexDamagedError: if a file is missing, or its size, header or checksum is not the catalog's.
    """
    folder = record.folder(root)
    folder.expect(_FILES)
    if record.nbits not in get_args(Bits) or dim * record.nbits % 8 or record.n_centroids < 1:
        raise folder.damaged("levels.npy", "the catalog has an impossible size for it")
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
        # This comparison is also false for a NaN.
        if not (np.abs(array) <= largest).all():
            raise folder.damaged(name, "it has a number that is out of range")
    levels, steps, codebook, rotation = arrays
    return Codec(cast(Bits, record.nbits), levels, steps, codebook, rotation, record.outlier_distance)
