"""JSON objects that a store keeps with a passage, and what JSON can keep."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from mlx_colbert.checks import check_text, is_text
from mlx_colbert.errors import InputError

__all__ = ["JsonObject", "is_nested_deeply", "json_text", "metadata_text"]

_MAX_DEPTH = 64
_STORABLE = "Give a str, number, bool, None or date, or a list or dict of these"


def is_nested_deeply(value: object) -> bool:
    """Whether dicts and lists are nested deeper than 64 levels. Recursive code could exhaust the stack."""
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
    """A JSON object as text, or None if JSON cannot return the same object.

    JSON turns keys that are not strings into strings, and tuples into lists. An object that is nested deeper
    than 64 levels gives None, because a later reader may have less space on the stack.
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
    """The metadata of a passage as JSON text.

    Numpy scalars become numbers, dates become ISO texts, tuples become lists.

    Raises:
        InputError: if a value cannot be stored. The message names its key. U+0000 is an error, because
            SQLite's JSON functions end a text there, and a filter would see only the part before it.

    >>> metadata_text({"year": np.int64(1851), "day": datetime.date(2024, 2, 29)}, "metadata")
    '{"year": 1851, "day": "2024-02-29"}'
    """
    if isinstance(value, JsonObject):
        return value.text
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a dict, got {type(value).__name__}.")
    if is_nested_deeply(dict(value)):
        raise InputError(f"{name} is nested deeper than {_MAX_DEPTH} levels.")
    return json.dumps(_json_value(value, name, ""), allow_nan=False, ensure_ascii=False)


class JsonObject(Mapping[str, Any]):
    """Metadata that was checked, with its JSON text. It does not change, so it is checked only once.

    Attributes:
        text: the object as JSON.

    >>> JsonObject({"year": 1851}, "metadata").text
    '{"year": 1851}'
    """

    def __init__(self, value: object, name: str) -> None:
        """Check metadata, as `metadata_text` does."""
        self.text: str = metadata_text(value, name)

    @cached_property
    def _value(self) -> dict[str, Any]:
        # Most are written to an index and never looked at.
        value: dict[str, Any] = json.loads(self.text)
        return value

    def __getitem__(self, key: str) -> Any:
        return self._value[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return repr(self._value)


def _json_value(value: Any, name: str, key: str) -> Any:
    """A metadata value as a JSON value.

    Args:
        value: the value, nested at most 64 levels deep.
        name: the name of the metadata in messages.
        key: the place of the value, as in "author.name"; empty for the metadata itself.
    """
    if isinstance(value, list | tuple):
        return [_json_value(item, name, key) for item in value]
    if not isinstance(value, Mapping):
        return _json_scalar(value, f"{name}, key {key!r}")
    inner = {}
    for item_key, item in value.items():
        if not isinstance(item_key, str):
            raise InputError(
                f"{name}: the key {item_key!r} has the type {type(item_key).__name__}. Keys must be strings."
            )
        place = f"{key}.{item_key}" if key else item_key
        inner[_json_scalar(item_key, f"{name}: the key {place!r}")] = _json_value(item, name, place)
    return inner


def _json_scalar(value: Any, place: str) -> str | int | float | bool | None:
    if isinstance(value, np.generic):
        is_day = isinstance(value, np.datetime64) and not np.isnat(value)
        value = str(value) if is_day else value.item()
    if isinstance(value, datetime.date | datetime.time):
        value = value.isoformat()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if "\0" in value:
            raise InputError(f"{place} has a NUL character (U+0000), which filters cannot read. Remove it.")
        return check_text(value, place, may_be_blank=True)
    # Python does not convert longer integers to text.
    if isinstance(value, int) and value.bit_length() <= 4096:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int | float):
        raise InputError(f"{place} is a number that JSON cannot store. Leave it out, or give it as a text.")
    raise InputError(f"{place} has the type {type(value).__name__}, which cannot be stored. {_STORABLE}.")
