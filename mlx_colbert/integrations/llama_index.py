"""LlamaIndex: a retriever and a node postprocessor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_colbert.checks import check_list
from mlx_colbert.errors import InputError, MissingExtraError
from mlx_colbert.index import Filter
from mlx_colbert.integrations.reranking import Reranker
from mlx_colbert.integrations.searched import AnyFilter, Searched, field_name, metadata_of
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Mode, Retriever
from mlx_colbert.types import Hit

try:
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import (
        BaseNode,
        NodeRelationship,
        NodeWithScore,
        QueryBundle,
        RelatedNodeInfo,
        TextNode,
    )
    from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
except ImportError as error:
    raise MissingExtraError("mlx_colbert.integrations.llama_index", "llama-index") from error

__all__ = ["ColBERTReranker", "ColBERTRetriever", "llama_index_filter"]

# What this package adds to the metadata. A language model does not need to read it.
_ADDED = ["source", "location", "position", "collection", "confidence"]
# The field of the stored metadata that has the id of a node's document. LlamaIndex's own stores name it so.
_REF_DOC_ID = "ref_doc_id"


class ColBERTRetriever(BaseRetriever):
    """Finds passages of an index, or of collections of files, as nodes.

    Attributes:
        similarity_top_k: the number of nodes to return.
        filters: which passages may be found.
        mode: "semantic", "keyword" or "hybrid". None: "semantic" for an index, "hybrid" for collections.
    """

    def __init__(
        self,
        index: Retriever | str | Path | None = None,
        *,
        collections: Sequence[str] | str | None = None,
        model: ColBERT | str | Path | None = None,
        similarity_top_k: int = 10,
        filters: MetadataFilters | AnyFilter | None = None,
        mode: Mode | None = None,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Take an index, or names of collections. Nothing is opened yet.

        Args:
            index: an index folder, or an open retriever.
            collections: names of collections, in place of an index.
            model: makes the index if it does not exist: a loaded model, or an argument for `ColBERT.load`.
            similarity_top_k: the number of nodes to return.
            filters: which passages may be found: LlamaIndex's filters, or those of this package.
            mode: "semantic", "keyword" or "hybrid". None: "semantic" for an index, "hybrid" for collections.
            settings: the settings of a new index, as for `Retriever.create`.
            options: the arguments of LlamaIndex's BaseRetriever.

        Raises:
            InputError: if both an index and collections are given, or none.
        """
        self._searched = Searched(index, collections, model=model, settings=settings)
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self.mode = mode
        super().__init__(**options)

    def add(self, nodes: Iterable[BaseNode]) -> list[str]:
        """Add nodes to the index, and replace those whose ids exist; returns their ids.

        The text, the metadata, the id and the `ref_doc_id` of a node are stored. The last is the id of its
        document, and a field for filters.

        Raises:
            InputError: if a node cannot be stored, or collections are searched.
        """
        listed = check_list(nodes, "nodes", may_be_empty=True)
        if not listed:
            return []
        return self._searched.retriever.upsert(
            [node.get_content() for node in listed],
            [node.node_id for node in listed],
            [_metadata(node) for node in listed],
        )

    def delete_nodes(self, node_ids: Iterable[str]) -> None:
        """Delete nodes. Ids that do not exist are passed over.

        Raises:
            InputError: if the ids are not strings, or collections are searched.
        """
        store = self._searched.retriever.store
        if existing := store.existing(node_ids):
            store.delete(sorted(existing))

    def delete_ref_doc(self, ref_doc_id: str) -> None:
        """Delete the nodes of a document.

        Raises:
            InputError: if the id is not a string, or collections are searched.
        """
        self._searched.retriever.store.delete(filter=Filter(f"{_REF_DOC_ID} = ?", ref_doc_id))

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        filters = self.filters
        if isinstance(filters, MetadataFilters):
            filters = llama_index_filter(filters)
        hits = self._searched.search(
            query_bundle.query_str, self.similarity_top_k, mode=self.mode, filter=filters
        )
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class ColBERTReranker(BaseNodePostprocessor):
    """Orders nodes by their score for the query, and keeps the best.

    Attributes:
        model: the folder or the hub id of a model. The argument may be a loaded `ColBERT` as well.
        top_n: the number of nodes to keep. None: all.
        keep_retrieval_score: keep the old score in the metadata, as "retrieval_score".
    """

    model: str
    top_n: int | None = 5
    keep_retrieval_score: bool = False
    _reranker: Reranker

    def __init__(self, model: ColBERT | str | Path, **options: Any) -> None:
        reranker = Reranker(model)
        super().__init__(model=reranker.name, **options)
        self._reranker = reranker

    @classmethod
    def class_name(cls) -> str:
        """The name of the class, for LlamaIndex's JSON."""
        return "ColBERTReranker"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("there is no query. Give query_str or query_bundle.")
        texts = [node.node.get_content() for node in nodes]
        best = []
        for place in self._reranker.order(query_bundle.query_str, texts, self.top_n):
            node = nodes[place.number]
            if self.keep_retrieval_score:
                metadata = {**node.node.metadata, "retrieval_score": node.score}
                node = node.model_copy(update={"node": node.node.model_copy(update={"metadata": metadata})})
            best.append(node.model_copy(update={"score": place.score}))
        return best


