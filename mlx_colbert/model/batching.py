"""Texts in windows, each tokenised while the one before is encoded, and the rows of a window in batches.

So a collection of any size costs the memory of a few windows, and little of a batch is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import numpy as np

from mlx_colbert.kernels import EncoderOps
from mlx_colbert.types import Array, TokenEmbeddings

__all__ = ["ahead", "batches", "joined", "windows"]

# Texts of a window: about 40 MB of float32 vectors at 150 tokens and 128 dimensions.
WINDOW_TEXTS = 512
# What a window of long texts may hold: some 50 MB of vectors where the model reads all of it, and half a
# minute of work for a small model on two cores, which is what a kill costs.
WINDOW_CHARACTERS = 400_000
# Rows of a batch differ in length by less than this.
_BUCKET = 32
# Tokens that are worth a thread of their own.
_SHARE_TOKENS = 128

_T = TypeVar("_T")


def windows(items: Iterable[_T], n_characters: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Consecutive items, so many at a time as are encoded together.

    Args:
        items: anything that has a text.
        n_characters: the length of an item's text.

    >>> [len(window) for window in windows(["a"] * 600, len)]
    [512, 88]
    """
    window: list[_T] = []
    n_waiting = 0
    for item in items:
        window.append(item)
        n_waiting += n_characters(item)
        if len(window) >= WINDOW_TEXTS or n_waiting >= WINDOW_CHARACTERS:
            yield window
            window, n_waiting = [], 0
    if window:
        yield window


def ahead(items: Iterable[_T]) -> Generator[_T, None, None]:
    """The items of an iterable, each made in a thread while the one before it is in use; may be closed early.

    >>> list(ahead(n * n for n in range(4)))
    [0, 1, 4, 9]
    """
    # Takes longer to import than a query to encode, which needs none of it.
    from concurrent.futures import ThreadPoolExecutor

    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1, "tokenize") as thread:
        following = thread.submit(next, source, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, source, end)
            yield item  # type: ignore[misc]


def batches(lengths: Array, ops: EncoderOps, max_length: int) -> list[tuple[Array, int]]:
    """The rows of each batch, and the width that they are padded to: longest first.

    Memory peaks at once then. The rows of a batch are of one length bucket, and within the backend's budget
    of tokens.

    Args:
        lengths: (R,) tokens of each row, >= 1.
        ops: the backend, whose `length_multiple` the widths are multiples of.
        max_length: no row is longer, and no batch wider.

    Returns:
        Positions (n,) int64 and a width for each batch.
    """
    order = np.argsort(-lengths, kind="stable")
    bucket = -(-lengths[order] // max(_BUCKET, ops.length_multiple))
    # Where the rows of the next bucket begin.
    ends = np.searchsorted(-bucket, -bucket, side="right")
    # A few short texts are shared out too.
    share = -(-int(lengths.sum()) // ops.n_workers())
    n_tokens = min(ops.batch_tokens, max(share, _SHARE_TOKENS))
    found = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        width = min(-(-longest // ops.length_multiple) * ops.length_multiple, max_length)
        end = min(start + max(1, n_tokens // width), int(ends[start]))
        found.append((order[start:end], width))
        start = end
    return found


def joined(parts: list[TokenEmbeddings], dim: int) -> TokenEmbeddings:
    """The token embeddings of all parts, in order; the list may be emptied.

    Args:
        parts: token embeddings of D components.
        dim: D, for an empty list.
    """
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts] or [np.zeros(0, np.int64)])
    # Its pages are taken as they are written, and each part is given back then: nothing is held twice.
    vectors = np.empty((int(lengths.sum()), dim), np.float32)
    start = 0
    parts.reverse()
    while parts:
        part = parts.pop().vectors
        vectors[start : start + len(part)] = part
        start += len(part)
    return TokenEmbeddings(vectors, lengths)
