"""The index: token embeddings, texts and metadata in one folder, changed in transactions, searched exactly.

::

    Index ─┬─ Writer ──── Batch          add, upsert, delete: one transaction each
           └─ Searcher                   a snapshot per search
                 └── Catalog, Segment    SQLite; mapped arrays (FORMAT.md has the bytes)
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np

from mlx_colbert.backends import Backend, get_ops
from mlx_colbert.errors import (
    IndexDamagedError,
    IndexStoreError,
    InputError,
    ModelMismatchError,
    UnknownIdError,
)
from mlx_colbert.index.batch import Batch, check_doc_ids, check_queries
from mlx_colbert.index.catalog import Document
from mlx_colbert.index.schema import CATALOG_NAME, FORMAT_VERSION, MAX_DIM, create_catalog
from mlx_colbert.index.searcher import Searcher
from mlx_colbert.index.segment import CODEC, check_contents
from mlx_colbert.index.writer import Writer
from mlx_colbert.passage import is_text
from mlx_colbert.types import Array, Hit, TokenEmbeddings

__all__ = ["Document", "Index", "IndexInfo"]


@dataclass(frozen=True)
class IndexInfo:
    """What an index holds.

    Attributes:
        documents: documents that are not deleted.
        tokens: their token embeddings.
        deleted: deleted documents whose rows still take room.
        segments: number of segments.
        bytes: size of the catalog and of all segments.
        dim: D.
        codec: how token embeddings are stored.
        format_version: version of the files, see FORMAT.md.
        model: what the index was created with.
    """

    documents: int
    tokens: int
    deleted: int
    segments: int
    bytes: int
    dim: int
    codec: str
    format_version: int
    model: Mapping[str, str] | None


class Index:
    """A collection of documents on the disk. Any number of threads and processes may read and write it.

    Every change is durable when its method returns, and is there as a whole or not at all.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Index.create(f"{folder}/notes", 2) as index:
    ...     index.add(["a", "b"], [np.eye(2), np.ones((1, 2))], texts=["two tokens", "one token"])
    ...     [(hit.doc_id, hit.score, hit.text) for hit in index.search(np.array([[1.0, 0.5]]), k=1)]
    [('b', 1.5, 'one token')]
    """

    def __init__(
        self, path: str | Path, *, backend: Backend = "auto", model: Mapping[str, str] | None = None
    ) -> None:
        """Opens an index: the same as `Index.open`."""
        # Absolute, since later connections are opened from wherever the process stands then.
        self.path = Path(path).absolute()
        self._ops = get_ops(backend)
        self._lock = threading.Lock()
        self._closed = False
        self._writer: Writer | None = None
        self._idle = [Searcher(self.path)]
        try:
            self.dim = self._idle[0].catalog.dim
            self.model: Mapping[str, str] | None = self._idle[0].catalog.model
            self.check_model(model)
            with self._searcher() as searcher, searcher.snapshot():
                pass
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        path: str | Path,
        dim: int = 128,
        *,
        model: Mapping[str, str] | None = None,
        backend: Backend = "auto",
    ) -> Index:
        """A new, empty index.

        Args:
            path: a folder that does not exist, or is empty.
            dim: D of its token embeddings.
            model: what made them, for example {"source": …, "fingerprint": …}.
            backend: the kernels that search it.

        Raises:
            TargetExistsError: if the path exists and is not an empty folder.
            InputError: if dim or model cannot be used.
            IndexStoreError: if the folder cannot be written.
        """
        dim = _whole(dim, "dim")
        if not 1 <= dim <= MAX_DIM:
            raise InputError(f"dim is {dim}, not in 1..{MAX_DIM}.")
        if model is not None and not all(is_text(part) for item in model.items() for part in item):
            raise InputError("model must map str to str.")
        get_ops(backend)
        create_catalog(Path(path), dim=dim, model=model)
        return cls(path, backend=backend)

    @classmethod
    def open(
        cls, path: str | Path, *, backend: Backend = "auto", model: Mapping[str, str] | None = None
    ) -> Index:
        """The index at a path.

        Args:
            path: its folder.
            backend: the kernels that search it.
            model: the model of the caller; its "fingerprint" must be the one that the index was created with.

        Raises:
            IndexNotFoundError: if there is nothing at the path.
            IndexFormatError: if a newer version wrote it.
            IndexDamagedError: if a file is missing, short or altered.
            ModelMismatchError: if it holds the vectors of another model.
            IndexStoreError: if it is not an index, or cannot be read.
        """
        return cls(path, backend=backend, model=model)

    def add(
        self,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[Array],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Adds N documents; they are durable when this returns.

        Args:
            doc_ids: N new ids.
            embeddings: N arrays (n_tokens, D), each of one row or more, finite, within float16; scored as
                they are, so rows of another length than 1 weigh more or less.
            texts: N texts, or none.
            metadata: N JSON objects, or none.

        Raises:
            DuplicateIdError: if a doc_id is given twice or exists.
            InputError: if a value cannot be stored.
            ShapeError: if the numbers of documents differ, or D is not the index's.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written. Nothing is added then, or on any other error.
        """
        self._writing().add(Batch.check(doc_ids, embeddings, texts, metadata, dim=self.dim), replace=False)

    def upsert(
        self,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[Array],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Adds N documents and deletes those that had the same doc_id, in one transaction; else as `add`."""
        self._writing().add(Batch.check(doc_ids, embeddings, texts, metadata, dim=self.dim), replace=True)

    def delete(self, doc_ids: Iterable[str]) -> None:
        """Deletes documents; this is durable when it returns.

        Raises:
            UnknownIdError: if the index does not hold one of them. Nothing is deleted then.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        if ids := list(dict.fromkeys(check_doc_ids(doc_ids))):
            self._writing().delete(ids)

    @overload
    def search(self, query_embeddings: Array, k: int = 10) -> list[Hit]: ...
    @overload
    def search(self, query_embeddings: TokenEmbeddings | list[Array], k: int = 10) -> list[list[Hit]]: ...
    def search(
        self, query_embeddings: Array | TokenEmbeddings | list[Array], k: int = 10
    ) -> list[Hit] | list[list[Hit]]:
        """The k documents of the highest MaxSim, by score, then by doc_id; all where there are fewer than k.

        Args:
            query_embeddings: (Q, D) of one query; or a list, or TokenEmbeddings, of several.
            k: how many, 1 or more.

        Returns:
            The hits of one query, or a list of hits per query.

        Raises:
            InputError: if k is not a positive integer, or a query has no rows or values beyond float16.
            ShapeError: if D is not the index's.
        """
        k = _whole(k, "k")
        if k < 1:
            raise InputError(f"k is {k}, not 1 or more.")
        # More than any index holds; SQLite counts no further.
        k = min(k, 2**31)
        arrays = [query_embeddings] if isinstance(query_embeddings, np.ndarray) else query_embeddings
        queries = check_queries(arrays, dim=self.dim)
        with self._searcher() as searcher:
            hits = searcher.search(self._ops, queries, k)
        return hits[0] if isinstance(query_embeddings, np.ndarray) else hits

    def get(self, doc_id: str) -> Document:
        """The stored document of that id.

        Raises:
            UnknownIdError: if the index does not hold it.
        """
        (checked,) = check_doc_ids([doc_id])
        with self._searcher() as searcher:
            document = searcher.catalog.document(checked)
        if document is None:
            raise UnknownIdError([doc_id], where=self.path)
        return document

    def existing(self, doc_ids: Iterable[str]) -> set[str]:
        """Those of the ids that the index holds."""
        with self._searcher() as searcher:
            return set(searcher.catalog.locate(check_doc_ids(doc_ids)))

    def info(self) -> IndexInfo:
        """What the index holds now."""
        with self._searcher() as searcher, searcher.snapshot() as segments:
            records = [live.segment.record for live in segments]
        files = [self.path / f"{CATALOG_NAME}{suffix}" for suffix in ("", "-wal")]
        return IndexInfo(
            documents=sum(record.n_documents - record.n_deleted for record in records),
            tokens=sum(record.live_tokens for record in records),
            deleted=sum(record.n_deleted for record in records),
            segments=len(records),
            bytes=sum(file.n_bytes for record in records for file in record.files)
            + sum(path.stat().st_size for path in files if path.exists()),
            dim=self.dim,
            codec=CODEC,
            format_version=FORMAT_VERSION,
            model=self.model,
        )

    def verify(self) -> list[str]:
        """What is wrong with the index, one sentence each; reads every byte of it."""
        try:
            with self._searcher() as searcher, searcher.snapshot() as segments:
                problems = searcher.catalog.problems()
                for live in segments:
                    try:
                        check_contents(self.path, live.segment.record)
                    except IndexDamagedError as error:
                        problems.append(str(error))
        except IndexDamagedError as error:
            return [str(error)]
        return problems

    def close(self) -> None:
        """Closes the index; searches that are under way in other threads finish."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            writer, self._writer = self._writer, None
        for searcher in idle:
            searcher.close()
        if writer is not None:
            writer.close()

    def __len__(self) -> int:
        with self._searcher() as searcher:
            return sum(record.n_documents - record.n_deleted for record in searcher.catalog.segments())

    def __contains__(self, doc_id: object) -> bool:
        if not isinstance(doc_id, str) or not is_text(doc_id):
            return False
        with self._searcher() as searcher:
            return bool(searcher.catalog.locate([doc_id]))

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_model(self, model: Mapping[str, str] | None) -> None:
        """Refuses a model whose "fingerprint" is not the one that the index was created with.

        Raises:
            ModelMismatchError: naming both.
        """
        theirs, ours = dict(model or {}), dict(self.model or {})
        if "fingerprint" in theirs and "fingerprint" in ours and theirs["fingerprint"] != ours["fingerprint"]:
            raise ModelMismatchError(
                self.path,
                f"holds the vectors of {ours.get('source', 'another model')!r} ({ours['fingerprint']}), "
                f"not of {theirs.get('source', 'this model')!r} ({theirs['fingerprint']}). "
                "Open it with the model that made it.",
            )

    @contextmanager
    def _searcher(self) -> Iterator[Searcher]:
        # A search keeps its transaction while it scores, so each of several threads needs a connection.
        with self._lock:
            self._check_open()
            searcher = self._idle.pop() if self._idle else None
        searcher = searcher or Searcher(self.path)
        try:
            yield searcher
        finally:
            with self._lock:
                if not self._closed:
                    self._idle.append(searcher)
                    searcher = None
            if searcher is not None:
                searcher.close()

    def _writing(self) -> Writer:
        with self._lock:
            self._check_open()
            self._writer = self._writer or Writer(self.path)
            return self._writer

    def _check_open(self) -> None:
        if self._closed:
            raise IndexStoreError(self.path, "is closed.")


def _whole(value: int, name: str) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise InputError(f"{name} is {value!r}, not an integer.")
