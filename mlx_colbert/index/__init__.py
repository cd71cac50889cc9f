"""The index: token embeddings, texts and metadata in one folder, changed in transactions, searched meanwhile.

::

    Index ─┬─ Writer ── Batch, Coder             add, upsert, delete, compact: one transaction each
           └─ Searcher ── PlaidSearch            a snapshot per search
                 │            └── Postings, Codec
                 └── Catalog, Contents, Segment  SQLite; mapped arrays (FORMAT.md has the bytes)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, get_args, overload

import numpy as np

from mlx_colbert.backends import Backend, get_ops
from mlx_colbert.errors import (
    IndexDamagedError,
    IndexStoreError,
    InputError,
    ModelMismatchError,
    UnknownIdError,
)
from mlx_colbert.index.batch import (
    Batch,
    check_doc_ids,
    check_documents,
    check_k,
    check_metadata,
    check_queries,
    check_whole,
)
from mlx_colbert.index.catalog import DEFAULT_NBITS, EXACT_TOKENS
from mlx_colbert.index.codec import Bits
from mlx_colbert.index.contents import Document, Selection
from mlx_colbert.index.filters import Filter
from mlx_colbert.index.params import SearchParams
from mlx_colbert.index.schema import CATALOG_NAME, MAX_DIM, create_catalog
from mlx_colbert.index.searcher import CodecCache, Searcher
from mlx_colbert.index.segment import CENTROIDS
from mlx_colbert.index.takeover import Takeover
from mlx_colbert.index.writer import MEMORY_BYTES, Writer
from mlx_colbert.passage import check_text, is_text
from mlx_colbert.types import Array, Hit, TokenEmbeddings

__all__ = ["Bits", "Document", "Filter", "Index", "IndexInfo", "SearchParams", "verify"]


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
        nbits: bits per component of the coded documents.
        exact_tokens: token embeddings above which the index is coded; None: never.
        n_centroids: K; 0 while every document is stored as float16 and searched exactly.
        coded_documents: documents in the centroid codec, deleted ones too.
        format_version: version of the files, see FORMAT.md.
        model: what the index was created with.
    """

    documents: int
    tokens: int
    deleted: int
    segments: int
    bytes: int
    dim: int
    nbits: int
    exact_tokens: int | None
    n_centroids: int
    coded_documents: int
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
        self._codecs = CodecCache(self.path, self._ops)
        self._idle = [Searcher(self.path, self._codecs)]
        self._identity = self._idle[0].catalog.identity
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
        nbits: Bits = DEFAULT_NBITS,
        exact_tokens: int | None = EXACT_TOKENS,
        model: Mapping[str, str] | None = None,
        backend: Backend = "auto",
    ) -> Index:
        """A new, empty index.

        It keeps token embeddings as float16 and searches them exactly until there are more than
        `exact_tokens` of them; then, and for good, as numbers of centroids and `nbits` bits per component.

        Args:
            path: a folder that does not exist, or is empty.
            dim: D of its token embeddings; D · nbits must be divisible by 8.
            nbits: 1, 2, 4 or 8. Fewer bits take less room and lose recall (examples/bench/README.md).
            exact_tokens: 0 for centroids from the start, None for an index that stays exact.
            model: what made them, for example {"source": …, "fingerprint": …}.
            backend: the kernels that search it.

        Raises:
            TargetExistsError: if the path exists and is not an empty folder.
            InputError: if a setting cannot be used.
            IndexStoreError: if the folder cannot be written.
        """
        dim = check_whole(dim, "dim")
        if not 1 <= dim <= MAX_DIM:
            raise InputError(f"dim is {dim}, not in 1..{MAX_DIM}.")
        if model is not None and not isinstance(model, Mapping):
            raise InputError(f"model is a {type(model).__name__}, not a mapping of str to str.")
        if model is not None and not all(is_text(part) for item in model.items() for part in item):
            raise InputError("model must map str to str.")
        n_bits = check_whole(nbits, "nbits")
        if n_bits not in get_args(Bits):
            raise InputError(f"nbits is {nbits!r}, not 1, 2, 4 or 8.")
        if dim * n_bits % 8:
            raise InputError(f"dim {dim} times nbits {nbits} is not divisible by 8. Take more bits.")
        n_exact = None if exact_tokens is None else check_whole(exact_tokens, "exact_tokens")
        if n_exact is not None and n_exact < 0:
            raise InputError(f"exact_tokens is {exact_tokens}, not 0 or more.")
        get_ops(backend)
        settings = {"dim": dim, "nbits": n_bits, "exact_tokens": n_exact}
        create_catalog(Path(path), {**settings, "model": None if model is None else dict(model)})
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
            embeddings: N arrays (n_tokens, D), each of one row or more, finite, within float16; rows of
                another length than 1 weigh more or less.
            texts: N texts, or none.
            metadata: N JSON objects, or none.

        Raises:
            DuplicateIdError: if a doc_id is given twice or exists.
            InputError: if a value cannot be stored.
            ShapeError: if the numbers of documents differ, or D is not the index's.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written. Nothing is added then, or on any other error.
        """
        self._writing().add(Batch.check(doc_ids, embeddings, texts, metadata, dim=self.dim), upsert=False)

    def upsert(
        self,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[Array],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Adds N documents and deletes those that had the same doc_id, in one transaction; else as `add`."""
        self._writing().add(Batch.check(doc_ids, embeddings, texts, metadata, dim=self.dim), upsert=True)

    def take_over(
        self,
        centroids: Array,
        codebook: Array,
        doc_ids: Iterable[str],
        lengths: Array,
        blocks: Iterable[tuple[Array, Array]],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Takes over N documents as another engine coded them, in one transaction, into a new index.

        A token is the unit vector in the direction of `centroids[code] + codebook[residual]`. What is added
        later is coded with the same centroids and codebook.

        Args:
            centroids: (K, D).
            codebook: (256, 8 / nbits), what a byte of a residual adds to the next components.
            doc_ids: N different ids.
            lengths: (N,) tokens of each, 1 or more.
            blocks: codes (n,) and residuals (n, D · nbits / 8) uint8 of all tokens, in order; a block may end
                within a document. They are read once, and no more than a few in memory.
            texts: N texts, or none.
            metadata: N JSON objects, or none.

        Raises:
            InputError: if a value cannot be stored, or a code names no centroid.
            DuplicateIdError: if a doc_id is given twice.
            ShapeError: if the arrays do not fit each other, or the index's D and nbits.
            IndexStoreError: if the index holds something, or cannot be written. Nothing is added then, or on
                any other error, one that `blocks` raises included.
        """
        with self._searcher() as searcher:
            nbits = searcher.catalog.nbits
        self._writing().take_over(
            Takeover.check(
                centroids, codebook, doc_ids, lengths, blocks, texts, metadata, dim=self.dim, nbits=nbits
            )
        )

    def delete(self, doc_ids: Iterable[str] | None = None, *, filter: Filter | str | None = None) -> int:
        """Deletes documents, by their ids or by a condition on their metadata; how many there were.

        This is durable when it returns.

        Args:
            doc_ids: ids, all of which the index holds.
            filter: as for `search`, in place of ids.

        Raises:
            UnknownIdError: if the index does not hold one of the ids. Nothing is deleted then.
            InputError: if both are given, or neither, or the filter is not understood.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        if (doc_ids is None) == (filter is None):
            raise InputError("delete takes doc_ids or a filter.")
        if doc_ids is None:
            return self._writing().delete_selected(Selection(filter))
        if ids := list(dict.fromkeys(check_doc_ids(doc_ids))):
            self._writing().delete(ids)
        return len(ids)

    def update_metadata(self, doc_ids: Iterable[str], metadata: Iterable[Mapping[str, Any] | None]) -> None:
        """Replaces the metadata of N documents; their vectors and texts stay.

        Raises:
            UnknownIdError: if the index does not hold one of them. Nothing is changed then.
            InputError: if the metadata is not N JSON objects.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        ids = check_doc_ids(doc_ids)
        self._writing().update_metadata(ids, check_metadata(ids, metadata))

    def compact(self, *, retrain: bool = False, memory_bytes: int = MEMORY_BYTES) -> None:
        """Writes the index anew: few segments, no rows of deleted documents.

        A float16 index that has outgrown `exact_tokens` is coded. The centroids of a coded one are trained
        anew where it should have four times as many; its documents are coded again then, from what was left
        of them. Searches go on meanwhile; other writers wait for 10 s and then fail.

        Args:
            retrain: train the centroids of a coded index anew in any case.
            memory_bytes: bounds what the training holds in memory, in bytes.

        Raises:
            InputError: if memory_bytes is less than 1 MiB.
            IndexDamagedError: if a segment's checksum is wrong. Nothing is changed then.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        if check_whole(memory_bytes, "memory_bytes") < 1 << 20:
            raise InputError(f"memory_bytes is {memory_bytes}, less than 1 MiB.")
        self._writing().compact(retrain=retrain, memory_bytes=memory_bytes)

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Within this block documents are added without merging or coding; then the index is compacted.

        A large collection that is added in parts is coded once then, by centroids for all of it. Every add is
        durable at once all the same. Blocks may be nested: the outermost one compacts, if it ends without
        an error. If nothing was changed it costs nothing, unless an earlier one was cut short and has left
        rows to be coded or segments to be merged.
        """
        with self._writing().bulk():
            yield

    @overload
    def search(
        self,
        query_embeddings: Array,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        params: SearchParams | None = None,
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        query_embeddings: TokenEmbeddings | list[Array],
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        params: SearchParams | None = None,
    ) -> list[list[Hit]]: ...
    def search(
        self,
        query_embeddings: Array | TokenEmbeddings | list[Array],
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        params: SearchParams | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """The k documents of the highest MaxSim, by score, then by doc_id; all where there are fewer than k.

        Args:
            query_embeddings: (Q, D) of one query; or a list, or TokenEmbeddings, of several.
            k: how many, 1 or more.
            filter: a condition on the metadata, see `Filter`; k of the documents that satisfy it are found.
            doc_ids: find none but these; those that the index does not hold are passed over.
            params: what is looked at in a coded index.

        Returns:
            The hits of one query, or a list of hits per query.

        Raises:
            InputError: if k is not a positive integer, the filter is not understood, or a query has no rows
                or values beyond float16.
            ShapeError: if D is not the index's.
        """
        k = check_k(k)
        if params is not None and not isinstance(params, SearchParams):
            raise InputError(f"params is a {type(params).__name__}, not SearchParams.")
        arrays = [query_embeddings] if isinstance(query_embeddings, np.ndarray) else query_embeddings
        queries = check_queries(arrays, dim=self.dim)
        selection = Selection(filter, None if doc_ids is None else check_doc_ids(doc_ids))
        with self._searcher() as searcher:
            hits = searcher.search(self._ops, queries, k, params or SearchParams(), selection)
        return hits[0] if isinstance(query_embeddings, np.ndarray) else hits

    def search_keywords(
        self,
        query: str,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
    ) -> list[Hit]:
        """The k documents whose texts match the words of a query best, by BM25, then by doc_id.

        Any of the words may match; what stands in "double quotes" must, as a phrase. Nothing in a query is an
        error.

        Args:
            query: words.
            k: how many at most, 1 or more.
            filter: as for `search`.
            doc_ids: as for `search`.

        Raises:
            InputError: if k is not a positive integer, the query is not text, or the filter is not
                understood.
            IndexFormatError: if an older version made the index, and nothing has been written to it since.
        """
        check_text(query, "the query", may_be_blank=True)
        selection = Selection(filter, None if doc_ids is None else check_doc_ids(doc_ids))
        with self._searcher() as searcher:
            return searcher.search_keywords(query, check_k(k), selection)

    def get(self, doc_id: str) -> Document:
        """The stored document of that id.

        Raises:
            UnknownIdError: if the index does not hold it.
        """
        (checked,) = check_doc_ids([doc_id])
        with self._searcher() as searcher:
            document = searcher.contents.document(checked)
        if document is None:
            raise UnknownIdError([doc_id], where=self.path)
        return document

    def existing(self, doc_ids: Iterable[str]) -> set[str]:
        """Those of the ids that the index holds."""
        with self._searcher() as searcher:
            return set(searcher.catalog.locate(check_doc_ids(doc_ids)))

    def compare(
        self,
        doc_ids: Iterable[str],
        texts: Iterable[str | None],
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> dict[str, bool]:
        """Those of N ids that the index holds, and whether it is with this very text and metadata.

        Args:
            doc_ids: N ids.
            texts: N texts.
            metadata: N JSON objects, or none.

        Raises:
            InputError: if a value could not be stored, or (DuplicateIdError) an id is given twice.
            ShapeError: if there are more or fewer texts or metadata than ids.
        """
        ids, contents, objects = check_documents(doc_ids, texts, metadata)
        with self._searcher() as searcher:
            stored = searcher.contents.stored(ids)
        given = zip(ids, contents, objects, strict=True)
        return {doc_id: stored[doc_id] == (text, item) for doc_id, text, item in given if doc_id in stored}

    def info(self) -> IndexInfo:
        """What the index holds now."""
        with self._searcher() as searcher, searcher.snapshot() as snapshot:
            records = [live.segment.record for live in snapshot.segments]
            codec = searcher.catalog.codec()
            catalog = searcher.catalog
        files = [self.path / f"{CATALOG_NAME}{suffix}" for suffix in ("", "-wal")]
        n_bytes = sum(file.n_bytes for record in records for file in record.files)
        n_bytes += sum(file.n_bytes for file in codec.files) if codec else 0
        return IndexInfo(
            documents=sum(record.n_documents - record.n_deleted for record in records),
            tokens=sum(record.live_tokens for record in records),
            deleted=sum(record.n_deleted for record in records),
            segments=len(records),
            bytes=n_bytes + sum(path.stat().st_size for path in files if path.exists()),
            dim=self.dim,
            nbits=catalog.nbits,
            exact_tokens=catalog.exact_tokens,
            n_centroids=codec.n_centroids if codec else 0,
            coded_documents=sum(record.n_documents for record in records if record.codec == CENTROIDS),
            format_version=catalog.format,
            model=self.model,
        )

    def verify(self) -> list[str]:
        """What is wrong with the index, one sentence each; reads every byte of it."""
        return verify(self.path)

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
        if searcher is None:
            searcher = Searcher(self.path, self._codecs)
            self._check_identity(searcher)
        try:
            yield searcher
        finally:
            dropped = [searcher]
            with self._lock:
                if not self._closed:
                    # Those of an older commit would keep files mapped that a writer has removed.
                    dropped = [idle for idle in self._idle if idle.mapped - searcher.mapped]
                    self._idle = [idle for idle in self._idle if idle not in dropped]
                    self._idle.append(searcher)
            for searcher in dropped:
                searcher.close()

    def _writing(self) -> Writer:
        with self._lock:
            self._check_open()
            if self._writer is None:
                writer = Writer(self.path, self._ops)
                self._check_identity(writer)
                self._writer = writer
            return self._writer

    def _check_identity(self, opened: Searcher | Writer) -> None:
        if opened.catalog.identity != self._identity:
            opened.close()
            raise IndexStoreError(self.path, "was replaced by another since it was opened. Open it again.")

    def _check_open(self) -> None:
        if self._closed:
            raise IndexStoreError(self.path, "is closed.")


def verify(path: str | Path) -> list[str]:
    """What is wrong with the index at a path, one sentence each; reads every byte of it.

    Raises:
        IndexNotFoundError: if there is nothing at the path.
        IndexFormatError: if a newer version wrote it.
        IndexStoreError: if it is not an index, or cannot be read.
    """
    root = Path(path).absolute()
    try:
        searcher = Searcher(root, CodecCache(root, get_ops("numpy")))
    except IndexDamagedError as error:
        return [str(error)]
    try:
        return searcher.problems()
    except IndexDamagedError as error:
        return [str(error)]
    finally:
        searcher.close()
