"""Checks of arguments: texts, lists, ids, numbers.

A check returns the value as the rest of the package uses it: a list for any iterable, an int for a numpy
integer. It raises an InputError that says what is wrong with the value and what to give.
"""

from __future__ import annotations

import operator
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from mlx_colbert.errors import DuplicateIdError, InputError

__all__ = [
    "check_choice",
    "check_doc_ids",
    "check_k",
    "check_list",
    "check_new_ids",
    "check_text",
    "check_texts",
    "check_whole",
    "is_text",
]


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

    >>> import numpy as np
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


def is_text(value: object) -> bool:
    """Whether a value is a string without lone surrogates, which UTF-8 can encode."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
