"""`RAGPretrainedModel` with the methods, arguments and results of RAGatouille 0.0.9, on this package.

Change the import, and a program that indexes, searches and reranks runs. docs/ragatouille.md lists every
difference. `n_gpu`, `verbose`, `bsize` and `use_faiss` are accepted and have no effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from mlx_colbert.checks import (
    check_choice,
    check_doc_ids,
    check_k,
    check_list,
    check_texts,
    check_whole,
)
from mlx_colbert.convert.draft import in_place_at_once, remove_folder
from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError, TargetExistsError, UnknownIdError
from mlx_colbert.index import Filter, SearchParams
from mlx_colbert.integrations.ragatouille_index import NamedIndexes, holds_index, opened_index, write_passages
from mlx_colbert.integrations.ragatouille_passages import (
    Preprocessor,
    Splitter,
    passages_of,
    sentence_splitter,
)
from mlx_colbert.integrations.ragatouille_results import encoded_queries, passage_results, text_results
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.types import Array

if TYPE_CHECKING:
    from langchain_core.documents import BaseDocumentCompressor
    from langchain_core.retrievers import BaseRetriever

__all__ = ["RAGPretrainedModel", "RAGTrainer", "sentence_splitter"]

# What RAGatouille's force_fast=True reads of an index: one centroid, and a quarter of the candidates.
_FAST = SearchParams(n_probe=1, n_candidates=256)


class RAGPretrainedModel:
    """A ColBERT with an index of documents. Make one with `from_pretrained` or `from_index`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     RAG = RAGPretrainedModel.from_pretrained("tests/data/checkpoints/pylate-bert", index_root=folder)
    ...     _ = RAG.index(["Tea is steeped.", "Coffee is brewed."], ["tea", "coffee"], index_name="drinks")
    ...     results = RAG.search("how to make tea", k=2)
    ...     RAG.close()
    >>> sorted(result["document_id"] for result in results)
    ['coffee', 'tea']
    """

    def __init__(self, model: ColBERT, indexes: NamedIndexes) -> None:
        self._model = model
        self._indexes = indexes
        self._encoded: list[tuple[str, Mapping[str, Any] | None, Array]] = []

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        n_gpu: int = -1,
        verbose: int = 1,
        index_root: str | Path | None = None,
    ) -> Self:
        """Load a model.

        Args:
            pretrained_model_name_or_path: a hub id, or a folder, as for `ColBERT.load`.
            n_gpu: has no effect.
            verbose: has no effect.
            index_root: indexes are in the folder `colbert/indexes` in this folder. None: `.ragatouille`.

        Raises:
            CheckpointError: if the model cannot be loaded.
        """
        folder = Path(".ragatouille" if index_root is None else index_root) / "colbert" / "indexes"
        model = ColBERT.load(pretrained_model_name_or_path)
        return cls(model, NamedIndexes(folder, model))

    @classmethod
    def from_index(cls, index_path: str | Path, n_gpu: int = -1, verbose: int = 1) -> Self:
        """Open an index, and load its model.

        An index that RAGatouille wrote is copied once, without encoding anything, into a folder beside it
        with ".mlx-colbert" after its name.

        Args:
            index_path: the folder of the index.
            n_gpu: has no effect.
            verbose: has no effect.

        Raises:
            IndexStoreError: if there is no usable index.
            CheckpointError: if its model cannot be loaded.
        """
        path = Path(index_path)
        retriever = opened_index(path, None)
        indexes = NamedIndexes(path.parent, retriever.model)
        indexes.use(path.name, retriever)
        return cls(retriever.model, indexes)

    @property
    def index_name(self) -> str | None:
        """The name of the index that was used last. None: there is none yet."""
        return self._indexes.name

    def close(self) -> None:
        """Close the index. The model stays loaded."""
        self._indexes.close()

    def index(
        self,
        collection: Iterable[str],
        document_ids: Iterable[str] | None = None,
        document_metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        index_name: str | None = None,
        overwrite_index: bool | str = True,
        max_document_length: int = 256,
        split_documents: bool = True,
        document_splitter_fn: Splitter | None = sentence_splitter,
        preprocessing_fn: Preprocessor | Sequence[Preprocessor] | None = None,
        bsize: int = 32,
        use_faiss: bool = False,
    ) -> str:
        """Make an index of documents; returns its folder. It appears when it is complete.

        Args:
            collection: N texts.
            document_ids: N different ids. None: random ones.
            document_metadatas: N JSON objects, or None for a document without metadata.
            index_name: the name of its folder. None: the last name, or else one made from the model's.
            overwrite_index: what to do with an index of this name. True replaces it when the new one is
                complete. False raises an error. "reuse" and "resume" open it, and change nothing.
            max_document_length: the most tokens of a passage, at most as many as the model can read. Longer
                documents are cut.
            split_documents: False keeps documents whole. Then only their first tokens are read.
            document_splitter_fn: cuts documents. It is called with the texts, their ids and chunk_size, and
                returns {"document_id", "content"} for each passage.
            preprocessing_fn: a function, or several, called with the passages and the ids.
            bsize: has no effect.
            use_faiss: has no effect.

        Raises:
            InputError: if an argument cannot be used, or (DuplicateIdError) an id is given twice.
            TargetExistsError: if the folder exists, and is not to be overwritten or is not an index.
        """
        choices = (True, False, "reuse", "resume", "force_silent_overwrite")
        check_choice(overwrite_index, "overwrite_index", choices)
        name = index_name or self.index_name or f"{Path(self._model.source).name}_new_index"
        path = self._indexes.path(name)
        if path.exists():
            if overwrite_index in ("reuse", "resume"):
                self._indexes.open(name)
                return str(path)
            if overwrite_index is False or not holds_index(path):
                raise TargetExistsError(path, advice="Choose another index_name, or remove the folder.")
        model = self._reader(max_document_length)
        passages = passages_of(
            collection,
            document_ids,
            document_metadatas,
            splitter=document_splitter_fn if split_documents else None,
            preprocessing=preprocessing_fn,
            chunk_size=model.config.colbert.document_length,
            fits=model.fits,
        )
        self.close()
        with in_place_at_once(path) as draft:
            with Retriever.create(draft, model) as retriever:
                write_passages(retriever, passages)
            remove_folder(path)
        self._indexes.open(name)
        return str(path)

    def add_to_index(
        self,
        new_collection: Iterable[str],
        new_document_ids: Iterable[str] | None = None,
        new_document_metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        index_name: str | None = None,
        split_documents: bool = True,
        document_splitter_fn: Splitter | None = sentence_splitter,
        preprocessing_fn: Preprocessor | Sequence[Preprocessor] | None = None,
        bsize: int = 32,
        use_faiss: bool = False,
    ) -> None:
        """Add documents to an index. A document whose id is in the index replaces that one.

        Args:
            new_collection: N texts.
            new_document_ids: as `document_ids` of `index`.
            new_document_metadatas: as `document_metadatas` of `index`.
            index_name: the name of the index. None: the last one.
            split_documents: as for `index`.
            document_splitter_fn: as for `index`.
            preprocessing_fn: as for `index`.
            bsize: has no effect.
            use_faiss: has no effect.

        Raises:
            InputError: if an argument cannot be used, or there is no index yet.
            IndexStoreError: if there is no usable index of this name.
        """
        retriever = self._indexes.open(index_name)
        passages = passages_of(
            new_collection,
            new_document_ids,
            new_document_metadatas,
            splitter=document_splitter_fn if split_documents else None,
            preprocessing=preprocessing_fn,
            chunk_size=retriever.model.config.colbert.document_length,
            fits=retriever.model.fits,
        )
        write_passages(retriever, passages)

    def delete_from_index(self, document_ids: str | Iterable[str], index_name: str | None = None) -> None:
        """Delete documents from an index, in one transaction.

        Args:
            document_ids: an id, or several.
            index_name: the name of the index. None: the last one.

        Raises:
            UnknownIdError: if there is no such document. Then nothing is deleted.
            InputError: if an id cannot be used, or there is no index yet.
            IndexStoreError: if there is no usable index of this name.
        """
        store = self._indexes.open(index_name).store
        ids = check_doc_ids([document_ids] if isinstance(document_ids, str) else document_ids)
        passages = {document_id: store.passages_of(document_id) for document_id in ids}
        if unknown := [document_id for document_id, found in passages.items() if not found]:
            raise UnknownIdError(unknown, where=store.path)
        store.delete([doc_id for found in passages.values() for doc_id in found])

    def search(
        self,
        query: str | Iterable[str],
        index_name: str | None = None,
        k: int = 10,
        force_fast: bool = False,
        zero_index_ranks: bool = False,
        doc_ids: Iterable[str] | None = None,
        *,
        filter: Filter | str | None = None,
    ) -> list[Any]:
        """The k best passages for a query, best first.

        Args:
            query: a query, or a list of queries.
            index_name: the name of the index. None: the last one.
            k: the number of passages. A smaller index returns all of its passages.
            force_fast: read less of a large index. More passages are missed.
            zero_index_ranks: the best passage has the rank 0. Otherwise it has the rank 1.
            doc_ids: find only passages of these documents.
            filter: a condition on the metadata (`mlx_colbert.Filter`).

        Returns:
            {"content", "score", "rank", "document_id", "passage_id"} for each passage, and
            "document_metadata" if it has some. For several queries, a list of such lists. As in RAGatouille,
            a list of one query gives one flat list.

        Raises:
            InputError: if an argument cannot be used, or there is no index yet.
            IndexStoreError: if there is no usable index of this name.
        """
        retriever = self._indexes.open(index_name)
        model, store = retriever.model, retriever.store
        queries = encoded_queries(model, query)
        if doc_ids is not None:
            doc_ids = [passage for doc_id in check_doc_ids(doc_ids) for passage in store.passages_of(doc_id)]
        params = _FAST if force_fast else None
        found = store.search(queries, check_k(k), filter=filter, doc_ids=doc_ids, params=params)
        divisors = model.score_divisors(queries)
        return passage_results(found, divisors, zero_index_ranks=zero_index_ranks)

    def rerank(
        self,
        query: str | Iterable[str],
        documents: Iterable[str],
        k: int = 10,
        zero_index_ranks: bool = False,
        bsize: int | Literal["auto"] = "auto",
    ) -> list[Any]:
        """The k best of these documents for a query, best first. No index is needed.

        Args:
            query: a query, or a list of queries.
            documents: texts. As many tokens of each are read as the model can read.
            k: the number of results. Fewer documents give fewer results.
            zero_index_ranks: the best document has the rank 0. Otherwise it has the rank 1.
            bsize: has no effect.

        Returns:
            {"content", "score", "rank", "result_index"} for each document. "result_index" is its position in
            `documents`. For several queries, a list of such lists. A list of one query gives one flat list.

        Raises:
            InputError: if an argument cannot be used.
        """
        texts = check_texts(documents, "document", may_be_blank=True)
        vectors = self._reader("auto").encode_document(texts)
        n_results = check_k(k)
        scores = self._model.similarity(encoded_queries(self._model, query), vectors)
        return text_results(scores, texts, [None] * len(texts), n_results, zero_index_ranks=zero_index_ranks)

    def encode(
        self,
        documents: Iterable[str],
        bsize: int | Literal["auto"] = "auto",
        document_metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        verbose: bool = True,
        max_document_length: int | Literal["auto"] = "auto",
    ) -> None:
        """Encode documents and keep them in memory, for `search_encoded_docs`. Earlier ones stay.

        Args:
            documents: N texts.
            bsize: has no effect.
            document_metadatas: N dicts, or None for a document without metadata.
            verbose: has no effect.
            max_document_length: the most tokens of a document that are read. "auto": as many as the model can
                read.

        Raises:
            InputError: if an argument cannot be used.
        """
        texts = check_texts(documents, "document", may_be_blank=True)
        metadata = [None] * len(texts)
        if document_metadatas is not None:
            metadata = check_list(document_metadatas, "document_metadatas")
        if len(metadata) != len(texts):
            raise InputError(
                f"{counted(len(texts), 'document')}, but {len(metadata)} document_metadatas. Give one each."
            )
        vectors = self._reader(max_document_length).encode_document(texts)
        self._encoded += zip(texts, metadata, vectors, strict=True)

    def search_encoded_docs(self, query: str | Iterable[str], k: int = 10, bsize: int = 32) -> list[Any]:
        """The k best of the documents that `encode` keeps, best first.

        Args:
            query: a query, or a list of queries.
            k: the number of results. Fewer documents give fewer results.
            bsize: has no effect.

        Returns:
            As `rerank`, with "document_metadata" if a document has some.

        Raises:
            InputError: if an argument cannot be used, or no documents were encoded.
        """
        if not self._encoded:
            raise InputError("there are no encoded documents. Call encode(documents) first.")
        texts, metadata, vectors = zip(*self._encoded, strict=True)
        n_results = check_k(k)
        scores = self._model.similarity(encoded_queries(self._model, query), vectors)
        return text_results(scores, texts, metadata, n_results)

    def clear_encoded_docs(self, force: bool = False) -> None:
        """Forget the documents that `encode` keeps.

        Args:
            force: has no effect. RAGatouille waits ten seconds without it.
        """
        self._encoded.clear()

    def as_langchain_retriever(self, **kwargs: Any) -> BaseRetriever:
        """A retriever of LangChain that calls `search`.

        Args:
            kwargs: more arguments of `search`.

        Raises:
            MissingExtraError: if langchain-core is not installed.
        """
        from mlx_colbert.integrations.ragatouille_langchain import RAGatouilleLangChainRetriever

        return RAGatouilleLangChainRetriever(model=self, kwargs=kwargs)

    def as_langchain_document_compressor(self, k: int = 5, **kwargs: Any) -> BaseDocumentCompressor:
        """A document compressor of LangChain that calls `rerank`.

        Args:
            k: the number of documents.
            kwargs: more arguments of `rerank`.

        Raises:
            MissingExtraError: if langchain-core is not installed.
        """
        from mlx_colbert.integrations.ragatouille_langchain import RAGatouilleLangChainCompressor

        return RAGatouilleLangChainCompressor(model=self, k=k, kwargs=kwargs)

    def _reader(self, max_document_length: int | Literal["auto"]) -> ColBERT:
        """The model, with another length of documents, at most the longest that it can read."""
        longest = self._model.config.encoder.max_length
        if max_document_length != "auto":
            longest = min(check_whole(max_document_length, "max_document_length", at_least=3), longest)
        return self._model.with_lengths(document_length=longest)


class RAGTrainer:
    """Stands for RAGatouille's class of this name. This package does not train models.

    Raises:
        InputError: always.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise InputError(
            "RAGTrainer: mlx-colbert does not train models. Train with PyLate or sentence-transformers, and "
            "load the result: RAGPretrainedModel.from_pretrained(folder)."
        )
