"""The parser of filter expressions. It compiles an expression to SQL, and keeps the limits of SQLite."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Literal, NamedTuple, NoReturn

from mlx_colbert.errors import InputError
from mlx_colbert.index.catalog.filter_conditions import Comparison, Joined, Negation
from mlx_colbert.index.catalog.filter_sql import SOURCE_FIELDS, Sql, Value, equals, field_rows, forms

__all__ = ["Compared", "parse"]

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

_KEYWORDS = frozenset("and or not in between like glob contains exists true false null".split())
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
_A_VALUE = "expected 'text' in single quotes, a number, true or false (in Python also ?)"
_NO_NULL = "null is not a value. Write exists(year), or not exists(year) for passages without the field year"
_AN_OPERATOR = "expected =, !=, <, <=, >, >=, in, between, like, glob or contains after the field"


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


def parse(expression: str, values: Sequence[Value]) -> tuple[Sql, list[Compared]]:
    """The SQL of an expression, and the fields that it compares, in their order.

    Args:
        expression: the expression.
        values: the values of its `?`, in order.

    Raises:
        InputError: if the expression is not valid, or has too few or too many values.
    """
    if len(expression) > MAX_CHARACTERS:
        raise InputError(f"filter: more than {MAX_CHARACTERS} characters. Give long values as parameters.")
    parser = _Parser(expression, values)
    condition = parser.any_of(0)
    parser.expect("", "and, or, or the end")
    unused = len(values) - parser.n_used
    if unused:
        parser.fail(f"parameters without a ?: {unused}. Write a ? for each")
    return condition, parser.compared


class _Parser:
    """A recursive descent parser: each method takes the tokens of one rule and returns their SQL."""

    def __init__(self, expression: str, values: Sequence[Value]) -> None:
        self.expression = expression
        self.values = values
        self.n_used = self.n_parameters = self.n_comparisons = 0
        self.compared: list[Compared] = []
        self.kinds: set[str] = set()
        # Whether the last field is one of the source.
        self.of_source = False
        tokens = list(_TOKEN.finditer(expression))
        self.rest = chain(tokens, repeat(tokens[-1]))
        self.last = self.ahead = next(self.rest)

    def fail(self, problem: str) -> NoReturn:
        """Raise an error that names the place of the last token."""
        start = self.last.start(str(self.last.lastgroup))
        near = repr(self.expression[start : start + 20]) if self.last["end"] is None else "the end"
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

    def joined(self, operator: Literal["and", "or"], operand: Callable[[], Sql]) -> Sql:
        parts = [operand()]
        while self.accept(operator):
            parts.append(operand())
        if len(parts) == 1:
            return parts[0]
        joined = Joined(operator, tuple(sql.condition for sql in parts if sql.condition is not None))
        # An operator and the part before it take two places. With the highest part first, these two add to
        # the height only if two parts have about the same height: once per doubling of the comparisons.
        parts.sort(key=lambda sql: -sql.height)
        height = max(sql.height + 2 * (i > 0) for i, sql in enumerate(parts))
        parameters = [value for sql in parts for value in sql.parameters]
        return Sql(f" {operator.upper()} ".join(sql.sql for sql in parts), parameters, height, joined)

    def operand(self, depth: int) -> Sql:
        negated = False
        while self.accept("not"):
            negated = not negated
        if self.accept("("):
            if depth == MAX_NESTING:
                self.fail(f"more than {MAX_NESTING} nested parentheses. Use fewer")
            inner = self.any_of(depth + 1)
            self.expect(")")
            sql = inner._replace(sql=f"({inner.sql})", height=inner.height + 1)
        elif self.accept("exists"):
            self.expect("(")
            self.kinds.clear()
            sql = self.satisfies(self.field(), Sql("1", []), "exists", [])
            self.expect(")")
        else:
            sql = self.comparison(self.field())
        # A NOT before it would take a place on the parser stack.
        if not negated or sql.condition is None:
            return sql
        return sql._replace(sql=f"{sql.sql} = 0", condition=Negation(sql.condition))

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
        self.of_source = not is_quoted and tuple(names) in SOURCE_FIELDS
        return names

    def comparison(self, names: list[Value]) -> Sql:
        self.kinds.clear()
        negated = self.accept("not")
        match negated, self.take():
            case False, "=" | "!=" | "<>" as operator:
                values = [self.value()]
                negated, operator = operator != "=", "in"
                test = equals("field", self.forms(values))
            case False, "<" | "<=" | ">" | ">=" as operator:
                values = [self.value()]
                test = self.ordered(f"{operator} ?", values)
            case _, "in" as operator:
                self.expect("(")
                values = [self.value()]
                while self.accept(","):
                    values.append(self.value())
                self.expect(")", "a , or )")
                test = equals("field", self.forms(values))
            case _, "between" as operator:
                low = self.value()
                self.expect("and")
                values = [low, self.value()]
                test = self.ordered("BETWEEN ? AND ?", values)
            case _, "like" | "glob" as operator:
                values = [pattern := self.value()]
                if not isinstance(pattern, str) or len(pattern) > MAX_CHARACTERS:
                    example = "'a%'" if operator == "like" else "'a*'"
                    self.fail(f"expected a pattern such as {example} of at most {MAX_CHARACTERS} characters")
                patterns = self.forms(values)
                tests = " OR ".join([f"field.atom {operator.upper()} ?"] * len(patterns))
                test = Sql(f"field.type = 'text' AND ({tests})", patterns)
            case _, "contains" as operator:
                values = [self.value()]
                item = equals("item", self.forms(values))
                items = "json_each(CASE field.type WHEN 'array' THEN field.value END) AS item"
                test = Sql(f"EXISTS (SELECT 1 FROM {items} WHERE {item.sql})", item.parameters)
                self.kinds = {"list"}
            case _:
                self.fail(_NO_NULL if _text(self.last) == "is" else _AN_OPERATOR)
        if negated:
            # The test may be NULL: IN is, for the atom of a list.
            test = test._replace(sql=f"field.type <> 'null' AND ({test.sql}) IS NOT TRUE")
        return self.satisfies(names, test, operator, values, negated=negated)

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
            self.fail(_NO_NULL if text == "null" else _A_VALUE)
        self.n_used += 1
        if self.n_used > len(self.values):
            n_given = len(self.values)
            self.fail(f"more ? than parameters ({n_given}). Give one for each ?, or write the value itself")
        return self.checked(self.values[self.n_used - 1])

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
        found = forms(values)
        self.count_parameters(len(found) - len(values))
        return found

    def count_parameters(self, n: int) -> None:
        """Count n more parameters of the SQL; raises if there are too many."""
        self.n_parameters += n
        if self.n_parameters > MAX_PARAMETERS:
            self.fail(f"more than {MAX_PARAMETERS} names and values. Split the filter")

    def satisfies(
        self, names: list[Value], test: Sql, operator: str, given: list[Value], *, negated: bool = False
    ) -> Sql:
        """SQL that tells whether the field exists and its row `field` of json_each satisfies the test."""
        self.n_comparisons += 1
        if self.n_comparisons > MAX_COMPARISONS:
            self.fail(f"more than {MAX_COMPARISONS} comparisons. Use in (…), or split the filter")
        self.compared.append(Compared(tuple(map(str, names)), frozenset(self.kinds), self.of_source))
        tables, keys = field_rows([str(name) for name in names], of_source=self.of_source)
        values = [value for key in keys for value in key.parameters]
        self.count_parameters(max(0, len(values) - len(names)))
        sql = f"EXISTS (SELECT 1 FROM {tables} WHERE {' AND '.join(key.sql for key in keys)} AND {test.sql})"
        path = tuple(map(str, names))
        condition = Comparison(path, operator, tuple(given), negated, self.of_source)
        return Sql(sql, [*values, *test.parameters], condition=condition)


def _text(token: re.Match[str]) -> str:
    """The text of a token with its quotes. Keywords are in lower case."""
    text = str(token[str(token.lastgroup)])
    return text.lower() if text.lower() in _KEYWORDS else text
