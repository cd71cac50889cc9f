"""Opens the codes and residuals of another engine's index, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from mlx_colbert.convert.indexes.files import (
    Folder,
    NpyArray,
    Slice,
    check_tensor,
    read_index_json,
    read_tensors,
)
from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.types import Array
from mlx_colbert.untrusted import shown

__all__ = ["Chunk", "chunk_lengths", "npy_chunks", "torch_chunks"]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive documents of an index.

    Attributes:
        lengths: (n,) int64, tokens of each document in the files, deleted documents included.
        codes, residuals: open the file, and return a function that reads rows start to stop.
    """

    lengths: Array
    codes: Callable[[], Slice]
    residuals: Callable[[], Slice]


def chunk_lengths(folder: Folder, n_chunks: object) -> list[Array]:
    """For each chunk, the number of tokens of its documents: (n,) int64.

    Raises:
        IndexDamagedError: if a file is missing, or has a value that is not a number of tokens.
    """
    if type(n_chunks) is not int or n_chunks < 1:
        raise IndexDamagedError(folder.path / "metadata.json", f"num_chunks cannot be {shown(n_chunks)}.")
    lengths = []
    for number in range(n_chunks):  # ends at the first file that is missing
        path = folder.need(f"doclens.{number}.json")
        values = read_index_json(path, list)
        if not all(type(value) is int and 0 <= value < 1 << 31 for value in values):
            raise IndexDamagedError(path, "has a length that is not a number of tokens.")
        lengths.append(np.array(values, dtype=np.int64))
    return lengths


def torch_chunks(folder: Folder, lengths: list[Array], width: int) -> list[Chunk]:
    """The chunks, after a check of their files. Residuals have `width` bytes."""
    chunks = []
    for number, documents in enumerate(lengths):
        n_tokens = int(documents.sum())
        codes, residuals = (folder.need(f"{number}.{kind}.pt") for kind in ("codes", "residuals"))
        check_tensor(codes, (n_tokens,), ("I32", "I64"))
        check_tensor(residuals, (n_tokens, width), ("U8",))
        chunks.append(Chunk(documents, partial(_torch_rows, codes), partial(_torch_rows, residuals)))
    return chunks


def _torch_rows(path: Path) -> Slice:
    (array,) = read_tensors(path, 1)
    return lambda start, stop: array[start:stop]


def npy_chunks(folder: Folder, lengths: list[Array], width: int) -> list[Chunk]:
    """The chunks, after a check of their files or parts of the merged file. Residuals have `width` bytes."""
    tokens = [int(documents.sum()) for documents in lengths]
    codes = _npy_parts(folder, "codes", tokens, (), "iu")
    residuals = _npy_parts(folder, "residuals", tokens, (width,), "u")
    return [Chunk(*parts) for parts in zip(lengths, codes, residuals, strict=True)]


def _npy_parts(
    folder: Folder, kind: str, tokens: list[int], columns: tuple[int, ...], types: str
) -> list[Callable[[], Slice]]:
    """Functions that open the rows of each chunk: from its own file, else from the merged file.

    fast-plaid 1.7 deletes the file of a chunk when its rows are in the merged file. If there is such a file
    again, its rows are newer. The manifest has the number of merged rows of each chunk.
    """
    manifest = _manifest(folder, kind)
    merged = [manifest.get(f"{number}.{kind}.npy", n_tokens) for number, n_tokens in enumerate(tokens)]
    parts: list[Callable[[], Slice]] = []
    for number, (n_tokens, first) in enumerate(
        zip(tokens, accumulate(merged, initial=0), strict=False)  # the last sum is that of all
    ):
        own = folder.find(f"{number}.{kind}.npy")
        path = own or (folder.need(f"merged_{kind}.npy") if n_tokens else None)
        if path is None:
            parts.append(partial(_no_rows, columns))
            continue
        rows = NpyArray.open(path)
        start = 0 if own else first
        fits = rows.shape[0] == n_tokens if own else merged[number] == n_tokens
        if not fits or start + n_tokens > rows.shape[0] or rows.shape[1:] != columns:
            raise IndexDamagedError(
                path,
                f"is {rows.shape}, but the document lengths need {(n_tokens, *columns)} at row {start}.",
            )
        if rows.dtype.kind not in types or (columns and rows.dtype.itemsize != 1):
            raise IndexDamagedError(path, f"contains {rows.dtype}, which this file cannot have.")
        parts.append(partial(rows.slices, start))
    return parts


def _manifest(folder: Folder, kind: str) -> dict[str, int]:
    """Rows of each chunk in the merged file, if fast-plaid recorded them."""
    path = folder.find(f"merged_{kind}.manifest.json")
    entries = read_index_json(path, dict).items() if path else ()
    rows = {name: entry.get("rows") for name, entry in entries if isinstance(entry, dict)}
    return {name: n for name, n in rows.items() if type(n) is int and 0 <= n < 1 << 48}


def _no_rows(columns: tuple[int, ...]) -> Slice:
    return lambda _start, _stop: np.zeros((0, *columns), np.uint8)
