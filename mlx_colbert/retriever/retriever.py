"""Retriever = ColBERT + a store: it indexes texts and finds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, overload

from mlx_colbert.checks import check_choice, check_doc_ids, check_k, check_new_ids, check_text, check_texts
from mlx_colbert.documents.passage import encoded_text
from mlx_colbert.documents.shard import Shard, ShardInputs
from mlx_colbert.errors import InputError, TargetExistsError
from mlx_colbert.index import DEFAULT_NBITS, EXACT_TOKENS, Bits, Filter, SearchParams, StoredPassage
from mlx_colbert.progress import Progress, shown
from mlx_colbert.results import Hits, Matches
from mlx_colbert.retriever.fusion import fusion_depth, reciprocal_rank_fusion
from mlx_colbert.retriever.part_record import RECORD_NAME, PartRecord
from mlx_colbert.retriever.reading import ReadFiles, read_before_opening
from mlx_colbert.retriever.recorded_model import begun_index, model_identity, recorded_model
from mlx_colbert.retriever.settings import IndexingSettings
from mlx_colbert.retriever.text_store import Inputs, TextStore, listed
from mlx_colbert.retriever.writing import interruption_told
from mlx_colbert.store import create_store, is_index, open_store
from mlx_colbert.stores.location import shown_location
from mlx_colbert.types import Hit

if TYPE_CHECKING:
    from mlx_colbert.kernels import Backend
    from mlx_colbert.model.colbert import ColBERT
    from mlx_colbert.model.config import OnOverflow

__all__ = ["Retriever"]

Mode = Literal["semantic", "keyword", "hybrid"]

# The largest weight of a ranking.
_MAX_WEIGHT = 1e9


class Retriever(TextStore):
    """Searches texts by their meaning. It encodes them with a model and stores them in an index.

    Attributes:
        store: the store of the token embeddings.

    >>> import tempfile
    >>> from mlx_colbert import ColBERT
    >>> model = ColBERT.load("tests/data/checkpoints/pylate-bert", backend="numpy")
    >>> with tempfile.TemporaryDirectory() as folder, Retriever.create(f"{folder}/notes", model) as retriever:
    ...     retriever.add(["Tea is steeped.", "Coffee is brewed."], ["tea", "coffee"])
    ...     hits = retriever.search("how to make tea", k=2)
    ['tea', 'coffee']
    >>> sorted(hit.doc_id for hit in hits)
    ['coffee', 'tea']
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: ColBERT | str | Path,
        *,
        nbits: Bits = DEFAULT_NBITS,
        exact_tokens: int | None = EXACT_TOKENS,
        pool_factor: int = 1,
        on_overflow: OnOverflow = "truncate",
        backend: Backend = "auto",
        exist_ok: bool = False,
    ) -> Self:
        """Create a new, empty index that records its model, and open it. With `exist_ok`, open an old one.

        Args:
            path: the index folder. It must not exist, or be empty. Or a location in another engine, such as
                "lancedb://notes" (`mlx_colbert.store.open_store`).
            model: a loaded model, or an argument for `ColBERT.load`.
            nbits: as for `Index.create`.
            exact_tokens: as for `Index.create`.
            pool_factor: pool this many token embeddings to one (`mlx_colbert.model.pooling`).
            on_overflow: what to do with a passage that is too long for the model, as for
                `ColBERT.encode_document`. The index records this and pool_factor for later passages.
            backend: the kernels for searches, and for the model if it is loaded here.
            exist_ok: open an existing index that has the same model and settings.

        Raises:
            TargetExistsError: if `path` exists and is not an empty folder. With `exist_ok`, if it is not an
                index with the same settings.
            ModelMismatchError: with `exist_ok`, if it is an index of another model.
            InputError: if a setting cannot be used.
            CheckpointError: if the model cannot be loaded.
        """
        settings = IndexingSettings(pool_factor, on_overflow)
        loaded = _load(model, backend)
        try:
            store = create_store(
                path,
                loaded.dim,
                nbits=nbits,
                exact_tokens=exact_tokens,
                model=model_identity(loaded),
                indexing=settings.recorded(),
                backend=backend,
                exist_ok=exist_ok and not is_index(path),
            )
        except TargetExistsError as error:
            if exist_ok and is_index(path):
                ours = {**vars(settings), "nbits": nbits, "exact_tokens": exact_tokens}
                return cls(loaded, begun_index(path, loaded, ours, backend))
            advice = "Open it with Retriever.open, give exist_ok=True, or choose a path that does not exist."
            raise TargetExistsError(path, advice=advice) from error
        return cls(loaded, store)

    @classmethod
    def open(
        cls, path: str | Path, model: ColBERT | str | Path | None = None, *, backend: Backend = "auto"
    ) -> Self:
        """Open an existing index.

        Args:
            path: the index folder, or a location in another engine (`mlx_colbert.store.open_store`).
            model: the model of the index. None for the model that the index records, which is loaded at its
                first use. A model is loaded with the lengths that the index records.
            backend: the kernels for searches, and for the model if it is loaded here.

        Raises:
            IndexStoreError: if there is no usable index, or (ModelMismatchError) it is of another model.
            CheckpointError: if the model cannot be loaded.
        """
        store = open_store(path, backend=backend)
        try:
            loader = recorded_model(store, model, backend)
            return cls(loader if model is None else loader(), store)
        except BaseException:
            store.close()
            raise

    @classmethod
    def from_files(
        cls,
        path: str | Path,
        model: ColBERT | str | Path,
        inputs: Inputs,
        *,
        nbits: Bits = DEFAULT_NBITS,
        exact_tokens: int | None = EXACT_TOKENS,
        pool_factor: int = 1,
        on_overflow: OnOverflow = "truncate",
        max_file_bytes: int | None = None,
        shard: Shard | str | None = None,
        backend: Backend = "auto",
        progress: Progress | None = None,
    ) -> Self:
        """Create an index of the passages of files and folders, or complete one, and open it.

        All files are checked before the model is loaded, and read as by `add_files`. Only a passage that is
        too long for `on_overflow="error"` is found later.
        If indexing fails before the first window is committed, a new folder is removed. After that, committed
        passages stay, also after a crash. The same call then continues: passages that are in the index with
        the same text and metadata are not encoded again.

        Args:
            path: the index folder. It must not exist, be empty, or be an index that the same call began.
            model: a loaded model, or an argument for `ColBERT.load`.
            inputs: files and folders, as for `mlx_colbert.documents.files.read_passages`.
            nbits: as for `create`.
            exact_tokens: as for `create`.
            pool_factor: as for `create`.
            on_overflow: as for `create`.
            max_file_bytes: as for `add_files`.
            shard: encode only this part of the input, for example "3/16", so that 16 machines can share the
                work. The index is a part for `mlx_colbert.merge_index`. It stays exact until then.
            backend: as for `create`.
            progress: as for `add`.

        Raises:
            InputError: if a file cannot be read as passages, or (DuplicateIdError) an id is given twice, or
                the index has it with another text.
            TargetExistsError: if `path` contains anything else: other files, passages that are not in
                `inputs`, an index with other settings, another shard, or a shard of other files.
            ModelMismatchError: if it is an index of another model.
            CheckpointError: if the model cannot be loaded.
        """
        if not is_index(path):
            raise InputError(
                f"{shown_location(path)}: is not an index folder. Use Retriever.create, then add_files."
            )
        paths = listed(inputs)
        part = None if shard is None else ShardInputs(Shard.of(shard) if isinstance(shard, str) else shard)
        with interruption_told(), shown(progress) as told:
            # Check the files before a model is loaded, or even converted.
            files = read_before_opening(path, paths, backend, told, max_file_bytes=max_file_bytes, shard=part)
        with interruption_told():
            loaded = _load(model, backend)
        existed = Path(path).exists()
        settings: dict[str, Any] = {"pool_factor": pool_factor, "on_overflow": on_overflow}
        settings |= {"nbits": nbits, "exact_tokens": None if part else exact_tokens}
        record = None if part is None else PartRecord.of(part, exact_tokens)
        begun = False
        try:
            retriever = cls.create(path, loaded, backend=backend, **settings)
        except TargetExistsError:
            retriever, begun = cls(loaded, begun_index(path, loaded, settings, backend)), True
        try:
            if record is not None:
                record.begin(retriever.index.path, is_new=not len(retriever))
            with interruption_told(lambda: retriever.stats), shown(progress) as told:
                if files.n_known and not begun:
                    # The index that had them was removed meanwhile.
                    part = None if part is None else ShardInputs(part.shard)
                    files = ReadFiles(paths, None, told, max_file_bytes=max_file_bytes, shard=part)
                retriever._writer.add_files(files, upsert=False, alone=begun, progress=told)
            if record is not None and part is not None:
                record.complete(retriever.index.path, passages=len(retriever), files=part.files)
        except BaseException:
            if begun:
                retriever.close()
            else:
                if record is not None and not len(retriever):
                    (retriever.index.path / RECORD_NAME).unlink(missing_ok=True)
                retriever.index.discard_if_empty(keep_folder=existed)
            raise
        return retriever

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        queries: str,
        k: int = 10,
        *,
        mode: Mode = "semantic",
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        weights: tuple[float, float] | None = None,
        params: SearchParams | None = None,
    ) -> Hits: ...
    @overload
    def search(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        mode: Mode = "semantic",
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        weights: tuple[float, float] | None = None,
        params: SearchParams | None = None,
    ) -> list[Hits]: ...
    def search(
        self,
        queries: str | Iterable[str],
        k: int = 10,
        *,
        mode: Mode = "semantic",
        filter: Filter | str | None = None,
        doc_ids: Iterable[str] | None = None,
        weights: tuple[float, float] | None = None,
        params: SearchParams | None = None,
    ) -> Hits | list[Hits]:
        """The k best passages for a query, best first. For a list of queries, a list of such results.

        Args:
            queries: a query, or a list of at least one query.
            k: at least 1. A smaller index returns all of its passages.
            mode: "semantic" ranks by MaxSim, "keyword" by the BM25 of the words, "hybrid" by both ranks. A
                keyword search for signs or emoji alone finds nothing (`Index.keyword_problems`).
            filter: a condition on the metadata (`mlx_colbert.Filter`).
            doc_ids: find only these passages.
            weights: the weights of the semantic and of the keyword ranking, 0 or more. The default is
                (1.0, 1.0). Only for mode "hybrid".
            params: how much of a compressed index a semantic search reads. Not for mode "keyword".

        Raises:
            InputError: if there is no query, one is blank, k < 1, or another argument cannot be used.
        """
        single = isinstance(queries, str)
        listed = (
            [check_text(queries, "the query")] if isinstance(queries, str) else check_texts(queries, "query")
        )
        check_choice(mode, "mode", get_args(Mode))
        if weights is not None and mode != "hybrid":
            raise InputError(f"weights are only for mode 'hybrid', but mode is {mode!r}. Leave them out.")
        if params is not None and mode == "keyword":
            raise InputError("params are only for a semantic search, but mode is 'keyword'. Leave them out.")
        ratio = _checked_weights((1.0, 1.0) if weights is None else weights)
        doc_ids = None if doc_ids is None else check_doc_ids(doc_ids)
        k = check_k(k)
        depth = fusion_depth(k) if mode == "hybrid" else k
        rankings: list[list[list[Hit]]] = []
        if mode != "keyword":
            rankings.append(self._semantic(listed, depth, filter, doc_ids, params))
        if mode != "semantic":
            find = self.store.search_keywords
            rankings.append([find(query, depth, filter=filter, doc_ids=doc_ids) for query in listed])
        results = rankings[0]
        if mode == "hybrid":
            results = [reciprocal_rank_fusion(pair, ratio, k) for pair in zip(*rankings, strict=True)]
        found = [Hits(hits) for hits in results]
        return found[0] if single else found

    def _semantic(
        self,
        queries: Iterable[str],
        k: int,
        filter: Filter | str | None,
        doc_ids: Sequence[str] | None,
        params: SearchParams | None,
    ) -> list[list[Hit]]:
        embeddings = self.model.encode_query(queries, show_progress=False)
        results = self.store.search(embeddings, k, filter=filter, doc_ids=doc_ids, params=params)
        divisors = self.model.score_divisors(embeddings)
        return [
            [dataclasses.replace(hit, score=hit.score / float(divisor)) for hit in hits]
            for hits, divisor in zip(results, divisors, strict=True)
        ]

    def rerank(self, query: str, doc_ids: Iterable[str], k: int | None = None) -> Hits:
        """The passages with these ids, best first, with exact scores.

        Use it after a keyword search, for example. It encodes the stored texts again, so the scores do not
        depend on the compression of the index.

        Args:
            query: the query. It must not be blank.
            doc_ids: at least one id in the index.
            k: the number of hits. Without it, all of them.

        Raises:
            UnknownIdError: if one of the ids is not in the index.
            DuplicateIdError: if one is given twice.
            InputError: if the query is blank, there are no ids, a passage has no text, or k < 1.
        """
        check_text(query, "the query")
        n_hits = None if k is None else check_k(k)
        ids = check_new_ids(doc_ids)
        documents = [self.store.get(doc_id) for doc_id in ids]
        texts = [_read_text(document) for document in documents]
        on_overflow = self._settings.on_overflow
        hits = self.model.rerank(query, texts, n_hits, doc_ids=ids, on_overflow=on_overflow)
        stored = {document.doc_id: document for document in documents}
        return Hits(
            dataclasses.replace(
                hit,
                text=stored[hit.doc_id].text,
                metadata=stored[hit.doc_id].metadata,
                source=stored[hit.doc_id].source,
                position=stored[hit.doc_id].position,
            )
            for hit in hits
        )

    def explain(self, query: str, doc_id: str) -> Matches:
        """The token of a stored passage that each query token matched, in query order.

        The passage is read with the headings above it, as it was encoded.

        Raises:
            UnknownIdError: if the id is not in the index.
            InputError: if the query is not a string, or the passage has no text.
        """
        text = _read_text(self.store.get(doc_id))
        return self.model.explain(query, text, on_overflow=self._settings.on_overflow)


def _read_text(passage: StoredPassage) -> str:
    """The text of a stored passage as the model reads it."""
    if passage.text is None:
        raise InputError(
            f"passage {passage.doc_id!r} has no stored text, so it cannot be encoded again. "
            "Use search to score it."
        )
    return encoded_text(passage.text, passage.position)


def _checked_weights(weights: tuple[float, float]) -> tuple[float, float]:
    try:
        semantic, keyword = (float(weight) for weight in weights)
        if 0 <= semantic < _MAX_WEIGHT and 0 <= keyword < _MAX_WEIGHT and semantic + keyword > 0:
            return semantic, keyword
    except (TypeError, ValueError):
        pass
    raise InputError(f"weights are {weights!r}. Give two numbers of 0 or more, one of them above 0.")


def _load(model: ColBERT | str | Path, backend: Backend) -> ColBERT:
    if not isinstance(model, str | Path):
        return model
    from mlx_colbert.model.colbert import ColBERT

    return ColBERT.load(model, backend=backend)
