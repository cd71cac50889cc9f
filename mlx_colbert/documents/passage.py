"""A passage, and the checks of the passages that a caller gives."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_colbert.checks import check_list, check_new_ids, check_texts
from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError
from mlx_colbert.json_values import JsonObject
from mlx_colbert.position import headings_text
from mlx_colbert.types import Position, Source

__all__ = ["FilePassage", "Passage", "checked_passages", "encoded_text"]


@dataclass(frozen=True)
class Passage:
    """A text to index.

    Attributes:
        doc_id: the id of the passage, unique in an index.
        text: the text that is stored and shown. The model reads `encoded_text(text, position)`.
        metadata: a JSON object that is stored with it. None: there is none.
        source: the file or record that the passage comes from. None: there is none.
        position: the place of the passage in the source. None: it is not known.
    """

    doc_id: str
    text: str
    metadata: Mapping[str, Any] | None = None
    # Two passages are equal if they are the same to a model and to a filter.
    source: Source | None = field(default=None, compare=False)
    position: Position | None = field(default=None, compare=False)


@dataclass(frozen=True)
class FilePassage:
    """A passage of one file, before it gets an id.

    Attributes:
        text: the text to show and store.
        position: its place in the file. `headings` are the headings above it that are not in the text.
        kind: the name of the kind of file, such as "markdown".
        metadata: the other columns of a row, or the sender and date of a mail. None: there are none.
    """

    text: str
    position: Position
    kind: str
    metadata: Mapping[str, Any] | None = None


def encoded_text(text: str, position: Position | None) -> str:
    r"""The text of a passage as the model reads it: with the headings above it.

    >>> encoded_text("Steep it.", {"lines": [3, 3], "headings": ["Tea", "Green"]})
    'Tea › Green\nSteep it.'
    >>> encoded_text("Steep it.", None)
    'Steep it.'
    """
    headings = headings_text(position)
    return f"{headings}\n{text}" if headings else text


def checked_passages(
    texts: Iterable[str],
    doc_ids: Iterable[str] | None,
    metadata: Iterable[Mapping[str, Any] | None] | None,
) -> list[Passage]:
    """Passages from parallel lists, after all checks that need no index.

    Args:
        texts: N texts. Blank texts are kept, because public collections contain some.
        doc_ids: N different ids. None: each passage gets a random id of 32 hexadecimal digits.
        metadata: N JSON objects. None for a passage without metadata.

    Raises:
        InputError: if a value cannot be used. The error names the first one by its position.

    >>> checked_passages(["Tea is steeped."], ["tea"], None)[0].doc_id
    'tea'
    """
    listed = check_texts(texts, "text", may_be_blank=True)
    ids = [uuid.uuid4().hex for _ in listed] if doc_ids is None else check_new_ids(doc_ids)
    if len(ids) != len(listed):
        raise InputError(f"{counted(len(listed), 'text')}, but {len(ids)} doc_ids. Give one per text.")
    given = [None] * len(ids) if metadata is None else check_list(metadata, "metadata")
    if len(given) != len(listed):
        raise InputError(
            f"{counted(len(listed), 'text')}, but {len(given)} metadata. Give one object per text."
        )
    objects = [
        None if item is None else JsonObject(item, f"metadata {position}")
        for position, item in enumerate(given)
    ]
    return [Passage(*parts) for parts in zip(ids, listed, objects, strict=True)]
