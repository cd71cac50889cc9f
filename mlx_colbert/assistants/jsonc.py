"""Changes an entry of a JSON text that may have comments and commas before closing brackets.

All that is not the entry stays as it is: comments, spaces, the order of keys. A text of any depth is read
without recursion.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlx_colbert.assistants.formats import FormatError

__all__ = ["put", "remove", "value"]

_TRIVIA = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_SCALAR = re.compile(
    r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?'
    r"|true|false|null"
)
_INDENT = "  "
_SPACES = " \t\r\n"


class _Member(NamedTuple):
    """A key and its value.

    Attributes:
        key: the key.
        start: where the key begins.
        value: where the value begins.
        end: where the value ends.
        comma: where the comma after it is. None: there is none.
    """

    key: str
    start: int
    value: int
    end: int
    comma: int | None


class _Object(NamedTuple):
    """An object of the text.

    Attributes:
        start: where its "{" is.
        close: where its "}" is.
        members: what it has.
    """

    start: int
    close: int
    members: list[_Member]

    def member(self, key: str) -> _Member | None:
        """The member with a key."""
        found = [member for member in self.members if member.key == key]
        if len(found) > 1:
            raise FormatError(f"has the key {key!r} twice in one object. Remove one of them.")
        return found[0] if found else None


def value(text: str, keys: Sequence[str]) -> Any:
    """The value at a path. None: it is not there."""
    root = _root(text)
    member = None
    for number, key in enumerate(keys):
        if root is None or (member := root.member(key)) is None:
            return None
        if number < len(keys) - 1:
            root = _object(text, member.value) if text[member.value] == "{" else None
    return None if member is None else _parsed(text, member.value, member.end)


def put(text: str, keys: Sequence[str], entry: Mapping[str, Any]) -> str:
    """The text with an entry at a path. What is missing on the way is added.

    Args:
        text: JSON with comments, or nothing.
        keys: the path: the keys of the objects, from the outermost. At least one.
        entry: the new value at the path.

    Raises:
        FormatError: if the text is not JSON, or a value on the way is not an object.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    node = _root(text)
    if node is None:
        # There is nothing but spaces and comments.
        begin = text if not text or text.endswith("\n") else text + newline
        return begin + _written(_nested(keys, entry), _INDENT, newline, "") + newline
    root = node
    for number, key in enumerate(keys):
        member = node.member(key)
        if member is None:
            return _added(text, root, node, key, _nested(keys[number + 1 :], entry), newline)
        if number == len(keys) - 1:
            is_long = "\n" in text[node.start : node.close]
            written = _written(
                entry, _unit(text, root) if is_long else None, newline, _indent(text, member.start)
            )
            return text[: member.value] + written + text[member.end :]
        if text[member.value] != "{":
            raise FormatError(f"{_line(text, member.value)} the value of {key!r} is not an object.")
        node = _object(text, member.value)
    raise AssertionError("the path has no key")


def remove(text: str, keys: Sequence[str], *, n_kept: int) -> str:
    """The text without the entry at a path, and without objects that are empty then, but for `n_kept`."""
    node = _root(text)
    for key in keys[:-1]:
        member = None if node is None else node.member(key)
        if member is None or text[member.value] != "{":
            return text
        node = _object(text, member.value)
    member = None if node is None else node.member(keys[-1])
    if node is None or member is None:
        return text
    text = _cut(text, node, node.members.index(member))
    is_empty = not text[node.start + 1 : _object(text, node.start).close].strip(_SPACES)
    if is_empty and len(keys) - 1 > n_kept:
        return remove(text, keys[:-1], n_kept=n_kept)
    return text


def _cut(text: str, node: _Object, number: int) -> str:
    """The text without a member, its comma, and the spaces before it."""
    member = node.members[number]
    before = node.members[number - 1] if number else None
    begin = node.start + 1 if before is None else before.end
    start = begin + len(text[begin : member.start].rstrip(_SPACES))
    end = member.end if member.comma is None else member.comma + 1
    if len(node.members) == 1 and start == begin and not text[end : node.close].strip(_SPACES):
        return text[:begin] + text[node.close :]
    rest_of_line = text[end:].partition("\n")[0]
    if rest_of_line.strip() and "//" in text[begin:start].rpartition("\n")[2]:
        # What follows must not become a part of a comment.
        start = member.start
    text_before = text[:start]
    if before is not None and before.comma is not None and member.comma is None:
        text_before = text[: before.comma] + text[before.comma + 1 : start]
    return text_before + text[end:]


def _added(text: str, root: _Object, node: _Object, key: str, given: Any, newline: str) -> str:
    """The text with a member at the end of an object, in the style of the text."""
    last = node.members[-1] if node.members else None
    is_long = "\n" in text[node.start : node.close]
    if last is None:
        is_long = is_long or not root.members or "\n" in text[root.start : root.close]
    unit = _unit(text, root)
    outer = _indent(text, node.start)
    indent = (
        _indent(text, node.members[0].start)
        if last and _is_first(text, node.members[0].start)
        else outer + unit
    )
    name = json.dumps(key, ensure_ascii=False)
    member = f"{name}: {_written(given, unit if is_long else None, newline, indent)}"
    begin = node.start + 1 if last is None else last.end
    # After the last comment, which may belong to the last member.
    anchor = begin + len(text[begin : node.close].rstrip(_SPACES))
    if is_long:
        member = newline + indent + member
    elif last is not None:
        member = " " + member
    if last is not None and last.comma is not None:
        member += ","
    elif last is not None:
        text_before = text[: last.end] + "," + text[last.end : anchor]
        return text_before + member + text[anchor:]
    if is_long and "\n" not in text[anchor : node.close]:
        member += newline + outer
    return text[:anchor] + member + text[anchor:]


