"""A server for assistants in this process, or in another one, with a model that needs no checkpoint."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mcp", exc_type=ImportError)

from mcp import Client
from mcp.client.stdio import StdioServerParameters
from word_model import WordModel

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.engine.engine import Engine
from mlx_colbert.mcp.served import Served
from mlx_colbert.mcp.server import Backing, make_server
from mlx_colbert.model.colbert import ColBERT

PROGRAM = Path(__file__).parent / "program.py"


class Notes:
    """A collection of notes that a test may change.

    Attributes:
        home: the folder of all collections.
        folder: the folder of its files.
    """

    def __init__(self, home, folder):
        self.home, self.folder = home, folder
        self.registry = Registry(home)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        # Long ago, so that no file is in doubt.
        past = time.time() - 1e6
        os.utime(path, (past, past))
        return path

    def make(self, name="notes", **settings):
        made = CollectionSettings(model="words", **settings).with_folder(self.folder)
        self.registry.create(made, name)
        self.sync(name)

    def sync(self, name="notes"):
        with Collection(self.registry.find(name), backend="numpy") as collection:
            collection.sync()


@pytest.fixture(autouse=True)
def word_model(monkeypatch):
    model = WordModel(source="words")
    monkeypatch.setattr(ColBERT, "load", lambda source, **options: model)
    return model


@pytest.fixture
def notes(tmp_path):
    """A collection with a few notes."""
    (tmp_path / "files").mkdir()
    made = Notes(tmp_path / "home", tmp_path / "files")
    made.write(
        "tea.md", "# Tea\n\nSteep black tea for three minutes.\n\n## Green\n\nGreen tea needs cooler water.\n"
    )
    made.write("bees.md", "# Dance\n\nBees dance to tell where flowers are.\n")
    made.make()
    return made


@pytest.fixture
def talk(notes):
    """Runs `conversation(client)` with a server in this process, and returns what it returns."""

    def talked(conversation, *, may_write=False, names=(), mode="auto", **client):
        async def all_of_it():
            engine = Engine(n_workers=2)
            with engine.running():
                served = Served(tuple(names), None, notes.registry, "numpy")
                server = make_server(Backing(engine, served, may_write=may_write))
                async with Client(server, mode=mode, **client) as connected:
                    return await conversation(connected)

        return asyncio.run(all_of_it())

    return talked


@pytest.fixture
def call(talk):
    """Calls a tool of a server in this process."""

    def called(tool, *, may_write=False, names=(), **arguments):
        return talk(lambda client: client.call_tool(tool, arguments), may_write=may_write, names=names)

    return called


@pytest.fixture
def command(notes):
    """The command that starts a server in another process."""

    def made(*words, **environment):
        paths = os.pathsep.join([str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")])
        return StdioServerParameters(
            command=sys.executable,
            args=["-W", "default", str(PROGRAM), "mcp", "--backend", "numpy", *words],
            env={**os.environ, "MLX_COLBERT_HOME": str(notes.home), "PYTHONPATH": paths, **environment},
        )

    return made
