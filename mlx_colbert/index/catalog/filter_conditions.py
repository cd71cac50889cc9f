"""A filter as a tree, for engines that have another language than SQLite's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Value: TypeAlias = str | int | float | bool

__all__ = ["Comparison", "Condition", "Joined", "Negation", "Value"]


@dataclass(frozen=True)
class Comparison:
    """A test of one field. A passage without the field does not satisfy it, negated or not.

    Attributes:
        names: the names of the field, outermost first.
        operator: "exists", "in" (also for =), "between", "<", "<=", ">", ">=", "like", "glob" or "contains".
        values: the values that the operator takes.
        negated: whether the field has a value that is not null, and this does not satisfy the operator.
        of_source: whether it is a field of the source of a passage, not of its metadata.
    """

    names: tuple[str, ...]
    operator: str
    values: tuple[Value, ...] = ()
    negated: bool = False
    of_source: bool = False


@dataclass(frozen=True)
class Negation:
    """What does not satisfy a part."""

    part: Condition


@dataclass(frozen=True)
class Joined:
    """What satisfies all parts ("and"), or one of them ("or")."""

    operator: Literal["and", "or"]
    parts: tuple[Condition, ...]


Condition: TypeAlias = Comparison | Negation | Joined
