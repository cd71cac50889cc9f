"""A filter as a test of facts, if facts can tell it exactly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, product
from typing import Literal, TypeAlias, cast

from mlx_colbert.index.catalog.filter_conditions import Comparison, Condition, Joined, Negation, Value
from mlx_colbert.index.catalog.filter_sql import forms
from mlx_colbert.stores.facts import NULL, field_key, has_exact_order, token_of

__all__ = ["All", "FactTest", "Has", "Neither", "Order", "Ordered", "Some", "fact_test"]

# Words in one test. An engine looks for each of them in each passage.
_MOST_WORDS = 64
_MODIFIED = ("source", "modified")

Order: TypeAlias = Literal["<", "<=", ">", ">="]


@dataclass(frozen=True)
class Has:
    """One of these words is a fact of the passage."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Ordered:
    """A field has a value of the type of another value, in some order to it.

    Attributes:
        key: the key of the field.
        order: the order.
        value: a number or a text that `has_exact_order`.
    """

    key: str
    order: Order
    value: str | float


@dataclass(frozen=True)
class All:
    """All parts are true."""

    parts: tuple[FactTest, ...]


@dataclass(frozen=True)
class Some:
    """One of the parts is true."""

    parts: tuple[FactTest, ...]


@dataclass(frozen=True)
class Neither:
    """None of the parts is true."""

    parts: tuple[FactTest, ...]


FactTest: TypeAlias = Has | Ordered | All | Some | Neither


def fact_test(condition: Condition) -> FactTest | None:
    """The test that is true for the passages that satisfy a condition. None: facts cannot tell that.

    Facts do not tell patterns, times of sources, and the order of long texts and of integers beyond 2^53.
    """
    match condition:
        case Joined(operator, parts):
            tests = [test for part in parts if (test := fact_test(part)) is not None]
            if len(tests) < len(parts):
                return None
            return All(tuple(tests)) if operator == "and" else Some(tuple(tests))
        case Negation(part):
            test = fact_test(part)
            return None if test is None else Neither((test,))
        case Comparison():
            return _comparison(condition)


def _comparison(compared: Comparison) -> FactTest | None:
    names = cast("list[list[str]]", [forms([name]) for name in compared.names])
    if compared.of_source:
        names = [[name] for name in compared.names]
    if compared.of_source and compared.names == _MODIFIED:
        return None
    # 16 names can have 3^16 forms.
    keys = [
        field_key(path, of_source=compared.of_source) for path in islice(product(*names), _MOST_WORDS + 1)
    ]
    values = forms(compared.values)
    if len(keys) * max(1, len(values)) > _MOST_WORDS:
        return None
    if compared.operator == "exists":
        return Has(tuple(keys))
    tests = [_of_field(key, compared, values) for key in keys]
    known = [test for test in tests if test is not None]
    if len(known) < len(tests):
        return None
    return known[0] if len(known) == 1 else Some(tuple(known))


def _of_field(key: str, compared: Comparison, values: list[Value]) -> FactTest | None:
    test: FactTest
    match compared.operator:
        case "in":
            test = Has(tuple(f"{key}={token_of(value)}" for value in values))
        case "contains":
            test = Has(tuple(f"{key}+{token_of(value)}" for value in values))
        case "<" | "<=" | ">" | ">=" | "between":
            limits = compared.values
            if not all(map(has_exact_order, limits)):
                return None
            orders = [">=", "<="] if compared.operator == "between" else [compared.operator]
            test = All(
                tuple(Ordered(key, cast(Order, o), limit) for o, limit in zip(orders, limits, strict=True))
            )
        case _:
            return None
    if compared.negated:
        return All((Has((key,)), Neither((Has((f"{key}={NULL}",)), test))))
    return test
