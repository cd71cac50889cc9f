"""A store of texts: a model encodes them, and a store of token embeddings keeps them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from mlx_colbert.checks import check_list, check_new_ids, check_texts
from mlx_colbert.counts import counted
from mlx_colbert.documents.passage import checked_passages
from mlx_colbert.documents.unread import Unread
from mlx_colbert.errors import DuplicateIdError, InputError
from mlx_colbert.index import Filter, Index
from mlx_colbert.index.passage_checks import check_source
from mlx_colbert.progress import Progress, shown
from mlx_colbert.retriever.indexing import IndexingStats, compared
from mlx_colbert.retriever.ownership import Ownership
from mlx_colbert.retriever.reading import ReadFiles
from mlx_colbert.retriever.recorded_model import model_identity
from mlx_colbert.retriever.settings import IndexingSettings
from mlx_colbert.retriever.writing import DO_AGAIN, PassageWriter, interruption_told
from mlx_colbert.store import Store
from mlx_colbert.types import Position, Source

if TYPE_CHECKING:
    from mlx_colbert.model.colbert import ColBERT

__all__ = ["Inputs", "TextStore", "listed"]

Inputs = str | Path | Iterable[str | Path]

_ADD_REST = "Add the others to continue."


class TextStore:
    """Adds, replaces and deletes the passages of a store. `Retriever` adds the search.

    Attributes:
        store: the store of the token embeddings.
    """

    def __init__(self, model: ColBERT | Callable[[], ColBERT], store: Store) -> None:
        self.store = store
        self._settings = IndexingSettings.of(store)
        self._loading = threading.Lock()
        self._model: ColBERT | None = None
        if callable(model):
            self._load = model
        else:
            store.check_model(model_identity(model))
            self._model = model
        self._writer = PassageWriter(store, lambda: self.model)

    @property
    def model(self) -> ColBERT:
        """The model. It is loaded at its first use. A keyword search does not need it.

        Raises:
            CheckpointError: if it cannot be loaded.
            ModelMismatchError: if it is not the model that made the index.
        """
        with self._loading:
            if self._model is None:
                model = self._load()
                self.store.check_model(model_identity(model))
                self._model = model
            return self._model

    @property
    def index(self) -> Index:
        """The store, if it is an index folder.

        Raises:
            InputError: if it is another kind of store.
        """
        if not isinstance(self.store, Index):
            raise InputError(f"{self.store.path}: is not an index folder. Use retriever.store.")
        return self.store

    @property
    def stats(self) -> IndexingStats:
        """The numbers of passages that this object has written, and the time that it took."""
        return self._writer.stats

    @property
    def unread(self) -> Unread:
        """What was left out when files and folders were last read."""
        return self._writer.unread

    def add(
        self,
        texts: Iterable[str],
        doc_ids: Iterable[str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[str]:
        """Add passages to the index; returns their ids.

        All arguments are checked before anything is encoded. Only a passage that is too long for
        `on_overflow="error"` is found later. Texts are encoded and committed in windows of up to 512, so the
        memory does not grow. If a window fails, nothing of it is stored, but the windows before it stay. A
        note on the exception says how many passages they have.

        Args:
            texts: N texts.
            doc_ids: N ids that are new to the index. Without them each passage gets a random id of 32
                hexadecimal digits, because two passages may have the same text.
            metadata: N JSON objects, or None for a passage without metadata.
            progress: called with the progress (`mlx_colbert.progress`). Without it, a terminal shows a bar.

        Raises:
            InputError: if an argument cannot be used, or (DuplicateIdError) an id is given twice or exists.
        """
        passages = checked_passages(texts, doc_ids, metadata)
        ids = [passage.doc_id for passage in passages]
        if doc_ids is not None and (existing := self.store.existing(ids)):
            known = [doc_id for doc_id in ids if doc_id in existing]
            raise DuplicateIdError.existing(known, where=self.store.path)
        with interruption_told(lambda: self.stats), shown(progress) as told:
            found = ((passage, None) for passage in passages)
            self._writer.write(found, len(passages), upsert=False, progress=told, go_on=_ADD_REST)
        return ids

    def upsert(
        self,
        texts: Iterable[str],
        doc_ids: Iterable[str],
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[str]:
        """Replace the passages whose ids exist, and add the others; returns their ids.

        This checks, encodes and commits like `add`. Passages that are in the index with the same text and
        metadata are not encoded again.

        Args:
            texts: N texts.
            doc_ids: N different ids.
            metadata: N JSON objects, or None for a passage without metadata. They replace the old ones.
            progress: as for `add`.

        Raises:
            InputError: if an argument cannot be used, or (DuplicateIdError) an id is given twice.
        """
        passages = checked_passages(texts, check_new_ids(doc_ids), metadata)
        with interruption_told(lambda: self.stats), shown(progress) as told:
            found = compared(self.store, passages, by_source=False)
            self._writer.write(found, len(passages), upsert=True, progress=told, go_on=DO_AGAIN)
        return [passage.doc_id for passage in passages]

    def add_files(
        self,
        inputs: Inputs,
        *,
        upsert: bool = False,
        max_file_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Add the passages of files and folders to the index; returns how many were read.

        All files are checked before anything is encoded. Texts of up to 64 MB stay in memory until they are
        encoded; what is more is read again. So the memory grows only by the ids, about 0.2 kB for each
        passage. Unreadable files in a folder are left out; `unread` lists them. Passages are committed like
        in `add`. Passages that are in the index with the same text and metadata are not encoded again, so the
        same call continues an interrupted one. A file whose size, time and content are those that the index
        records is not split again. If no file has changed, the model is not loaded.

        Args:
            inputs: files and folders, as for `mlx_colbert.documents.files.read_passages`.
            upsert: replace the old passages of these files. Passages that a file no longer has are deleted in
                the transaction that writes the new ones (the last one, if they are more than 512). `stats`
                counts them. A passage of another file is not replaced: if it has the same id and another text
                or metadata, that is an error.
            max_file_bytes: the size of the largest file that is read, in bytes. None: the limit of its kind.
            progress: as for `add`.

        Raises:
            InputError: if a file cannot be read as passages, or (DuplicateIdError) an id is given twice, or
                exists with another text or metadata (with `upsert`: in a file that is not given).
        """
        with interruption_told(lambda: self.stats), shown(progress) as told:
            files = ReadFiles(listed(inputs), self.store, told, max_file_bytes=max_file_bytes)
            return self._writer.add_files(files, upsert=upsert, alone=False, progress=told)

    def replace_source(
        self,
        source: Source,
        texts: Iterable[str],
        doc_ids: Iterable[str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        positions: Iterable[Position | None] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[str]:
        """Replace the passages of a source; returns their ids.

        Passages that are in the index with the same text and metadata are not encoded again. Up to 512 new
        ones and the passages that they replace are one transaction. More need several.

        Args:
            source: a file, a page or a record. Its uri is its name.
            texts: N texts. An empty list deletes the source.
            doc_ids: N ids. Without them the ids are made from the uri: `uri#1`, `uri#2`, ….
            metadata: N JSON objects, or None for a passage without metadata.
            positions: the position of each passage in the source, or None.
            progress: as for `add`.

        Raises:
            InputError: if an argument cannot be used, or (DuplicateIdError) an id is given twice, or is that
                of another passage of another source.
        """
        check_source(source, "source")
        listed = check_texts(texts, "text", may_be_blank=True, may_be_empty=True)
        if not listed:
            self._writer.stats += IndexingStats(deleted=self.store.replace_sources({source: {}}))
            return []
        if doc_ids is None:
            doc_ids = [f"{source.uri}#{number}" for number in range(1, len(listed) + 1)]
        places = [None] * len(listed) if positions is None else check_list(positions, "positions")
        if len(places) != len(listed):
            raise InputError(
                f"{counted(len(listed), 'text')}, but {len(places)} positions. Give one per text."
            )
        passages = [
            dataclasses.replace(passage, source=source, position=position)
            for passage, position in zip(checked_passages(listed, doc_ids, metadata), places, strict=True)
        ]
        ownership = Ownership(self.store)
        found = list(compared(self.store, passages, by_source=True))
        for passage, unchanged in found:
            if unchanged is False:
                ownership.note(passage)
        ownership.check({source.uri})
        with interruption_told(lambda: self.stats), shown(progress) as told:
            self._writer.write(
                found, len(passages), upsert=True, replaced={source}, progress=told, go_on=DO_AGAIN
            )
        return [passage.doc_id for passage in passages]

    def delete(
        self,
        doc_ids: Iterable[str] | None = None,
        *,
        filter: Filter | str | None = None,
        source: str | None = None,
    ) -> int:
        """Delete passages by their ids, by a filter, or by their source; returns how many.

        Raises:
            UnknownIdError: if one of the ids is not in the index. Then nothing is deleted.
            InputError: if none or more than one of the arguments is given, or the filter is not valid.
        """
        return self.store.delete(doc_ids, filter=filter, source=source)

    def close(self) -> None:
        """Close the index. You can still use the model."""
        self.store.close()

    def __len__(self) -> int:
        return len(self.store)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self.store

    def __iter__(self) -> Iterator[str]:
        return iter(self.store)

    def __repr__(self) -> str:
        model = "model not loaded yet" if self._model is None else repr(self._model)
        return f"<{type(self).__name__}: {model} on {self.store!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Retriever cannot be pickled or copied. Open it in each process: Retriever.open(path)."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def listed(inputs: Inputs) -> list[str | Path]:
    """Files and folders as a list.

    Raises:
        InputError: if there are none.
    """
    return [inputs] if isinstance(inputs, str | Path) else check_list(inputs, "inputs")
