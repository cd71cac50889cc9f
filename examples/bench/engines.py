"""The engines that search.py measures: how to build and open each. All get the same vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Hits: TypeAlias = list[list[int]]
# The k best documents of each query, as positions in the collection.
Search: TypeAlias = Callable[[list[Array], int], Hits]

CHUNK_DOCUMENTS = 512


@dataclass(frozen=True, eq=False)
class Encoded:
    """The encoded documents and queries of a collection.

    Attributes:
        vectors: (T, D) float16, mapped.
        lengths: (N,) int64, rows of each document.
        queries: one (Q, D) float32 per query.
        qrels: for each query, position of a relevant document -> relevance.
    """

    vectors: Array
    lengths: Array
    queries: list[Array]
    qrels: list[dict[int, int]]

    @classmethod
    def read(cls, cache: Path, n_documents: int | None, n_queries: int | None) -> Encoded:
        """The first documents and queries that `encode` wrote."""
        meta = json.loads((cache / "meta.json").read_text(encoding="utf-8"))
        lengths = np.load(cache / "lengths.npy")[:n_documents]
        shape = (int(lengths.sum()), meta["dim"])
        vectors = np.memmap(cache / "vectors.f16", np.float16, "r", shape=shape)
        stored = np.load(cache / "queries.npz")
        queries = np.split(stored["vectors"], np.cumsum(stored["lengths"])[:-1])[:n_queries]
        qrels = [{int(d): r for d, r in row.items() if int(d) < len(lengths)} for row in meta["qrels"]]
        return cls(vectors, lengths, queries, qrels[:n_queries])

    def parts(self) -> Iterator[tuple[int, Array, Array]]:
        """(first position, rows, lengths) of each 512 documents."""
        offsets = np.append(0, np.cumsum(self.lengths))
        for start in range(0, len(self.lengths), CHUNK_DOCUMENTS):
            lengths = self.lengths[start : start + CHUNK_DOCUMENTS]
            yield start, self.vectors[offsets[start] : offsets[start + len(lengths)]], lengths


@dataclass(frozen=True)
class Engine:
    """An engine with its settings.

    Attributes:
        name: its name on the command line.
        built_as: name of the index. Engines that differ only in the settings of a search share one index.
        build: makes an index in a folder that does not exist.
        open: returns the search function of that index.
        is_peer: whether the engine runs in the other Python.
    """

    name: str
    built_as: str
    build: Callable[[Encoded, Path], None]
    open: Callable[[Path], Search]
    is_peer: bool


def build_ours(data: Encoded, folder: Path, *, nbits: Any, exact: bool = False) -> None:
    """Build an index of this package."""
    from mlx_colbert import Index, TokenEmbeddings

    dim, tokens = data.vectors.shape[1], None if exact else 0
    with Index.create(folder, dim, nbits=nbits, exact_tokens=tokens) as index, index.bulk():
        for start, rows, lengths in data.parts():
            ids = [str(start + i) for i in range(len(lengths))]
            index.add(ids, TokenEmbeddings(rows, lengths))


def open_ours(folder: Path, **params: Any) -> Search:
    """The search function of an index of this package."""
    from mlx_colbert import Index, SearchParams

    index = Index.open(folder)

    def search(queries: list[Array], k: int) -> Hits:
        found = index.search(queries, k, params=SearchParams(**params))
        return [[int(hit.doc_id) for hit in hits] for hits in found]

    return search


def build_store(data: Encoded, folder: Path, *, scheme: str, exact_tokens: int | None) -> None:
    """Build a store of another engine, behind the protocol of this package."""
    from mlx_colbert import TokenEmbeddings
    from mlx_colbert.store import create_store

    store = create_store(f"{scheme}://{folder}", data.vectors.shape[1], exact_tokens=exact_tokens)
    with store.bulk():
        for start, rows, lengths in data.parts():
            ids = [str(start + i) for i in range(len(lengths))]
            store.add(ids, TokenEmbeddings(rows, lengths))
    store.close()


def open_store(folder: Path, *, scheme: str) -> Search:
    """The search function of such a store."""
    from mlx_colbert.store import open_store
    from mlx_colbert.types import TokenEmbeddings

    store = open_store(f"{scheme}://{folder}")

    def search(queries: list[Array], k: int) -> Hits:
        found = store.search(TokenEmbeddings.pack(queries), k)
        return [[int(hit.doc_id) for hit in hits] for hits in found]

    return search


def build_fast_plaid(data: Encoded, folder: Path, *, nbits: int) -> None:
    """Build an index of fast-plaid."""
    import torch
    from fast_plaid import search

    offsets = np.append(0, np.cumsum(data.lengths))
    rows = torch.from_numpy(np.array(data.vectors))
    documents = [rows[start:end] for start, end in pairwise(offsets)]
    search.FastPlaid(str(folder), device="cpu").create(documents, nbits=nbits)


def open_fast_plaid(folder: Path, *, n_probe: int, n_full: int) -> Search:
    """The search function of fast-plaid."""
    import torch
    from fast_plaid import search

    index = search.FastPlaid(str(folder), device="cpu")

    def found(queries: list[Array], k: int) -> Hits:
        tensors = [torch.from_numpy(query) for query in queries]
        results = index.search(
            tensors, top_k=k, n_ivf_probe=n_probe, n_full_scores=max(n_full, 4 * k), show_progress=False
        )
        return [[int(document) for document, _ in hits] for hits in results]

    return found


def build_lancedb(data: Encoded, folder: Path) -> None:
    """Build a LanceDB table with a multivector column and its default index."""
    import lancedb
    import pyarrow as pa

    dim = data.vectors.shape[1]
    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.list_(pa.float32(), dim)))])
    table = lancedb.connect(str(folder)).create_table("documents", schema=schema)
    for start, rows, lengths in data.parts():
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), dim)
        vectors = pa.ListArray.from_arrays(
            pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32)), values
        )
        ids = pa.array(np.arange(start, start + len(lengths)))
        table.add(pa.table([ids, vectors], schema=schema))
    table.create_index(metric="cosine", vector_column_name="vector")


def open_lancedb(folder: Path) -> Search:
    """The search function of LanceDB with its defaults."""
    import lancedb

    table = lancedb.connect(str(folder)).open_table("documents")

    def search(queries: list[Array], k: int) -> Hits:
        return [table.search(query).limit(k).select(["id"]).to_arrow()["id"].to_pylist() for query in queries]

    return search


def _ours(name: str, nbits: int, built_as: str | None = None, **params: int) -> Engine:
    build = partial(build_ours, nbits=nbits)
    return Engine(name, built_as or name, build, partial(open_ours, **params), is_peer=False)


def _store(name: str, scheme: str, exact_tokens: int | None) -> Engine:
    build = partial(build_store, scheme=scheme, exact_tokens=exact_tokens)
    return Engine(name, name, build, partial(open_store, scheme=scheme), is_peer=False)


def _fast_plaid(name: str, built_as: str, nbits: int, n_probe: int, n_full: int) -> Engine:
    opened = partial(open_fast_plaid, n_probe=n_probe, n_full=n_full)
    return Engine(name, built_as, partial(build_fast_plaid, nbits=nbits), opened, is_peer=True)


_ALL = [
    Engine("exact", "exact", partial(build_ours, nbits=4, exact=True), open_ours, is_peer=False),
    _ours("nbits-8", 8),
    _ours("nbits-4", 4),
    # Faster, with less recall.
    _ours("nbits-4-fast", 4, "nbits-4", n_probe=24, n_approximate=200, n_candidates=40),
    _ours("nbits-2", 2),
    _ours("nbits-1", 1),
    # n_ivf_probe and n_full_scores: its defaults, then those with the best recall per millisecond below them.
    _fast_plaid("fast-plaid", "fast-plaid", 4, 8, 4096),
    _fast_plaid("fast-plaid-fast", "fast-plaid", 4, 4, 256),
    _fast_plaid("fast-plaid-faster", "fast-plaid", 4, 2, 128),
    _fast_plaid("fast-plaid-2", "fast-plaid-2", 2, 8, 4096),
    # With an index of the vectors, and without.
    _store("store-lancedb", "lancedb", 0),
    _store("store-lancedb-scan", "lancedb", None),
    _store("store-qdrant", "qdrant", None),
    Engine("lancedb", "lancedb", build_lancedb, open_lancedb, is_peer=True),
]
ENGINES = {engine.name: engine for engine in _ALL}
