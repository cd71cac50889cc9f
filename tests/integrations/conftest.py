"""An index and a collection of a few texts, for the tests of the frameworks."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Retriever

TEXTS = {
    "tea": ("Steep black tea for three minutes.", {"topic": "drinks", "year": 2020, "tags": ["hot"]}),
    "novel": ("Moby-Dick was written by Herman Melville.", {"topic": "books", "year": 1851}),
    "bees": ("Bees dance to show the way to flowers.", {"topic": "animals"}),
    "coal": ("Coal is black and burns for a long time.", {"topic": "mining", "year": 2019}),
}


def pytest_configure(config):
    for mark in ("asyncio", "benchmark", "vcr"):
        config.addinivalue_line("markers", f"{mark}: of the suites of LangChain and Haystack.")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs the asynchronous tests of the suites of LangChain and Haystack. No plugin is needed."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def model_folder(data_folder):
    return data_folder / "checkpoints" / "pylate-bert"


@pytest.fixture(scope="session")
def data_folder():
    return Path(__file__).parents[1] / "data"


@pytest.fixture
def model(model_folder):
    return ColBERT.load(model_folder, backend="numpy")


@pytest.fixture
def retriever(tmp_path, model):
    with Retriever.create(tmp_path / "index", model, backend="numpy") as made:
        texts, metadata = zip(*TEXTS.values(), strict=True)
        made.add(texts, list(TEXTS), metadata)
        yield made


@pytest.fixture
def collection(tmp_path, model_folder):
    """The name of a collection of two files."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "tea.md").write_text("# Tea\n\nSteep black tea for three minutes.\n")
    (notes / "bees.md").write_text("# Bees\n\nBees dance to show the way to flowers.\n")
    settings = CollectionSettings(model=str(model_folder)).with_folder(notes)
    with Collection(Registry().create(settings, "notes-of-frameworks"), backend="numpy") as made:
        made.sync()
    yield "notes-of-frameworks"
    Registry().remove("notes-of-frameworks")
