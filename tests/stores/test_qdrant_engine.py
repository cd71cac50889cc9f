"""Points and conditions of a store in the engine of Qdrant's server, which PyPI has as qdrant-edge-py."""

from __future__ import annotations

import random

import numpy as np
import pytest
from made_stores import make
from test_store_filters import filter_of, metadata_of

from mlx_colbert.index import Filter
from mlx_colbert.index.catalog.filters import filter_condition
from mlx_colbert.stores.fact_tests import fact_test
from mlx_colbert.types import Source

edge = pytest.importorskip(
    "qdrant_edge", reason="Qdrant's engine is not installed: pip install qdrant-edge-py"
)
pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.slow
DIM = 8


def in_edge(condition):
    """A condition of the client as one of the engine."""
    if type(condition).__name__ == "FieldCondition":
        match = condition.match and edge.MatchAny(any=condition.match.any)
        limits = condition.range and edge.RangeFloat(**condition.range.model_dump())
        return edge.FieldCondition(condition.key, match=match, range=limits)
    clauses = {name: getattr(condition, name) for name in ("must", "should", "must_not")}
    return edge.Filter(
        **{name: [in_edge(part) for part in parts] for name, parts in clauses.items() if parts}
    )


def test_the_engine_of_the_server_selects_and_finds_what_an_index_does(tmp_path, monkeypatch):
    chance, rng = random.Random(7), np.random.default_rng(7)
    ids = [f"p{i}" for i in range(200)]
    rows = [rng.standard_normal((3, DIM)).astype(np.float32) for _ in ids]
    metadata = [metadata_of(chance) for _ in ids]
    sources = [chance.choice([None, Source("s1"), Source("é")]) for _ in ids]
    store, index = make("qdrant", tmp_path / "store", DIM), make("index", tmp_path / "index", DIM)
    points, put = [], store._engine._client.upsert
    monkeypatch.setattr(
        store._engine._client,
        "upsert",
        lambda name, part, **_: (points.extend(part) if name == "passages" else None, put(name, part))[1],
    )
    for place in (store, index):
        place.add(ids, rows, None, metadata, sources=sources)
    vectors = edge.EdgeVectorParams(
        DIM,
        edge.Distance.Dot,
        datatype=edge.VectorStorageDatatype.Float16,
        multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
    )
    (tmp_path / "edge").mkdir()
    shard = edge.EdgeShard.create(str(tmp_path / "edge"), edge.EdgeConfig({"tokens": vectors}))
    shard.update(
        edge.UpdateOperation.upsert_points(
            [edge.Point(point.id, point.vector, point.payload) for point in points]
        )
    )

    n_selected = 0
    for _ in range(300):
        expression, values = filter_of(chance)
        test = fact_test(filter_condition(Filter(expression, *values)))
        condition = None if test is None else store._engine.satisfying(test)
        if condition is None:
            continue
        request = edge.ScrollRequest(limit=1000, filter=in_edge(condition), with_payload=["doc_id"])
        found = {record.payload["doc_id"] for record in shard.scroll(request)[0]}
        assert found == set(index.ids(filter=Filter(expression, *values))), expression
        n_selected += 0 < len(found) < len(ids)
        query = edge.Query.Nearest(rows[0].tolist(), using="tokens")
        nearest = shard.query(
            edge.QueryRequest(5, query=query, filter=in_edge(condition), with_payload=["doc_id"])
        )
        hits = index.search([rows[0]], 5, filter=Filter(expression, *values))[0]
        assert [point.payload["doc_id"] for point in nearest] == [hit.doc_id for hit in hits]
        assert [point.score for point in nearest] == pytest.approx([hit.score for hit in hits], abs=5e-3)
    assert n_selected > 80
    shard.close()
    store.close()
    index.close()
