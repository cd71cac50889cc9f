"""The class `Index`: the public interface of an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, overload

from mlx_colbert.checks import check_doc_ids, check_k, check_list, check_text, check_whole, is_text
from mlx_colbert.counts import counted
from mlx_colbert.errors import (
    ColBERTError,
    InputError,
    TargetExistsError,
    UnknownIdError,
)
from mlx_colbert.index.catalog.documents import Selection, StoredPassage
from mlx_colbert.index.catalog.filter_problems import filter_problems
from mlx_colbert.index.catalog.filters import Filter
from mlx_colbert.index.catalog.keywords import match_expression
from mlx_colbert.index.catalog.schema import create_catalog
from mlx_colbert.index.inspection import IndexInfo, verify
from mlx_colbert.index.open_index import OpenIndex
from mlx_colbert.index.passage_checks import check_metadata, check_passages, check_positions
from mlx_colbert.index.search.params import SearchParams
from mlx_colbert.index.search.queries import check_queries
from mlx_colbert.index.settings import DEFAULT_NBITS, EXACT_TOKENS, IndexSettings, check_same_model
from mlx_colbert.index.storage.codec import Bits
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.index.writing.compressed_import import CompressedImport
from mlx_colbert.index.writing.segment_writer import MEMORY_BYTES
from mlx_colbert.index.writing.source_changes import SourceChanges, SourceNames
from mlx_colbert.kernels import Backend, get_search_ops
from mlx_colbert.progress import Progress, silent
from mlx_colbert.results import Hits
from mlx_colbert.stages import fact, stage
from mlx_colbert.types import Array, Hit, Position, Source, TokenEmbeddings, is_one_text

# Passages to read into memory at a time.
_PASSAGES_AT_ONCE = 256


class Index:
    """A collection of passages on the disk. Any number of threads and processes may read and write it.

    Each change is durable when its method returns. A change is made completely or not at all.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder, Index.create(f"{folder}/notes", 2) as index:
    ...     index.add(["a", "b"], [np.eye(2), np.ones((1, 2))], texts=["two tokens", "one token"])
    ...     [(hit.doc_id, hit.score, hit.text) for hit in index.search(np.array([[1.0, 0.5]]), k=1)]
    [('b', 1.5, 'one token')]
    """

    @stage("open the index")
    def __init__(
        self, path: str | Path, *, backend: Backend = "auto", model: Mapping[str, str] | None = None
    ) -> None:
        """Open an index, as `Index.open` does."""
        # Absolute, because the process may change its folder before it opens another connection.
        self.path: Path = Path(path).absolute()
        self._ops = get_search_ops(backend)
        self._open = OpenIndex(self.path, self._ops)
        fact("index computes with", self._ops.name)
        try:
            self.dim: int = self._open.pool.settings.dim
            self.model: Mapping[str, str] | None = self._open.pool.settings.model
            self.indexing: Mapping[str, str] = self._open.pool.settings.indexing
            self.check_model(model)
            with self._open.snapshot():
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
        indexing: Mapping[str, str] | None = None,
        backend: Backend = "auto",
        exist_ok: bool = False,
    ) -> Index:
        """Create a new, empty index and open it. With `exist_ok`, open the index at the path if there is one.

        At first an index is exact: it stores token embeddings as float16. When it has more than
        `exact_tokens` of them, it compresses them to centroid numbers and `nbits` bits per component. It then
        stays compressed.

        Args:
            path: a folder that does not exist or is empty.
            dim: D of its token embeddings. D · nbits must be divisible by 8.
            nbits: 1, 2, 4 or 8. Fewer bits need less space and lower the recall (examples/bench/README.md).
            exact_tokens: 0 to compress from the start, None to stay exact.
            model: the model of the token embeddings, for example {"source": …, "fingerprint": …}.
            indexing: the settings to encode passages, for the program that encodes them.
            backend: the kernels for searches.
            exist_ok: open an existing index that has the same settings and model.

        Raises:
            TargetExistsError: if the path exists and is not an empty folder. With `exist_ok`, if it is an
                index with other settings.
            ModelMismatchError: with `exist_ok`, if the index has the vectors of another model.
            InputError: if a setting cannot be used.
            IndexStoreError: if the folder cannot be written.
        """
        settings = IndexSettings.check(
            dim, nbits=nbits, exact_tokens=exact_tokens, model=model, indexing=indexing
        )
        get_search_ops(backend)
        try:
            create_catalog(Path(path), settings.to_meta())
        except TargetExistsError:
            if not exist_ok:
                raise
        index = cls(path, backend=backend, model=settings.model)
        if differences := settings.differences(index._open.pool.settings):
            index.close()
            raise TargetExistsError(path, advice=f"It was created with {', '.join(differences)}.")
        return index

    @classmethod
    def open(
        cls, path: str | Path, *, backend: Backend = "auto", model: Mapping[str, str] | None = None
    ) -> Index:
        """Open the index at a path.

        Args:
            path: its folder.
            backend: the kernels for searches.
            model: the model of the caller. Its "fingerprint" must be the one that the index records.

        Raises:
            IndexNotFoundError: if there is nothing at the path, or its creation was stopped.
            IndexFormatError: if a newer version wrote it.
            IndexDamagedError: if a file is missing, short or altered.
            ModelMismatchError: if it has the vectors of another model.
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
        """Add passages to the index. They are durable when this returns.

        Args:
            doc_ids: N new ids.
            embeddings: N arrays (n_tokens, D) of the kinds that `search` accepts, each with one token
                embedding or more. Values must be finite and in the range of float16. A vector with a length
                other than 1 has more or less weight.
            texts: N texts, or None.
            metadata: N JSON objects, or None.
            sources: the source of each passage, or None.
            positions: the position of each passage in its source, or None.

        Raises:
            DuplicateIdError: if a doc_id is given twice or exists.
            InputError: if a value cannot be stored.
            ShapeError: if the numbers of passages differ, or D is not the index's.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written. After any error, nothing is added.
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
        self._open.writer().add(batch, upsert=False)

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
        """Add passages, and delete those with the same ids, in one transaction.

        Args:
            doc_ids: N different ids. The index may have them.
            embeddings: as for `add`.
            texts: N texts, or None.
            metadata: N JSON objects, or None.
            sources: the source of each passage, or None.
            positions: the position of each passage in its source, or None.

        Raises:
            DuplicateIdError: if a doc_id is given twice.
            InputError: if a value cannot be stored.
            ShapeError: if the numbers of passages differ, or D is not the index's.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written. After any error, nothing is changed.
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
        self._open.writer().add(batch, upsert=True)

    def replace_sources(
        self,
        sources: Mapping[Source, Mapping[str, Position | None]],
        doc_ids: Iterable[str] = (),
        embeddings: TokenEmbeddings | Iterable[Array] = (),
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> int:
        """Replace the passages of sources, in one transaction; returns how many were deleted.

        Afterwards each source has the passages that `sources` lists. Its other passages are deleted. A source
        without passages is deleted too.

        Args:
            sources: for each source the ids of all its passages, with their positions in it.
            doc_ids: N of these ids: the new or changed passages. The others do not change.
            embeddings: N arrays, as for `add`.
            texts: N texts, or None.
            metadata: N JSON objects, or None.

        Raises:
            UnknownIdError: if a passage is neither in the index nor in `doc_ids`.
            InputError: if a value cannot be stored, or a passage has no source or two sources.
            ShapeError: if the numbers of passages differ, or D is not the index's.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written. After any error, nothing is changed.

        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder, Index.create(f"{folder}/notes", 2) as index:
        ...     tea = Source("notes/tea.md")
        ...     index.replace_sources({tea: {"tea#1": {"lines": [1, 4]}}}, ["tea#1"], [np.eye(2)])
        ...     index.passages_of("notes/tea.md")
        0
        ['tea#1']
        """
        changes = SourceChanges.check(
            sources, doc_ids, embeddings, texts=texts, metadata=metadata, dim=self.dim
        )
        return self._open.writer().replace_sources(changes)

    def rename_sources(
        self,
        sources: Mapping[str, Source],
        doc_ids: Mapping[str, str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Give sources other names and their passages other ids, in one transaction. Nothing is encoded.

        This is for files that were moved or renamed. Two files may have exchanged their names.

        Args:
            sources: present uri → what the source becomes. If another source has that uri and is not one of
                these, its passages are deleted.
            doc_ids: old id → new id of N passages of these sources. Their other passages keep their ids.
            metadata: N JSON objects, or None: the new metadata of the N passages. Without them, the metadata
                stay.

        Raises:
            UnknownIdError: if a passage is not one of these sources.
            DuplicateIdError: if a new id is given twice or exists.
            InputError: if no passage has one of the sources, two become one, or a value cannot be stored.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written. After any error, nothing is changed.

        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder, Index.create(f"{folder}/notes", 2) as index:
        ...     _ = index.replace_sources({Source("tea.md"): {"tea.md#1": None}}, ["tea.md#1"], [np.eye(2)])
        ...     index.rename_sources({"tea.md": Source("chai.md")}, {"tea.md#1": "chai.md#1"})
        ...     index.passages_of("chai.md")
        ['chai.md#1']
        """
        self._open.writer().rename_sources(SourceNames.check(sources, doc_ids, metadata))

    def import_compressed(
        self,
        centroids: Array,
        codebook: Array,
        *,
        doc_ids: Iterable[str],
        lengths: Array,
        blocks: Iterable[tuple[Array, Array]],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        sources: Iterable[Source | None] | None = None,
    ) -> None:
        """Import passages that another engine has compressed into this new index, in one transaction.

        A token is the unit vector in the direction of `centroids[code] + codebook[residual]`. Later passages
        are compressed with the same centroids and codebook.

        Args:
            centroids: (K, D).
            codebook: (256, 8 / nbits), the components that each residual byte adds.
            doc_ids: N different ids.
            lengths: (N,) the number of tokens of each passage, 1 or more.
            blocks: codes (n,) and residuals (n, D · nbits / 8) uint8 of all tokens, in order. A block may end
                in the middle of a passage. Blocks are read once; only a few are in memory.
            texts: N texts, or None.
            metadata: N JSON objects, or None.
            sources: the source of each passage, or None.

        Raises:
            InputError: if a value cannot be stored, or a code has no centroid.
            DuplicateIdError: if a doc_id is given twice.
            ShapeError: if the shapes of the arrays do not match each other, or the index's D and nbits.
            IndexStoreError: if the index is not empty, or cannot be written. After any error, also one that
                `blocks` raises, nothing is added.
        """
        compressed_import = CompressedImport.check(
            centroids,
            codebook,
            doc_ids=doc_ids,
            lengths=lengths,
            blocks=blocks,
            texts=texts,
            metadata=metadata,
            sources=sources,
            dim=self.dim,
            nbits=self._open.pool.settings.nbits,
        )
        self._open.writer().import_compressed(compressed_import)

    def delete(
        self,
        doc_ids: Iterable[str] | None = None,
        *,
        filter: Filter | str | None = None,
        source: str | None = None,
    ) -> int:
        """Delete passages by their ids, by a filter, or by their source; returns how many.

        The change is durable when this returns.

        Args:
            doc_ids: ids in the index.
            filter: as for `search`, instead of ids.
            source: the uri of their source, instead of ids.

        Raises:
            UnknownIdError: if one of the ids is not in the index. Then nothing is deleted.
            InputError: if none or more than one of the arguments is given, or the filter is not valid.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        if sum(given is not None for given in (doc_ids, filter, source)) != 1:
            raise InputError("delete needs doc_ids, a filter or a source. Give exactly one of them.")
        if source is not None:
            check_text(source, "source")
            return self._open.writer().delete_source(source)
        if doc_ids is None:
            return self._open.writer().delete_selected(Selection(filter))
        if ids := list(dict.fromkeys(check_doc_ids(doc_ids))):
            self._open.writer().delete(ids)
        return len(ids)

    def update_metadata(self, doc_ids: Iterable[str], metadata: Iterable[Mapping[str, Any] | None]) -> None:
        """Replace the metadata of passages. Their vectors and texts do not change.

        Raises:
            UnknownIdError: if one of them is not in the index. Then nothing is changed.
            InputError: if the metadata is not N JSON objects.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        ids = check_doc_ids(doc_ids)
        self._open.writer().update_metadata(ids, check_metadata(ids, metadata))

    def compact(
        self,
        *,
        retrain: bool = False,
        memory_bytes: int = MEMORY_BYTES,
        progress: Progress | None = None,
        erase_lost: bool = False,
    ) -> None:
        """Write the index again, as few segments without deleted passages.

        This compresses an exact index that has more than `exact_tokens` token embeddings. A compressed index
        gets new centroids if it needs four times as many. Its passages are then decoded and compressed again.
        Searches go on during this time. Other writers wait for 10 s and then fail.

        If acknowledged changes are missing, because their write-ahead log was removed, every change of the
        index is refused, and nothing is erased. Put the log back, or restore a backup. If you have neither,
        use `erase_lost`.

        Args:
            retrain: train new centroids for a compressed index in any case.
            memory_bytes: the most memory for the training, in bytes.
            progress: called with a stage ("training" or "writing"), the number of token embeddings that are
                done in it, and their total. The training counts the part of its work that is done.
            erase_lost: if changes are missing, continue without them, and erase the segments and codecs that
                belong to them.

        Raises:
            InputError: if memory_bytes is less than 1 MiB.
            IndexDamagedError: if the checksum of a segment is wrong, or (without `erase_lost`) if changes are
                missing. Then nothing is changed.
            IndexLockedError: if another writer does not finish within 10 s.
            IndexStoreError: if the folder cannot be written.
        """
        n_bytes = check_whole(memory_bytes, "memory_bytes", at_least=1 << 20)
        self._open.writer().compact(
            retrain=retrain, memory_bytes=n_bytes, progress=progress or silent, erase_lost=erase_lost
        )

    @contextmanager
    def bulk(self, *, progress: Progress | None = None) -> Iterator[None]:
        """A block that adds passages without merging or compressing. The end of the block does this work.

        So a large collection that is added in parts is compressed only once, with centroids for all of it.
        Each add is still durable at once. Blocks may be nested: the outermost one does the work, if it ends
        without an error. It compacts the index if more than an eighth of it changed. Otherwise it merges and
        compresses the new passages, and those that an interrupted block left.

        Args:
            progress: called during the work at the end of the block, as for `compact`.
        """
        with self._open.writer().bulk(progress=progress or silent):
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
        """The k passages with the highest MaxSim, by score, then by doc_id. All of them if there are fewer.

        Equal passages get equal scores. In a compressed index this is true for passages that were compressed
        together: what was compressed at another time keeps its rounding, also after a compaction. If more
        passages are equal than `params` lets the search score, those with other ids may be found.

        Args:
            query_embeddings: (Q, D) for one query; a list or TokenEmbeddings for several. Arrays may be from
                numpy, MLX or torch, nested lists, or any object with `__array__` or DLPack; bfloat16 too.
            k: how many, 1 or more.
            filter: a condition on the metadata (`Filter`). Only passages that satisfy it are found.
            doc_ids: find only these passages. Ids that are not in the index are ignored.
            params: how much of a compressed index the search reads.

        Returns:
            The hits of one query, or a list of hits for each query.

        Raises:
            InputError: if k is not a positive integer, the filter is not valid, a query has no token
                embeddings, or a value is out of the range of float16.
            ShapeError: if D is not the index's.
        """
        k = check_k(k)
        if params is not None and not isinstance(params, SearchParams):
            raise InputError(f"params has the type {type(params).__name__}. Give a SearchParams.")
        single = is_one_text(query_embeddings)
        arrays: Any = [query_embeddings] if single else query_embeddings
        queries = check_queries(arrays, dim=self.dim)
        selection = Selection(filter, None if doc_ids is None else check_doc_ids(doc_ids))
        with self._open.pool.searcher() as searcher:
            found = searcher.search(
                self._ops, queries, k=k, params=params or SearchParams(), selection=selection
            )
        hits: list[list[Hit]] = [Hits(of_query) for of_query in found]
        return hits[0] if single else hits

    def search_keywords(
        self,
        query: str,
        k: int = 10,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
    ) -> list[Hit]:
        """The k passages whose texts best match the words of a query, by BM25, then by doc_id.

        A passage needs one of the words. It must have each phrase in "double quotes". Any text is a valid
        query. A word has letters or digits. Signs and emoji are not words, so a query that has nothing else
        finds nothing (`keyword_problems`).

        Args:
            query: words.
            k: how many at most, 1 or more.
            filter: as for `search`.
            doc_ids: as for `search`.

        Raises:
            InputError: if k is not a positive integer, the query is not text, or the filter is not valid.
            IndexFormatError: if the index has format 1. Any change, for example `compact`, upgrades it.
        """
        check_text(query, "the query", may_be_blank=True)
        selection = Selection(filter, None if doc_ids is None else check_doc_ids(doc_ids))
        with self._open.pool.searcher() as searcher:
            return Hits(searcher.search_keywords(query, k=check_k(k), selection=selection))

    def get(self, doc_id: str) -> StoredPassage:
        """The passage with this id.

        Raises:
            UnknownIdError: if the index does not have it.
        """
        (checked,) = check_doc_ids([doc_id])
        with self._open.reading() as searcher:
            passage = searcher.contents.passage(checked)
        if passage is None:
            raise UnknownIdError([doc_id], where=self.path)
        return passage

    def embeddings(self, doc_ids: Iterable[str]) -> TokenEmbeddings:
        """The stored token embeddings of passages, float32, in the order of the ids.

        Those of a compressed index are decoded: they are close to the vectors that were added.

        Args:
            doc_ids: N ids. An id may be given twice.

        Raises:
            UnknownIdError: if one of them is not in the index.

        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder, Index.create(f"{folder}/notes", 2) as index:
        ...     index.add(["a", "b"], [np.eye(2), np.ones((1, 2))])
        ...     index.embeddings(["b", "a"]).vectors.tolist()
        [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
        """
        ids = check_doc_ids(doc_ids)
        with self._open.pool.searcher() as searcher:
            vectors = searcher.embeddings(ids)
        if unknown := [doc_id for doc_id in dict.fromkeys(ids) if doc_id not in vectors]:
            raise UnknownIdError(unknown, where=self.path)
        return TokenEmbeddings.pack([vectors[doc_id] for doc_id in ids], dim=self.dim)

    def sources(self, *, verify: bool = True) -> list[Source]:
        """The sources of all passages, ordered by uri.

        Args:
            verify: compare each with its digest. Without it, this takes half of the time, and a damaged
                source may have any values.
        """
        with self._open.reading() as searcher:
            return searcher.sources.all(verify=verify)

    @property
    def commit(self) -> tuple[int, int, int]:
        """The file of the catalog (device and number), and the number of the last commit to it."""
        with self._open.reading() as searcher:
            return (*searcher.catalog.identity, searcher.catalog.n_commits())

    def passages_of(self, source: str) -> list[str]:
        """The ids of the passages of a source, oldest first.

        Args:
            source: its uri.
        """
        check_text(source, "source")
        with self._open.reading() as searcher:
            return list(searcher.sources.passages(source))

    def existing(self, doc_ids: Iterable[str]) -> set[str]:
        """The ids among these that the index has."""
        with self._open.reading() as searcher:
            return set(searcher.passages.locate(check_doc_ids(doc_ids)))

    def compare(
        self,
        doc_ids: Iterable[str],
        texts: Iterable[str | None],
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        sources: Iterable[Source | None] | None = None,
        positions: Iterable[Position | None] | None = None,
    ) -> dict[str, bool]:
        """The ids that the index has, each with True if the stored passage is the same as the given one.

        Args:
            doc_ids: N ids.
            texts: N texts.
            metadata: N JSON objects, or None.
            sources: N sources, or None. A stored passage with another source is not the same. A stored
                passage without a source may be the same.
            positions: N positions, or None. A stored passage under other headings is not the same. Its other
                places do not matter.

        Raises:
            InputError: if a value cannot be stored, or (DuplicateIdError) an id is given twice.
            ShapeError: if there are more or fewer texts or metadata than ids.
        """
        ids, contents, objects = check_passages(doc_ids, texts, metadata)
        places = None if positions is None else check_list(positions, "positions", may_be_empty=True)
        if places is not None:
            check_positions(ids, places)
        listed = [None] * len(ids) if sources is None else sources
        uris = [None if source is None else source.uri for source in listed]
        with self._open.reading() as searcher:
            return searcher.contents.compare(ids, contents, objects, uris, places)

    def keyword_problems(self, query: str) -> list[str]:
        """The reasons why a keyword search finds nothing in any index, one sentence each, or an empty list.

        Args:
            query: as for `search_keywords`.

        Raises:
            InputError: if the query is not text.
        """
        if match_expression(check_text(query, "the query", may_be_blank=True)) is not None:
            return []
        return ["The query has no letters or digits. A keyword search finds words, not signs or emoji."]

    def filter_problems(self, filter: Filter | str) -> list[str]:
        """The reasons why a filter may find nothing, one sentence each. The list is empty if there are none.

        A search finds nothing if no passage has the field, or if the filter compares a text field with a
        number. That is not an error, because such passages may be added later.

        Args:
            filter: as for `search`.

        Raises:
            InputError: if the filter is not valid.
        """
        with self._open.snapshot() as searcher:
            return filter_problems(searcher.catalog, filter)

    def ids(self, *, filter: Filter | str | None = None, limit: int | None = None) -> list[str]:
        """The ids of the passages, oldest first.

        Args:
            filter: a condition on the metadata, as for `search`.
            limit: the most ids to return.

        Raises:
            InputError: if the filter is not valid, or limit < 1.
        """
        n_ids = None if limit is None else check_whole(limit, "limit", at_least=1)
        with self._open.snapshot() as searcher:
            return searcher.contents.doc_ids(Selection(filter), limit=n_ids)

    def passages(
        self,
        *,
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[StoredPassage]:
        """The stored passages, oldest first. Only a few at a time are in memory.

        Passages that are deleted during the iteration are left out.

        Args:
            filter: a condition on the metadata, as for `search`.
            doc_ids: only these passages, in this order, instead of a filter. Ids that are not in the index
                are left out.
            limit: the most passages to return.

        Raises:
            InputError: if the filter is not valid, both are given, or limit < 1.
        """
        if doc_ids is None:
            return self._passages(self.ids(filter=filter, limit=limit))
        if filter is not None:
            raise InputError("passages got a filter and doc_ids. Give one of them.")
        n_passages = None if limit is None else check_whole(limit, "limit", at_least=1)
        return self._passages(check_doc_ids(doc_ids)[:n_passages])

    def _passages(self, doc_ids: list[str]) -> Iterator[StoredPassage]:
        for start in range(0, len(doc_ids), _PASSAGES_AT_ONCE):
            with self._open.snapshot() as searcher:
                part = doc_ids[start : start + _PASSAGES_AT_ONCE]
                passages = [searcher.contents.passage(doc_id) for doc_id in part]
            yield from (passage for passage in passages if passage is not None)

    def info(self) -> IndexInfo:
        """The current size and settings of the index."""
        with self._open.snapshot() as searcher:
            return IndexInfo.of(searcher.catalog)

    def verify(self) -> list[str]:
        """The problems of the index, one sentence each. This reads every byte of it."""
        self._open.pool.check_identity()
        return verify(self.path)

    def close(self) -> None:
        """Close the index. Searches that are running in other threads finish."""
        self._open.close()

    def discard_if_empty(self, *, keep_folder: bool) -> None:
        """Close the index, and remove it if it has no passages.

        It is not removed if another writer has the lock. Others that have it open get an error that says
        that it was removed.

        Args:
            keep_folder: keep the empty folder.
        """
        self._open.discard_if_empty(keep_folder=keep_folder)

    def __len__(self) -> int:
        with self._open.reading() as searcher:
            return searcher.catalog.n_passages()

    def __contains__(self, doc_id: object) -> bool:
        if not isinstance(doc_id, str) or not is_text(doc_id):
            return False
        with self._open.reading() as searcher:
            return bool(searcher.passages.locate([doc_id]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids())

    def __repr__(self) -> str:
        try:
            return f"<Index {str(self.path)!r}: {counted(len(self), 'passage')} of {self.dim} components>"
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
        """Raise an error if the "fingerprint" of a model is not the one that the index records.

        Raises:
            ModelMismatchError: the message names both models.
        """
        check_same_model(self.path, theirs=model, ours=self.model)
