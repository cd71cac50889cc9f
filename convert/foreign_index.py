"""Reads the PLAID indexes of other engines: colbert-ai, RAGatouille, PyLate, fast-plaid and next-plaid.

Each keeps, for a token, the number of the centroid nearest to it and `nbits` bits for every component of the
residual: which of 2^nbits bucket weights it is closest to. The vector that the engine scores with is
`v / |v|`, `v = centroids[code] + weights[bits]`. The files differ:

- colbert-ai, RAGatouille, PyLate with `use_fast=False`: `<chunk>.codes.pt`, `<chunk>.residuals.pt`,
  `centroids.pt`, `buckets.pt`. A passage that was removed keeps its place, with no tokens.
- fast-plaid, next-plaid, PyLate: `<chunk>.codes.npy`, `<chunk>.residuals.npy`, `centroids.npy`,
  `bucket_weights.npy`; fast-plaid 1.7 moves all chunks into `merged_codes.npy` and `merged_residuals.npy`.
  What is deleted is taken out, and the documents behind it get new numbers. Metadata is in `metadata.db`.

Precision. colbert-ai decodes in float32 on a CPU and in float16 on a GPU, next-plaid in float32. fast-plaid
rounds centroids and weights to float16, as is done here too, and then computes sums, norms, quotients and dot
products in float16: with float32 arithmetic a score of 8 query tokens comes out up to 0.003 apart. All but
next-plaid were run to check this; its layout is known from the source of 1.6.1.

All of it is a stranger's: nothing is unpickled or run, and every size is compared with its file first.
"""

from __future__ import annotations

import json
import re
import reprlib
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from mlx_colbert.convert.pickle_machine import PickleMachine
from mlx_colbert.convert.torch_pickle import read_torch_file, torch_file_shapes
from mlx_colbert.errors import (
    CheckpointError,
    IndexDamagedError,
    IndexNotFoundError,
    IndexStoreError,
    InputError,
    UnsafeCheckpointError,
)
from mlx_colbert.ingestion import MAX_BYTES, read_passages
from mlx_colbert.passage import Passage, is_text
from mlx_colbert.tensors import NUMPY_TYPES
from mlx_colbert.types import Array

__all__ = ["Engine", "ForeignIndex", "read_foreign_index"]

Engine = Literal["colbert", "pylate", "fast-plaid", "next-plaid"]

# Tokens that `blocks` yields at a time: 16 MB of residuals at 128 dimensions and 4 bits.
BLOCK_TOKENS = 1 << 18
# A value in metadata.db; SQLite's own limit is 1 GB.
MAX_VALUE_BYTES = 64 << 20

