"""The SQL of a metadata filter: tests of the fields of a JSON object. Values and keys are parameters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from mlx_colbert.index.catalog.filter_conditions import Condition, Value

__all__ = ["SOURCE_FIELDS", "Sql", "Value", "equals", "field_rows", "forms"]

# The fields of sources, and their values in SQL.
SOURCE_FIELDS = {
    ("source", "uri"): "uri",
    ("source", "modified"): "strftime('%Y-%m-%dT%H:%M:%SZ', modified_ns / 1000000000, 'unixepoch')",
}


class Sql(NamedTuple):
    """SQL and its parameters.

    Attributes:
        sql: an expression.
        parameters: the values of its `?`.
        height: the parser stack that it needs besides its comparisons.
        condition: the same as a tree, if it is a condition of the caller and not a part of one.
    """

    sql: str
    parameters: list[Value]
    height: int = 0
    condition: Condition | None = None


def field_rows(names: Sequence[str], *, of_source: bool = False) -> tuple[str, list[Sql]]:
    """SQL for a field: the tables to join, and a test of the key for each name.

    The row `field` of the last table has the value. The object is `contents.metadata`.

    Args:
        names: the names of the field, outermost first.
        of_source: whether it is a field of the source of a passage, not of its metadata.
    """
    if of_source:
        value = SOURCE_FIELDS[names[0], names[1]]
        columns = f"source AS number, 'text' AS type, {value} AS atom, {value} AS value"
        row = f"SELECT {columns} FROM sources WHERE {value} NOTNULL"
        return f"({row}) AS field", [Sql("field.number = contents.source", [])]
    rows = [*(f"outer{i}" for i in range(1, len(names))), "field"]
    inner = [f"CASE {row}.type WHEN 'object' THEN {row}.value END" for row in rows[:-1]]
    sources = zip(["contents.metadata", *inner], rows, strict=True)
    # Not a JSON path: older versions of SQLite compare the names of a path with escaped keys.
    tables = ", ".join(f"json_each({source}) AS {row}" for source, row in sources)
    keys = [forms([name]) for name in names]
    tests = [f"{row}.key IN ({', '.join('?' * len(key))})" for row, key in zip(rows, keys, strict=True)]
    return tables, [Sql(test, key) for test, key in zip(tests, keys, strict=True)]


def forms(values: Sequence[Value]) -> list[Value]:
    """The values, and the NFC and NFD forms of the texts among them."""
    found = dict.fromkeys((type(value), value) for value in values)
    for value in values:
        if isinstance(value, str) and not value.isascii():
            found |= dict.fromkeys((str, unicodedata.normalize(form, value)) for form in ("NFC", "NFD"))
    return [value for _, value in found]


def equals(row: str, values: list[Value]) -> Sql:
    """SQL that tells whether a row of json_each is one of the values.

    The atom of true is 1, so booleans are compared by type.
    """
    booleans: list[Value] = [str(value).lower() for value in values if isinstance(value, bool)]
    others = [value for value in values if not isinstance(value, bool)]
    is_boolean = f"{row}.type IN ({', '.join('?' * len(booleans))})"
    is_other = f"{row}.atom IN ({', '.join('?' * len(others))}) AND {row}.type NOT IN ('true', 'false')"
    return Sql(f"({is_boolean} OR {is_other})", [*booleans, *others])
