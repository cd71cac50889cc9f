"""Texts in windows, and the rows of a window in batches.

A window is tokenised while the window before it is encoded. A collection of any size needs the memory of a
few windows only. The rows of a batch have similar lengths, so little of a batch is padding.
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
# Characters of a window of long texts. A model that reads all of them makes about 50 MB of vectors. A small
# model on two cores needs half a minute for them; at most this much work is lost when the process is killed.
WINDOW_CHARACTERS = 400_000
# Rows of a batch differ in length by less than this.
_BUCKET = 32
# With fewer tokens than this, a thread costs more than it saves.
_SHARE_TOKENS = 128

_T = TypeVar("_T")


def windows(items: Iterable[_T], n_characters: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Lists of consecutive items that are encoded together.

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
    """The items of an iterable. A thread makes the next item while the caller uses this one.

    The generator may be closed early.

    >>> list(ahead(n * n for n in range(4)))
    [0, 1, 4, 9]
    """
    # Not at the top: a single query does not need it, and the import takes longer than to encode a query.
    from concurrent.futures import ThreadPoolExecutor

    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1, "tokenize") as thread:
        following = thread.submit(next, source, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, source, end)
            yield item  # type: ignore[misc]


def batches(lengths: Array, ops: EncoderOps, max_length: int) -> list[tuple[Array, int]]:
    """The rows of each batch and the width that they are padded to, the longest rows first.

    So the first batch needs the most memory. The rows of a batch are in one length bucket, and a batch has at
    most `ops.batch_tokens` tokens.

    Args:
        lengths: (R,) tokens of each row, >= 1.
        ops: the backend. Widths are multiples of its `length_multiple`.
        max_length: the largest length of a row, and the largest width of a batch.

    Returns:
        Positions (n,) int64 and a width for each batch.
    """
    order = np.argsort(-lengths, kind="stable")
    bucket = -(-lengths[order] // max(_BUCKET, ops.length_multiple))
    # Where the rows of the next bucket begin.
    ends = np.searchsorted(-bucket, -bucket, side="right")
    # Each worker gets a batch, also if there are only a few short texts.
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
    """The token embeddings of all parts, in order. This may empty the list.

    Args:
        parts: token embeddings of D components.
        dim: D, for an empty list.
    """
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts] or [np.zeros(0, np.int64)])
    # The system gives memory for a page when it is written, and each part is released after its copy: no row
    # is in memory twice.
    vectors = np.empty((int(lengths.sum()), dim), np.float32)
    start = 0
    parts.reverse()
    while parts:
        part = parts.pop().vectors
        vectors[start : start + len(part)] = part
        start += len(part)
    return TokenEmbeddings(vectors, lengths)
