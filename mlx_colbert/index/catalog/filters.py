"""Metadata filters: an expression of the caller, compiled to SQL with parameters.

=========================  ====================================================================
``field = value``          and ``!=`` (or ``<>``), ``<``, ``<=``, ``>``, ``>=``
``field in (v, v)``        equal to one of the values
``field between v and v``  both ends included
``field like 'a%'``        ``%`` is any text, ``_`` any character; case of ASCII letters is ignored
``field glob 'a*'``        ``*`` is any text, ``?`` any character, ``[a-z]`` one of these; case counts
``field contains value``   the field is a list with this value in it
``exists(field)``          the field is present, even if it is null
=========================  ====================================================================

Combine them with ``not``, ``and``, ``or`` (they bind in this order) and parentheses. ``not`` may also stand
before ``in``, ``between``, ``like``, ``glob`` and ``contains``. Keywords may be in any case. A value is
``'text'`` (write ``''`` for a quote), a number, ``true``, ``false`` or ``?``, which takes the next parameter.
A field is a name. For nested objects it is names with dots: ``author.name``. Put other keys in double quotes
(write ``""`` for a quote).

A field is in the metadata of a passage, but for two: ``source.uri`` is the name of the source of the passage,
and ``source.modified`` the time when it was changed, as a text in UTC such as ``2024-05-31T18:00:00Z``. With
quotes, as in ``"source".uri``, the field is in the metadata.

- The Unicode form of a letter makes no difference: ``path = 'é.md'`` finds a typed file name (NFC) and one
  from a macOS disk (NFD).
- Values have types: ``5`` never equals ``'5'``, and ``1`` never equals ``true``. Numbers are ordered among
  numbers, and texts among texts by code point, which is right for ISO dates. A value of another type
  satisfies no ordering.
- A field that is absent or null satisfies no comparison. Any other value satisfies either a comparison or its
  opposite: ``=`` or ``!=``, ``in`` or ``not in``, and so on.
- ``not`` before a comparison or a parenthesis is plain negation, and absent fields satisfy it:
  ``not lang = 'en'`` includes passages without ``lang``.

No part of the expression is copied into SQL: values and keys are parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_colbert.errors import InputError
from mlx_colbert.index.catalog.filter_conditions import Condition, Value
from mlx_colbert.index.catalog.filter_parser import Compared, parse
from mlx_colbert.index.catalog.filter_sql import Sql

__all__ = ["Filter", "compared_fields", "compile_filter", "filter_condition"]


@dataclass(frozen=True, init=False)
class Filter:
    """A filter expression, and the values of its ``?`` in order.

    >>> Filter("lang = ? and year >= ?", "en", 2020).parameters
    ('en', 2020)
    """

    expression: str
    parameters: tuple[Value, ...] = ()

    def __init__(self, expression: str, *parameters: Value) -> None:
        object.__setattr__(self, "expression", expression)
        object.__setattr__(self, "parameters", parameters)


def compile_filter(filter: Filter | str) -> tuple[str, list[Value]]:
    """An SQL expression that is 1 where the filter is satisfied and 0 elsewhere, and its parameters.

    It reads the JSON object of a passage, or NULL, from `contents.metadata`, and its source from `sources`.

    >>> sql, parameters = compile_filter("year >= 2020")
    >>> parameters
    ['year', 2020]

    Args:
        filter: the filter. A str is a filter without parameters.

    Raises:
        InputError: if the expression is not valid, or has too few or too many parameters.
    """
    condition, _ = _parsed(filter)
    return f"({condition.sql})", condition.parameters


def filter_condition(filter: Filter | str) -> Condition:
    """A filter as a tree, for an engine that has another language.

    >>> filter_condition("not year >= 2020")
    Negation(part=Comparison(names=('year',), operator='>=', values=(2020,), negated=False, of_source=False))

    Args:
        filter: the filter. A str is a filter without parameters.

    Raises:
        InputError: if the expression is not valid, or has too few or too many parameters.
    """
    condition = _parsed(filter)[0].condition
    assert condition is not None
    return condition


def compared_fields(filter: Filter | str) -> list[Compared]:
    """The fields of a filter, in their order.

    Raises:
        InputError: if the expression is not valid, or has too few or too many parameters.

    >>> compared_fields("lang = 'en' and year >= 2020")[1]
    Compared(names=('year',), kinds=frozenset({'number'}), of_source=False)
    """
    return _parsed(filter)[1]


def _parsed(filter: Filter | str) -> tuple[Sql, list[Compared]]:
    filter = Filter(filter) if isinstance(filter, str) else filter
    if not isinstance(filter, Filter) or not isinstance(filter.expression, str):
        raise InputError(f"filter {filter!r}: not a filter. Give a str or Filter(expression, *parameters).")
    return parse(filter.expression, filter.parameters)
