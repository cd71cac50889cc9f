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

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple, NoReturn, TypeAlias

from mlx_colbert.errors import InputError

__all__ = ["Compared", "Filter", "Sql", "compared_fields", "compile_filter", "field_rows"]

# Also for a pattern: with 4 bytes per character it stays below SQLITE_MAX_LIKE_PATTERN_LENGTH, 50,000.
MAX_CHARACTERS = 10_000
# SQLITE_MAX_VARIABLE_NUMBER is 999 in older builds. The query around the filter has parameters too.
MAX_PARAMETERS = 900
# SQLite's expressions may be 1,000 levels deep. Some query plans need four times this number.
MAX_COMPARISONS = 200
# SQLite's parser stack has 100 places: 32 for parentheses, at most 16 for operators (see `joined`), about 15
# within a comparison. The rest is for the query around the filter.
MAX_NESTING = 32
# Each name of a field is a table of a join. A join has at most 64 tables.
MAX_NAMES = 16

Value: TypeAlias = str | int | float | bool

_KEYWORDS = frozenset("and or not in between like glob contains exists true false null".split())
# The fields of sources, and their values in SQL.
_SOURCE_FIELDS = {
    ("source", "uri"): "uri",
    ("source", "modified"): "strftime('%Y-%m-%dT%H:%M:%SZ', modified_ns / 1000000000, 'unixepoch')",
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*+')
    |(?P<quoted>"(?:[^"]|"")*+")
    |(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))
    |(?P<name>[^\W\d]\w*)
    |(?P<symbol><=|>=|!=|<>|[=<>(),.?])
    |(?P<end>\Z)
    |(?P<unreadable>\S))""",
    re.VERBOSE,
)
# UTF-8 cannot encode lone surrogates, and SQLite's LIKE stops at a NUL.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_A_FIELD = "expected a field, as in lang = 'en'. Put keywords and other keys in double quotes: \"a-b\" = 1"
_A_VALUE = "expected 'text' in single quotes, a number, true, false or ?. To find null, use exists()"
_AN_OPERATOR = "expected =, !=, <, <=, >, >=, in, between, like, glob or contains after the field"


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


class Sql(NamedTuple):
    """SQL and its parameters. `height` is the parser stack that it needs besides its comparisons."""

    sql: str
    parameters: list[Value]
    height: int = 0


class Compared(NamedTuple):
    """A field of a filter.

    Attributes:
        names: its names, outermost first.
        kinds: the types that it is compared with: text, number, boolean or list. Empty for `exists`.
        of_source: whether it is a field of the source of a passage, not of its metadata.
    """

    names: tuple[str, ...]
    kinds: frozenset[str]
    of_source: bool = False


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
    return _parsed(filter)[0]


def compared_fields(filter: Filter | str) -> list[Compared]:
    """The fields of a filter, in their order.

    Raises:
        InputError: if the expression is not valid, or has too few or too many parameters.

    >>> compared_fields("lang = 'en' and year >= 2020")[1]
    Compared(names=('year',), kinds=frozenset({'number'}), of_source=False)
    """
    return _parsed(filter)[1]


def field_rows(names: Sequence[str], *, of_source: bool = False) -> tuple[str, list[Sql]]:
    """SQL for a field: the tables to join, and a test of the key for each name.

    The row `field` of the last table has the value. The object is `contents.metadata`.

    Args:
        names: the names of the field, outermost first.
        of_source: whether it is a field of the source of a passage, not of its metadata.
    """
    if of_source:
        value = _SOURCE_FIELDS[names[0], names[1]]
        row = f"SELECT source AS number, 'text' AS type, {value} AS atom FROM sources WHERE {value} NOTNULL"
        return f"({row}) AS field", [Sql("field.number = contents.source", [])]
    rows = [*(f"outer{i}" for i in range(1, len(names))), "field"]
    inner = [f"CASE {row}.type WHEN 'object' THEN {row}.value END" for row in rows[:-1]]
    sources = zip(["contents.metadata", *inner], rows, strict=True)
    # Not a JSON path: older versions of SQLite compare the names of a path with escaped keys.
    tables = ", ".join(f"json_each({source}) AS {row}" for source, row in sources)
    keys = [_forms([name]) for name in names]
    tests = [f"{row}.key IN ({', '.join('?' * len(key))})" for row, key in zip(rows, keys, strict=True)]
    return tables, [Sql(test, key) for test, key in zip(tests, keys, strict=True)]


def _forms(values: Sequence[Value]) -> list[Value]:
    """The values, and the NFC and NFD forms of the texts among them."""
    found = dict.fromkeys((type(value), value) for value in values)
    for value in values:
        if isinstance(value, str) and not value.isascii():
            found |= dict.fromkeys((str, unicodedata.normalize(form, value)) for form in ("NFC", "NFD"))
    return [value for _, value in found]


def _parsed(filter: Filter | str) -> tuple[tuple[str, list[Value]], list[Compared]]:
    filter = Filter(filter) if isinstance(filter, str) else filter
    if not isinstance(filter, Filter) or not isinstance(filter.expression, str):
        raise InputError(f"filter {filter!r}: not a filter. Give a str or Filter(expression, *parameters).")
    if len(filter.expression) > MAX_CHARACTERS:
        raise InputError(f"filter: more than {MAX_CHARACTERS} characters. Give long values as parameters.")
    parser = _Parser(filter)
    condition = parser.any_of(0)
    parser.expect("", "and, or, or the end")
    unused = len(filter.parameters) - parser.n_used
    if unused:
        parser.fail(f"parameters without a ?: {unused}. Write a ? for each")
    return (f"({condition.sql})", condition.parameters), parser.compared


class _Parser:
    """A recursive descent parser: each method takes the tokens of one rule and returns their SQL."""

    def __init__(self, filter: Filter) -> None:
        self.filter = filter
        self.n_used = self.n_parameters = self.n_comparisons = 0
        self.compared: list[Compared] = []
        self.kinds: set[str] = set()
        # Whether the last field is one of the source.
        self.of_source = False
        tokens = list(_TOKEN.finditer(filter.expression))
        self.rest = chain(tokens, repeat(tokens[-1]))
        self.last = self.ahead = next(self.rest)

    def fail(self, problem: str) -> NoReturn:
        """Raise an error that names the place of the last token."""
        start = self.last.start(str(self.last.lastgroup))
        near = repr(self.filter.expression[start : start + 20]) if self.last["end"] is None else "the end"
        raise InputError(f"filter, column {start + 1}, at {near}: {problem}.")

    def take(self) -> str:
        self.last, self.ahead = self.ahead, next(self.rest)
        if self.last["unreadable"]:
            unclosed = self.last["unreadable"] in ("'", '"')
            self.fail("a quote that is not closed" if unclosed else f"not understood; {_A_FIELD}")
        return _text(self.last)

    def accept(self, text: str) -> bool:
        return _text(self.ahead) == text and self.take() == text

    def expect(self, text: str, name: str = "") -> None:
        if self.take() != text:
            self.fail(f"expected {name or text}")

    def any_of(self, depth: int) -> Sql:
        return self.joined("or", lambda: self.joined("and", lambda: self.operand(depth)))

    def joined(self, operator: str, operand: Callable[[], Sql]) -> Sql:
        parts = [operand()]
        while self.accept(operator):
            parts.append(operand())
        # An operator and the part before it take two places. With the highest part first, these two add to
        # the height only if two parts have about the same height: once per doubling of the comparisons.
        parts.sort(key=lambda sql: -sql.height)
        height = max(sql.height + 2 * (i > 0) for i, sql in enumerate(parts))
        parameters = [value for sql in parts for value in sql.parameters]
        return Sql(f" {operator.upper()} ".join(sql.sql for sql in parts), parameters, height)

    def operand(self, depth: int) -> Sql:
        negated = False
        while self.accept("not"):
            negated = not negated
        if self.accept("("):
            if depth == MAX_NESTING:
                self.fail(f"more than {MAX_NESTING} nested parentheses. Use fewer")
            inner = self.any_of(depth + 1)
            self.expect(")")
            sql = Sql(f"({inner.sql})", inner.parameters, inner.height + 1)
        elif self.accept("exists"):
            self.expect("(")
            self.kinds.clear()
            sql = self.satisfies(self.field(), Sql("1", []))
            self.expect(")")
        else:
            sql = self.comparison(self.field())
        # A NOT before it would take a place on the parser stack.
        return sql._replace(sql=f"{sql.sql} = 0") if negated else sql

    def field(self) -> list[Value]:
        """The names of a field, outermost first."""
        names: list[Value] = []
        is_quoted = False
        while not names or self.accept("."):
            text = self.take()
            is_quoted |= self.last["quoted"] is not None
            if self.last.lastgroup not in ("name", "quoted") or text in _KEYWORDS:
                self.fail(_A_FIELD)
            if len(names) == MAX_NAMES:
                self.fail(f"more than {MAX_NAMES} names in a field. Use a shorter one")
            names.append(self.checked(text[1:-1].replace('""', '"') if self.last["quoted"] else text))
        self.of_source = not is_quoted and tuple(names) in _SOURCE_FIELDS
        return names

    def comparison(self, names: list[Value]) -> Sql:
        self.kinds.clear()
        negated = self.accept("not")
        match negated, self.take():
            case False, "=" | "!=" | "<>" as operator:
                negated = operator != "="
                test = _equals("field", self.forms([self.value()]))
            case False, "<" | "<=" | ">" | ">=" as operator:
                test = self.ordered(f"{operator} ?", [self.value()])
            case _, "in":
                self.expect("(")
                values = [self.value()]
                while self.accept(","):
                    values.append(self.value())
                self.expect(")", "a , or )")
                test = _equals("field", self.forms(values))
            case _, "between":
                low = self.value()
                self.expect("and")
                test = self.ordered("BETWEEN ? AND ?", [low, self.value()])
            case _, "like" | "glob" as operator:
                pattern = self.value()
                if not isinstance(pattern, str) or len(pattern) > MAX_CHARACTERS:
                    example = "a%" if operator == "like" else "a*"
                    self.fail(
                        f"expected a pattern such as '{example}' of at most {MAX_CHARACTERS} characters"
                    )
                patterns = self.forms([pattern])
                tests = " OR ".join([f"field.atom {operator.upper()} ?"] * len(patterns))
                test = Sql(f"field.type = 'text' AND ({tests})", patterns)
            case _, "contains":
                item = _equals("item", self.forms([self.value()]))
                items = "json_each(CASE field.type WHEN 'array' THEN field.value END) AS item"
                test = Sql(f"EXISTS (SELECT 1 FROM {items} WHERE {item.sql})", item.parameters)
                self.kinds = {"list"}
            case _:
                self.fail(_AN_OPERATOR)
        if negated:
            # The test may be NULL: IN is, for the atom of a list.
            test = test._replace(sql=f"field.type <> 'null' AND ({test.sql}) IS NOT TRUE")
        return self.satisfies(names, test)

    def ordered(self, test: str, values: list[Value]) -> Sql:
        are_texts = {isinstance(value, str) for value in values}
        if len(are_texts) == 2 or any(isinstance(value, bool) for value in values):
            self.fail("only numbers and texts have an order. Give values that are all numbers or all texts")
        types = "'text'" if are_texts == {True} else "'integer', 'real'"
        return Sql(f"field.type IN ({types}) AND field.atom {test}", values)

    def value(self) -> Value:
        value = self.literal()
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        self.kinds.add("text" if isinstance(value, str) else "number" if is_number else "boolean")
        return value

    def literal(self) -> Value:
        text = self.take()
        if self.last["text"]:
            return self.checked(text[1:-1].replace("''", "'"))
        if self.last["number"]:
            # int() refuses thousands of digits. An integer of 64 bits has at most 20 characters.
            whole = text.lstrip("-").isdigit()
            return self.checked(float(text) if not whole else int(text) if len(text) <= 20 else 2**63)
        if text in ("true", "false"):
            return self.checked(text == "true")
        if text != "?":
            self.fail(_A_VALUE)
        self.n_used += 1
        if self.n_used > len(self.filter.parameters):
            self.fail(f"more ? than parameters ({len(self.filter.parameters)}). Give one for each ?")
        return self.checked(self.filter.parameters[self.n_used - 1])

    def checked(self, value: Value) -> Value:
        """The value of the last token; raises if SQLite cannot store it."""
        self.n_parameters += 1
        if self.n_parameters > MAX_PARAMETERS:
            self.fail(f"more than {MAX_PARAMETERS} names and values. Split the filter")
        if not isinstance(value, str | int | float):
            self.fail(f"a parameter of type {type(value).__name__}. Give a str, int, float or bool")
        if isinstance(value, str) and _UNUSABLE.search(value):
            self.fail("a text with a NUL character or a lone surrogate. Leave them out")
        if isinstance(value, float) and not math.isfinite(value):
            self.fail("not a finite number. Give one that is")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.fail("an integer beyond 64 bits. Give it as a float, such as 1e20")
        return value

    def forms(self, values: list[Value]) -> list[Value]:
        """The values, and the NFC and NFD forms of the texts among them."""
        found = _forms(values)
        self.count_parameters(len(found) - len(values))
        return found

    def count_parameters(self, n: int) -> None:
        """Count n more parameters of the SQL; raises if there are too many."""
        self.n_parameters += n
        if self.n_parameters > MAX_PARAMETERS:
            self.fail(f"more than {MAX_PARAMETERS} names and values. Split the filter")

    def satisfies(self, names: list[Value], test: Sql) -> Sql:
        """SQL that tells whether the field exists and its row `field` of json_each satisfies the test."""
        self.n_comparisons += 1
        if self.n_comparisons > MAX_COMPARISONS:
            self.fail(f"more than {MAX_COMPARISONS} comparisons. Use in (…), or split the filter")
        self.compared.append(Compared(tuple(map(str, names)), frozenset(self.kinds), self.of_source))
        tables, keys = field_rows([str(name) for name in names], of_source=self.of_source)
        values = [value for key in keys for value in key.parameters]
        self.count_parameters(max(0, len(values) - len(names)))
        sql = f"EXISTS (SELECT 1 FROM {tables} WHERE {' AND '.join(key.sql for key in keys)} AND {test.sql})"
        return Sql(sql, [*values, *test.parameters])


def _text(token: re.Match[str]) -> str:
    """The text of a token with its quotes. Keywords are in lower case."""
    text = str(token[str(token.lastgroup)])
    return text.lower() if text.lower() in _KEYWORDS else text


def _equals(row: str, values: list[Value]) -> Sql:
    """SQL that tells whether a row of json_each is one of the values.

    The atom of true is 1, so booleans are compared by type.
    """
    booleans: list[Value] = [str(value).lower() for value in values if isinstance(value, bool)]
    others = [value for value in values if not isinstance(value, bool)]
    is_boolean = f"{row}.type IN ({', '.join('?' * len(booleans))})"
    is_other = f"{row}.atom IN ({', '.join('?' * len(others))}) AND {row}.type NOT IN ('true', 'false')"
    return Sql(f"({is_boolean} OR {is_other})", [*booleans, *others])
