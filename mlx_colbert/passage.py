"""A passage, and the checks of what a caller gives as passages."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_colbert.errors import DuplicateIdError, InputError

__all__ = ["Passage", "check_list", "check_text", "checked_passages", "is_text", "json_text", "metadata_text"]


_MAX_DEPTH = 64

# Of a text in JSON; an escaped backslash before u0000 is none.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True)
class Passage:
    """A text to index.

    Attributes:
        doc_id: names the passage within an index.
        text: what is encoded and stored.
        metadata: a JSON object stored beside it, if any.
    """

    doc_id: str
    text: str
    metadata: Mapping[str, Any] | None = None


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

    >>> checked_passages(["Tea is steeped."], ["tea"], None)
    [Passage(doc_id='tea', text='Tea is steeped.', metadata=None)]
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


def check_list(values: Sequence[object], name: str) -> None:
    """Refuses an empty list, and a string where a list of strings is meant.

    Raises:
        InputError: saying which.
    """
    if isinstance(values, str):
        raise InputError(f"{name} is a single string. Give a list.")
    if not isinstance(values, Sequence):
        raise InputError(f"{name} is a {type(values).__name__}. Give a list.")
    if not len(values):
        raise InputError(f"{name} is empty. Give at least one.")


def check_text(text: object, name: str, *, may_be_blank: bool = False) -> None:
    """Refuses what is no string, has no UTF-8 form, or is blank.

    Raises:
        InputError: saying which.
    """
    if not isinstance(text, str):
        raise InputError(f"{name} must be a string, got {type(text).__name__}.")
    if not may_be_blank and not text.strip():
        raise InputError(f"{name} is blank. Give it a text.")
    if not is_text(text):
        raise InputError(f"{name} is not valid text: it holds a lone surrogate.")


def is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can encode: one without lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _depth(value: object) -> int:
    """Levels of nesting of dicts and lists, counted only so far as to tell too many."""
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list | tuple):
                inner += item
        level, depth = inner, depth + 1
    return depth


def json_text(value: object) -> str | None:
    """A JSON object as text, or None where JSON would not give back what it is given.

    JSON turns other keys than strings into strings, and tuples into lists. What is nested
    deeper than 64 levels is refused, since who reads it back may have less of the stack left.
    """
    if _depth(value) > _MAX_DEPTH:
        return None
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        if isinstance(value, dict) and is_text(text) and json.loads(text) == value:
            return text
    except (TypeError, ValueError, RecursionError):
        pass
    return None


def metadata_text(value: object, name: str) -> str:
    """The metadata of a document as JSON.

    Raises:
        InputError: if it is no JSON object, or holds U+0000, at which a text ends for SQLite's JSON
            functions: a filter would take what stands before it for the whole.
    """
    text = json_text(value)
    if text is None:
        allowed = "a dict with str keys, of finite numbers, str, bool, None, lists and dicts"
        raise InputError(f"{name}: not a JSON object: {allowed}.")
    if _NUL.search(text):
        raise InputError(f"{name}: holds a NUL character (U+0000), which filters cannot read. Remove it.")
    return text


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
