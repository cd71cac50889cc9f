"""A compressed index to search, and what its hits should be."""

from __future__ import annotations

import numpy as np
import pytest
from clusters import clustered_documents, meanings

from mlx_colbert.index import Index
from mlx_colbert.index.storage.segment import CompressedSegment

DIM = 32
N = 900


def collection():
    """Documents d000 … d899 in clusters: doc_id → rows."""
    rng = np.random.default_rng(0)
    rows = clustered_documents(rng, meanings(rng, 60, DIM), N)
    return {f"d{i:03}": part for i, part in enumerate(rows)}


def make_index(path, documents):
    """A compressed index of three segments, an exact one among them; half of its passages have a year."""
    ids = list(documents)
    with Index.create(path, DIM, exact_tokens=0, backend="numpy") as index:
        for first, last in ((0, 500), (500, 890), (890, N)):
            metadata = [{"n": i, "year": 2000 + i} if i % 2 == 0 else {"n": i} for i in range(first, last)]
            part = ids[first:last]
            index.add(part, [documents[doc_id] for doc_id in part], [f"text {i}" for i in part], metadata)
        assert (index.info().segments, index.info().compressed_passages) == (3, 890)
    return path


def stored_rows(index):
    """What an index holds of each document: float16 rows, or what the codes stand for."""
    with index._open.pool.searcher() as searcher, searcher.snapshot() as snapshot:
        rows = {}
        places = searcher.catalog.rows("SELECT doc_id, segment, ordinal FROM passages")
        segments = {part.segment.record.number: part.segment for part in snapshot.segments}
        for doc_id, number, ordinal in places:
            segment = segments[number]
            if isinstance(segment, CompressedSegment):
                found = segment.rows(slice(*segment.offsets[ordinal : ordinal + 2]))
                rows[doc_id] = snapshot.codec.decode(found)
            else:
                rows[doc_id] = np.array(segment.embeddings[ordinal], np.float32)
    return rows


def assert_hits_are(hits, expected):
    """Compares with {doc_id: score}: the best of them, in an order that rounding alone may change."""
    # float32 sums of 6 × 32 products.
    assert [hit.score for hit in hits] == pytest.approx([expected[hit.doc_id] for hit in hits], abs=1e-4)
    best = sorted(expected.values(), reverse=True)[: len(hits)]
    assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def ids_of(hits):
    return [hit.doc_id for hit in hits]