# Columns of metadata.db that hold the text, by the names that people give them.
_TEXT_COLUMNS = ("text", "contents", "content", "document")
# numpy, tch and ndarray-npy write the keys in this order, and arrays of Fortran's order are not written.
_NPY_HEADER = re.compile(
    rb"\{'descr': ?'([<|](?:f[248]|[iu][1248]))', ?'fortran_order': ?False, ?'shape': ?"
    rb"\((\d{1,15}(?:, ?\d{1,15}){0,2}),?\),? ?\}\s*"
)
# PyLate's wrapper of fast-plaid: the index one folder down, the ids beside it.
_INNER = "fast_plaid_index"
_ID_MAPS = ("documents_ids_to_plaid_ids.pkl", "documents_ids_to_plaid_ids.sqlite")
_Slice = Callable[[int, int], Array]
_Json = TypeVar("_Json", dict[str, Any], list[Any])


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Consecutive documents of an index.

    Attributes:
        lengths: (n,) int64, tokens of each document in the files, the dead ones included.
        codes, residuals: open the file; the result gives rows start to stop.
    """

    lengths: Array
    codes: Callable[[], _Slice]
    residuals: Callable[[], _Slice]


@dataclass(frozen=True, eq=False)
class ForeignIndex:
    """An index of another engine, its documents in the engine's order. Dead documents are left out.

    Attributes:
        path: the index folder.
        engine: "colbert" stands for RAGatouille too; "pylate" for both of its back ends.
        dim: D, components of a vector.
        nbits: bits of a component's residual, one of 1, 2, 4, 8.
        centroids: (K, D) float32, finite.
        codebook: (256, 8 // nbits) float32, finite: what a byte of a residual adds to the next components.
        doc_lengths: (N,) int64, tokens of each document, each >= 1.
        doc_ids: N different ids: the user's where the engine keeps them, else the engine's numbers.
        texts: N texts, None where the engine keeps none.
        metadata: N JSON objects, None for a document without.
        model: the checkpoint that the index names, if any.
    """

    path: Path
    engine: Engine
    dim: int
    nbits: int
    centroids: Array = field(repr=False)
    codebook: Array = field(repr=False)
    doc_lengths: Array = field(repr=False)
    doc_ids: list[str] = field(repr=False)
    texts: list[str | None] = field(repr=False)
    metadata: list[dict[str, Any] | None] = field(repr=False)
    model: str | None
    _chunks: list[_Chunk] = field(repr=False)
    _live: Array = field(repr=False)

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """The tokens of all documents in order, some 260,000 at a time.

        A block may end within a document. A colbert-ai file is read whole, as its engine does: memory holds
        one chunk of 25,000 passages.

        Returns:
            Pairs of codes (n,) int64 below K, and residuals (n, D * nbits // 8) uint8.

        Raises:
            IndexDamagedError: if a file holds less than it says, or a code names no centroid.
        """
        ends = np.cumsum([len(chunk.lengths) for chunk in self._chunks])
        for chunk, live in zip(self._chunks, np.split(self._live, ends[:-1]), strict=True):
            wanted = np.repeat(live, chunk.lengths)
            if not wanted.any():
                continue
            codes, residuals = chunk.codes(), chunk.residuals()
            for start in range(0, len(wanted), BLOCK_TOKENS):
                part = wanted[start : start + BLOCK_TOKENS]
                block = codes(start, start + len(part))[part].astype(np.int64)
                if block.size and not 0 <= block.min() <= block.max() < len(self.centroids):
                    raise IndexDamagedError(
                        self.path, f"a code names none of the {len(self.centroids)} centroids. Copy it anew."
                    )
                yield block, residuals(start, start + len(part))[part]


@dataclass(frozen=True)
class _Folder:
    """A folder of the index, and the only place from which its files may come."""

    path: Path
    root: Path

    def find(self, name: str) -> Path | None:
        """A file of the folder; None if there is none."""
        path = self.path / name
        try:
            if not path.is_symlink() and not path.exists():
                return None
            real = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # links in a circle, or to nothing
            raise IndexDamagedError(path, f"cannot be opened: {error}.") from error
        # The Hugging Face cache is made of links from snapshots/<revision>/ to blobs/.
        blobs = [parent.parent / "blobs" for parent in self.root.parents if parent.name == "snapshots"]
        if not any(real.is_relative_to(place) for place in [self.root, *blobs]):
            raise IndexStoreError(path, "is a link out of the index. Refused; put the file itself there.")
        if not real.is_file():
            raise IndexStoreError(path, "is no regular file. Refused.")
        return real

    def need(self, name: str) -> Path:
        """A file of the folder, which must be there."""
        path = self.find(name)
        if path is None:
            raise IndexDamagedError(self.path / name, "is missing. Copy the whole index folder anew.")
        return path


@dataclass
class _Documents:
    """What is known of all documents, dead ones included; an id of None marks a dead one."""

    ids: list[str | None]
    texts: list[str | None]
    metadata: list[dict[str, Any] | None]


def read_foreign_index(path: str | Path, *, collection: str | Path | None = None) -> ForeignIndex:
    """The index in a folder of colbert-ai, RAGatouille, PyLate, fast-plaid or next-plaid.

    Only the small files are read here; `ForeignIndex.blocks` reads codes and residuals.

    Ids are PyLate's own; RAGatouille's `document_id`, followed by "#1", "#2" … where a document has several
    passages; else the engine's numbers. Of an id that PyLate holds twice, the vectors added last are taken.
    A text column of `metadata.db` ("text", "contents", "content" or "document") becomes the text.

    Args:
        path: the folder with `metadata.json`; of PyLate, `<index_folder>/<index_name>`.
        collection: texts for an index that keeps none: a `.tsv` file of lines "id<TAB>text[<TAB>title]" as
            colbert-ai reads it, or `.jsonl` or `.csv` with ids. It must have every document of the index.

    Raises:
        IndexNotFoundError: if there is no such folder.
        IndexDamagedError: if a file is missing, short, or contradicts another.
        IndexStoreError: if it is no such index, or a file asks for what it must not have.
        InputError: if `collection` does not fit.
    """
    outer, folder = _opened(Path(path))
    settings = _json(folder.need("metadata.json"), dict)
    stanford = isinstance(settings.get("config"), dict)
    config: dict[str, Any] = settings["config"] if stanford else settings
    nbits = config.get("nbits")
    if type(nbits) is not int or nbits not in (1, 2, 4, 8):
        raise IndexStoreError(
            folder.path / "metadata.json", f"nbits is {reprlib.repr(nbits)}, not 1, 2, 4 or 8."
        )
    chunk_lengths = _chunk_lengths(folder, settings.get("num_chunks"))
    lengths = np.concatenate(chunk_lengths)

    engine: Engine = "colbert"
    if stanford:
        centroids, weights = _torch_codec(folder)
    else:
        engine = "next-plaid" if "next_plaid_compatible" in settings else "fast-plaid"
        centroids, weights = _npy_codec(folder, half=engine == "fast-plaid")
    _check_codec(folder.path, centroids, weights, nbits, dim=config.get("dim") if stanford else None)
    chunks = (_torch_chunks if stanford else _npy_chunks)(
        folder, chunk_lengths, centroids.shape[1] * nbits // 8
    )

    numbers = _pylate_numbers(outer, len(lengths))
    ragatouille = folder.find("pid_docid_map.json") is not None
    if numbers is not None:
        engine, documents = "pylate", _pylate_documents(outer.path, numbers, len(lengths))
    elif ragatouille:
        documents = _ragatouille_documents(folder, lengths)
    else:
        documents = _numbered_documents(folder, len(lengths))
    # A document without tokens is one that colbert-ai has removed, or that no query can find.
    live = np.array([doc_id is not None for doc_id in documents.ids], bool) & (lengths > 0)
    if collection is not None:
        _add_collection(Path(collection), documents, live, alone=engine == "colbert" and not ragatouille)
    if not live.any():
        raise IndexStoreError(outer.path, "holds no documents.")
    places = np.flatnonzero(live).tolist()
    model = config.get("checkpoint")
    return ForeignIndex(
        path=outer.path,
        engine=engine,
        dim=centroids.shape[1],
        nbits=nbits,
        centroids=centroids,
        codebook=_codebook(weights, nbits),
        doc_lengths=lengths[live],
        doc_ids=[doc_id for place in places if (doc_id := documents.ids[place]) is not None],
        texts=[documents.texts[place] for place in places],
        metadata=[documents.metadata[place] for place in places],
        model=model if is_text(model) and model else None,
        _chunks=chunks,
        _live=live,
    )


def _opened(path: Path) -> tuple[_Folder, _Folder]:
    """The index folder, and the folder of its PLAID files: PyLate puts fast-plaid's into one below."""
    if not path.is_dir():
        raise IndexNotFoundError(path, "there is no such folder.")
    inside = path.name == _INNER and any((path.parent / name).exists() for name in _ID_MAPS)
    top = path.parent if inside else path
    outer = _Folder(top, top.resolve())
    inner = _Folder(top / _INNER, outer.root)
    folder = inner if inner.find("metadata.json") else outer
    if not folder.find("metadata.json") or not (folder.find("centroids.pt") or folder.find("centroids.npy")):
        known = "colbert-ai, RAGatouille, PyLate's PLAID, fast-plaid or next-plaid"
        reason = f"holds no metadata.json with centroids beside it, so it is no index of {known}."
        raise IndexStoreError(top, reason)
    return outer, folder


# --- what a token is decoded with ---


def _torch_codec(folder: _Folder) -> tuple[Array, Array]:
    """(K, D) centroids and (2**nbits,) bucket weights, float32."""
    (centroids,) = _tensors(folder.need("centroids.pt"), 1)
    _, weights = _tensors(folder.need("buckets.pt"), 2)  # after the cutoffs
    return _floats(centroids), _floats(weights)


def _npy_codec(folder: _Folder, *, half: bool) -> tuple[Array, Array]:
    centroids, weights = (
        _Npy.open(folder.need(name)).read_all() for name in ("centroids.npy", "bucket_weights.npy")
    )
    return _floats(centroids, half=half), _floats(weights, half=half)


def _floats(values: Array, *, half: bool = False) -> Array:
    """The values in float32, rounded to float16 before if `half`; too large ones become infinite."""
    with np.errstate(over="ignore"):
        return (values.astype(np.float16) if half else values).astype(np.float32)


def _check_codec(path: Path, centroids: Array, weights: Array, nbits: int, *, dim: object) -> None:
    if centroids.ndim != 2 or 0 in centroids.shape or weights.shape != (2**nbits,):
        raise IndexDamagedError(
            path, f"centroids {centroids.shape} or bucket weights {weights.shape} are not of {nbits} bits."
        )
    if centroids.shape[1] * nbits % 8 or dim not in (None, centroids.shape[1]):
        reason = f"vectors of {dim or centroids.shape[1]} do not fit {nbits} bits and {centroids.shape}."
        raise IndexDamagedError(path, reason)
    if not (np.isfinite(centroids).all() and np.isfinite(weights).all()):
        raise IndexDamagedError(path, "a centroid or a bucket weight is not finite. Build the index anew.")


def _codebook(weights: Array, nbits: int) -> Array:
    """(256, 8 // nbits) float32: the weights that each byte stands for.

    All engines write a bucket's number from its lowest bit, into bytes from their highest.

    >>> _codebook(np.arange(4, dtype=np.float32), 2)[[0b01000000, 0b00000010]].tolist()
    [[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    buckets = bits.reshape(256, 8 // nbits, nbits) @ (1 << np.arange(nbits))
    values: Array = weights[buckets]
    return values


# --- codes and residuals ---


def _chunk_lengths(folder: _Folder, n_chunks: object) -> list[Array]:
    """For each chunk (n,) int64, the tokens of its documents."""
    if type(n_chunks) is not int or n_chunks < 1:
        raise IndexDamagedError(folder.path / "metadata.json", f"num_chunks is {reprlib.repr(n_chunks)}.")
    lengths = []
    for number in range(n_chunks):  # ends at the first file that is missing
        path = folder.need(f"doclens.{number}.json")
        values = _json(path, list)
        if not all(type(value) is int and 0 <= value < 1 << 31 for value in values):
            raise IndexDamagedError(path, "has a length that is no count of tokens.")
        lengths.append(np.array(values, dtype=np.int64))
    return lengths


def _torch_chunks(folder: _Folder, lengths: list[Array], width: int) -> list[_Chunk]:
    chunks = []
    for number, documents in enumerate(lengths):
        n_tokens = int(documents.sum())
        codes, residuals = (folder.need(f"{number}.{kind}.pt") for kind in ("codes", "residuals"))
        _check_tensor(codes, (n_tokens,), ("I32", "I64"))
        _check_tensor(residuals, (n_tokens, width), ("U8",))
        chunks.append(_Chunk(documents, partial(_torch_rows, codes), partial(_torch_rows, residuals)))
    return chunks


def _check_tensor(path: Path, shape: tuple[int, ...], types: tuple[str, ...]) -> None:
    with _index_errors(path):
        ((code, found),) = torch_file_shapes(path, bare=True).values()
    if found != shape or code not in types:
        raise IndexDamagedError(path, f"holds {code} {found}, the document lengths ask for {shape}.")
    if path.stat().st_size < prod(shape) * NUMPY_TYPES[code].itemsize:
        raise IndexDamagedError(path, f"is too short for {code} {shape}. Copy it anew.")


def _torch_rows(path: Path) -> _Slice:
    (array,) = _tensors(path, 1)
    return lambda start, stop: array[start:stop]


def _npy_chunks(folder: _Folder, lengths: list[Array], width: int) -> list[_Chunk]:
    tokens = [int(documents.sum()) for documents in lengths]
    codes = _npy_parts(folder, "codes", tokens, (), "iu")
    residuals = _npy_parts(folder, "residuals", tokens, (width,), "u")
    return [_Chunk(*parts) for parts in zip(lengths, codes, residuals, strict=True)]


def _npy_parts(
    folder: _Folder, kind: str, tokens: list[int], columns: tuple[int, ...], types: str
) -> list[Callable[[], _Slice]]:
    """Opens the rows of each chunk: its own file where there is one, else its part of the merged file.

    fast-plaid 1.7 deletes a chunk's file once its rows are in the merged one; a file that is there again has
    newer rows. The manifest tells how many rows of each chunk were merged.
    """
    manifest = _manifest(folder, kind)
    merged = [manifest.get(f"{number}.{kind}.npy", n_tokens) for number, n_tokens in enumerate(tokens)]
    parts: list[Callable[[], _Slice]] = []
    for number, (n_tokens, first) in enumerate(
        zip(tokens, accumulate(merged, initial=0), strict=False)  # the last sum is that of all
    ):
        own = folder.find(f"{number}.{kind}.npy")
        path = own or (folder.need(f"merged_{kind}.npy") if n_tokens else None)
        if path is None:
            parts.append(partial(_no_rows, columns))
            continue
        rows = _Npy.open(path)
        start = 0 if own else first
        fits = rows.shape[0] == n_tokens if own else merged[number] == n_tokens
        if not fits or start + n_tokens > rows.shape[0] or rows.shape[1:] != columns:
            raise IndexDamagedError(
                path, f"is {rows.shape}, the document lengths ask for {(n_tokens, *columns)} at row {start}."
            )
        if rows.dtype.kind not in types or (columns and rows.dtype.itemsize != 1):
            raise IndexDamagedError(path, f"holds {rows.dtype}.")
        parts.append(partial(rows.slices, start))
    return parts


def _manifest(folder: _Folder, kind: str) -> dict[str, int]:
    """Rows of each chunk in the merged file, where fast-plaid has noted them."""
    path = folder.find(f"merged_{kind}.manifest.json")
    entries = _json(path, dict).items() if path else ()
    rows = {name: entry.get("rows") for name, entry in entries if isinstance(entry, dict)}
    return {name: n for name, n in rows.items() if type(n) is int and 0 <= n < 1 << 48}


def _no_rows(columns: tuple[int, ...]) -> _Slice:
    return lambda _start, _stop: np.zeros((0, *columns), np.uint8)


@dataclass(frozen=True)
class _Npy:
    """An array in an .npy file, by its header; numpy's own reader would evaluate the header."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def open(cls, path: Path) -> _Npy:
        with path.open("rb") as file:
            start = file.read(8)
            count = 2 if start[6:7] == b"\1" else 4
            length = int.from_bytes(file.read(count), "little")
            header = _NPY_HEADER.fullmatch(file.read(min(length, 4096)))
            offset, size = file.tell(), file.seek(0, 2)
        if start[:6] != b"\x93NUMPY" or header is None:
            raise IndexDamagedError(path, "is no .npy file of plain numbers.")
        dtype = np.dtype(header[1].decode())
        shape = tuple(int(n) for n in header[2].split(b","))
        if offset + prod(shape) * dtype.itemsize > size:
            raise IndexDamagedError(path, f"has {size} bytes, too few for {shape} of {dtype}. Copy it anew.")
        return cls(path, dtype, shape, offset)

    def slices(self, first: int) -> _Slice:
        """Gives rows start to stop, counted from row `first`."""
        return lambda start, stop: self._rows(first + start, stop - start)

    def read_all(self) -> Array:
        return self._rows(0, self.shape[0])

    def _rows(self, start: int, count: int) -> Array:
        n_columns = prod(self.shape[1:])
        offset = self.offset + start * n_columns * self.dtype.itemsize
        values = np.fromfile(self.path, self.dtype, count=count * n_columns, offset=offset)
        if values.size != count * n_columns:
            raise IndexDamagedError(self.path, "became shorter while it was read.")
        return values.reshape(count, *self.shape[1:])


# --- documents ---


def _numbered_documents(folder: _Folder, n: int) -> _Documents:
    """The engine's own numbers, with what fast-plaid and next-plaid keep in metadata.db."""
    documents = _Documents([str(number) for number in range(n)], [None] * n, [None] * n)
    path = folder.find("metadata.db")
    if path is None:
        return documents
    rows = _metadata_rows(path, n)
    if sorted(rows) != list(range(n)):
        reason = f"has {len(rows)} rows for {n} documents, so who is who is not known."
        raise IndexDamagedError(path, f"{reason} Move it away to read the index without metadata.")
    column = next((name for name in _TEXT_COLUMNS if any(name in row for row in rows.values())), None)
    if column and any(not isinstance(row.get(column, ""), str) for row in rows.values()):
        column = None
    for number, row in rows.items():
        documents.texts[number] = row.pop(column, None) if column else None
        documents.metadata[number] = row or None
    return documents


def _metadata_rows(path: Path, n: int) -> dict[int, dict[str, Any]]:
    """Number of a document -> its columns that are not NULL."""
    rows: dict[int, dict[str, Any]] = {}
    with _database(path) as connection:
        tables = {"METADATA": _columns(path, connection, "METADATA")}
        source = '"METADATA"'
        if "_content_id_" in tables["METADATA"]:  # next-plaid keeps large columns in a table of their own
            tables["METADATA_CONTENT"] = _columns(path, connection, "METADATA_CONTENT")
            source += ' LEFT JOIN "METADATA_CONTENT" USING ("_content_id_")'
        columns = [(table, name) for table, names in tables.items() for name in names]
        selected = ", ".join(f'"{table}"."{name}"' for table, name in columns)
        for values in connection.execute(f"SELECT {selected} FROM {source} LIMIT {n + 1}"):
            row = {name: value for (_, name), value in zip(columns, values, strict=True) if value is not None}
            row.pop("_content_id_", None)
            number = row.pop("_subset_", None)
            if type(number) is not int or number in rows:
                raise IndexDamagedError(
                    path, f"a row has the number {number!r}, no count or one used before."
                )
            if binary := [name for name, value in row.items() if isinstance(value, bytes)]:
                raise IndexStoreError(path, f"column {binary[0]!r} holds bytes, which metadata cannot.")
            rows[number] = row
    return rows


def _pylate_numbers(outer: _Folder, n: int) -> dict[str, int] | None:
    """PyLate's id -> number of the document in the index; None where the index is not PyLate's."""
    if path := outer.find(_ID_MAPS[0]):
        data = path.read_bytes()
        # An entry takes five instructions; the pickle of an honest map is all the file has.
        machine = _IdMachine(path, max_instructions=1000 + 16 * n, max_bytes=len(data))
        with _index_errors(path):
            numbers = machine.run(BytesIO(data))
        if not isinstance(numbers, dict):
            raise IndexDamagedError(path, f"holds a {type(numbers).__name__}, not a dict of ids.")
        return numbers
    if path := outer.find(_ID_MAPS[1]):  # PyLate 1.3 and before: a table of pickles, by sqlitedict
        with _database(path) as connection:
            if not {"key", "value"} <= set(_columns(path, connection, "unnamed")):
                raise IndexDamagedError(path, "is no table of ids.")
            rows = connection.execute(f'SELECT "key", "value" FROM "unnamed" LIMIT {n + 1}').fetchall()
        with _index_errors(path):
            return {_checked_id(key): _unpickled_number(path, value) for key, value in rows}
    return None


def _unpickled_number(path: Path, value: object) -> Any:
    if not isinstance(value, bytes):
        raise ValueError("a number is not pickled")
    return _IdMachine(path).run(BytesIO(value))


class _IdMachine(PickleMachine):
    """Interprets the pickle of a number, or of a dict from ids to numbers; it may name nothing at all."""

    def update(self, items: list[Any]) -> None:
        """Sets ids and numbers in the dict on top."""
        entries = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # As text: a crowd of chosen integers can make a dict slow, a crowd of strings cannot.
            doc_id = _checked_id(str(key) if type(key) is int else key)
            if doc_id in entries:
                raise ValueError(f"the id {ascii(doc_id)[:100]} is there twice")
            entries[doc_id] = value

    def name(self, asked: str) -> None:
        """Refuses every name."""
        raise self._refused(f"asks for {ascii(asked)[1:101]}")

    def _refused(self, problem: str) -> UnsafeCheckpointError:
        return UnsafeCheckpointError(
            self.path, f"{problem}, where only ids and numbers may be. Nothing was run."
        )


def _checked_id(key: object) -> str:
    if not isinstance(key, str) or not key or not is_text(key):
        raise ValueError(f"an id is no text: {reprlib.repr(key)}")
    return key


def _pylate_documents(path: Path, numbers: dict[str, int], n: int) -> _Documents:
    """A document that no id leads to is dead: removed, or replaced by adding its id again."""
    ids: list[str | None] = [None] * n
    for doc_id, number in numbers.items():
        if type(number) is not int or not 0 <= number < n or ids[number] is not None:
            reason = (
                f"the id {doc_id[:100]!r} leads to document {number!r:.40} of {n}, or is not alone there."
            )
            raise IndexDamagedError(path, f"{reason} Its id map is of another index.")
        ids[number] = doc_id
    return _Documents(ids, [None] * n, [None] * n)


def _ragatouille_documents(folder: _Folder, lengths: Array) -> _Documents:
    """Ids, texts and metadata of the files that RAGatouille adds.

    A deletion shortens its collection and leaves gaps in its map, a later rebuild closes those of the index
    alone. The order is the same in all three, so the n-th living passage is the n-th of each.
    """
    path = folder.need("pid_docid_map.json")
    names = _json(path, dict)
    texts = _json(folder.need("collection.json"), list)
    details_path = folder.find("docid_metadata_map.json")
    details = _json(details_path, dict) if details_path else {}
    places = np.flatnonzero(lengths > 0).tolist()
    if len(texts) == len(lengths):
        texts = [texts[place] for place in places]
    if not len(places) == len(names) == len(texts):
        counts = f"{len(places)} passages in the index, {len(names)} ids, {len(texts)} texts"
        raise IndexDamagedError(folder.path, f"{counts}: who is who is not known.")
    if not all(re.fullmatch(r"[0-9]{1,15}", number) for number in names):
        raise IndexDamagedError(path, "has a key that is no number of a passage.")
    docids = [names[number] for number in sorted(names, key=int)]
    if not all(is_text(docid) or type(docid) is int for docid in docids) or not all(map(is_text, texts)):
        raise IndexDamagedError(path, "an id, or a text in collection.json, is no text.")
    documents = _Documents([None] * len(lengths), [None] * len(lengths), [None] * len(lengths))
    docids = list(map(str, docids))
    for place, docid, doc_id, text in zip(places, docids, _passage_ids(docids), texts, strict=True):
        documents.ids[place], documents.texts[place] = doc_id, text
        if isinstance(detail := details.get(docid), dict):
            documents.metadata[place] = detail or None
    return documents


def _passage_ids(docids: list[str]) -> list[str]:
    """Different ids for passages, whose documents may have several: then "#1", "#2" … follow.

    >>> _passage_ids(["tea", "tea", "milk"])
    ['tea#1', 'tea#2', 'milk']
    """
    totals, counts = Counter(docids), Counter[str]()
    numbers = []
    for docid in docids:
        counts[docid] += 1
        numbers.append(counts[docid])
    ids = [docid if totals[docid] == 1 else f"{docid}#{n}" for docid, n in zip(docids, numbers, strict=True)]
    if len(set(ids)) == len(ids):
        return ids
    # A document is named like another's passage; with a number on every id that cannot be.
    return [f"{docid}#{n}" for docid, n in zip(docids, numbers, strict=True)]


def _add_collection(path: Path, documents: _Documents, live: Array, *, alone: bool) -> None:
    """Puts in the texts of a file; `alone` if it may have no other documents than the index."""
    places = {doc_id: place for place, doc_id in enumerate(documents.ids) if doc_id is not None}
    seen = np.zeros(len(live), bool)
    passages = _tsv_passages(path) if path.suffix.lower() == ".tsv" else read_passages(path)
    for passage in passages:
        place = places.get(passage.doc_id)
        if place is None and alone:
            reason = f"has {passage.doc_id!r}, but the index is of passages 0 to {len(live) - 1}."
            raise InputError(f"{path}: {reason} Give the collection that was indexed.")
        if place is None:
            continue
        if seen[place]:
            raise InputError(f"{path}: has {passage.doc_id!r} twice.")
        seen[place] = True
        documents.texts[place] = passage.text
        documents.metadata[place] = documents.metadata[place] or (
            dict(passage.metadata) if passage.metadata else None
        )
    missing = np.flatnonzero(live & ~seen)
    if missing.size:
        first = documents.ids[missing[0]]
        raise InputError(f"{path}: lacks {missing.size} documents of the index, {first!r} the first of them.")


def _tsv_passages(path: Path) -> Iterator[Passage]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_BYTES + 1), b""), start=1):
            if len(line) > MAX_BYTES:
                raise InputError(f"{path}:{number}: the line is longer than {MAX_BYTES:,} bytes.")
            try:
                doc_id, *texts = line.decode("utf-8").strip("\n\r ").split("\t")
            except UnicodeDecodeError:
                raise InputError(f"{path}:{number}: is not UTF-8. Save the file as UTF-8.") from None
            if not texts:
                raise InputError(f"{path}:{number}: is not an id, a tab and a text.")
            # As colbert-ai's load_collection joins a title.
            yield Passage(doc_id, f"{texts[1]} | {texts[0]}" if len(texts) > 1 else texts[0])


