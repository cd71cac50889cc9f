"""Reads the PLAID indexes of other engines: colbert-ai, RAGatouille, PyLate, fast-plaid and next-plaid.

For each token they store the number of the nearest centroid, and `nbits` bits for every component of the
residual: the number of the nearest of 2^nbits bucket weights. The engine scores with the vector `v / |v|`,
`v = centroids[code] + weights[bits]`. The files differ:

- colbert-ai, RAGatouille, PyLate with `use_fast=False`: `<chunk>.codes.pt`, `<chunk>.residuals.pt`,
  `centroids.pt`, `buckets.pt`. A passage that was removed keeps its place, with no tokens.
- fast-plaid, next-plaid, PyLate: `<chunk>.codes.npy`, `<chunk>.residuals.npy`, `centroids.npy`,
  `bucket_weights.npy`; fast-plaid 1.7 moves all chunks into `merged_codes.npy` and `merged_residuals.npy`.
  A deleted document is removed, and the documents behind it get new numbers. Metadata is in `metadata.db`.

Precision: colbert-ai decodes in float32 on a CPU and in float16 on a GPU, next-plaid in float32. fast-plaid
rounds centroids and weights to float16, and so does this package. fast-plaid then computes sums, norms,
quotients and dot products in float16. With float32 arithmetic, a score of 8 query tokens differs by up to
0.003. This was measured with all engines except next-plaid, whose layout is known from the source of 1.6.1.

`chunks.py` opens codes and residuals, `documents.py` reads ids, texts and metadata, and `files.py` reads the
file formats. The files are not trusted: nothing is unpickled or run, and every size is checked first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_colbert.checks import is_text
from mlx_colbert.convert.indexes.chunks import Chunk, chunk_lengths, npy_chunks, torch_chunks
from mlx_colbert.convert.indexes.documents import ID_MAPS, add_collection, read_documents
from mlx_colbert.convert.indexes.files import Folder, NpyArray, read_index_json, read_tensors, tensor_shapes
from mlx_colbert.errors import IndexDamagedError, IndexNotFoundError, IndexStoreError
from mlx_colbert.types import Array
from mlx_colbert.untrusted import shown

__all__ = ["Engine", "PlaidIndex", "read_plaid_index"]

Engine = Literal["colbert", "pylate", "fast-plaid", "next-plaid"]

# A million centroids of 128 components.
MAX_CENTROID_VALUES = 1 << 27
# Tokens that `blocks` yields at a time: 16 MB of residuals at 128 dimensions and 4 bits.
BLOCK_TOKENS = 1 << 18

# PyLate with fast-plaid: the index is one folder below, the ids are beside it.
_INNER = "fast_plaid_index"


@dataclass(frozen=True, eq=False)
class PlaidIndex:
    """An index of another engine. Documents are in the engine's order; deleted documents are left out.

    Attributes:
        path: the index folder.
        engine: "colbert" is also used for RAGatouille, and "pylate" for both kinds of PyLate indexes.
        dim: D, components of a vector.
        nbits: bits of a component's residual: 1, 2, 4 or 8.
        centroids: (K, D) float32, finite.
        codebook: (256, 8 // nbits) float32, finite: the values that a byte of a residual adds to components.
        doc_lengths: (N,) int64, tokens of each document, each >= 1.
        doc_ids: N different ids: those of the user if the engine stores them, else the engine's numbers.
        texts: N texts. None for a document whose text is not stored.
        metadata: N JSON objects. None for a document without metadata.
        sources: for RAGatouille, the id of the whole document that each of these is a passage of. Empty for
            the other engines.
        model: the checkpoint that the index names. None: it names none.
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
    sources: list[str] = field(repr=False)
    model: str | None
    _chunks: list[Chunk] = field(repr=False)
    _live: Array = field(repr=False)

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """The tokens of all documents in order, about 260,000 at a time.

        A block may end within a document. A file of colbert-ai is read whole, as in colbert-ai, so one chunk
        of 25,000 passages is in memory.

        Returns:
            Pairs of codes (n,) int64 below K, and residuals (n, D * nbits // 8) uint8.

        Raises:
            IndexDamagedError: if a file is too short, or a code is not the number of a centroid.
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
                        self.path,
                        f"a code names none of the {len(self.centroids)} centroids. Copy it again.",
                    )
                yield block, residuals(start, start + len(part))[part]


def read_plaid_index(path: str | Path, *, collection: str | Path | None = None) -> PlaidIndex:
    """The index in a folder of colbert-ai, RAGatouille, PyLate, fast-plaid or next-plaid.

    Only the small files are read here; `PlaidIndex.blocks` reads codes and residuals.

    The ids are those of PyLate, or the `document_id` of RAGatouille, or else the engine's numbers. If a
    document of RAGatouille has several passages, "#1", "#2" … follow its id, and `sources` has the id. If
    PyLate has an id twice, the vectors added last are used. A text column of `metadata.db` ("text",
    "contents", "content" or "document") becomes the text.

    Args:
        path: the folder with `metadata.json`. For PyLate, `<index_folder>/<index_name>`.
        collection: texts for an index that stores none: a `.tsv` file with lines "id<TAB>text[<TAB>title]",
            read as in colbert-ai, or `.jsonl` or `.csv` with ids. It must have every document of the index.

    Raises:
        IndexNotFoundError: if there is no such folder.
        IndexDamagedError: if a file is missing, short, or contradicts another.
        IndexStoreError: if it is no folder of such an index, or a file asks for more than an index needs.
        InputError: if `collection` does not fit the index.
    """
    outer, folder = _opened(Path(path))
    engine, settings = _settings(folder)
    nbits = settings["nbits"]
    by_chunk = chunk_lengths(folder, settings.get("num_chunks"))
    lengths = np.concatenate(by_chunk)
    centroids, codebook = _codec(folder, engine, nbits, dim=settings.get("dim"))
    open_chunks = torch_chunks if engine == "colbert" else npy_chunks

    documents, owner = read_documents(outer, folder, lengths)
    # colbert-ai removes the tokens of a deleted document. No query finds a document without tokens.
    live = np.array([doc_id is not None for doc_id in documents.ids], bool) & (lengths > 0)
    if collection is not None:
        add_collection(Path(collection), documents, live, alone=engine == "colbert" and owner is None)
    if not live.any():
        raise IndexStoreError(outer.path, "contains no documents.")
    places = np.flatnonzero(live).tolist()
    model = settings.get("checkpoint")
    return PlaidIndex(
        path=outer.path,
        engine="pylate" if owner == "pylate" else engine,
        dim=centroids.shape[1],
        nbits=nbits,
        centroids=centroids,
        codebook=codebook,
        doc_lengths=lengths[live],
        doc_ids=[doc_id for place in places if (doc_id := documents.ids[place]) is not None],
        texts=[documents.texts[place] for place in places],
        metadata=[documents.metadata[place] for place in places],
        sources=[documents.sources[place] for place in places],
        model=model if is_text(model) and model else None,
        _chunks=open_chunks(folder, by_chunk, centroids.shape[1] * nbits // 8),
        _live=live,
    )


def _opened(path: Path) -> tuple[Folder, Folder]:
    """The index folder, and the folder of its PLAID files. In PyLate, that is one folder below."""
    if not path.is_dir():
        advice = "Give the folder of the old index, with its metadata.json."
        if not path.exists():
            raise IndexNotFoundError(path, f"there is no such folder. {advice}")
        raise IndexStoreError(path, f"is {'a file' if path.is_file() else 'a pipe or a device'}. {advice}")
    inside = path.name == _INNER and any((path.parent / name).exists() for name in ID_MAPS)
    top = path.parent if inside else path
    outer = Folder(top, top.resolve())
    inner = Folder(top / _INNER, outer.root)
    folder = inner if inner.find("metadata.json") else outer
    if not folder.find("metadata.json") or not (folder.find("centroids.pt") or folder.find("centroids.npy")):
        known = "colbert-ai, RAGatouille, PyLate's PLAID, fast-plaid or next-plaid"
        reason = f"has no metadata.json with centroids beside it. It is not an index of {known}."
        raise IndexStoreError(top, reason)
    return outer, folder


def _settings(folder: Folder) -> tuple[Engine, dict[str, Any]]:
    """The engine, and `nbits` (checked), `num_chunks`, `dim` and `checkpoint` of `metadata.json`."""
    settings = read_index_json(folder.need("metadata.json"), dict)
    engine: Engine = "next-plaid" if "next_plaid_compatible" in settings else "fast-plaid"
    if isinstance(settings.get("config"), dict):
        engine, settings = "colbert", {**settings["config"], "num_chunks": settings.get("num_chunks")}
    nbits = settings.get("nbits")
    if type(nbits) is not int or nbits not in (1, 2, 4, 8):
        reason = f"nbits is {shown(nbits)}, not 1, 2, 4 or 8."
        raise IndexStoreError(folder.path / "metadata.json", reason)
    return engine, settings


def _codec(folder: Folder, engine: Engine, nbits: int, *, dim: object) -> tuple[Array, Array]:
    """(K, D) centroids and (256, 8 // nbits) codebook, float32, which decode a token."""
    if engine == "colbert":
        path = folder.need("centroids.pt")
        _check_count(path, *tensor_shapes(path))
        (centroids,) = read_tensors(path, 1)
        _, weights = read_tensors(folder.need("buckets.pt"), 2)  # after the cutoffs
    else:
        names = ("centroids.npy", "bucket_weights.npy")
        arrays = [NpyArray.open(folder.need(name)) for name in names]
        _check_count(folder.path, *(array.shape for array in arrays))
        centroids, weights = (array.read_all() for array in arrays)
    if centroids.ndim != 2 or 0 in centroids.shape or weights.shape != (2**nbits,):
        reason = f"centroids {centroids.shape} or bucket weights {weights.shape} do not fit {nbits} bits."
        raise IndexDamagedError(folder.path, reason)
    if centroids.shape[1] * nbits % 8 or dim not in (None, centroids.shape[1]):
        reason = (
            f"vectors of {shown(dim or centroids.shape[1])} do not fit {nbits} bits and {centroids.shape}."
        )
        raise IndexDamagedError(folder.path, reason)
    stored = np.float16 if engine == "fast-plaid" else np.float32
    with np.errstate(over="ignore"):  # too large ones become infinite
        centroids, weights = (
            values.astype(stored, copy=False).astype(np.float32, copy=False)
            for values in (centroids, weights)
        )
    if not (np.isfinite(centroids).all() and np.isfinite(weights).all()):
        reason = "a centroid or a bucket weight is not finite. Build the index again."
        raise IndexDamagedError(folder.path, reason)
    return centroids, _codebook(weights, nbits)


def _check_count(path: Path, *shapes: tuple[int, ...]) -> None:
    """Refuse more values than any real index has centroids: a sparse file takes no room on the disk."""
    if any(prod(shape) > MAX_CENTROID_VALUES for shape in shapes):
        raise IndexStoreError(path, f"has arrays of {shapes}, larger than any real index. Refused.")


def _codebook(weights: Array, nbits: int) -> Array:
    """(256, 8 // nbits) float32: the weights that each byte stands for.

    All engines write the number of a bucket from its lowest bit, and fill bytes from their highest bit.

    >>> _codebook(np.arange(4, dtype=np.float32), 2)[[0b01000000, 0b00000010]].tolist()
    [[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    buckets = bits.reshape(256, 8 // nbits, nbits) @ (1 << np.arange(nbits))
    values: Array = weights[buckets]
    return values
