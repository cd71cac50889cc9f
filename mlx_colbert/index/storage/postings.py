"""Posting lists: the passages with a token at a centroid, and estimates of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_colbert.index.storage.files import Folder
from mlx_colbert.types import Array


@dataclass(frozen=True, eq=False)
class Postings:
    """The passages of one segment, by the centroids of their tokens.

    Attributes:
        codes: (C,) the codes that occur, ascending.
        counts: (C,) the number of passages of each code.
        ordinals: (P,) the passages of the first code, ascending, then those of the second, and so on.
        starts: (C,) int64, the position of each code's first passage in `ordinals`.
        n_documents: N, the number of passages.
        folder: the folder of the files, if they were read from files.
    """

    codes: Array
    counts: Array
    ordinals: Array
    starts: Array
    n_documents: int
    folder: Folder | None

    @classmethod
    def of(
        cls, codes: Array, counts: Array, ordinals: Array, *, n_documents: int, folder: Folder | None = None
    ) -> Postings:
        """The postings from arrays as `build` makes them. `ordinals` may be a memory map."""
        starts = np.cumsum(counts, dtype=np.int64) - counts
        return cls(codes, counts, ordinals, starts, n_documents, folder)

    @classmethod
    def build(cls, codes: Array, lengths: Array) -> Postings:
        """The postings of passages.

        Args:
            codes: (T,) unsigned integers, the code of each token.
            lengths: (N,) the number of tokens of each passage.
        """
        order = np.argsort(codes, kind="stable")
        passages = np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths)[order]
        codes = codes[order]
        # The passages of a code are ascending, so a repeated one directly follows itself.
        first = np.ones(len(codes), np.bool_)
        first[1:] = (codes[1:] != codes[:-1]) | (passages[1:] != passages[:-1])
        present, counts = np.unique(codes[first], return_counts=True)
        ordinals = passages[first].astype(np.min_scalar_type(max(len(lengths) - 1, 0)))
        return cls.of(present, counts.astype(np.uint32), ordinals, n_documents=len(lengths))

    def find(self, codes: Array) -> tuple[Array, Array]:
        """The passages of codes (m,): the ordinals (P,) int64, and the number of each code (m,) int64.

        Raises:
            IndexDamagedError: if a passage does not exist.
        """
        lists = np.searchsorted(self.codes, codes)
        lists[lists == len(self.codes)] = 0
        counts = np.where(self.codes[lists] == codes, self.counts[lists], 0).astype(np.int64)
        # The position of each posting: where its code's list begins, plus its number in that list.
        positions = np.arange(int(counts.sum())) + np.repeat(
            self.starts[lists] - np.cumsum(counts) + counts, counts
        )
        found = self.ordinals[positions].astype(np.int64)
        if self.folder is not None and len(found) and found.max() >= self.n_documents:
            raise self.folder.damaged("ivf_ordinals.npy", "it has a passage that does not exist")
        return found, counts


def estimate(
    postings: Sequence[Postings],
    allowed: Sequence[Array | None],
    *,
    probed: Array,
    scores: Array,
) -> tuple[Array, Array]:
    """The passages at the probed centroids of one query, and an estimate of their MaxSim.

    For each query token a passage gets the similarity of the best probed centroid that one of its tokens has.
    If it has none of them, it gets the lowest similarity of the probed centroids: it cannot have more.

    Source: WARP (Scheerer et al. 2025) for the missing similarities.

    Args:
        postings: of each segment.
        allowed: (N,) bool of each segment, or None if all of its passages may be returned.
        probed: (Q, n_probe) int64, the centroids of each query token.
        scores: (Q, n_probe) float32, their similarities times their probe weights.

    Returns:
        The passages (n,) int64, ascending, numbered across all segments; their estimates (n,) float32.
    """
    # Written in ascending order, so that the best similarity of a passage and a token is written last.
    order = np.argsort(scores, axis=1, kind="stable")
    codes = np.take_along_axis(probed, order, axis=1).ravel()
    values = np.take_along_axis(scores, order, axis=1).ravel()
    parts = []
    touched = np.zeros(sum(part.n_documents for part in postings), np.bool_)
    base = 0
    for part, mask in zip(postings, allowed, strict=True):
        ordinals, counts = part.find(codes)
        similarities = np.repeat(values, counts)
        # The end of the postings of each token.
        ends = np.cumsum(counts.reshape(probed.shape).sum(axis=1))
        if mask is not None:
            chosen = mask[ordinals]
            ordinals, similarities = ordinals[chosen], similarities[chosen]
            ends = np.append(0, np.cumsum(chosen))[ends]
        ordinals += base
        touched[ordinals] = True
        parts.append((ordinals, similarities, ends))
        base += part.n_documents
    found = np.flatnonzero(touched)
    column = np.empty(base, np.int64)
    column[found] = np.arange(len(found))
    table = np.repeat(scores.min(axis=1)[:, None], len(found), axis=1)
    for ordinals, similarities, ends in parts:
        columns, first = column[ordinals], 0
        # One token at a time: its row of the table stays in the processor's cache.
        for row, end in zip(table, ends, strict=True):
            row[columns[first:end]] = similarities[first:end]
            first = end
    return found, table.sum(axis=0, dtype=np.float32)
