"""The filters of Haystack as filters of this package."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from mlx_colbert.errors import InputError, MissingExtraError
from mlx_colbert.index import Filter
from mlx_colbert.integrations.searched import field_name

try:
    from haystack.errors import FilterError
except ImportError as error:
    raise MissingExtraError("mlx_colbert.integrations.haystack", "haystack") from error

__all__ = ["haystack_filter"]

_ORDERINGS = (">", ">=", "<", "<=")
# Fields of a document that no filter can read.
_NOT_METADATA = ("id", "content", "blob", "score", "embedding", "sparse_embedding")


class _FilterError(InputError, FilterError):
    """A filter cannot be used. It is an error of Haystack as well."""


def haystack_filter(filters: dict[str, Any] | None) -> Filter | None:
    """The filter of this package that a filter of Haystack means. None: all passages.

    As in Haystack, a field that is absent is None, so it satisfies "!=" and "not in".

    Raises:
        InputError: if it cannot be used. It is a FilterError of Haystack as well.

    >>> haystack_filter({"field": "meta.year", "operator": ">=", "value": 2020})
    Filter(expression='"year" >= ?', parameters=(2020,))
    """
    if not filters:
        return None
    values: list[Any] = []
    expression = _condition(filters, values)
    return Filter(expression, *values)


def _condition(condition: Any, values: list[Any]) -> str:
    """The expression of a condition. Its values are appended to `values`."""
    if not isinstance(condition, dict):
        raise _FilterError(f"filter {condition!r:.80}: is not a dict.")
    keys = ("field", "operator", "value") if "field" in condition else ("operator", "conditions")
    for key in keys:
        if key not in condition:
            raise _FilterError(f"filter {condition!r:.80}: has no key {key!r}.")
    if "field" in condition:
        return _comparison(condition["field"], condition["operator"], condition["value"], values)
    operator, inner = condition["operator"], condition["conditions"]
    if operator not in ("AND", "OR", "NOT") or not inner:
        raise _FilterError(
            f"filter {condition!r:.80}: the operator must be AND, OR or NOT, with one condition or more."
        )
    parts = (" or " if operator == "OR" else " and ").join(_condition(part, values) for part in inner)
    return f"not ({parts})" if operator == "NOT" else f"({parts})"


def _comparison(name: str, operator: str, value: Any, values: list[Any]) -> str:
    if name.split(".")[0] in _NOT_METADATA:
        raise _FilterError(f"filter: {name!r} is not in the metadata. Give a field such as 'meta.year'.")
    field = field_name(name.removeprefix("meta."))
    if operator in _ORDERINGS:
        if value is None:
            return f"(exists({field}) and not exists({field}))"
        values.append(_ordered(value, operator))
        return f"{field} {operator} ?"
    if operator in ("in", "not in"):
        if not isinstance(value, list):
            raise _FilterError(f"filter: the value for {operator!r} is {value!r:.80}. Give a list.")
        found = _equal_to_one(field, value, values)
    elif operator in ("==", "!="):
        found = _equal_to_one(field, [value], values)
    else:
        raise _FilterError(f"filter: the operator {operator!r:.80} is not known.")
    return found if operator in ("in", "==") else f"not {found}"


def _equal_to_one(field: str, wanted: Iterable[Any], values: list[Any]) -> str:
    """The condition that a field has one of some values. None: it is absent or null."""
    parts = []
    for value in wanted:
        if value is None:
            # Every other value satisfies a comparison or its opposite.
            parts.append(f"not ({field} = 0 or {field} != 0)")
        elif isinstance(value, list | dict):
            raise _FilterError(f"filter: {value!r:.80} is a {type(value).__name__}. Compare with one value.")
        else:
            parts.append(f"{field} = ?")
            values.append(value.isoformat() if isinstance(value, date) else value)
    return f"({' or '.join(parts)})" if parts else f"(exists({field}) and not exists({field}))"


def _ordered(value: Any, operator: str) -> Any:
    """A value for an ordering: a number, or a date as text."""
    try:
        if isinstance(value, str):
            datetime.fromisoformat(value)
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, str | int | float):
            return value
    except ValueError:
        pass
    raise _FilterError(f"filter: {value!r:.80} cannot be compared with {operator}. Give a number or a date.")
