"""LangChain: a retriever, a document compressor and a vector store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from mlx_colbert.checks import check_list
from mlx_colbert.errors import InputError, MissingExtraError
from mlx_colbert.integrations.reranking import Reranker
from mlx_colbert.integrations.searched import AnyFilter, Searched, filter_of, metadata_of
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Mode, Retriever

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise MissingExtraError("mlx_colbert.integrations.langchain", "langchain") from error

__all__ = ["ColBERTCompressor", "ColBERTRetriever", "ColBERTVectorStore"]


class ColBERTRetriever(BaseRetriever):
    """Finds passages of an index, or of collections of files, as documents.

    `invoke` and `ainvoke` take `k`, `mode` and `filter` too, for one call.

    Attributes:
        index: the index folder. The argument may be an open `Retriever` as well.
        collections: names of collections, in place of an index.
        k: the number of documents to return.
        mode: "semantic", "keyword" or "hybrid". None: "semantic" for an index, "hybrid" for collections.
        filter: which passages may be found: a filter as text, or a dict of fields and values.
    """

    index: str | None = None
    collections: list[str] | None = None
    k: int = 10
    mode: Mode | None = None
    filter: str | dict[str, Any] | None = None
    _searched: Searched

    def __init__(
        self,
        *,
        index: Retriever | str | Path | None = None,
        collections: Sequence[str] | str | None = None,
        **options: Any,
    ) -> None:
        # Here and not in a validator: pydantic would put its own error around ours.
        searched = Searched(index, collections)
        super().__init__(index=searched.index, collections=searched.collections, **options)
        self._searched = searched

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether LangChain can write it as JSON: yes."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """The module of the class, for LangChain's JSON."""
        return cls.__module__.split(".")

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        mode: Mode | None = None,
        filter: AnyFilter | None = None,
    ) -> list[Document]:
        k = self.k if k is None else k
        filter = self.filter if filter is None else filter
        hits = self._searched.search(query, k, mode=mode or self.mode, filter=filter)
        return [
            Document(
                id=hit.doc_id,
                page_content=hit.text or "",
                metadata={**metadata_of(hit), "relevance_score": hit.score},
            )
            for hit in hits
        ]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        # The method of the base class takes no options.
        found: list[Document] = await run_in_executor(
            None, self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **options
        )
        return found


