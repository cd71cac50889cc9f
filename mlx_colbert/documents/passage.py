"""A passage, and the checks of what a caller gives as passages."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_colbert.checks import check_list, check_text, metadata_text
from mlx_colbert.errors import DuplicateIdError, InputError
from mlx_colbert.types import Position, Source

__all__ = ["Passage", "checked_passages"]


@dataclass(frozen=True)
class Passage:
    """A text to index.

    Attributes:
        doc_id: names the passage within an index.
        text: what is encoded and stored.
        metadata: a JSON object stored beside it, if any.
        source: the file or record that it comes from, if any.
        position: where it stands in the source, if that is known.
    """

    doc_id: str
    text: str
    metadata: Mapping[str, Any] | None = None
    # Two passages are equal where a model and a filter see no difference.
    source: Source | None = field(default=None, compare=False)
    position: Position | None = field(default=None, compare=False)


def checked_passages(
    texts: Sequence[str],
    doc_ids: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any] | None] | None,
) -> list[Passage]:
    """Passages of parallel lists, everything about them checked that needs no index.

    Args:
        texts: N texts; a blank one is kept, as corpora have them.
        doc_ids: N different ids; without them each passage gets a random one (32 hexadecimal digits).
        metadata: N JSON objects, or None for a passage without.

    Raises:
        InputError: naming the first position that cannot be used.

    >>> checked_passages(["Tea is steeped."], ["tea"], None)[0].doc_id
    'tea'
    """
    check_list(texts, "texts")
    for position, text in enumerate(texts):
        check_text(text, f"text {position}", may_be_blank=True)
    if doc_ids is None:
        doc_ids = [uuid.uuid4().hex for _ in texts]
    _check_ids(doc_ids, len(texts))
    if metadata is None:
        metadata = [None] * len(texts)
    check_list(metadata, "metadata")
    _check_metadata(metadata, len(texts))
    return [Passage(*parts) for parts in zip(doc_ids, texts, metadata, strict=True)]


def _check_ids(doc_ids: Sequence[str], n_texts: int) -> None:
    check_list(doc_ids, "doc_ids")
    if len(doc_ids) != n_texts:
        raise InputError(f"there are {n_texts} texts, but {len(doc_ids)} doc_ids.")
    seen: set[str] = set()
    for position, doc_id in enumerate(doc_ids):
        check_text(doc_id, f"doc_id {position}")
        if doc_id in seen:
            raise DuplicateIdError([doc_id], reason=f"is given twice, again at position {position}.")
        seen.add(doc_id)


def _check_metadata(metadata: Sequence[Mapping[str, Any] | None], n_texts: int) -> None:
    if len(metadata) != n_texts:
        raise InputError(f"there are {n_texts} texts, but {len(metadata)} metadata objects.")
    for position, item in enumerate(metadata):
        if item is not None:
            metadata_text(item, f"metadata {position}")
