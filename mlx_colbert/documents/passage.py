"""A passage, and the checks of what a caller gives as passages."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_colbert.checks import check_list, check_new_ids, check_texts, metadata_text
from mlx_colbert.errors import InputError
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
    texts: Iterable[str],
    doc_ids: Iterable[str] | None,
    metadata: Iterable[Mapping[str, Any] | None] | None,
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
    listed = check_texts(texts, "text", may_be_blank=True)
    ids = [uuid.uuid4().hex for _ in listed] if doc_ids is None else check_new_ids(doc_ids)
    if len(ids) != len(listed):
        raise InputError(f"{len(listed)} texts, but {len(ids)} doc_ids. Give one per text.")
    objects = [None] * len(ids) if metadata is None else check_list(metadata, "metadata")
    if len(objects) != len(listed):
        raise InputError(f"{len(listed)} texts, but {len(objects)} metadata. Give one per text.")
    for position, item in enumerate(objects):
        if item is not None:
            metadata_text(item, f"metadata {position}")
    return [Passage(*parts) for parts in zip(ids, listed, objects, strict=True)]
