"""LangChain's interfaces over a `RAGPretrainedModel`, as RAGatouille has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_colbert.errors import MissingExtraError

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
except ModuleNotFoundError as error:
    raise MissingExtraError("LangChain", "langchain") from error

__all__ = ["RAGatouilleLangChainCompressor", "RAGatouilleLangChainRetriever"]


class RAGatouilleLangChainRetriever(BaseRetriever):
    """The documents that `RAGPretrainedModel.search` finds.

    Attributes:
        model: the `RAGPretrainedModel`.
        kwargs: more arguments of `search`.
    """

    model: Any
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [
            Document(page_content=result["content"], metadata=result.get("document_metadata", {}))
            for result in self.model.search(query, **self.kwargs)
        ]


class RAGatouilleLangChainCompressor(BaseDocumentCompressor):
    """The best documents by `RAGPretrainedModel.rerank`, with their scores in `relevance_score`.

    Attributes:
        model: the `RAGPretrainedModel`.
        kwargs: more arguments of `rerank`.
        k: the number of documents.
    """

    model: Any
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    k: int = 5

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None, **kwargs: Any
    ) -> Sequence[Document]:
        """The k best documents for a query, best first."""
        if not documents:
            return []
        texts = [document.page_content for document in documents]
        results = self.model.rerank(query=query, documents=texts, k=kwargs.get("k", self.k), **self.kwargs)
        found = []
        for result in results:
            document = documents[result["result_index"]]
            metadata = {**document.metadata, "relevance_score": result["score"]}
            found.append(document.model_copy(update={"metadata": metadata}))
        return found
