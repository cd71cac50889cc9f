"""Passwords and keys in locations and in the environment are not shown."""

from __future__ import annotations

import pytest

from mlx_colbert.errors import ColBERTError
from mlx_colbert.store import create_store, open_store
from mlx_colbert.stores.location import shown_location

SECRETS = {
    "QDRANT_API_KEY": "SECRET",
    "AWS_ACCESS_KEY_ID": "SECRET",
    "AWS_SECRET_ACCESS_KEY": "SECRET",
    "AWS_REGION": "us-east-1",
    "AWS_ENDPOINT": "http://127.0.0.1:9",
    "AWS_ALLOW_HTTP": "true",
}


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(
    ("location", "module"),
    [
        ("qdrant+http://ann:SECRET@127.0.0.1:9/notes", "qdrant_client"),
        ("qdrant+http://ann:SECRET@127.0.0.1:9", "qdrant_client"),
        ("qdrant+http://127.0.0.1:9/notes?api-key=SECRET", "qdrant_client"),
        ("qdrant+ftp://ann:SECRET@127.0.0.1:9/notes", "sqlite3"),
        pytest.param("lancedb+s3://ann:SECRET@bucket/notes", "lancedb", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("make", [open_store, lambda location: create_store(location, 8)])
def test_no_error_shows_a_password_or_a_key(location, module, make, monkeypatch):
    pytest.importorskip(module)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ColBERTError) as caught:
        make(location)

    error = caught.value
    assert "SECRET" not in f"{error} {error!r} {vars(error)}"


def test_a_store_shows_its_location_without_a_password(monkeypatch):
    pytest.importorskip("qdrant_client")
    from qdrant_server import QdrantServer

    server = QdrantServer()
    place = f"qdrant+{server.url.replace('://', '://ann:SECRET@')}/notes"
    with create_store(place, 8) as store:
        assert "SECRET" not in f"{store!r} {store.path} {vars(store)}"
        with pytest.raises(ColBERTError) as caught:
            store.get("absent")
        assert "SECRET" not in str(caught.value) and server.url in str(caught.value)
    server.close()


def test_a_path_is_shown_as_it_is():
    for place in ("notes@home/a?b#c.index", "s3://bucket/a@b", "http://host:6333/notes"):
        assert shown_location(place) == place
