"""What to give in place of a wrong value, in plain words: for a client of the server and for an assistant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_colbert.counts import counted

__all__ = ["what_to_give"]

# Kind of a problem, as pydantic names it → what to give.
_ADVICE = {
    "int_type": "Give a whole number.",
    "int_parsing": "Give a whole number.",
    "int_parsing_size": "Give a smaller whole number.",
    "int_from_float": "Give a whole number.",
    "float_type": "Give a number.",
    "float_parsing": "Give a number.",
    "finite_number": "Give a finite number.",
    "bool_type": "Give true or false.",
    "bool_parsing": "Give true or false.",
    "string_type": "Give a text.",
    "string_unicode": "Give a text in valid Unicode.",
    "list_type": "Give a list.",
    "dict_type": "Give an object.",
    "model_type": "Give an object.",
    "model_attributes_type": "Give an object.",
    "literal_error": "Give {expected}.",
    "greater_than_equal": "Give {ge} or more.",
    "greater_than": "Give more than {gt}.",
    "less_than_equal": "Give {le} or less.",
    "less_than": "Give less than {lt}.",
}


def what_to_give(problem: Mapping[str, Any]) -> str:
    """A sentence that says what to give in place of a wrong value.

    Args:
        problem: an item of `ValidationError.errors` of pydantic.

    >>> what_to_give({"type": "greater_than_equal", "ctx": {"ge": 1}, "input": 0, "msg": "…"})
    'Give 1 or more.'
    """
    context = problem.get("ctx", {})
    kind = problem["type"]
    if kind in ("string_too_long", "too_long"):
        noun = "character" if kind == "string_too_long" else "item"
        return f"It has {counted(len(problem['input']), noun)}. Give at most {context['max_length']:,}."
    if kind in ("string_too_short", "too_short"):
        noun = "character" if kind == "string_too_short" else "item"
        return f"Give at least {counted(context['min_length'], noun)}."
    if kind in _ADVICE:
        return _ADVICE[kind].format(**context)
    return f"{problem['msg'].rstrip('.')}."
