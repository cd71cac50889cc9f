"""`RAGPretrainedModel` with the methods, arguments and results of RAGatouille 0.0.9, on this package.

Change the import, and a program that indexes, searches and reranks runs. docs/ragatouille.md lists every
difference. `n_gpu`, `verbose`, `bsize` and `use_faiss` are accepted and have no effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import numpy as np

from mlx_colbert.checks import (
    check_choice,
    check_doc_ids,
    check_k,
    check_list,
    check_text,
    check_texts,
    check_whole,
)
from mlx_colbert.convert.draft import in_place_at_once, remove_folder
from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError, TargetExistsError, UnknownIdError
from mlx_colbert.index import Filter, SearchParams
from mlx_colbert.integrations.ragatouille_index import holds_index, opened_index, write_passages
from mlx_colbert.integrations.ragatouille_passages import (
    Preprocessor,
    Splitter,
    passages_of,
    sentence_splitter,
)
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Retriever
from mlx_colbert.types import Array, TokenEmbeddings

if TYPE_CHECKING:
    from langchain_core.documents import BaseDocumentCompressor
    from langchain_core.retrievers import BaseRetriever

__all__ = ["RAGPretrainedModel", "RAGTrainer", "sentence_splitter"]

# The most tokens of a query.
_QUERY_TOKENS = 512
# What RAGatouille's force_fast=True reads of an index: one centroid, and a quarter of the candidates.
_FAST = SearchParams(n_probe=1, n_candidates=256)

Result = dict[str, Any]


class RAGPretrainedModel:
    """A ColBERT with an index of documents. Make one with `from_pretrained` or `from_index`.

    Attributes:
        index_name: the name of the index that was used last. None: there is none yet.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     RAG = RAGPretrainedModel.from_pretrained("tests/data/checkpoints/pylate-bert", index_root=folder)
    ...     _ = RAG.index(["Tea is steeped.", "Coffee is brewed."], ["tea", "coffee"], index_name="drinks")
    ...     results = RAG.search("how to make tea", k=2)
    ...     RAG.close()
    >>> sorted(result["document_id"] for result in results)
    ['coffee', 'tea']
    """

    def __init__(self, model: ColBERT, folder: Path) -> None:
        self.index_name: str | None = None
        self._model = model
        # The folder of the indexes.
        self._folder = folder
        self._retriever: Retriever | None = None
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
        return cls(ColBERT.load(pretrained_model_name_or_path), folder)

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
        instance = cls(retriever.model, path.parent)
        instance.index_name, instance._retriever = path.name, retriever
        return instance

    def close(self) -> None:
        """Close the index. The model stays loaded."""
        if self._retriever is not None:
            self._retriever.close()
            self._retriever = None

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
        path = self._path(name)
        if path.exists():
            if overwrite_index in ("reuse", "resume"):
                self._open(name)
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
        self._open(name)
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
        retriever = self._open(index_name)
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
        store = self._open(index_name).store
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
        retriever = self._open(index_name)
        model, store = retriever.model, retriever.store
        queries = TokenEmbeddings.pack([_encoded_query(model, text) for text in _texts(query)])
        if doc_ids is not None:
            doc_ids = [passage for doc_id in check_doc_ids(doc_ids) for passage in store.passages_of(doc_id)]
        params = _FAST if force_fast else None
        found = store.search(queries, check_k(k), filter=filter, doc_ids=doc_ids, params=params)
        results = []
        for hits, divisor in zip(found, model.score_divisors(queries).tolist(), strict=True):
            results.append(
                [
                    {
                        "content": hit.text,
                        "score": hit.score / divisor,
                        "rank": hit.rank - bool(zero_index_ranks),
                        "document_id": hit.source or hit.doc_id,
                        "passage_id": hit.doc_id,
                        **_metadata(hit.metadata),
                    }
                    for hit in hits
                ]
            )
        return results[0] if len(results) == 1 else results

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
        return self._ranked(query, texts, vectors, [None] * len(texts), k, 1 - bool(zero_index_ranks))

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
        return self._ranked(query, texts, vectors, metadata, k, 1)

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

    def _path(self, index_name: str) -> Path:
        if index_name in ("", ".", "..") or Path(index_name).name != index_name:
            raise InputError(f"index_name {index_name!r} is not the name of a folder. Leave out / and \\.")
        return self._folder / index_name

    def _open(self, index_name: str | None) -> Retriever:
        """The index of a name. None: the last one."""
        name = index_name or self.index_name
        if name is None:
            raise InputError("there is no index yet. Call index(collection) first, or give an index_name.")
        if self._retriever is None or name != self.index_name:
            retriever = opened_index(self._path(name), self._model)
            self.close()
            self.index_name, self._retriever = name, retriever
        return self._retriever

    def _reader(self, max_document_length: int | Literal["auto"]) -> ColBERT:
        """The model, with another length of documents, at most the longest that it can read."""
        longest = self._model.config.encoder.max_length
        if max_document_length != "auto":
            longest = min(check_whole(max_document_length, "max_document_length", at_least=3), longest)
        return self._model.with_lengths(document_length=longest)

    def _ranked(
        self,
        query: str | Iterable[str],
        texts: Sequence[str],
        vectors: Sequence[Array],
        metadata: Sequence[Mapping[str, Any] | None],
        k: int,
        first_rank: int,
    ) -> list[Any]:
        n_results = check_k(k)
        queries = [_encoded_query(self._model, text) for text in _texts(query)]
        results = []
        for scores in self._model.similarity(queries, vectors):
            order = np.argsort(-scores, kind="stable")[:n_results].tolist()
            results.append(
                [
                    {
                        "content": texts[place],
                        "score": float(scores[place]),
                        "rank": rank,
                        "result_index": place,
                        **_metadata(metadata[place]),
                    }
                    for rank, place in enumerate(order, start=first_rank)
                ]
            )
        return results[0] if len(results) == 1 else results


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


def _texts(query: str | Iterable[str]) -> list[str]:
    """The queries as a list."""
    return [check_text(query, "the query")] if isinstance(query, str) else check_texts(query, "query")


def _metadata(value: Mapping[str, Any] | None) -> Result:
    return {} if value is None else {"document_metadata": dict(value)}


def _encoded_query(model: ColBERT, text: str) -> Array:
    """(Q, D) token embeddings of a query. Unlike `ColBERT.encode_query`, this reads up to 512 tokens."""
    most = min(_QUERY_TOKENS, model.config.encoder.max_length)
    n_tokens = len(model.with_lengths(document_length=most).token_ids(text, "document"))
    if n_tokens > model.config.colbert.query_length:
        model = model.with_lengths(query_length=n_tokens)
    return model.encode_query(text)
