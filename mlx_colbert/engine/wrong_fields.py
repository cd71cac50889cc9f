"""What is wrong with the fields of a request or of a call, in the words of this package."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mlx_colbert.untrusted import shown

__all__ = ["did_you_mean", "wrong_fields"]

# The most fields that an answer names, and the most characters of a name.
_MOST_FIELDS, _LONGEST_NAME = 20, 100
# What a field must be, by the kind of the error. Several are joined where a field may be one of them.
_TYPES = {
    "string_type": "a text",
    "string_unicode": "a text without lone surrogates",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
# What is wrong, and what to do, by the kind of the error. The parts are those of the error.
_RULES = {
    "missing": "is missing. Add it.",
    "extra_forbidden": "is not a field of this request. Correct its name, or leave it out.",
    "literal_error": "{value} is not allowed. Give {expected}.",
    "greater_than_equal": "{value} is too small. Give {ge} or more.",
    "greater_than": "{value} is too small. Give more than {gt}.",
    "less_than_equal": "{value} is too large. Give {le} or less.",
    "less_than": "{value} is too large. Give less than {lt}.",
    "string_too_short": "{value} is too short. Give {min_length} or more characters.",
    "string_too_long": "the text has {n:,} characters. Give {max_length:,} or fewer.",
    "too_short": "the list has {n:,} items. Give {min_length:,} or more.",
    "too_long": "the list has {n:,} items. Give {max_length:,} or fewer.",
    "json_invalid": "is not JSON ({error}, at character {at:,}). Correct it.",
}


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A question with the nearest known name, and a space before it. Empty if none is near."""
    near = get_close_matches(name[:_LONGEST_NAME], known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def wrong_fields(
    errors: Iterable[Mapping[str, Any]], body: Any, known: Collection[str] = ()
) -> list[dict[str, str]]:
    """What is wrong with each field, and what to do.

    Args:
        errors: what pydantic has found.
        body: the body of the request, parsed. None: the fields are not those of a body.
        known: the fields that a body may have, to name one that is near to an unknown one.

    Returns:
        "field", the name with the parts of it, and "reason", a sentence or two. The first fields only.
    """
    by_field: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for error in errors:
        by_field.setdefault(_place(error, body), []).append(error)
    # A field of several types has an error for each of them. One inside of it tells more.
    outer = {place[:n] for place in by_field for n in range(len(place))}
    found = [
        {
            "field": ".".join(f"{part:.{_LONGEST_NAME}}" for part in map(str, place)),
            # Parts of a field have other names.
            "reason": _reason(of_one, known if len(place) == 2 else ()),
        }
        for place, of_one in by_field.items()
        if place not in outer
    ]
    return found[:_MOST_FIELDS]


def _place(error: Mapping[str, Any], body: Any) -> tuple[Any, ...]:
    """The place of a field in a request, without the names of types that pydantic puts between the parts."""
    loc, is_missing = error["loc"], error["type"] == "missing"
    if loc[0] != "body":
        return tuple(loc)
    if error["type"] == "json_invalid":
        # The rest is the character at which the JSON is wrong.
        return ("body",)
    place, inside = ["body"], body
    for number, part in enumerate(loc[1:], start=1):
        if isinstance(inside, dict) and (part in inside or (is_missing and number == len(loc) - 1)):
            place, inside = [*place, part], inside.get(part)
        elif isinstance(inside, list) and isinstance(part, int) and part < len(inside):
            place, inside = [*place, str(part)], inside[part]
    return tuple(place)


def _reason(errors: Sequence[Mapping[str, Any]], known: Collection[str]) -> str:
    value = errors[0].get("input")
    types = dict.fromkeys(_TYPES[error["type"]] for error in errors if error["type"] in _TYPES)
    if types:
        return f"{_shown(value)} is not allowed. Give {' or '.join(types)}."
    error = errors[0]
    n = len(value) if isinstance(value, str | list | dict) else 0
    last = error["loc"][-1]
    at = last + 1 if isinstance(last, int) else 1
    parts = {"value": _shown(value), "n": n, "at": at, **error.get("ctx", {})}
    if parts.get("expected") in ("True", "False"):
        parts["expected"] = parts["expected"].lower()
    rule = _RULES.get(error["type"], "{value} is not allowed. The schema says what is.")
    reason = rule.format_map(parts)
    return reason + did_you_mean(str(last), known) if error["type"] == "extra_forbidden" else reason


def _shown(value: Any) -> str:
    """A value for people: a short one as JSON has it, or what it is. It may be a document."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return "an object"
    return shown(value)