def _nested(keys: Sequence[str], entry: Mapping[str, Any]) -> Any:
    nested: Any = entry
    for key in reversed(keys):
        nested = {key: nested}
    return nested


def _written(given: Any, unit: str | None, newline: str, indent: str) -> str:
    """A value as JSON. Lines after the first begin with `indent`. Without `unit`, it is one line."""
    return json.dumps(given, indent=unit, ensure_ascii=False).replace("\n", newline + indent)


def _is_first(text: str, position: int) -> bool:
    """Whether there are only spaces before it in its line, and it is not the first line."""
    line = text.rfind("\n", 0, position)
    return line >= 0 and not text[line + 1 : position].strip(" \t")


def _indent(text: str, position: int) -> str:
    """The spaces at the beginning of a line."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str, root: _Object) -> str:
    """The spaces of one step to the right."""
    if root.members and _is_first(text, root.members[0].start):
        return _indent(text, root.members[0].start).removeprefix(_indent(text, root.start)) or _INDENT
    return _INDENT


def _root(text: str) -> _Object | None:
    """The object that is the text. None: there are only spaces and comments."""
    start = _after_trivia(text, 0)
    if start == len(text):
        return None
    if text[start] != "{":
        raise FormatError(f"{_line(text, start)} there must be an object: {{.")
    root = _object(text, start)
    if (after := _after_trivia(text, root.close + 1)) != len(text):
        raise FormatError(f"{_line(text, after)} there is something after the end of the object.")
    return root


def _object(text: str, start: int) -> _Object:
    """The object at a place."""
    members: list[_Member] = []
    position = _after_trivia(text, start + 1)
    while text[position : position + 1] != "}":
        key_end = _end_of_key(text, position)
        begin = _after_trivia(text, _after_colon(text, key_end))
        end = _end_of_value(text, begin)
        after = _after_trivia(text, end)
        comma = after if text[after : after + 1] == "," else None
        members.append(_Member(_key(text, position, key_end), position, begin, end, comma))
        position = _after_separator(text, after, "}")
    return _Object(start, position, members)


def _end_of_value(text: str, start: int) -> int:
    """Where the value at a place ends.

    Raises:
        FormatError: if it is not JSON with comments.
    """
    closers: list[str] = []
    position = start
    while True:
        # A value begins at `position`.
        sign = text[position : position + 1]
        if sign in ("{", "["):
            closers.append("}" if sign == "{" else "]")
            position = _after_trivia(text, position + 1)
        else:
            match = _SCALAR.match(text, position)
            if match is None:
                raise FormatError(f"{_line(text, position)} there must be a value.")
            position = match.end()
            if not closers:
                return position
            position = _after_separator(text, position, closers[-1])
        while text[position : position + 1] == closers[-1]:
            position += 1
            closers.pop()
            if not closers:
                return position
            position = _after_separator(text, position, closers[-1])
        if closers[-1] == "}":
            position = _after_trivia(text, _after_colon(text, _end_of_key(text, position)))


def _after_separator(text: str, position: int, closer: str) -> int:
    """The place after a comma, or that of the closing bracket."""
    position = _after_trivia(text, position)
    sign = text[position : position + 1]
    if sign == ",":
        return _after_trivia(text, position + 1)
    if sign != closer:
        raise FormatError(f"{_line(text, position)} there must be a comma or {closer}.")
    return position


def _end_of_key(text: str, position: int) -> int:
    match = _SCALAR.match(text, position)
    if match is None or text[position] != '"':
        raise FormatError(f"{_line(text, position)} there must be a key in double quotes.")
    return match.end()


def _after_colon(text: str, position: int) -> int:
    position = _after_trivia(text, position)
    if text[position : position + 1] != ":":
        raise FormatError(f"{_line(text, position)} there must be a colon.")
    return position + 1


def _after_trivia(text: str, position: int) -> int:
    match = _TRIVIA.match(text, position)
    assert match is not None
    return match.end()


def _key(text: str, start: int, end: int) -> str:
    try:
        key: str = json.loads(text[start:end])
    except ValueError:
        raise FormatError(f"{_line(text, start)} the key is not a JSON string.") from None
    return key


def _parsed(text: str, start: int, end: int) -> Any:
    """The value between two places."""
    parts: list[str] = []
    position = start
    while position < end:
        match = _SCALAR.match(text, position)
        part = match[0] if match else text[position]
        if part in ("}", "]") and parts[-1] == ",":
            parts.pop()
        parts.append(part)
        position = _after_trivia(text, position + len(part))
    try:
        return json.loads("".join(parts))
    except (ValueError, RecursionError):
        raise FormatError(f"{_line(text, start)} the value cannot be read.") from None


def _line(text: str, position: int) -> str:
    return f"is not valid JSON: in line {text.count(chr(10), 0, position) + 1},"
