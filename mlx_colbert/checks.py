"""Checks of what a caller or a file gives: texts, lists, JSON objects, numbers. The only place for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from mlx_colbert.errors import InputError
from mlx_colbert.types import Position, Source

__all__ = [
    "check_list",
    "check_source",
    "check_text",
    "is_text",
    "json_text",
    "metadata_text",
    "position_text",
]

_MAX_DEPTH = 64

# Of a text in JSON; an escaped backslash before u0000 is none.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


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


def check_source(source: object, name: str) -> None:
    """Refuses a source that an index cannot store.

    Raises:
        InputError: saying what is wrong with it.
    """
    if not isinstance(source, Source):
        raise InputError(f"{name} is a {type(source).__name__}. Give a Source.")
    check_text(source.uri, f"the uri of {name}")
    for part in ("folder", "content_hash"):
        if (value := getattr(source, part)) is not None:
            check_text(value, f"{part} of {name}")
    for part in ("modified_ns", "n_bytes"):
        value = getattr(source, part)
        if value is not None and (type(value) is not int or not -(2**63) <= value < 2**63):
            raise InputError(f"{part} of {name} is {value!r}, not an integer of 64 bits.")


def position_text(position: object, name: str) -> str:
    """A position in a source as JSON.

    Raises:
        InputError: if a key is not one of `Position`, or its value has another type.
    """
    known = Position.__annotations__
    if not isinstance(position, Mapping) or not set(position) <= set(known):
        raise InputError(f"{name} is {position!r:.100}. Give a dict with keys of {', '.join(known)}.")
    for key, value in position.items():
        numbers, length = (value, 2) if key == "lines" else ([value], 1)
        if key == "headings":
            is_right = isinstance(value, list | tuple) and all(map(is_text, value))
        else:
            is_right = (
                isinstance(numbers, list | tuple)
                and len(numbers) == length
                and all(type(number) is int and 1 <= number < 2**63 for number in numbers)
            )
        if not is_right:
            raise InputError(
                f"{name}: {key!r} is {value!r:.100}. Numbers count from 1; lines are two of them."
            )
    return json.dumps(dict(position), ensure_ascii=False)