class ColBERTCompressor(BaseDocumentCompressor):
    """Orders documents by their score for the query, and keeps the best.

    Attributes:
        model: the folder or the hub id of a model. The argument may be a loaded `ColBERT` as well.
        top_n: the number of documents to keep. None: all.
    """

    model: str
    top_n: int | None = 3
    _reranker: Reranker

    def __init__(self, model: ColBERT | str | Path, **options: Any) -> None:
        reranker = Reranker(model)
        super().__init__(model=reranker.name, **options)
        self._reranker = reranker

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents for a query, best first, each with its "relevance_score" in the metadata.

        Args:
            documents: the documents. They are not changed.
            query: the query. It must not be blank.
            callbacks: not used.

        Raises:
            InputError: if the query is blank, or top_n < 1.
            CheckpointError: if the model cannot be loaded.
        """
        places = self._reranker.order(query, [document.page_content for document in documents], self.top_n)
        best = [(documents[place.number], place.score) for place in places]
        return [
            document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
            for document, score in best
        ]


class ColBERTVectorStore(VectorStore):
    """An index as a vector store. The index has its own model, so LangChain's embeddings are not used.

    The index is opened at the first call. The asynchronous methods run in a thread.
    """

    def __init__(
        self, index: Retriever | str | Path, model: ColBERT | str | Path | None = None, **settings: Any
    ) -> None:
        """Take an index. With a model, it is made if it does not exist.

        Args:
            index: an index folder, or an open retriever.
            model: the model of a new index: a loaded one, or an argument for `ColBERT.load`.
            settings: the settings of a new index, as for `Retriever.create`.
        """
        self._searched = Searched(index, model=model, settings=settings)

    @property
    def retriever(self) -> Retriever:
        """The retriever of the index.

        Raises:
            IndexStoreError: if the index cannot be used.
            CheckpointError: if the model of a new index cannot be loaded.
        """
        return self._searched.retriever

    @property
    def embeddings(self) -> None:
        """LangChain's embeddings: none are used."""
        return None

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **settings: Any,
    ) -> Self:
        """Make or open an index, and add texts.

        Args:
            texts: N texts.
            embedding: None. The index has a model of its own.
            metadatas: N JSON objects.
            ids: N ids.
            settings: `index` and `model`, and more as for the constructor.

        Raises:
            InputError: if embeddings are given, or `index` is not, or an argument cannot be used.
        """
        if embedding is not None:
            raise InputError(
                f"embedding is {type(embedding).__name__}, but ColBERT has its own. "
                "Give embedding=None, and a ColBERT model as model."
            )
        if "index" not in settings:
            raise InputError("there is no index. Give index=FOLDER, and model=MODEL to make a new one.")
        store = cls(**settings)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[str]:
        """Add texts, and replace those whose ids exist; returns their ids.

        Args:
            texts: N texts.
            metadatas: N JSON objects.
            ids: N ids. A text without one, or with None, gets a random id.
            options: not used.

        Raises:
            InputError: if an argument cannot be used, or (DuplicateIdError) an id is given twice.
        """
        listed = check_list(texts, "texts", may_be_empty=True)
        if not listed:
            return []
        given = [None] * len(listed) if ids is None else ids
        return self.retriever.upsert(listed, [doc_id or uuid4().hex for doc_id in given], metadatas)

    def delete(
        self, ids: list[str] | None = None, *, filter: AnyFilter | None = None, **options: Any
    ) -> bool:
        """Delete passages; returns True. Ids that do not exist are passed over.

        Args:
            ids: the ids. None: all.
            filter: delete the passages that satisfy it, in place of ids.
            options: not used with ids. Without ids, none is allowed: its meaning is not known.

        Raises:
            InputError: if the filter is not valid, or there are options but no ids.
        """
        if ids is None and options:
            names = ", ".join(sorted(options))
            raise InputError(
                f"delete: {names} is not known. Give ids, or filter. Without both, all is deleted."
            )
        store = self.retriever.store
        filter = filter_of(filter)
        if ids is None and filter is not None:
            store.delete(filter=filter)
        elif wanted := list(store) if ids is None else sorted(store.existing(ids)):
            store.delete(wanted)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids. Ids that do not exist are passed over."""
        store = self.retriever.store
        existing = store.existing(ids)
        found = [store.get(doc_id) for doc_id in dict.fromkeys(ids) if doc_id in existing]
        return [
            Document(id=passage.doc_id, page_content=passage.text or "", metadata=metadata_of(passage))
            for passage in found
        ]

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: AnyFilter | None = None,
        mode: Mode = "semantic",
        **options: Any,
    ) -> list[Document]:
        """The k best documents for a query, best first.

        Args:
            query: the query. It must not be blank.
            k: at least 1.
            filter: which passages may be found: a filter, or a dict of fields and values.
            mode: "semantic", "keyword" or "hybrid".
            options: not used.

        Raises:
            InputError: if an argument cannot be used.
        """
        found = self.similarity_search_with_score(query, k, filter=filter, mode=mode)
        return [document for document, _ in found]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: AnyFilter | None = None,
        mode: Mode = "semantic",
        **options: Any,
    ) -> list[tuple[Document, float]]:
        """The k best documents for a query, each with its score.

        The arguments are those of `similarity_search`.

        Raises:
            InputError: if an argument cannot be used.
        """
        return [
            (Document(id=hit.doc_id, page_content=hit.text or "", metadata=metadata_of(hit)), hit.score)
            for hit in self.retriever.search(query, k, mode=mode, filter=filter_of(filter))
        ]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Document]:
        """Refuse to search: MMR compares one vector of each text.

        Raises:
            InputError: always.
        """
        raise InputError(
            "MMR compares one vector of each text, and ColBERT has one of each token. "
            "Use search_type='similarity'."
        )

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        raise InputError(
            "a score of ColBERT grows with the query, so there is no relevance from 0 to 1. "
            "Use similarity_search_with_score, or search_type='similarity'."
        )
