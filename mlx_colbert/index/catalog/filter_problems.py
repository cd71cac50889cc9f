"""Reasons why a filter may find nothing: unknown fields, and values of another type than the stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.filter_parser import Compared
from mlx_colbert.index.catalog.filter_sql import Sql, field_rows
from mlx_colbert.index.catalog.filters import Filter, compared_fields

__all__ = ["filter_problems"]

# The names of SQLite's JSON types in messages. An object has no name here.
_KINDS = {"text": "text", "integer": "number", "real": "number", "true": "boolean", "false": "boolean"}
_KINDS["array"] = "list"
# The most field names in one message.
_MAX_FIELDS = 12

_ADVICE = {
    ("text", "number"): "Write the number in single quotes",
    ("number", "text"): "Write the number without quotes",
    ("boolean", "text"): "Write true or false without quotes",
    ("text", "list"): "Use = or like in place of contains",
}


def filter_problems(catalog: Catalog, filter: Filter | str) -> list[str]:
    """The reasons why a filter may find nothing, one sentence each.

    There is none if each field has stored values of the type that the filter compares it with.

    Args:
        catalog: the catalog of the index, within `Catalog.read`.
        filter: the filter.

    Raises:
        InputError: if the expression is not valid, or has too few or too many parameters.
    """
    fields = list(dict.fromkeys(compared_fields(filter)))
    if not catalog.rows("SELECT 1 FROM contents LIMIT 1"):
        return []
    return [problem for compared in fields if (problem := _problem(catalog, compared))]


def _problem(catalog: Catalog, compared: Compared) -> str | None:
    types = [kind for kind, name in _KINDS.items() if name in compared.kinds]
    tables, keys = field_rows(compared.names, of_source=compared.of_source)
    if compared.kinds:
        keys.append(Sql(f"field.type IN ({', '.join('?' * len(types))})", [*types]))
    # This query stops at the first passage with the right type.
    if _rows(catalog, f"SELECT 1 FROM contents, {tables}", keys, "LIMIT 1"):
        return None
    name = ".".join(compared.names)
    stored = _kinds_of(catalog, compared.names, of_source=compared.of_source)
    if compared.of_source and not stored:
        return f"No passage has a {name!r}."
    if not stored:
        return f"No passage has a field {name!r}. {_there_are(catalog, compared.names)}"
    wanted = sorted(compared.kinds)
    advice = _ADVICE.get(
        (stored[0], wanted[0]), "Use contains" if stored == ["list"] else "Give a value of the stored type"
    )
    differs = f"is {_named(stored)} in this index, and the filter compares it with {_named(wanted)}"
    return f"{name!r} {differs}. {advice}."


def _rows(catalog: Catalog, sql: str, tests: Sequence[Sql], rest: str = "") -> list[Any]:
    """The rows of a query that satisfy all of the tests."""
    where = " AND ".join(["1", *(test.sql for test in tests)])
    values = [value for test in tests for value in test.parameters]
    return catalog.rows(f"{sql} WHERE {where} {rest}", values)


def _named(kinds: Sequence[str]) -> str:
    return " or ".join(kind if kind in ("text", "null") else f"a {kind}" for kind in kinds).replace(
        "a o", "an o"
    )


def _kinds_of(catalog: Catalog, names: Sequence[str], *, of_source: bool = False) -> list[str]:
    tables, keys = field_rows(names, of_source=of_source)
    rows = _rows(catalog, f"SELECT DISTINCT field.type FROM contents, {tables}", keys)
    return sorted({_KINDS.get(kind, kind) for (kind,) in rows})


def _there_are(catalog: Catalog, names: Sequence[str]) -> str:
    """A sentence with the fields that exist at the level of the first unknown name."""
    depth = next(n for n in range(len(names)) if not _kinds_of(catalog, names[: n + 1]))
    tables, keys = field_rows(names[: depth + 1])
    sql = f"SELECT DISTINCT field.key FROM contents, {tables}"
    rows = _rows(catalog, sql, keys[:-1], f"ORDER BY 1 LIMIT {_MAX_FIELDS + 1}")
    found = [".".join([*names[:depth], str(key)]) for (key,) in rows]
    if not found:
        return "No passage has any metadata." if not depth else f"{'.'.join(names[:depth])!r} has no fields."
    more = ", …" if len(found) > _MAX_FIELDS else ""
    return f"There are: {', '.join(found[:_MAX_FIELDS])}{more}."
