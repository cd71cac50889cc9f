"""A store of LanceDB in a bucket of a real S3 server on the loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from importlib.util import find_spec

import numpy as np
import pytest

from mlx_colbert.errors import IndexNotFoundError, IndexStoreError
from mlx_colbert.store import create_store, open_store
from mlx_colbert.types import Source

SERVER = shutil.which("moto_server")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lancedb") is None, reason="lancedb is not installed"),
    pytest.mark.skipif(SERVER is None, reason="moto_server is not in the PATH: pip install 'moto[server]'"),
]


@pytest.fixture
def bucket(monkeypatch):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(urllib.request.Request(f"{url}/notes", method="PUT")).close()
                    break
                except OSError:
                    time.sleep(0.1)
            for name, value in {
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT": url,
                "AWS_ALLOW_HTTP": "true",
            }.items():
                monkeypatch.setenv(name, value)
            yield "lancedb+s3://notes/store"
        finally:
            server.kill()


def test_store_in_a_bucket_answers_as_one_in_a_folder(bucket, tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((3, 8)).astype(np.float32) for _ in range(30)]
    ids = [f"p{i}" for i in range(30)]
    stores = [create_store(place, 8) for place in (bucket, f"lancedb://{tmp_path}/store")]
    for store in stores:
        store.add(ids, rows, ids, [{"n": i} for i in range(30)], sources=[Source("s")] * 30)
        store.upsert(["p3"], [rows[4]], ["again"])
        store.delete(["p5"])
        store.close()

    here, there = open_store(bucket), open_store(f"lancedb://{tmp_path}/store")

    assert len(here) == 29 and list(here) == list(there)
    assert here.search([rows[0]], 5) == there.search([rows[0]], 5)
    assert here.search([rows[0]], 5, filter="n < 9") == there.search([rows[0]], 5, filter="n < 9")
    assert here.search_keywords("again") == there.search_keywords("again")
    assert here.sources() == there.sources()
    here.close()
    there.close()


def test_a_bucket_without_a_store_and_one_that_is_missing_are_errors(bucket):
    with pytest.raises(IndexNotFoundError, match="s3://notes/none: is not a LanceDB store"):
        open_store("lancedb+s3://notes/none")
    with pytest.raises(IndexStoreError):
        create_store("lancedb+s3://missing/none", 8)
