"""Documents of a collection that come from no file: a program adds, replaces and deletes them one by one."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_colbert.checks import check_new_ids, check_whole
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.without_file import WITHOUT_FILE
from mlx_colbert.errors import CollectionNotFoundError, DuplicateIdError, UnknownIdError
from mlx_colbert.progress import silent

__all__ = ["Document", "Written", "delete_documents", "get_document", "list_documents", "put_documents"]

# Seconds to wait for a sync of the same collection.
_WAIT_S = 10.0
# What the ids of the passages of files look like.
_OF_FILE = re.compile(r".*/.*#[0-9a-f]{8}", re.DOTALL)


@dataclass(frozen=True)
class Document:
    """A document. It is one passage.

    Attributes:
        doc_id: its id.
        text: its text.
        metadata: a JSON object, or None.
    """

    doc_id: str
    text: str
    metadata: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The document as a JSON object."""
        return {"id": self.doc_id, "text": self.text, "metadata": self.metadata}


@dataclass(frozen=True)
class Written:
    """What was written. It is durable.

    Attributes:
        ids: the ids of the documents.
        added: number of documents that are new.
        updated: number of documents whose ids existed.
        truncated: number of documents that the model read only in part, because they are too long.
    """

    ids: list[str]
    added: int
    updated: int
    truncated: int


def put_documents(collection: Collection, documents: Iterable[Document]) -> Written:
    """Add documents, and replace those whose ids exist.

    Args:
        collection: the collection. Its index is made if there is none.
        documents: at least one, with different ids.

    Raises:
        InputError: if one cannot be used, or (DuplicateIdError) an id is given twice or belongs to a file.
        CollectionBusyError: if another process goes on changing the collection.
        CheckpointError: if the model cannot be loaded.
        IndexStoreError: if the index cannot be used.
    """
    listed = list(documents)
    ids = check_new_ids([document.doc_id for document in listed])
    with collection.writing(wait_s=_WAIT_S) as retriever:
        index = retriever.index
        known = list(index.passages(doc_ids=sorted(index.existing(ids))))
        of_files = [passage.doc_id for passage in known if passage.source is not None]
        if taken := of_files or [doc_id for doc_id in ids if _OF_FILE.fullmatch(doc_id)]:
            raise DuplicateIdError(taken, reason="is an id for a passage of a file. Give another one.")
        retriever.upsert(
            [document.text for document in listed],
            ids,
            [document.metadata for document in listed],
            progress=silent,
        )
        return Written(ids, len(ids) - len(known), len(known), retriever.stats.truncated)


def get_document(collection: Collection, doc_id: str) -> Document:
    """The document with an id.

    Raises:
        UnknownIdError: if there is none. A passage of a file is no document.
        CollectionNotFoundError: if there is no index yet.
        IndexStoreError: if the index cannot be used.
    """
    index = collection.index
    passage = index.get(doc_id) if doc_id in index else None
    if passage is None or passage.source is not None:
        raise UnknownIdError([doc_id], where=collection.name, holder="collection", what="document")
    return Document(passage.doc_id, passage.text or "", passage.metadata)


def list_documents(
    collection: Collection, *, limit: int = 100, after: str | None = None
) -> tuple[list[Document], str | None]:
    """Some of the documents in the order of their ids, and the id to go on after.

    Args:
        collection: the collection.
        limit: the most documents to return.
        after: the id after which they begin. It may be one that was deleted. None: at the first.

    Returns:
        The documents, and the last id of them. None: there are no more.

    Raises:
        InputError: if limit < 1.
        IndexStoreError: if the index cannot be used.
    """
    limit = check_whole(limit, "limit", at_least=1)
    try:
        index = collection.index
    except CollectionNotFoundError:
        return [], None
    ids = sorted(index.ids(filter=WITHOUT_FILE))
    first = 0 if after is None else bisect_right(ids, after)
    chosen = ids[first : first + limit]
    found = [
        Document(passage.doc_id, passage.text or "", passage.metadata)
        for passage in index.passages(doc_ids=chosen)
    ]
    return found, chosen[-1] if first + limit < len(ids) else None


def delete_documents(collection: Collection, doc_ids: Sequence[str]) -> int:
    """Delete documents; returns how many. It is durable.

    Raises:
        UnknownIdError: if one of them does not exist, or is a passage of a file. Then nothing is deleted.
        CollectionNotFoundError: if there is no index yet.
        CollectionBusyError: if another process goes on changing the collection.
        IndexStoreError: if the index cannot be used.
    """
    # Before an index is made.
    _ = collection.index
    with collection.writing(wait_s=_WAIT_S) as retriever:
        for doc_id in doc_ids:
            get_document(collection, doc_id)
        return retriever.delete(doc_ids)
