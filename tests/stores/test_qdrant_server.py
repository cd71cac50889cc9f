"""A store on a Qdrant server: addresses, keys and batches."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_colbert.errors import IndexNotFoundError, IndexStoreError, InputError
from mlx_colbert.store import create_store, open_store
from mlx_colbert.types import Source

pytest.importorskip(
    "qdrant_client", reason="qdrant-client is not installed: pip install 'mlx-colbert[qdrant]'"
)
pytestmark = [
    pytest.mark.slow,
    # A loopback needs no TLS.
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
]
DIM = 8


@pytest.fixture
def server(monkeypatch):
    from qdrant_server import QdrantServer

    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    made = QdrantServer("secret")
    yield made
    made.close()


def test_store_on_a_server_answers_as_an_index(server, tmp_path):
    rng = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(150)]
    rows = [rng.standard_normal((3, DIM)).astype(np.float32) for _ in ids]
    place = f"qdrant+{server.url}/notes"
    stores = [create_store(place, DIM), create_store(tmp_path / "index", DIM, backend="numpy")]
    for store in stores:
        store.add(ids, rows, ids, [{"n": i} for i in range(150)], sources=[Source("s'1")] * 150)
        store.upsert(["p3"], [rows[4]], ["again"])
        store.delete(["p5"])
        store.delete(filter="n > 140")

    there, here = open_store(place), stores[1]

    assert list(there) == list(here) and there.sources() == here.sources()
    assert list(there.passages()) == list(here.passages())
    for selection in ({}, {"filter": "n < 9"}, {"doc_ids": ids[:80]}):
        ours, theirs = (store.search([rows[0]], 5, **selection)[0] for store in (here, there))
        assert [(hit.doc_id, hit.text) for hit in theirs] == [(hit.doc_id, hit.text) for hit in ours]
        assert [hit.score for hit in theirs] == pytest.approx([hit.score for hit in ours], abs=1e-5)
    assert there.search_keywords("again") == here.search_keywords("again")
    upserts = [
        size
        for method, path, _, size in server.requests
        if (method, path[:25]) == ("PUT", "/collections/notes/points")
    ]
    assert len(upserts) == 4  # 64 + 64 + 22 passages, and one
    assert {key for _, _, key, _ in server.requests} == {"secret"}
    for store in (*stores, there):
        store.close()


def test_missing_collection_wrong_key_and_missing_name_are_errors(server, monkeypatch):
    with pytest.raises(IndexNotFoundError, match="/none: is not a Qdrant store"):
        open_store(f"qdrant+{server.url}/none")
    with pytest.raises(InputError, match="has no collection"):
        open_store(f"qdrant+{server.url}")
    monkeypatch.setenv("QDRANT_API_KEY", "wrong")
    with pytest.raises(IndexStoreError, match="Unauthorized"):
        open_store(f"qdrant+{server.url}/none")


def test_server_that_is_not_there_is_an_error():
    with pytest.raises(IndexStoreError, match="Qdrant failed"):
        open_store("qdrant+http://127.0.0.1:9/notes")
