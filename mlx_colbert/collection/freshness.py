"""Encodes a few files before a search, as far as the time allows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlx_colbert.collection.changes import File
from mlx_colbert.collection.sync import BYTES_PER_PASSAGE, Syncer
from mlx_colbert.types import Source

__all__ = ["Freshness", "encode_some"]

# The passages that are encoded first. Then it is known how long they take.
_FIRST_PASSAGES = 8


@dataclass(frozen=True)
class Freshness:
    """What a refresh has done.

    Attributes:
        updated: number of files that are in step now, and were not before.
        waiting: number of files that are still not in step.
        busy: whether another process is changing the collection. Then nothing was done.
        missing: path of each folder that is missing or empty → number of its files in the index.
    """

    updated: int = 0
    waiting: int = 0
    busy: bool = False
    missing: Mapping[str, int] = field(default_factory=dict)


def encode_some(
    syncer: Syncer, files: Sequence[File], sources: Mapping[str, Source], deadline: float
) -> list[File]:
    """Encode files in portions until a time; returns those that are left.

    Args:
        syncer: reads and encodes them.
        files: the files, the smallest first.
        sources: uri → source of the index.
        deadline: the value of `time.monotonic` to stop at.
    """
    left = list(files)
    portion = _FIRST_PASSAGES
    while left and time.monotonic() < deadline:
        n_files = n_passages = 0
        while n_files < len(left):
            n_more = 1 + left[n_files].state.n_bytes // BYTES_PER_PASSAGE
            if n_passages + n_more > portion and n_passages + n_more > _FIRST_PASSAGES:
                break
            n_files, n_passages = n_files + 1, n_passages + n_more
        if not n_files:
            break
        begun = time.monotonic()
        syncer.read(left[:n_files], sources)
        left = left[n_files:]
        per_s = n_passages / max(time.monotonic() - begun, 1e-3)
        portion = int(per_s * max(deadline - time.monotonic(), 0))
    return left
