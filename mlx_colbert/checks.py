"""Checks of what a caller or a file gives: texts, lists, JSON objects, numbers. The only place for them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from mlx_colbert.errors import InputError

__all__ = ["check_list", "check_text", "is_nested_deeply", "is_text", "json_text", "metadata_text"]

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


def is_nested_deeply(value: object) -> bool:
    """Whether dicts and lists lie deeper than 64 levels: code that descends them could exhaust the stack."""
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list | tuple):
                inner += item
        level, depth = inner, depth + 1
    return depth > _MAX_DEPTH


def json_text(value: object) -> str | None:
    """A JSON object as text, or None where JSON would not give back what it is given.

    JSON turns other keys than strings into strings, and tuples into lists. What is nested
    deeper than 64 levels is refused, since who reads it back may have less of the stack left.
    """
    if is_nested_deeply(value):
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
