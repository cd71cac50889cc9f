"""A cache of the codec of an index, shared by all threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from mlx_colbert.index.storage.codec import Codec
from mlx_colbert.index.storage.codec_files import open_codec
from mlx_colbert.index.storage.records import CodecRecord
from mlx_colbert.kernels import SearchOps


class CodecCache:
    """The codec of an index, read once for all threads."""

    def __init__(self, root: Path, ops: SearchOps) -> None:
        self._root = root
        self._ops = ops
        self._lock = threading.Lock()
        self._record: CodecRecord | None = None
        self._codec: Codec | None = None
        self._centroids: Any = None

    def after_fork(self) -> None:
        """Make a new lock in a forked process."""
        self._lock = threading.Lock()
        # Another thread may have been changing it during the fork.
        self._record = None

    def get(self, record: CodecRecord | None, *, dim: int) -> Codec | None:
        """The codec of a record.

        Raises:
            IndexDamagedError: if a file of the codec is missing or altered.
        """
        if record is None:
            return None
        with self._lock:
            if self._codec is None or self._record != record:
                codec = open_codec(self._root, record, dim=dim)
                # With this memory order numpy multiplies by the transposed centroids twice as fast.
                centroids = self._ops.asarray(np.asfortranarray(codec.centroids))
                # Set together, so that an error above changes nothing.
                self._codec, self._centroids, self._record = codec, centroids, record
            return self._codec

    def centroids(self, codec: Codec) -> Any:
        """The centroids (K, D) of a codec, the backend's array."""
        with self._lock:
            return self._centroids if codec is self._codec else self._ops.asarray(codec.centroids)