def _metadata(node: BaseNode) -> dict[str, Any]:
    document = node.source_node
    return node.metadata if document is None else {**node.metadata, _REF_DOC_ID: document.node_id}


def _node(hit: Hit) -> TextNode:
    metadata = metadata_of(hit)
    ref_doc_id = metadata.pop(_REF_DOC_ID, hit.source)
    node = TextNode(
        id_=hit.doc_id,
        text=hit.text or "",
        metadata=metadata,
        excluded_embed_metadata_keys=_ADDED,
        excluded_llm_metadata_keys=_ADDED[2:],
    )
    if ref_doc_id is not None:
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=str(ref_doc_id))
    return node


def llama_index_filter(filters: MetadataFilters) -> Filter | None:
    """The filter of this package that LlamaIndex's filters mean. None: all passages.

    Raises:
        InputError: if an operator or a value cannot be used.
    """
    values: list[Any] = []
    expression = _conditions(filters, values)
    return Filter(expression, *values) if expression else None


def _conditions(filters: MetadataFilters, values: list[Any]) -> str:
    condition = "and" if filters.condition is None else filters.condition.value
    parts = []
    for part in filters.filters:
        inner = _conditions(part, values) if isinstance(part, MetadataFilters) else _comparison(part, values)
        if inner:
            parts.append(inner)
    if not parts:
        return ""
    if condition == "not":
        return f"not ({' and '.join(parts)})"
    return f"({f' {condition} '.join(parts)})"


def _comparison(condition: MetadataFilter, values: list[Any]) -> str:
    """The expression of a comparison. Its values are appended to `values`."""
    field, operator, value = field_name(condition.key), condition.operator.value, condition.value
    where = f"filter {condition.key!r}: the value for {operator!r} is {value!r:.80}"
    if operator in ("in", "nin", "any", "all"):
        if not isinstance(value, list) or not value:
            raise InputError(f"{where}. Give a list.")
        values += value
        if operator == "in":
            return f"{field} in ({', '.join('?' * len(value))})"
        if operator == "nin":
            return f"not {field} in ({', '.join('?' * len(value))})"
        return f"({(' or ' if operator == 'any' else ' and ').join([f'{field} contains ?'] * len(value))})"
    if value is None or isinstance(value, list):
        raise InputError(f"{where}. Give one value.")
    if operator == "text_match":
        values.append("*" + "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(value)) + "*")
        return f"{field} glob ?"
    values.append(value)
    if operator == "contains":
        return f"{field} contains ?"
    if operator == "!=":
        return f"not {field} = ?"
    if operator in ("==", ">", "<", ">=", "<="):
        return f"{field} {'=' if operator == '==' else operator} ?"
    raise InputError(f"filter {condition.key!r}: the operator {operator!r} is not supported.")