# --- files ---


@contextmanager
def _index_errors(path: Path) -> Iterator[None]:
    """Turns what the readers of pickles raise into errors about an index."""
    try:
        yield
    except IndexStoreError:
        raise
    except UnsafeCheckpointError as error:
        raise IndexStoreError(path, " ".join(error.problems)) from error
    except CheckpointError as error:
        raise IndexDamagedError(path, " ".join(error.problems)) from error
    except (ValueError, LookupError, EOFError, OverflowError, struct.error) as error:
        reason = str(error)[:200] or type(error).__name__
        raise IndexDamagedError(path, f"cannot be read: {reason}.") from error


def _tensors(path: Path, count: int) -> list[Array]:
    """The tensors of a file that torch saved one or a tuple of in."""
    with _index_errors(path):
        arrays = list(read_torch_file(path, bare=True).values())
    if len(arrays) != count:
        raise IndexDamagedError(path, f"holds {len(arrays)} tensors instead of {count}.")
    return arrays


def _json(path: Path, kind: type[_Json]) -> _Json:
    """The JSON object or list of a file; it takes memory in proportion to the file."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IndexDamagedError(path, f"is not JSON: {str(error)[:200]}.") from error
    if not isinstance(values, kind):
        raise IndexDamagedError(path, f"holds a {type(values).__name__}, not a {kind.__name__}.")
    return values


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    """An SQLite file, which is neither written to nor locked."""
    for suffix in ("-wal", "-journal"):
        log = path.with_name(path.name + suffix)
        if log.exists() and log.stat().st_size:
            raise IndexStoreError(
                log, "has changes that are not in the database yet. Let its engine close it."
            )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
            yield connection
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        raise IndexDamagedError(path, f"cannot be read: {str(error)[:200]!a}.") from error


def _columns(path: Path, connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns that a table stores; a view, or a column that is computed, could run a stranger's SQL."""
    schema = "SELECT type, sql FROM sqlite_master WHERE name = ?"
    kinds = connection.execute(schema, (table,)).fetchall()
    if [kind for kind, _ in kinds] != ["table"] or not str(kinds[0][1]).startswith("CREATE TABLE"):
        raise IndexDamagedError(path, f"has no table {table}.")
    names = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
    # fast-plaid and next-plaid allow no others.
    if not all(re.fullmatch(r"\w+", name) for name in names):
        raise IndexDamagedError(path, f"{table} has a column with an odd name.")
    return names
