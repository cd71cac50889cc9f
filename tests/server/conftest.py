"""An application in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="pip install 'mlx-colbert[server]'")

from starlette.testclient import TestClient

from mlx_colbert.engine.engine import Engine
from mlx_colbert.server.app import make_app
from mlx_colbert.server.settings import Settings


@pytest.fixture
def client() -> Iterator[TestClient]:
    engine = Engine(n_workers=2)
    with (
        engine.running(),
        TestClient(make_app(engine, Settings()), base_url="http://127.0.0.1:8765") as client,
    ):
        yield client
