"""Retriever = ColBERT + Index: text in, hits out."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, overload

from mlx_colbert.errors import (
    CheckpointNotFoundError,
    DuplicateIdError,
    IndexDamagedError,
    IndexStoreError,
    InputError,
    TargetExistsError,
)
from mlx_colbert.fusion import reciprocal_rank_fusion
from mlx_colbert.index import DEFAULT_NBITS, EXACT_TOKENS, Bits, Filter, Index, SearchParams, check_k
from mlx_colbert.ingestion import read_passages
from mlx_colbert.model import ColBERT
from mlx_colbert.passage import Passage, check_list, check_text, checked_passages
from mlx_colbert.pooling import pool
from mlx_colbert.types import Hit

if TYPE_CHECKING:
    from mlx_colbert.backends import Backend

__all__ = ["Retriever"]

# Passages encoded and committed at a time: about 40 MB of float32 vectors at 150 tokens and 128 dimensions.
CHUNK_PASSAGES = 512
# What a chunk of texts far longer than any model reads may hold.
CHUNK_CHARACTERS = 8_000_000

Inputs = str | Path | Iterable[str | Path]
Mode = Literal["semantic", "keyword", "hybrid"]

_POOL_FACTOR = "pool_factor"
# What a weight of a ranking may be at most.
_MAX_WEIGHT = 1e9
# Ranks of each ranking that "hybrid" looks at, at least.
_FUSION_DEPTH = 50


class Retriever:
    """Searches texts by their meaning: encodes them with a model and keeps them in an index.

    Attributes:
        model: encodes queries and documents.
        index: stores and finds token embeddings.
        n_truncated: documents written through this object whose ends the model did not read.

    >>> import tempfile
    >>> model = ColBERT.load("tests/data/checkpoints/pylate-bert", backend="numpy")
    >>> with tempfile.TemporaryDirectory() as folder, Retriever.create(f"{folder}/notes", model) as retriever:
    ...     retriever.add(["Tea is steeped.", "Coffee is brewed."], ["tea", "coffee"])
    ...     hits = retriever.search("how to make tea", k=2)
    ['tea', 'coffee']
    >>> sorted(hit.doc_id for hit in hits)
    ['coffee', 'tea']
    """

    def __init__(self, model: ColBERT, index: Index) -> None:
        index.check_model(model_identity(model))
        self.model = model
        self.index = index
        self.n_truncated = 0
        self._pool_factor = _recorded_pool_factor(index)

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: ColBERT | str | Path,
        *,
        nbits: Bits = DEFAULT_NBITS,
        exact_tokens: int | None = EXACT_TOKENS,
        pool_factor: int = 1,
        backend: Backend = "auto",
    ) -> Self:
        """A retriever on a new, empty index that records its model.

        Args:
            path: the index folder, which must not exist or be empty.
            model: a loaded model, or what `ColBERT.load` takes.
            nbits: as for `Index.create`.
            exact_tokens: as for `Index.create`.
            pool_factor: keep one token embedding of this many, see `mlx_colbert.pooling`; the index records
                it.
            backend: runs the search, and the model where it is loaded here.

        Raises:
            TargetExistsError: if `path` is not an empty folder.
            InputError: if a setting cannot be used.
            CheckpointError: if the model cannot be loaded.
        """
        if type(pool_factor) is not int or pool_factor < 1:
            raise InputError(f"pool_factor is {pool_factor!r}, not an integer of 1 or more.")
        loaded = _load(model, backend)
        identity = model_identity(loaded)
        if pool_factor > 1:
            identity[_POOL_FACTOR] = str(pool_factor)
        try:
            index = Index.create(
                path, loaded.dim, nbits=nbits, exact_tokens=exact_tokens, model=identity, backend=backend
            )
        except TargetExistsError as error:
            advice = "Open it with Retriever.open, or choose a path that does not exist."
            raise TargetExistsError(path, advice=advice) from error
        return cls(loaded, index)

    @classmethod
    def open(
        cls, path: str | Path, model: ColBERT | str | Path | None = None, *, backend: Backend = "auto"
    ) -> Self:
        """A retriever on an existing index.

        Args:
            path: the index folder.
            model: the model that the index was made with; without it, the one that the index records.
            backend: runs the search, and the model where it is loaded here.

        Raises:
            IndexStoreError: if there is no usable index, or (ModelMismatchError) it is of another model.
            CheckpointError: if the model cannot be loaded.
        """
        loaded = _load_recorded(path, backend) if model is None else _load(model, backend)
        index = Index.open(path, model=model_identity(loaded), backend=backend)
        try:
            return cls(loaded, index)
        except BaseException:
            index.close()
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
        backend: Backend = "auto",
    ) -> Self:
        """A retriever on a new index of the passages of files and folders.

        The files are checked completely before anything is encoded. If indexing fails before the first chunk
        is committed, the new folder is removed; after that, what is committed is kept.

        Args:
            path: the index folder, which must not exist or be empty.
            model: a loaded model, or what `ColBERT.load` takes.
            inputs: what `mlx_colbert.ingestion.read_passages` takes.
            nbits: as for `create`, as are exact_tokens, pool_factor and backend.
            exact_tokens: see there.
            pool_factor: see there.
            backend: see there.

        Raises:
            InputError: if the files cannot be understood, or (DuplicateIdError) give one id twice.
            TargetExistsError: if `path` is not an empty folder.
            CheckpointError: if the model cannot be loaded.
        """
        paths = _listed(inputs)
        # Before a model is loaded, or even converted.
        for _ in read_passages(paths):
            pass
        existed = Path(path).exists()
        try:
            retriever = cls.create(
                path, model, nbits=nbits, exact_tokens=exact_tokens, pool_factor=pool_factor, backend=backend
            )
        except TargetExistsError as error:
            advice = "Add to it (mlx-colbert add, Retriever.add_files), or choose a path that does not exist."
            raise TargetExistsError(path, advice=advice) from error
        try:
            retriever.add_files(paths)
        except BaseException:
            discard_unused(retriever.index, keep_folder=existed)
            raise
        return retriever

    def add(
        self,
        texts: Sequence[str],
        doc_ids: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """The ids of the documents, now in the index.

        The arguments are checked completely before anything is encoded. Texts are encoded and committed in
        chunks of 512, so memory stays flat. If a chunk fails, nothing of it is kept, but the chunks before it
        are; a note on the exception says how many documents that is.

        Args:
            texts: N texts.
            doc_ids: N ids, new to the index. Without them each document gets a random one (32 hexadecimal
                digits): an id names a document, not its content, and two documents may have the same text.
            metadata: N JSON objects, or None for a document without.

        Raises:
            InputError: if an argument cannot be used, or (DuplicateIdError) an id is given twice or exists.
        """
        passages = checked_passages(texts, doc_ids, metadata)
        if doc_ids is not None:
            self._refuse_existing([passage.doc_id for passage in passages])
        self._write(passages, len(passages), upsert=False)
        return [passage.doc_id for passage in passages]

    def upsert(
        self,
        texts: Sequence[str],
        doc_ids: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """The ids of the documents, now in the index: those that exist are replaced, the others added.

        Checked, encoded and committed like `add`.

        Args:
            texts: N texts.
            doc_ids: N different ids.
            metadata: N JSON objects, or None for a document without; it replaces the old one.

        Raises:
            InputError: if an argument cannot be used, or (DuplicateIdError) an id is given twice.
        """
        passages = checked_passages(texts, doc_ids, metadata)
        self._write(passages, len(passages), upsert=True)
        return [passage.doc_id for passage in passages]

    def add_files(self, inputs: Inputs, *, upsert: bool = False) -> int:
        """The number of passages read from files and folders, now in the index.

        The files are read twice, first to check them completely, then to encode them: memory stays flat.
        Committed like `add`.

        Args:
            inputs: what `mlx_colbert.ingestion.read_passages` takes.
            upsert: replace the passages whose ids exist.

        Raises:
            InputError: if a file cannot be understood, or (DuplicateIdError) an id is given twice or exists.
        """
        paths = _listed(inputs)
        doc_ids = [passage.doc_id for passage in read_passages(paths, fits=self.model.fits)]
        if not upsert:
            self._refuse_existing(doc_ids)
        self._write(read_passages(paths, fits=self.model.fits), len(doc_ids), upsert=upsert)
        return len(doc_ids)

    def delete(self, doc_ids: Sequence[str] | None = None, *, filter: Filter | str | None = None) -> int:
        """Takes documents out of the index, by their ids or by their metadata; how many there were.

        Raises:
            UnknownIdError: if the index does not hold one of the ids; nothing is deleted then.
            InputError: if both are given, or neither, or the filter is not understood.
        """
        return self.index.delete(doc_ids, filter=filter)

    @overload
    def search(
        self,
        queries: str,
        k: int = 10,
        *,
        mode: Mode = "semantic",
        filter: Filter | str | None = None,
        doc_ids: Sequence[str] | None = None,
        weights: tuple[float, float] = (1.0, 1.0),
        params: SearchParams | None = None,
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        queries: list[str],
        k: int = 10,
        *,
        mode: Mode = "semantic",
        filter: Filter | str | None = None,
        doc_ids: Sequence[str] | None = None,
        weights: tuple[float, float] = (1.0, 1.0),
        params: SearchParams | None = None,
    ) -> list[list[Hit]]: ...
    def search(
        self,
        queries: str | list[str],
        k: int = 10,
        *,
        mode: Mode = "semantic",
        filter: Filter | str | None = None,
        doc_ids: Sequence[str] | None = None,
        weights: tuple[float, float] = (1.0, 1.0),
        params: SearchParams | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """The k best documents, best first, of a query, or a list of them for each of several.

        Args:
            queries: a query, or a list of at least one.
            k: at least 1; an index of fewer documents gives all of them.
            mode: "semantic" ranks by MaxSim, "keyword" by the BM25 of the words, "hybrid" by both ranks.
            filter: a condition on the metadata, see `mlx_colbert.Filter`.
            doc_ids: find none but these.
            weights: of the semantic and of the keyword ranking in "hybrid", not negative.
            params: what a semantic search looks at.

        Raises:
            InputError: if there is no query, one is blank, k < 1, or the mode, filter or weights cannot be
                used.
        """
        if isinstance(queries, str):
            check_text(queries, "the query")
        else:
            check_list(queries, "queries")
            for position, query in enumerate(queries):
                check_text(query, f"query {position}")
        if mode not in get_args(Mode):
            raise InputError(f"mode is {mode!r}, not one of {', '.join(get_args(Mode))}.")
        _check_weights(weights)
        doc_ids = None if doc_ids is None else list(doc_ids)
        k = check_k(k)
        listed = [queries] if isinstance(queries, str) else queries
        depth = max(_FUSION_DEPTH, 2 * k) if mode == "hybrid" else k
        rankings: list[list[list[Hit]]] = []
        if mode != "keyword":
            rankings.append(self._semantic(listed, depth, filter, doc_ids, params))
        if mode != "semantic":
            find = self.index.search_keywords
            rankings.append([find(query, depth, filter=filter, doc_ids=doc_ids) for query in listed])
        results = rankings[0]
        if mode == "hybrid":
            results = [reciprocal_rank_fusion(pair, weights, k) for pair in zip(*rankings, strict=True)]
        return results[0] if isinstance(queries, str) else results

    def _semantic(
        self,
        queries: list[str],
        k: int,
        filter: Filter | str | None,
        doc_ids: Sequence[str] | None,
        params: SearchParams | None,
    ) -> list[list[Hit]]:
        embeddings = self.model.encode_query(queries, show_progress=False)
        results = self.index.search(embeddings, k, filter=filter, doc_ids=doc_ids, params=params)
        divisors = self.model.score_divisors(embeddings)
        return [
            [dataclasses.replace(hit, score=hit.score / float(divisor)) for hit in hits]
            for hits, divisor in zip(results, divisors, strict=True)
        ]

    def rerank(self, query: str, doc_ids: Sequence[str], k: int | None = None) -> list[Hit]:
        """The documents of these ids, best first, scored exactly: found by a keyword search, for example.

        Their stored texts are encoded again, so the scores do not depend on the index's compression.

        Args:
            query: not blank.
            doc_ids: at least one, each in the index.
            k: the number of hits; all without it.

        Raises:
            UnknownIdError: if the index does not hold one of them.
            DuplicateIdError: if one is given twice.
            InputError: if the query is blank, there are no ids, a document has no text, or k < 1.
        """
        check_text(query, "the query")
        check_list(doc_ids, "doc_ids")
        if len(set(doc_ids)) < len(doc_ids):
            raise DuplicateIdError(
                [i for i, n in Counter(doc_ids).items() if n > 1], reason="is given twice."
            )
        documents = [self.index.get(doc_id) for doc_id in doc_ids]
        texts = [document.text for document in documents if document.text is not None]
        if len(texts) < len(documents):
            raise InputError("a document has no text, so it cannot be encoded again: search scores it.")
        hits = self.model.rerank(query, texts, k, doc_ids=doc_ids)
        metadata = {doc_id: document.metadata for doc_id, document in zip(doc_ids, documents, strict=True)}
        return [dataclasses.replace(hit, metadata=metadata[hit.doc_id]) for hit in hits]

    def close(self) -> None:
        """Closes the index; the model stays usable."""
        self.index.close()

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self.index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_existing(self, doc_ids: Sequence[str]) -> None:
        existing = self.index.existing(doc_ids)
        if existing:
            raise DuplicateIdError(
                [doc_id for doc_id in doc_ids if doc_id in existing],
                reason=f"exists already in index {self.index.path}. Use upsert (--upsert) to replace it.",
            )

    def _write(self, passages: Iterable[Passage], total: int, *, upsert: bool) -> None:
        """Encodes and commits passages in chunks."""
        from tqdm import tqdm

        put = self.index.upsert if upsert else self.index.add
        n_done = 0
        # So many new ones are coded together, by centroids for all of them.
        many = total > CHUNK_PASSAGES and total >= len(self.index)
        # disable=None: only on a terminal. delay: in seconds; what is done by then shows no bar.
        with tqdm(total=total, unit=" passages", disable=None, delay=1.0) as bar:
            try:
                with self.index.bulk() if many else nullcontext():
                    for chunk in _chunks(passages):
                        embeddings = self.model.encode_document([p.text for p in chunk], show_progress=False)
                        put(
                            [passage.doc_id for passage in chunk],
                            pool(embeddings, self._pool_factor),
                            texts=[passage.text for passage in chunk],
                            metadata=[passage.metadata for passage in chunk],
                        )
                        n_done += len(chunk)
                        self.n_truncated += sum(not self.model.fits(passage.text) for passage in chunk)
                        bar.update(len(chunk))
                    bar.set_postfix_str("compacting" if many else "")
            except BaseException as error:
                if n_done:
                    error.add_note(f"{n_done:,} of {total:,} are in the index and kept; upsert all to go on.")
                raise


def _check_weights(weights: tuple[float, float]) -> None:
    listed = weights if isinstance(weights, tuple | list) else ()
    numbers = [value for value in listed if isinstance(value, int | float) and 0 <= value < _MAX_WEIGHT]
    if len(listed) != 2 or len(numbers) != 2 or not any(numbers):
        raise InputError(f"weights are {weights!r}, not two numbers of 0 or more, one of them above 0.")


def _recorded_pool_factor(index: Index) -> int:
    recorded = (index.model or {}).get(_POOL_FACTOR, "1")
    if not recorded.isdecimal() or int(recorded) < 1:
        raise IndexDamagedError(index.path, f"says pool_factor {recorded!r}. Build the index again.")
    return int(recorded)


def _listed(inputs: Inputs) -> list[str | Path]:
    paths = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    check_list(paths, "inputs")
    return paths


def _load(model: ColBERT | str | Path, backend: Backend) -> ColBERT:
    return ColBERT.load(model, backend=backend) if isinstance(model, str | Path) else model


def _load_recorded(path: str | Path, backend: Backend) -> ColBERT:
    with Index.open(path, backend="numpy") as index:
        recorded = index.model
    if not recorded or "source" not in recorded:
        raise IndexStoreError(path, "does not record its model. Name it: model=… or --model.")
    try:
        return ColBERT.load(recorded["source"], backend=backend, revision=recorded.get("revision"))
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            recorded["source"],
            f"the model of index {path} is not there. Name its new place: model=… or --model.",
        ) from error


def model_identity(model: ColBERT) -> dict[str, str]:
    """What an index records of a model; a folder is absolute, as the next caller may stand elsewhere."""
    folder = Path(model.source)
    identity = {"source": model.source, "fingerprint": model.fingerprint}
    if folder.is_dir():
        identity["source"] = str(folder.resolve())
    elif model.revision is not None:
        identity["revision"] = model.revision
    return identity


def discard_unused(index: Index, *, keep_folder: bool) -> None:
    """Closes a new index, and removes it if nothing was committed to it; its folder may stay, empty."""
    unused = len(index) == 0
    index.close()
    if unused:
        shutil.rmtree(index.path, ignore_errors=True)
        if keep_folder:
            index.path.mkdir(exist_ok=True)


def _chunks(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    chunk: list[Passage] = []
    n_characters = 0
    for passage in passages:
        chunk.append(passage)
        n_characters += len(passage.text)
        if len(chunk) >= CHUNK_PASSAGES or n_characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, n_characters = [], 0
    if chunk:
        yield chunk
