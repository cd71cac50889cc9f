"""Haystack: a document store, a retriever and a ranker."""

# No `from __future__ import annotations`: Haystack reads the types of `run` as they are.

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from mlx_colbert.checks import check_list
from mlx_colbert.errors import DuplicateIdError, InputError, MissingExtraError
from mlx_colbert.integrations.haystack_filter import haystack_filter
from mlx_colbert.integrations.reranking import Reranker
from mlx_colbert.integrations.searched import Searched, metadata_of
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Mode, Retriever
from mlx_colbert.types import Hit

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy
except ImportError as error:
    raise MissingExtraError("mlx_colbert.integrations.haystack", "haystack") from error

__all__ = ["ColBERTDocumentStore", "ColBERTRanker", "ColBERTRetriever"]


class _DuplicateError(DuplicateIdError, DuplicateDocumentError):
    """A document exists already. It is an error of Haystack as well."""


class ColBERTDocumentStore:
    """An index as a document store.

    `write_documents` encodes the content of documents with the model of the index. Ids, content and metadata
    are stored. Other embeddings, sparse embeddings and blobs are not.

    The index is opened at the first call.
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
        self.searched = Searched(index, model=model, settings=settings)
        self._settings = settings

    @property
    def retriever(self) -> Retriever:
        """The retriever of the index.

        Raises:
            IndexStoreError: if the index cannot be used.
            CheckpointError: if the model of a new index cannot be loaded.
        """
        return self.searched.retriever

    def to_dict(self) -> dict[str, Any]:
        """The store as a dict, for a pipeline's YAML."""
        found: dict[str, Any] = default_to_dict(
            self, index=self.searched.index, model=self.searched.model, **self._settings
        )
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The store of a dict that `to_dict` made."""
        made: Self = default_from_dict(cls, data)
        return made

    def count_documents(self) -> int:
        """The number of documents."""
        return len(self.retriever)

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents that satisfy a filter. None: all.

        Raises:
            InputError: if the filter cannot be used. It is a FilterError of Haystack as well.
        """
        passages = self.retriever.store.passages(filter=haystack_filter(filters))
        return [
            Document(id=passage.doc_id, content=passage.text, meta=metadata_of(passage))
            for passage in passages
        ]

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Encode documents and add them to the index; returns how many were written.

        Args:
            documents: documents with content.
            policy: what to do with a document whose id exists. NONE is FAIL.

        Raises:
            InputError: if a document cannot be stored, or (DuplicateIdError) an id exists. The latter is a
                DuplicateDocumentError of Haystack as well.
        """
        listed = check_list(documents, "documents", may_be_empty=True)
        for document in listed:
            if not isinstance(document, Document):
                raise InputError(f"documents has a {type(document).__name__}. Give Documents of Haystack.")
            if not (document.content or "").strip():
                raise InputError(f"document {document.id}: has no content. This store is for texts.")
        existing = self.retriever.store.existing([document.id for document in listed])
        new: dict[str, Document] = {}
        for document in listed:
            is_known = document.id in new or document.id in existing
            if is_known and policy == DuplicatePolicy.SKIP:
                continue
            if is_known and policy != DuplicatePolicy.OVERWRITE:
                reason = "exists already, or is given twice. Use DuplicatePolicy.OVERWRITE or SKIP."
                raise _DuplicateError([document.id], reason=reason)
            new[document.id] = document
        if new:
            texts = [document.content for document in new.values()]
            self.retriever.upsert(texts, list(new), [document.meta for document in new.values()])
        return len(listed) if policy == DuplicatePolicy.OVERWRITE else len(new)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents. Ids that do not exist are passed over."""
        store = self.retriever.store
        if existing := store.existing(document_ids):
            store.delete(sorted(existing))

    def delete_all_documents(self) -> None:
        """Delete all documents."""
        self.delete_documents(list(self.retriever.store))

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that satisfy a filter; returns how many.

        Raises:
            InputError: if the filter cannot be used, or is empty.
        """
        return self.retriever.store.delete(filter=haystack_filter(filters))

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Change metadata of the documents that satisfy a filter; returns how many. Nothing is encoded.

        Args:
            filters: the filter.
            meta: fields with new values. The other fields stay.

        Raises:
            InputError: if an argument cannot be used, or the store is not an index folder.
        """
        passages = self.retriever.store.passages(filter=haystack_filter(filters))
        changed = {passage.doc_id: {**(passage.metadata or {}), **meta} for passage in passages}
        if changed:
            self.retriever.index.update_metadata(changed, changed.values())
        return len(changed)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """The number of documents that satisfy a filter.

        Raises:
            InputError: if the filter cannot be used.
        """
        return sum(1 for _ in self.retriever.store.passages(filter=haystack_filter(filters)))

    async def count_documents_async(self) -> int:
        """The same as `count_documents`, in a thread."""
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The same as `filter_documents`, in a thread."""
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """The same as `write_documents`, in a thread."""
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """The same as `delete_documents`, in a thread."""
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self) -> None:
        """The same as `delete_all_documents`, in a thread."""
        await asyncio.to_thread(self.delete_all_documents)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        """The same as `delete_by_filter`, in a thread."""
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """The same as `update_by_filter`, in a thread."""
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """The same as `count_documents_by_filter`, in a thread."""
        return await asyncio.to_thread(self.count_documents_by_filter, filters)


@component
class ColBERTRetriever:
    """Finds documents in a document store, or passages in collections of files."""

    def __init__(
        self,
        document_store: ColBERTDocumentStore | None = None,
        *,
        collections: list[str] | None = None,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        mode: Mode | None = None,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        """Take a document store, or names of collections. Nothing is opened yet.

        Args:
            document_store: the store.
            collections: names of collections, in place of a store.
            filters: which documents may be found.
            top_k: the number of documents to return.
            mode: "semantic", "keyword" or "hybrid". None: "semantic" for a store, "hybrid" for collections.
            filter_policy: what to do with the filters of a call: they replace those above, or both are used.

        Raises:
            InputError: if both a store and collections are given, or none.
        """
        if document_store is None:
            self._searched = Searched(collections=collections)
        elif collections is not None:
            raise InputError("there are a document_store and collections. Give one of them.")
        else:
            self._searched = document_store.searched
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.mode = mode
        self.filter_policy = filter_policy

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict, for a pipeline's YAML."""
        store = None if self.document_store is None else self.document_store.to_dict()
        found: dict[str, Any] = default_to_dict(
            self,
            document_store=store,
            collections=self._searched.collections,
            filters=self.filters,
            top_k=self.top_k,
            mode=self.mode,
            filter_policy=self.filter_policy.value,
        )
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The component of a dict that `to_dict` made."""
        options = dict(data["init_parameters"])
        if options.get("document_store") is not None:
            options["document_store"] = ColBERTDocumentStore.from_dict(options["document_store"])
        if "filter_policy" in options:
            options["filter_policy"] = FilterPolicy.from_str(options["filter_policy"])
        return cls(**options)

    def warm_up(self) -> None:
        """Open the index or the collections, and load the model."""
        self._searched.open()

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The best documents for a query, best first, with their scores.

        Args:
            query: the query. It must not be blank.
            filters: which documents may be found.
            top_k: the number of documents to return.

        Raises:
            InputError: if an argument cannot be used.
            ColBERTError: if the index, a collection or the model cannot be used.
        """
        applied = apply_filter_policy(self.filter_policy, self.filters, filters)
        hits = self._searched.search(
            query,
            self.top_k if top_k is None else top_k,
            mode=self.mode,
            filter=haystack_filter(applied),
        )
        return {"documents": [_document(hit) for hit in hits]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The same as `run`, in a thread."""
        return await asyncio.to_thread(self.run, query, filters, top_k)


@component
class ColBERTRanker:
    """Orders documents by their score for the query."""

    def __init__(self, model: ColBERT | str | Path, top_k: int = 10) -> None:
        """Take a model. It is loaded by `warm_up`, or at the first call.

        Args:
            model: a loaded model, or an argument for `ColBERT.load`.
            top_k: the number of documents to return.
        """
        self._reranker = Reranker(model)
        self.top_k = top_k

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict, for a pipeline's YAML."""
        found: dict[str, Any] = default_to_dict(self, model=self._reranker.name, top_k=self.top_k)
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The component of a dict that `to_dict` made."""
        made: Self = default_from_dict(cls, data)
        return made

    def warm_up(self) -> None:
        """Load the model."""
        _ = self._reranker.model

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The best documents, best first, with their scores. The documents given are not changed.

        Args:
            query: the query. It must not be blank.
            documents: the documents.
            top_k: the number of documents to return.

        Raises:
            InputError: if the query is blank, or top_k < 1.
            CheckpointError: if the model cannot be loaded.
        """
        texts = [document.content or "" for document in documents]
        places = self._reranker.order(query, texts, self.top_k if top_k is None else top_k)
        return {"documents": [replace(documents[place.number], score=place.score) for place in places]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The same as `run`, in a thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)


def _document(hit: Hit) -> Document:
    return Document(id=hit.doc_id, content=hit.text, meta=metadata_of(hit), score=hit.score)
