"""The store behind a retriever."""

from __future__ import annotations

import pytest
from word_model import WordModel

from mlx_colbert.errors import IndexNotFoundError, InputError
from mlx_colbert.index import Index
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.store import open_store


def test_a_folder_is_the_store_of_an_index(tmp_path):
    Index.create(tmp_path / "index", 16, backend="numpy").close()
    store = open_store(tmp_path / "index", backend="numpy")
    assert isinstance(store, Index) and store.dim == 16
    store.close()


def test_a_scheme_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="the store 'faiss' is not known"):
        open_store("faiss://somewhere")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(IndexNotFoundError):
        open_store(tmp_path / "none")


class Wrapped:
    """A store that hands on what the protocol names, and nothing else."""

    def __init__(self, index):
        from mlx_colbert.store import Store

        names = [name for name in vars(Store) if not name.startswith("_")]
        for name in names:
            setattr(self, name, getattr(index, name))
        self._index = index

    def __len__(self):
        return len(self._index)

    def __contains__(self, doc_id):
        return doc_id in self._index

    def __iter__(self):
        return iter(self._index)


def test_a_retriever_needs_no_more_than_the_protocol(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tea.md").write_text("Steep green tea.")
    with Index.create(tmp_path / "index", 16, backend="numpy") as index:
        retriever = Retriever(WordModel(), Wrapped(index))
        assert retriever.add_files(tmp_path / "notes", upsert=True) == 1
        retriever.add(["black coffee"], ["coffee"])
        retriever.upsert(["black coffee hot"], ["coffee"])
        for mode in ("semantic", "keyword", "hybrid"):
            assert retriever.search("coffee", k=1, mode=mode)[0].doc_id == "coffee"
        assert retriever.rerank("coffee", ["coffee"])[0].text == "black coffee hot"
        assert retriever.delete(source="notes/tea.md") == 1
        assert list(retriever) == ["coffee"]
        with pytest.raises(InputError, match="is not an index folder"):
            _ = retriever.index
