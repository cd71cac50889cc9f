"""A collection of a few files, with a model that says what it has encoded."""

from __future__ import annotations

import os
import time

import pytest
from word_model import WordModel

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.model.colbert import ColBERT

PARAGRAPH = " ".join(["word"] * 100)


class Files:
    """Files of a folder. Their times are long ago, so that nothing is uncertain."""

    def __init__(self, folder):
        self.folder = folder
        self.now = time.time_ns() - 10**15

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.touch(name)
        return path

    def touch(self, name):
        self.now += 10**9
        os.utime(self.folder / name, ns=(self.now, self.now))

    def rename(self, old, new):
        (self.folder / old).rename(self.folder / new)

    def paragraphs(self, name, *words):
        """One passage for each word."""
        return self.write(name, "\n\n".join(f"{word} {PARAGRAPH}" for word in words) + "\n")


@pytest.fixture
def model(monkeypatch):
    made = WordModel(source="words")
    monkeypatch.setattr(ColBERT, "load", lambda source, *, backend, revision=None, **lengths: made)
    return made


@pytest.fixture
def no_model(monkeypatch):
    """Loads no model."""

    def load(*arguments, **named):
        raise AssertionError("a model is loaded")

    return lambda: monkeypatch.setattr(ColBERT, "load", load)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "notes").mkdir()
    return Files(tmp_path / "notes")


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


@pytest.fixture
def collection(registry, files, model):
    settings = CollectionSettings(model="words").with_folder(files.folder)
    with Collection(registry.create(settings), backend="numpy") as made:
        yield made


@pytest.fixture
def contents():
    """What a collection has: id → text, metadata, source, position; and its sources."""

    def read(collection):
        index = collection.index
        assert index.verify() == []
        passages = {p.doc_id: (p.text, p.metadata, p.source, p.position) for p in index.passages()}
        return passages, {source.uri: source.content_hash for source in index.sources()}

    return read
