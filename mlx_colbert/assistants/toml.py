"""Changes a table of a TOML text. All that is not the table stays as it is.

Python has no writer of TOML. tomlkit 0.15 removes the comment before the next table together with a table,
and mixes the ends of lines in a file from Windows. Here only the lines of the table are replaced, and the
result is read again, to check it.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mlx_colbert.assistants.formats import FormatError
from mlx_colbert.collection.files import toml_text
from mlx_colbert.errors import said

__all__ = ["put", "remove", "value"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# The keys before "=", or between brackets: bare or in quotes, with dots between them.
_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEYS = re.compile(rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*")
# What a value may have in which brackets and the ends of lines mean nothing.
_QUOTED = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'|#[^\n]*",
    re.DOTALL,
)


class _Statement(NamedTuple):
    """A line of the text, or several if a value goes on.

    Attributes:
        kind: what it is; "other" is empty or a comment.
        keys: the path of a table or of a value.
        start: where its line begins.
        end: where the next line begins.
    """

    kind: Literal["table", "value", "other"]
    keys: tuple[str, ...]
    start: int
    end: int


def value(text: str, keys: Sequence[str]) -> Any:
    """The value at a path. None: it is not there."""
    found: Any = _loaded(text)
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


def put(text: str, keys: Sequence[str], entry: Mapping[str, Any]) -> str:
    """The text with a table at a path: where it was, or at the end.

    Args:
        text: TOML.
        keys: the path: the names of the tables, from the outermost. At least one.
        entry: the new content of the table.

    Raises:
        FormatError: if the text is not TOML, or a value on the way is not a table.
    """
    for number in range(1, len(keys)):
        if not isinstance(value(text, keys[:number]), dict | None):
            raise FormatError(f"the value of {'.'.join(keys[:number])} is not a table.")
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = [
        f"[{'.'.join(map(_key, keys))}]",
        *(f"{_key(name)} = {_written(item)}" for name, item in entry.items()),
    ]
    block = "".join(line + newline for line in lines)
    spans = _spans(text, keys)
    if spans and text[spans[0][0] :].lstrip(" \t").startswith("["):
        start, end = spans[0]
        rest = _without(text, spans[1:])
        changed = rest[:start] + block + rest[end:]
    else:
        begin = _without(text, spans)
        if begin and not begin.endswith("\n"):
            begin += newline
        changed = begin + (newline if begin.strip() else "") + block
    _check(text, changed, keys, dict(entry))
    return changed


def remove(text: str, keys: Sequence[str], *, n_kept: int) -> str:
    """The text without the table at a path. A table above it is never made by `put`, so it stays."""
    changed = _without(text, _spans(text, keys))
    _check(text, changed, keys, None)
    return changed


def _check(text: str, changed: str, keys: Sequence[str], entry: dict[str, Any] | None) -> None:
    """Raise an error if more has changed than the entry."""
    try:
        after, before = (tomllib.loads(given, parse_float=str) for given in (changed, text))
        is_right = value(changed, keys) == entry and _others(after, keys) == _others(before, keys)
    except (ValueError, RecursionError):
        is_right = False
    if not is_right:
        name = ".".join(keys)
        raise FormatError(f"writes {name} in a way that cannot be changed. Write it as a table: [{name}].")


def _others(values: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The values without the entry, and without tables that are empty then."""
    rest = dict(values)
    if len(keys) == 1:
        rest.pop(keys[0], None)
    elif isinstance(rest.get(keys[0]), dict):
        inner = _others(rest.pop(keys[0]), keys[1:])
        rest |= {keys[0]: inner} if inner else {}
    return rest


def _loaded(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise FormatError("is nested too deeply.") from None
    except ValueError as error:
        raise FormatError(f"is not valid TOML: {said(error)}.") from None


def _spans(text: str, keys: Sequence[str]) -> list[tuple[int, int]]:
    """Where the table at a path is written: each place as its first line to that of its last value."""
    spans: list[tuple[int, int]] = []
    table: tuple[str, ...] = ()
    is_open = False
    for statement in _statements(text):
        if statement.kind == "other":
            continue
        if statement.kind == "table":
            table = statement.keys
            path, is_open = table, False
        else:
            path = (*table, *statement.keys)
        if path[: len(keys)] != tuple(keys):
            is_open = False
        elif is_open and statement.kind == "value":
            spans[-1] = (spans[-1][0], statement.end)
        else:
            spans.append((statement.start, statement.end))
            is_open = True
    return spans


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text without some places. Of the empty lines around each, one is left."""
    for start, end in reversed(spans):
        before = text[:start]
        is_end = not text[end:].strip()
        is_double = text[end:].startswith(("\n", "\r\n"))
        if (is_end or is_double) and (trimmed := re.sub(r"(?<=\n)\r?\n\Z", "", before)) != before:
            before = trimmed
        text = before + text[end:]
    return text


def _statements(text: str) -> Iterator[_Statement]:
    """The statements of a text that is valid."""
    position = 0
    while position < len(text):
        start = position
        while text[position : position + 1] in (" ", "\t"):
            position += 1
        if text[position : position + 1] == "[":
            match = _KEYS.search(text, position)
            assert match is not None
            end = _end_of_line(text, match.end())
            yield _Statement("table", _path(match[0]), start, end)
        elif match := _KEYS.match(text, position):
            end = _end_of_value(text, match.end())
            yield _Statement("value", _path(match[0]), start, end)
        else:
            end = _end_of_line(text, position)
            yield _Statement("other", (), start, end)
        position = end


def _path(written: str) -> tuple[str, ...]:
    """The keys of `a."b c".d`."""
    found = tomllib.loads(f"{written} = 0")
    keys: list[str] = []
    inner: Any = found
    while isinstance(inner, dict):
        ((key, inner),) = inner.items()
        keys.append(key)
    return tuple(keys)


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _end_of_value(text: str, position: int) -> int:
    """Where the line after a value begins."""
    depth = 0
    while position < len(text):
        if match := _QUOTED.match(text, position):
            position = match.end()
            continue
        sign = text[position]
        position += 1
        if sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        elif sign == "\n" and depth == 0:
            break
    return position


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _written(key)


def _written(given: Any) -> str:
    """A value as TOML in one line."""
    if isinstance(given, str):
        return toml_text(given)
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, Mapping):
        pairs = ", ".join(f"{_key(name)} = {_written(item)}" for name, item in given.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(given, list | tuple):
        return f"[{', '.join(map(_written, given))}]"
    if isinstance(given, datetime.datetime | datetime.date | datetime.time):
        return given.isoformat()
    return repr(given)
