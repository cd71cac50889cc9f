"""Checks of values from a caller or a file: texts, lists, ids, numbers, metadata. All checks are here.

A check returns the value as the rest of the package uses it: a list for any iterable, an int for a numpy
integer. It raises an InputError that says what is wrong with the value and what to give.
"""

from __future__ import annotations

import datetime
import json
import math
import operator
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, Sized
from functools import cached_property
from typing import Any

import numpy as np

from mlx_colbert.errors import DuplicateIdError, InputError, ShapeError
from mlx_colbert.types import Position, Source

__all__ = [
    "JsonObject",
    "check_choice",
    "check_doc_ids",
    "check_k",
    "check_list",
    "check_metadata",
    "check_new_ids",
    "check_passages",
    "check_positions",
    "check_source",
    "check_sources",
    "check_text",
    "check_texts",
    "check_whole",
    "is_nested_deeply",
    "is_text",
    "json_text",
]

_MAX_DEPTH = 64
_STORABLE = "Give a str, number, bool, None or date, or a list or dict of these"


def check_list(values: Iterable[Any], name: str, *, may_be_empty: bool = False) -> list[Any]:
    """The values as a list: of any iterable, such as a column of pandas, polars, pyarrow or datasets.

    A single string is an error, because nobody means a list of its characters. So is a table, because it has
    several columns.

    Raises:
        InputError: if the values are a single string or a table, are not iterable, or are empty.
    """
    if isinstance(values, str):
        raise InputError(f"{name} is a single string. Give a list.")
    # On the type, because polars warns if a table that is not computed yet is asked for its columns.
    if hasattr(type(values), "columns") or hasattr(type(values), "column_names"):
        raise InputError(f"{name} is a table of type {type(values).__name__}. Give one of its columns.")
    if hasattr(values, "to_pylist"):  # pyarrow iterates over objects of its own
        values = values.to_pylist()
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise InputError(f"{name} has the type {type(values).__name__}. Give a list.")
    try:
        found = list(values)
    except TypeError as error:  # an array without dimensions
        raise InputError(f"{name} is a single value of type {type(values).__name__}. Give a list.") from error
    if not found and not may_be_empty:
        raise InputError(f"{name} is empty. Give at least one.")
    return found


def check_choice(value: object, name: str, choices: Sequence[object]) -> None:
    """Raise an error if a value is not one of the choices.

    Raises:
        InputError: the message names the choices.
    """
    # The type must be the same too, because 1 equals True.
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise InputError(f"{name} is {value!r}, not one of {', '.join(map(str, choices))}.")


