"""The index folders of RAGatouille's names: this package's, or RAGatouille's own, of which a copy is made."""

from __future__ import annotations

from pathlib import Path

from mlx_colbert.convert.draft import in_place_at_once
from mlx_colbert.convert.indexes.plaid_index import read_plaid_index
from mlx_colbert.documents.passage import Passage
from mlx_colbert.errors import IndexNotFoundError, IndexStoreError, InputError
from mlx_colbert.index.catalog.database_errors import CATALOG_NAME
from mlx_colbert.index_import import import_index
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.progress import shown
from mlx_colbert.retriever.indexing import compared, index_passages
from mlx_colbert.retriever.ownership import Ownership
from mlx_colbert.retriever.recorded_model import recorded_lengths
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.store import open_store
from mlx_colbert.untrusted import read_json

__all__ = ["NamedIndexes", "holds_index", "opened_index", "write_passages"]

_BY_HAND = "Import an old index with mlx-colbert import-index, and give its model: --model."


def holds_index(path: Path) -> bool:
    """Whether a folder is an index of this package or of RAGatouille."""
    return (path / CATALOG_NAME).is_file() or (path / "pid_docid_map.json").is_file()


def opened_index(path: Path, model: ColBERT | None) -> Retriever:
    """Open the index at a path. An index that RAGatouille wrote is copied first, if there is no copy yet.

    Args:
        path: the folder of the index.
        model: its model, of any lengths. None: the model that the index records.

    Raises:
        IndexStoreError: if there is no usable index, or (ModelMismatchError) it is of another model.
        CheckpointError: if the model that the index records cannot be loaded.
    """
    if not path.is_dir():
        raise IndexNotFoundError(path, "there is no such folder.")
    if not holds_index(path):
        raise IndexStoreError(path, f"is neither an index of mlx-colbert nor one of RAGatouille. {_BY_HAND}")
    if not (path / CATALOG_NAME).is_file():
        path = _copied(path, model)
    if model is None:
        return Retriever.open(path)
    store = open_store(path)
    try:
        return Retriever(model.with_lengths(**recorded_lengths(store)), store)
    except BaseException:
        store.close()
        raise


def _copied(path: Path, model: ColBERT | None) -> Path:
    """The copy of an index of RAGatouille, in the form of this package."""
    copy = path.with_name(f"{path.name}.mlx-colbert")
    if not copy.exists():
        found = read_plaid_index(path)
        if model is None:
            if found.model is None:
                raise IndexStoreError(path, f"does not record its model. {_BY_HAND}")
            try:
                model = ColBERT.load(found.model)
            except Exception as error:
                error.add_note(f"It is the model of index {path}. {_BY_HAND}")
                raise
        settings = read_json(path / "metadata.json").get("config")
        length = settings.get("doc_maxlen") if isinstance(settings, dict) else None
        if type(length) is int:
            model = model.with_lengths(document_length=min(length, model.config.encoder.max_length))
        with in_place_at_once(copy) as draft:
            import_index(draft, path, model)
    return copy


class NamedIndexes:
    """The indexes of one model in a folder, each with a name. One of them is open at a time.

    Attributes:
        name: the name of the index that was used last. None: there is none yet.
    """

    def __init__(self, folder: Path, model: ColBERT) -> None:
        self.name: str | None = None
        self._folder = folder
        self._model = model
        self._retriever: Retriever | None = None

    def path(self, name: str) -> Path:
        """The folder of the index with a name.

        Raises:
            InputError: if it is not the name of a folder.
        """
        if name in ("", ".", "..") or Path(name).name != name:
            raise InputError(f"index_name {name!r} is not the name of a folder. Leave out / and \\.")
        return self._folder / name

    def open(self, name: str | None) -> Retriever:
        """The index with a name. None: the last one.

        Raises:
            InputError: if the name cannot be used, or there is no index yet.
            IndexStoreError: if there is no usable index of this name.
        """
        name = name or self.name
        if name is None:
            raise InputError("there is no index yet. Call index(collection) first, or give an index_name.")
        if self._retriever is None or name != self.name:
            self.use(name, opened_index(self.path(name), self._model))
        assert self._retriever is not None
        return self._retriever

    def use(self, name: str, retriever: Retriever) -> None:
        """Take an index that is open already as the last one, and close the one before."""
        self.close()
        self.name, self._retriever = name, retriever

    def close(self) -> None:
        """Close the open index, if there is one."""
        if self._retriever is not None:
            self._retriever.close()
            self._retriever = None


def write_passages(retriever: Retriever, passages: list[Passage]) -> None:
    """Write documents to an index. Passages of the same documents that are there already are replaced.

    Raises:
        DuplicateIdError: if a passage has the id of a passage of another document.
    """
    store = retriever.store
    ownership = Ownership(store)
    found = list(compared(store, passages, by_source=True))
    for passage, unchanged in found:
        if unchanged is False:
            ownership.note(passage)
    replaced = {passage.source for passage in passages if passage.source is not None}
    ownership.check({source.uri for source in replaced})
    with shown() as told:
        index_passages(
            retriever.model,
            store,
            found,
            len(passages),
            upsert=True,
            replaced=replaced,
            advance=lambda stats: None,
            progress=told,
        )
