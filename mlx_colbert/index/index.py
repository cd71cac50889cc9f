"""An index as its users have it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, overload

from mlx_colbert.checks import (
    check_doc_ids,
    check_k,
    check_metadata,
    check_passages,
    check_positions,
    check_source,
    check_text,
    check_whole,
    is_text,
)
from mlx_colbert.errors import (
    ColBERTError,
    IndexStoreError,
    InputError,
    ModelMismatchError,
    TargetExistsError,
    UnknownIdError,
)
from mlx_colbert.index.catalog.documents import Selection, StoredPassage
from mlx_colbert.index.catalog.filter_problems import filter_problems
from mlx_colbert.index.catalog.filters import Filter
from mlx_colbert.index.catalog.schema import create_catalog
from mlx_colbert.index.info import IndexInfo
from mlx_colbert.index.search.params import SearchParams
from mlx_colbert.index.search.pool import SearcherPool
from mlx_colbert.index.search.searcher import Searcher
from mlx_colbert.index.settings import DEFAULT_NBITS, EXACT_TOKENS, IndexSettings
from mlx_colbert.index.storage.codec import Bits
from mlx_colbert.index.verification import verify
from mlx_colbert.index.writing.batch import Batch, check_queries
from mlx_colbert.index.writing.coded_import import Takeover
from mlx_colbert.index.writing.writer import MEMORY_BYTES, Writer
from mlx_colbert.kernels import Backend, get_search_ops
from mlx_colbert.progress import Progress, silent
from mlx_colbert.types import Array, Hit, Position, Source, TokenEmbeddings, is_one_text

# That are read into memory together.
_PASSAGES_AT_ONCE = 256

_OPEN: weakref.WeakSet[Index] = weakref.WeakSet()


def _renew_locks() -> None:
    for index in list(_OPEN):
        index.after_fork()


os.register_at_fork(after_in_child=_renew_locks)


class Index:
    """A collection of passages on the disk. Any number of threads and processes may read and write it.

    Every change is durable when its method returns, and is there as a whole or not at all.

    >>> import tempfile, numpy as np
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
        self._ops = get_search_ops(backend)
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._pool = SearcherPool(self.path, self._ops)
        _OPEN.add(self)
        try:
            self.dim = self._pool.settings.dim
            self.model: Mapping[str, str] | None = self._pool.settings.model
            self.check_model(model)
            with self._pool.searcher() as searcher, searcher.snapshot():
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
        exist_ok: bool = False,
    ) -> Index:
        """A new, empty index, or with `exist_ok` the one that is there.

        It keeps token embeddings as float16 and searches them exactly until there are more than
        `exact_tokens` of them; then, and for good, as numbers of centroids and `nbits` bits per component.

        Args:
            path: a folder that does not exist, or is empty.
            dim: D of its token embeddings; D · nbits must be divisible by 8.
            nbits: 1, 2, 4 or 8. Fewer bits take less room and lose recall (examples/bench/README.md).
            exact_tokens: 0 for centroids from the start, None for an index that stays exact.
            model: what made them, for example {"source": …, "fingerprint": …}.
            backend: the kernels that search it.
            exist_ok: open an index that was made with the same settings and model.

        Raises:
            TargetExistsError: if the path exists and is not an empty folder; with `exist_ok`, if it is an
                index with other settings.
            ModelMismatchError: with `exist_ok`, if it has the vectors of another model.
            InputError: if a setting cannot be used.
            IndexStoreError: if the folder cannot be written.
        """
        settings = IndexSettings.check(dim, nbits=nbits, exact_tokens=exact_tokens, model=model)
        get_search_ops(backend)
        try:
            create_catalog(Path(path), settings.to_meta())
        except TargetExistsError:
            if not exist_ok:
                raise
        index = cls(path, backend=backend, model=settings.model)
        if differences := settings.differences(index._pool.settings):
            index.close()
            raise TargetExistsError(path, advice=f"It was made with {', '.join(differences)}.")
        return index

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
        *,
        sources: Iterable[Source | None] | None = None,
        positions: Iterable[Position | None] | None = None,
    ) -> None:
        """Add passages to the index; they are durable when this returns.

        Args:
            doc_ids: N new ids.
            embeddings: N arrays (n_tokens, D) of the kinds that `search` takes, each of one row or more,
                finite, within float16; rows of another length than 1 weigh more or less.
            texts: N texts, or none.
            metadata: N JSON objects, or none.
            sources: what each passage comes from, or none.
            positions: where each stands in its source, or none.

        Raises:
            DuplicateIdError: if a doc_id is given twice or exists.
            InputError: if a value cannot be stored.
            ShapeError: if the numbers of passages differ, or D is not the index's.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written. Nothing is added then, or on any other error.
        """
        batch = Batch.check(
            doc_ids,
            embeddings,
            texts=texts,
            metadata=metadata,
            sources=sources,
            positions=positions,
            dim=self.dim,
        )
        self._writing().add(batch, upsert=False)

    def upsert(
        self,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[Array],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        sources: Iterable[Source | None] | None = None,
        positions: Iterable[Position | None] | None = None,
    ) -> None:
        """Add passages, and delete those with the same ids, in one transaction; the rest as for `add`."""
        batch = Batch.check(
            doc_ids,
            embeddings,
            texts=texts,
            metadata=metadata,
            sources=sources,
            positions=positions,
            dim=self.dim,
        )
        self._writing().add(batch, upsert=True)

    def replace_sources(
        self,
        sources: Mapping[Source, Mapping[str, Position | None]],
        doc_ids: Iterable[str] = (),
        embeddings: TokenEmbeddings | Iterable[Array] = (),
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Replace what came from sources, in one transaction.

        Afterwards the passages of each source are those that `sources` lists. Others that came from it are
        deleted; a source without passages is forgotten.

        Args:
            sources: each with the ids of all its passages, and where they stand in it.
            doc_ids: N of these ids: the passages that are new or changed. The others stay as they are.
            embeddings: as for `add`, as are texts and metadata.
            texts: N texts, or none.
            metadata: N JSON objects, or none.

        Raises:
            UnknownIdError: if a passage is not in the index, and not among `doc_ids`.
            InputError: if a value cannot be stored, or a passage has no source or two.
            ShapeError: if the numbers of passages differ, or D is not the index's.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written. Nothing is changed then, or on any other error.

        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder, Index.create(f"{folder}/notes", 2) as index:
        ...     tea = Source("notes/tea.md")
        ...     index.replace_sources({tea: {"tea#1": {"lines": [1, 4]}}}, ["tea#1"], [np.eye(2)])
        ...     index.passages_of("notes/tea.md")
        ['tea#1']
        """
        members: dict[Source, dict[str, str | None]] = {}
        source_of: dict[str, Source] = {}
        for source, positions in sources.items():
            check_source(source, "a source")
            ids = check_doc_ids(positions)
            members[source] = dict(zip(ids, check_positions(ids, positions.values()), strict=True))
            if twice := source_of.keys() & ids:
                raise InputError(f"passage {min(twice)!r} is listed for two sources. Give it one.")
            source_of |= dict.fromkeys(ids, source)
        batch = None
        if new := check_doc_ids(doc_ids):
            if others := [doc_id for doc_id in new if doc_id not in source_of]:
                raise InputError(f"passage {others[0]!r} is listed for no source.")
            batch = Batch.check(
                new,
                embeddings,
                texts=texts,
                metadata=metadata,
                sources=[source_of[doc_id] for doc_id in new],
                positions=[sources[source_of[doc_id]][doc_id] for doc_id in new],
                dim=self.dim,
            )
        self._writing().replace_sources(members, batch)

    def take_over(
        self,
        centroids: Array,
        codebook: Array,
        *,
        doc_ids: Iterable[str],
        lengths: Array,
        blocks: Iterable[tuple[Array, Array]],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Take over passages as another engine compressed them, in one transaction, into a new index.

        A token is the unit vector in the direction of `centroids[code] + codebook[residual]`. What is added
        later is compressed with the same centroids and codebook.

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
        takeover = Takeover.check(
            centroids,
            codebook,
            doc_ids=doc_ids,
            lengths=lengths,
            blocks=blocks,
            texts=texts,
            metadata=metadata,
            dim=self.dim,
            nbits=self._pool.settings.nbits,
        )
        self._writing().take_over(takeover)

    def delete(
        self,
        doc_ids: Iterable[str] | None = None,
        *,
        filter: Filter | str | None = None,
        source: str | None = None,
    ) -> int:
        """Delete passages, by their ids, by a filter on their metadata, or by their source; returns how many.

        This is durable when it returns.

        Args:
            doc_ids: ids, all of which the index holds.
            filter: as for `search`, in place of ids.
            source: the uri of the source that they came from, in place of ids.

        Raises:
            UnknownIdError: if the index does not hold one of the ids. Nothing is deleted then.
            InputError: if none or more than one of them is given, or the filter is not understood.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        if sum(given is not None for given in (doc_ids, filter, source)) != 1:
            raise InputError("delete takes doc_ids, a filter or a source. Give one of them.")
        if source is not None:
            check_text(source, "source")
            return self._writing().delete_source(source)
        if doc_ids is None:
            return self._writing().delete_selected(Selection(filter))
        if ids := list(dict.fromkeys(check_doc_ids(doc_ids))):
            self._writing().delete(ids)
        return len(ids)

    def update_metadata(self, doc_ids: Iterable[str], metadata: Iterable[Mapping[str, Any] | None]) -> None:
        """Replace the metadata of passages; their vectors and texts stay.

        Raises:
            UnknownIdError: if the index does not hold one of them. Nothing is changed then.
            InputError: if the metadata is not N JSON objects.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        ids = check_doc_ids(doc_ids)
        self._writing().update_metadata(ids, check_metadata(ids, metadata))

    def compact(
        self,
        *,
        retrain: bool = False,
        memory_bytes: int = MEMORY_BYTES,
        progress: Progress | None = None,
    ) -> None:
        """Write the index anew: few segments, without deleted passages.

        An exact index that has outgrown `exact_tokens` is compressed. The centroids of a compressed one are
        trained anew where it should have four times as many; its passages are compressed again then, from
        what was left of them. Searches go on meanwhile; other writers wait for 10 s and then fail.

        If changes that were acknowledged are missing, as their write-ahead log was removed, every other
        change is refused. This one goes on without them, and removes the segments that belong to them.

        Args:
            retrain: train the centroids of a compressed index anew in any case.
            memory_bytes: bounds what the training holds in memory, in bytes.
            progress: is told how far it is: a stage ("training" or "writing"), the token embeddings that are
                done in it, and how many there are. The training tells only its beginning and its end.

        Raises:
            InputError: if memory_bytes is less than 1 MiB.
            IndexDamagedError: if a segment's checksum is wrong. Nothing is changed then.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        n_bytes = check_whole(memory_bytes, "memory_bytes", at_least=1 << 20)
        self._writing().compact(retrain=retrain, memory_bytes=n_bytes, progress=progress or silent)

    @contextmanager
    def bulk(self, *, progress: Progress | None = None) -> Iterator[None]:
        """Within this block passages are added without merging or compressing, which is done at its end.

        A large collection that is added in parts is compressed once then, by centroids for all of it. Every
        add is durable at once all the same. Blocks may be nested: the outermost one does the rest, if it ends
        without an error. It compacts the index if more than an eighth of it was changed. Otherwise it merges
        and compresses what was added, and what an earlier block left that was cut short.

        Args:
            progress: is told how far the end of the block is, as by `compact`.
        """
        with self._writing().bulk(progress=progress or silent):
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
        """The k passages of the highest MaxSim, by score, then by doc_id; all where there are fewer than k.

        Equal passages get equal scores. In a compressed index this holds for passages that were coded
        alike: those of one segment are.

        Args:
            query_embeddings: (Q, D) of one query; or a list, or TokenEmbeddings, of several. Arrays may be
                of numpy, MLX or torch, nested lists, or anything with `__array__` or DLPack; bfloat16 too.
            k: how many, 1 or more.
            filter: a condition on the metadata, see `Filter`; k of the passages that satisfy it are found.
            doc_ids: find none but these; those that the index does not hold are passed over.
            params: what is looked at in a compressed index.

        Returns:
            The hits of one query, or a list of hits per query.

        Raises:
            InputError: if k is not a positive integer, the filter is not understood, or a query has no rows
                or values beyond float16.
            ShapeError: if D is not the index's.
        """
        k = check_k(k)
        if params is not None and not isinstance(params, SearchParams):
            raise InputError(f"params is a {type(params).__name__}. Give a SearchParams.")
        single = is_one_text(query_embeddings)
        arrays: Any = [query_embeddings] if single else query_embeddings
        queries = check_queries(arrays, dim=self.dim)
        selection = Selection(filter, None if doc_ids is None else check_doc_ids(doc_ids))
        with self._pool.searcher() as searcher:
            hits = searcher.search(
                self._ops, queries, k=k, params=params or SearchParams(), selection=selection
            )
        return hits[0] if single else hits

    def search_keywords(
        self,
        query: str,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
    ) -> list[Hit]:
        """The k passages whose texts match the words of a query best, by BM25, then by doc_id.

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
        with self._pool.searcher() as searcher:
            return searcher.search_keywords(query, k=check_k(k), selection=selection)

    def get(self, doc_id: str) -> StoredPassage:
        """The stored passage of that id.

        Raises:
            UnknownIdError: if the index does not hold it.
        """
        (checked,) = check_doc_ids([doc_id])
        with self._reading() as searcher:
            passage = searcher.contents.passage(checked)
        if passage is None:
            raise UnknownIdError([doc_id], where=self.path)
        return passage

    def sources(self) -> list[Source]:
        """The sources that passages came from, by their uri."""
        with self._reading() as searcher:
            return searcher.sources.all()

    def passages_of(self, source: str) -> list[str]:
        """The ids of the passages that came from a source, in the order they were added.

        Args:
            source: its uri.
        """
        check_text(source, "source")
        with self._reading() as searcher:
            return list(searcher.sources.passages(source))

    def existing(self, doc_ids: Iterable[str]) -> set[str]:
        """Those of the ids that the index holds."""
        with self._reading() as searcher:
            return set(searcher.passages.locate(check_doc_ids(doc_ids)))

    def compare(
        self,
        doc_ids: Iterable[str],
        texts: Iterable[str | None],
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        sources: Iterable[Source | None] | None = None,
    ) -> dict[str, bool]:
        """Those of N ids that the index has, and whether it has them as they are given.

        Args:
            doc_ids: N ids.
            texts: N texts.
            metadata: N JSON objects, or none.
            sources: N sources, or none. A passage that came from another source is not as it is given; one
                without a source is.

        Raises:
            InputError: if a value could not be stored, or (DuplicateIdError) an id is given twice.
            ShapeError: if there are more or fewer texts or metadata than ids.
        """
        ids, contents, objects = check_passages(doc_ids, texts, metadata)
        with self._reading() as searcher:
            stored = searcher.contents.stored(ids)
        uris = [None] * len(ids) if sources is None else [source and source.uri for source in sources]
        return {
            doc_id: stored[doc_id][:2] == (text, item) and (uri is None or stored[doc_id][2] in (None, uri))
            for doc_id, text, item, uri in zip(ids, contents, objects, uris, strict=True)
            if doc_id in stored
        }

    def filter_problems(self, filter: Filter | str) -> list[str]:
        """Why a filter may find nothing, one sentence each; none where nothing is odd about it.

        A search with a filter on a field that no passage has, or with a number where the field is text, finds
        nothing. That is not an error, because such passages may be added later.

        Args:
            filter: as for `search`.

        Raises:
            InputError: if the filter is not understood.
        """
        with self._pool.searcher() as searcher, searcher.snapshot():
            return filter_problems(searcher.catalog, filter)

    def ids(self, *, filter: Filter | str | None = None, limit: int | None = None) -> list[str]:
        """The ids of the passages, in the order they were added.

        Args:
            filter: only of those whose metadata satisfy this, as for `search`.
            limit: at most so many.

        Raises:
            InputError: if the filter is not understood, or limit < 1.
        """
        n_ids = None if limit is None else check_whole(limit, "limit", at_least=1)
        with self._pool.searcher() as searcher, searcher.snapshot():
            return searcher.contents.doc_ids(Selection(filter), limit=n_ids)

    def passages(
        self, *, filter: Filter | str | None = None, limit: int | None = None
    ) -> Iterator[StoredPassage]:
        """The stored passages, in the order they were added; a few at a time are in memory.

        A passage that is deleted meanwhile is left out.

        Args:
            filter: only those whose metadata satisfy this, as for `search`.
            limit: at most so many.

        Raises:
            InputError: if the filter is not understood, or limit < 1.
        """
        ids = self.ids(filter=filter, limit=limit)
        return self._passages(ids)

    def _passages(self, doc_ids: list[str]) -> Iterator[StoredPassage]:
        for start in range(0, len(doc_ids), _PASSAGES_AT_ONCE):
            with self._pool.searcher() as searcher, searcher.snapshot():
                part = doc_ids[start : start + _PASSAGES_AT_ONCE]
                passages = [searcher.contents.passage(doc_id) for doc_id in part]
            yield from (passage for passage in passages if passage is not None)

    def info(self) -> IndexInfo:
        """What the index holds now."""
        with self._pool.searcher() as searcher, searcher.snapshot():
            return IndexInfo.of(searcher.catalog)

    def verify(self) -> list[str]:
        """What is wrong with the index, one sentence each; reads every byte of it."""
        self._pool.check_identity()
        return verify(self.path)

    def close(self) -> None:
        """Close the index; searches that are under way in other threads finish."""
        self._pool.close()
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def discard_if_empty(self, *, keep_folder: bool) -> None:
        """Closes the index, and removes it if it holds no passage.

        It stays if it cannot be locked, for another writer is in it then. Whoever has it open is told that it
        was removed.

        Args:
            keep_folder: leave the folder, empty.
        """
        with suppress(IndexStoreError):
            self._writing().remove_if_empty(keep_folder=keep_folder)
        self.close()

    def after_fork(self) -> None:
        """Gives a forked process locks of its own: the threads that hold the old ones do not run in it."""
        self._lock = threading.Lock()
        self._pool.after_fork()
        if self._writer is not None:
            self._writer.after_fork()

    def __len__(self) -> int:
        with self._reading() as searcher:
            return searcher.catalog.n_passages()

    def __contains__(self, doc_id: object) -> bool:
        if not isinstance(doc_id, str) or not is_text(doc_id):
            return False
        with self._reading() as searcher:
            return bool(searcher.passages.locate([doc_id]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids())

    def __repr__(self) -> str:
        try:
            return f"<Index {str(self.path)!r}: {len(self):,} passages of {self.dim} components>"
        except ColBERTError:
            return f"<Index {str(self.path)!r}: closed, or not readable>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Index cannot be pickled or copied. Open it in each process: Index.open(path).")

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
            keys = (set(ours) | set(theirs)) - {"source", "fingerprint", "revision"}
            settings = [
                f" {key} is {theirs.get(key, 'not given')}, there {ours.get(key, 'not given')}."
                for key in sorted(keys)
                if key in theirs and theirs.get(key) != ours.get(key)
            ]
            raise ModelMismatchError(
                self.path,
                f"holds the vectors of {ours.get('source', 'another model')!r} ({ours['fingerprint']}), not "
                f"of {theirs.get('source', 'this model')!r} ({theirs['fingerprint']}).{''.join(settings)} "
                "Open it with the model that made it.",
            )

    @contextmanager
    def _reading(self) -> Iterator[Searcher]:
        """A searcher whose catalog answers from one commit; segments are not mapped."""
        with self._pool.searcher() as searcher, searcher.catalog.read():
            yield searcher

    def _writing(self) -> Writer:
        with self._lock:
            self._pool.check_open()
            if self._writer is None:
                self._writer = self._pool.opened(lambda: Writer(self.path, self._ops))
            return self._writer
