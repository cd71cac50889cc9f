"""Retriever = ColBERT + Index: text in, hits out. The only place where model and index meet."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from mlx_colbert.errors import (
    CheckpointNotFoundError,
    DuplicateIdError,
    IndexStoreError,
    InputError,
    TargetExistsError,
)
from mlx_colbert.index import Index
from mlx_colbert.ingestion import read_passages
from mlx_colbert.model import ColBERT
from mlx_colbert.passage import Passage, check_list, check_text, checked_passages
from mlx_colbert.types import Hit

if TYPE_CHECKING:
    from mlx_colbert.backends import Backend

__all__ = ["Retriever"]

# Passages encoded and committed at a time: about 40 MB of float32 vectors at 150 tokens and 128 dimensions.
CHUNK_PASSAGES = 512
# What a chunk of texts far longer than any model reads may hold.
CHUNK_CHARACTERS = 8_000_000

Inputs = str | Path | Iterable[str | Path]


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

    @classmethod
    def create(cls, path: str | Path, model: ColBERT | str | Path, *, backend: Backend = "auto") -> Self:
        """A retriever on a new, empty index that records its model.

        Args:
            path: the index folder, which must not exist or be empty.
            model: a loaded model, or what `ColBERT.load` takes.
            backend: runs the search, and the model where it is loaded here.

        Raises:
            TargetExistsError: if `path` is not an empty folder.
            CheckpointError: if the model cannot be loaded.
        """
        loaded = _load(model, backend)
        try:
            index = Index.create(path, loaded.dim, model=model_identity(loaded), backend=backend)
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
        return cls(loaded, Index.open(path, model=model_identity(loaded), backend=backend))

    @classmethod
    def from_files(
        cls, path: str | Path, model: ColBERT | str | Path, inputs: Inputs, *, backend: Backend = "auto"
    ) -> Self:
        """A retriever on a new index of the passages of files and folders.

        The files are checked completely before anything is encoded. If indexing fails before the first chunk
        is committed, the new folder is removed; after that, what is committed is kept.

        Args:
            path: the index folder, which must not exist or be empty.
            model: a loaded model, or what `ColBERT.load` takes.
            inputs: what `mlx_colbert.ingestion.read_passages` takes.
            backend: runs the search, and the model where it is loaded here.

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
            retriever = cls.create(path, model, backend=backend)
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

    def delete(self, doc_ids: Sequence[str]) -> None:
        """Takes documents out of the index.

        Raises:
            UnknownIdError: if the index does not hold one of them; nothing is deleted then.
        """
        self.index.delete(doc_ids)

    @overload
    def search(self, queries: str, k: int = 10) -> list[Hit]: ...
    @overload
    def search(self, queries: list[str], k: int = 10) -> list[list[Hit]]: ...
    def search(self, queries: str | list[str], k: int = 10) -> list[Hit] | list[list[Hit]]:
        """The k best documents, best first, of a query, or a list of them for each of several.

        Args:
            queries: a query, or a list of at least one.
            k: at least 1; an index of fewer documents gives all of them.

        Raises:
            InputError: if there is no query, one is blank, or k < 1.
        """
        if isinstance(queries, str):
            check_text(queries, "the query")
            return self.search([queries], k)[0]
        check_list(queries, "queries")
        for position, query in enumerate(queries):
            check_text(query, f"query {position}")
        embeddings = self.model.encode_query(queries, show_progress=False)
        results = self.index.search(embeddings, k)
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
            InputError: if the query is blank, there are no ids, a document has no text, or k < 1.
        """
        check_text(query, "the query")
        check_list(doc_ids, "doc_ids")
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
        # disable=None: only on a terminal. delay: in seconds; what is done by then shows no bar.
        with tqdm(total=total, unit=" passages", disable=None, delay=1.0) as bar:
            try:
                for chunk in _chunks(passages):
                    embeddings = self.model.encode_document([p.text for p in chunk], show_progress=False)
                    put(
                        [passage.doc_id for passage in chunk],
                        embeddings,
                        texts=[passage.text for passage in chunk],
                        metadata=[passage.metadata for passage in chunk],
                    )
                    n_done += len(chunk)
                    self.n_truncated += sum(not self.model.fits(passage.text) for passage in chunk)
                    bar.update(len(chunk))
            except BaseException as error:
                if n_done:
                    error.add_note(f"{n_done:,} of {total:,} are in the index and kept; upsert all to go on.")
                raise


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
