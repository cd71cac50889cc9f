"""A retriever on each kind of store, with a model that needs no weights."""

from __future__ import annotations

import pytest
from made_stores import KINDS, location
from word_model import WordModel

from mlx_colbert.retriever.retriever import Retriever


@pytest.fixture
def model():
    """A model that makes a vector of each word."""
    return WordModel()


@pytest.fixture(params=KINDS)
def retriever(request, tmp_path, model):
    """An empty store of each kind, with the model."""
    with Retriever.create(location(request.param, tmp_path / "index"), model, backend="numpy") as retriever:
        yield retriever
