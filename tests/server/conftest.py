"""Applications in this process: without a network, and at a real socket."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'server'")

from collecting import CHECKPOINT, Server, made_notes
from starlette.testclient import TestClient

from mlx_colbert import ColBERT
from mlx_colbert.engine.engine import Engine
from mlx_colbert.server.app import make_app
from mlx_colbert.server.serving import listening, serving, url_of
from mlx_colbert.server.settings import Settings


@pytest.fixture(scope="session")
def model():
    """The model of the applications, outside of them."""
    return ColBERT.load(CHECKPOINT, backend="numpy")


@pytest.fixture
def make_client():
    """Makes clients of applications without a network. The client has the `engine` and the lines of the `log`."""
    with ExitStack() as stack:

        def make(*, n_workers=2, n_waiting=64, log=None, mounted=None, **settings):
            engine = Engine(n_workers=n_workers, n_waiting=n_waiting)
            stack.enter_context(engine.running())
            settings = Settings(**{"model": str(CHECKPOINT), **settings})
            write = None if log is None else log.append
            app = make_app(engine, settings, write_log=write, mounted=mounted)
            client = TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=log is None)
            client.engine = engine
            return stack.enter_context(client)

        yield make


@pytest.fixture
def client(make_client):
    """A client of an application with a tiny model."""
    return make_client()


@pytest.fixture
def serve():
    """Serves applications at a free port of this machine, and says where."""
    with ExitStack() as stack:

        def begin(*, n_workers=2, n_waiting=64, log=None, **settings):
            engine = Engine(n_workers=n_workers, n_waiting=n_waiting)
            stack.enter_context(engine.running())
            settings = Settings(**{"model": str(CHECKPOINT), "port": 0, **settings})
            app = make_app(engine, settings, write_log=(lambda line: None) if log is None else log.append)
            door = listening(settings)
            url, address = url_of(door), door.getsockname()
            stack.enter_context(serving(app, settings, door))
            return SimpleNamespace(url=url, address=address, engine=engine, app=app)

        yield begin


@pytest.fixture
def connect():
    """Connects to a server that `serve` has begun."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(socket.create_connection(server.address, timeout=60))


@pytest.fixture
def make_server(make_client, tmp_path):
    """Makes a client of an application with a collection of a few files."""

    def make(**options):
        registry, folder = made_notes(tmp_path, CHECKPOINT)
        return Server(make_client(registry=registry, **options), registry, folder)

    return make


@pytest.fixture
def server(make_server):
    """A client of an application with a collection of a few files."""
    return make_server()