def check_whole(value: object, name: str, *, at_least: int | None = None) -> int:
    """The value as an int.

    Raises:
        InputError: if it is not an integer, or less than `at_least`.

    >>> check_whole(np.int64(3), "k", at_least=1)
    3
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InputError(f"{name} is {value!r}, not an integer.")
    if at_least is not None and number < at_least:
        raise InputError(f"{name} is {number}. Give {at_least} or more.")
    return number


def check_k(k: object) -> int:
    """The number of hits to return, limited to the range of SQLite.

    Raises:
        InputError: if k is not an integer of 1 or more.
    """
    # No index has more passages.
    return min(check_whole(k, "k", at_least=1), 2**31)


def check_text(text: object, name: str, *, may_be_blank: bool = False) -> str:
    """The checked text.

    Raises:
        InputError: if it is not a string, is blank, or cannot be encoded as UTF-8.
    """
    if not isinstance(text, str):
        raise InputError(f"{name} must be a string, got {type(text).__name__}.")
    if not may_be_blank and not text.strip():
        raise InputError(f"{name} is blank. Give a text.")
    if not is_text(text):
        raise InputError(f"{name} is not valid text: it has a lone surrogate.")
    return text


def check_texts(
    texts: Iterable[str], name: str, *, may_be_blank: bool = False, may_be_empty: bool = False
) -> list[str]:
    """The texts as a list.

    Args:
        texts: N texts.
        name: the name of one text in messages: "query" gives "query 3".
        may_be_blank: whether a text may be blank.
        may_be_empty: whether N may be 0.

    Raises:
        InputError: if there are no texts, or one cannot be used.
    """
    several = "queries" if name == "query" else f"{name}s"
    # The texts of a set are in no order.
    if isinstance(texts, Mapping | Set):
        raise InputError(f"{several} has the type {type(texts).__name__}. Give a list.")
    listed = check_list(texts, several, may_be_empty=may_be_empty)
    # str: a text of numpy is a string of another type.
    return [str(check_text(text, f"{name} {i}", may_be_blank=may_be_blank)) for i, text in enumerate(listed)]


def check_doc_ids(doc_ids: Iterable[str]) -> list[str]:
    """Ids to look up, as a list.

    Raises:
        InputError: if they are a single string, or an id is empty or not text.
    """
    # An older index may have a blank id.
    ids = check_list(doc_ids, "doc_ids", may_be_empty=True)
    return [_check_doc_id(doc_id, may_be_blank=doc_id != "") for doc_id in ids]


def check_new_ids(doc_ids: Iterable[str]) -> list[str]:
    """Ids of passages to add, as a list.

    Raises:
        InputError: if there are no ids, or an id is blank or not text.
        DuplicateIdError: if an id is given twice.
    """
    ids = [_check_doc_id(doc_id) for doc_id in check_list(doc_ids, "doc_ids")]
    twice = [doc_id for doc_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise DuplicateIdError(twice, reason="given twice in one call. Give each passage its own id.")
    return ids


def _check_doc_id(doc_id: object, *, may_be_blank: bool = False) -> str:
    return str(check_text(doc_id, f"doc_id {reprlib.repr(doc_id)}", may_be_blank=may_be_blank))


def check_passages(
    doc_ids: Iterable[str],
    texts: Iterable[str | None] | None,
    metadata: Iterable[Mapping[str, Any] | None] | None,
    **others: Sized,
) -> tuple[list[str], list[str | None], list[str | None]]:
    """Ids, texts and metadata (JSON) of passages to add.

    Raises:
        InputError: if there is nothing to add, or an id, text or metadata cannot be stored.
        DuplicateIdError: if a doc_id is given twice.
        ShapeError: if the number of texts, metadata or others is not the number of ids.
    """
    ids = check_new_ids(doc_ids)
    listed: list[str | None] = [None] * len(ids) if texts is None else check_list(texts, "texts")
    for name, values in {**others, "texts": listed}.items():
        _check_count(ids, values, name)
    for doc_id, text in zip(ids, listed, strict=True):
        if text is not None:
            check_text(text, f"text of passage {doc_id!r}", may_be_blank=True)
    return ids, listed, check_metadata(ids, [None] * len(ids) if metadata is None else metadata)


def check_metadata(doc_ids: Sequence[str], metadata: Iterable[Mapping[str, Any] | None]) -> list[str | None]:
    """The metadata of passages as JSON text.

    Raises:
        ShapeError: if their number is not the number of doc_ids.
        InputError: if one cannot be stored.
    """
    objects = check_list(metadata, "metadata", may_be_empty=True)
    _check_count(doc_ids, objects, "metadata")
    return [
        None if value is None else metadata_text(value, f"metadata of passage {doc_id!r}")
        for doc_id, value in zip(doc_ids, objects, strict=True)
    ]


def _check_count(doc_ids: Sequence[str], values: Sized, name: str) -> None:
    if len(values) != len(doc_ids):
        raise ShapeError(f"{len(doc_ids)} doc_ids, but {len(values)} {name}. Give one per passage.")


def is_text(value: object) -> bool:
    """Whether a value is a string without lone surrogates, which UTF-8 can encode."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def check_positions(doc_ids: Sequence[str], positions: Iterable[Position | None]) -> list[str | None]:
    """The positions of passages as JSON text.

    Raises:
        ShapeError: if their number is not the number of doc_ids.
        InputError: if one is not a `Position`.
    """
    places = check_list(positions, "positions", may_be_empty=True)
    _check_count(doc_ids, places, "positions")
    return [
        None if place is None else position_text(place, f"the position of passage {doc_id!r}")
        for doc_id, place in zip(doc_ids, places, strict=True)
    ]


def check_sources(doc_ids: Sequence[str], sources: Iterable[Source | None]) -> list[Source | None]:
    """The sources of passages.

    Raises:
        ShapeError: if their number is not the number of doc_ids.
        InputError: if an index cannot store one.
    """
    listed = check_list(sources, "sources", may_be_empty=True)
    _check_count(doc_ids, listed, "sources")
    for doc_id, source in zip(doc_ids, listed, strict=True):
        if source is not None:
            check_source(source, f"the source of passage {doc_id!r}")
    return listed


def check_source(source: object, name: str) -> None:
    """Raise an error if an index cannot store a source.

    Raises:
        InputError: the message says what is wrong.
    """
    if not isinstance(source, Source):
        raise InputError(f"{name} has the type {type(source).__name__}. Give a Source.")
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
        raise InputError(f"{name} is {position!r:.100}. Give a dict with the keys {', '.join(known)}.")
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
                f"{name}: {key!r} is {value!r:.100}. Numbers start at 1, and lines needs two of them."
            )
    return json.dumps(dict(position), ensure_ascii=False)
