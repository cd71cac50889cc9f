"""Text for people that several commands print."""

from __future__ import annotations

import re

from mlx_colbert.counts import counted

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from typing import Any

    from mlx_colbert.documents.unread import Unread

__all__ = [
    "CONTROLS",
    "HIT_KEYS",
    "Result",
    "left_out",
    "left_out_lines",
    "printable",
    "printable_json",
    "printable_lines",
    "printable_name",
    "shortened",
    "typed_name",
]

# Characters that steer a terminal: C0, delete and C1, and the marks that change the direction of the text.
CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")

HIT_KEYS = '{"rank", "score", "doc_id", "text", "metadata", "source", "position"}'
# The JSON object that a command returns.
Result = dict[str, "Any"]


def left_out(unread: Unread) -> Result:
    """What was not read: files, kinds of files, and blank rows. "passed" if no file failed."""
    return {
        "passed": not unread.files and not unread.waiting,
        "unread": unread.files,
        "waiting": dict(unread.waiting),
        "skipped": dict(unread.kinds.most_common()),
        "blank_rows": unread.blank_rows,
    }


def left_out_lines(result: Result) -> list[str]:
    """The same as text for people: a line for rows, one for kinds, and one for each file that failed."""
    from mlx_colbert.documents.input_file import RECORD_SUFFIXES

    lines = []
    if n_blank := result["blank_rows"]:
        lines.append(f"Left out: {counted(n_blank, 'row')} without a text.")
    if result["skipped"]:
        kinds = ", ".join(f"{kind} ({n:,})" for kind, n in result["skipped"].items())
        lines.append(printable(f"Passed over in folders: {kinds}."))
        if not result["skipped"].keys().isdisjoint(RECORD_SUFFIXES):
            lines.append("A folder gives no rows. Name each .jsonl, .csv or .tsv file itself.")
    for extra, n in result["waiting"].items():
        lines.append(
            f"Not read without an extra: {counted(n, 'file')}. Run: pip install 'mlx-colbert[{extra}]'"
        )
    if unread := result["unread"]:
        lines.append(f"Not read, because of errors ({len(unread):,}):")
        lines += [printable(f"  {path}: {reason}") for path, reason in unread.items()]
    return lines


def printable(text: str) -> str:
    """The text with a space for each control character, because a document must not control the terminal.

    All other characters stay, also those that a terminal does not show: a copied id must be the same id.
    """
    return CONTROLS.sub(" ", text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines: the ends of lines and the tabs stay."""
    return CONTROLS.sub(lambda sign: sign[0] if sign[0] in "\n\t" else " ", text)


def printable_name(name: str) -> str:
    r"""An id, or the name of a source, with an escape for each character that steers a terminal.

    `typed_name` takes it back. So a backslash that looks like the beginning of an escape is escaped too.

    >>> printable_name("a\u202eb"), printable_name("C:\\temp"), printable_name(r"a\u202eb")
    ('a\\u202eb', 'C:\\temp', 'a\\u005cu202eb')
    """
    plain = _ESCAPE.sub(lambda escape: f"\\u005cu{escape[1]}" if _is_ours(escape) else escape[0], name)
    return CONTROLS.sub(_escaped, plain)


def typed_name(text: str) -> str:
    """The id, or the name of a source, that `printable_name` shows as this text."""
    return _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if _is_ours(escape) else escape[0], text)


def printable_json(text: str) -> str:
    """A JSON document with JSON's own escape for each character that steers a terminal."""
    return CONTROLS.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _is_ours(escape: re.Match[str]) -> bool:
    """Whether `printable_name` makes this escape."""
    character = chr(int(escape[1], 16))
    return character == "\\" or CONTROLS.fullmatch(character) is not None


def shortened(text: str, n_characters: int) -> str:
    """The beginning of a text, with "…" if the text is longer."""
    return text if len(text) <= n_characters else text[: n_characters - 1].rstrip() + "…"
