"""The index: token embeddings, texts and metadata in one folder. Changes are transactions; searches go on.

::

    Index ── OpenIndex ─┬─ Writer ── Batch, SegmentWriter      one transaction per change
                        └─ SearcherPool ── Searcher            a snapshot per search
                              │               └── search_exactly, PlaidSearch ── Postings, Codec
                              └── Catalog, PassageContents, Segment   SQLite; mapped arrays (see FORMAT.md)
"""

from __future__ import annotations

from mlx_colbert.index.catalog.documents import StoredPassage
from mlx_colbert.index.catalog.filters import Filter
from mlx_colbert.index.index import Index
from mlx_colbert.index.inspection import IndexInfo, verify
from mlx_colbert.index.search.params import SearchParams
from mlx_colbert.index.settings import DEFAULT_NBITS, EXACT_TOKENS
from mlx_colbert.index.storage.codec import Bits

__all__ = [
    "DEFAULT_NBITS",
    "EXACT_TOKENS",
    "Bits",
    "Filter",
    "Index",
    "IndexInfo",
    "SearchParams",
    "StoredPassage",
    "verify",
]
