"""The hits of a search in formats for other programs."""

from __future__ import annotations

import io
import re
from typing import Any

from mlx_colbert.cli.hit_text import heading_path, place
from mlx_colbert.cli.output import as_json
from mlx_colbert.cli.render import CONTROLS, Result, printable_lines, printable_name

__all__ = ["formatted"]

# Characters that XML 1.0 cannot have.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Signs that mean something in a line of Markdown.
_MARKUP = re.compile(r"[\\`*\[\]<>&]")
# A spreadsheet runs what begins with one of these.
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t")
_COLUMNS = ("rank", "score", "confidence", "doc_id", "source", "line", "headings", "text")


def formatted(result: Result, format: str) -> str:
    """The hits in a format: "jsonl", "md", "csv", "xml" or "files".

    Args:
        result: the JSON object of a search.
        format: "jsonl", "md", "csv", "xml" or "files".
    """
    return {"jsonl": _jsonl, "md": _markdown, "csv": _csv, "xml": _xml, "files": _files}[format](
        result["hits"]
    )


def _jsonl(hits: list[dict[str, Any]]) -> str:
    return "\n".join(as_json(hit) for hit in hits)


def _markdown(hits: list[dict[str, Any]]) -> str:
    blocks = []
    for hit in hits:
        where = _literal(place(hit))
        name = f"[{where}](<{hit['link']}>)" if hit.get("link") else where
        headings = _literal(heading_path(hit))
        title = f"{hit['rank']}. {name}" + (f" › {headings}" if headings else "")
        quoted = "\n".join(f"   > {line}".rstrip() for line in printable_lines(hit["text"] or "").split("\n"))
        blocks.append(f"{title}\n\n{quoted}")
    return "\n\n".join(blocks)


def _literal(text: str) -> str:
    """A text as Markdown that shows this text."""
    return _MARKUP.sub(r"\\\g<0>", text)


def _row(hit: dict[str, Any]) -> list[Any]:
    lines = (hit["position"] or {}).get("lines")
    values = {**hit, "line": lines[0] if lines else None, "headings": heading_path(hit)}
    return [values.get(name) for name in _COLUMNS]


def _csv(hits: list[dict[str, Any]]) -> str:
    import csv

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(value) for value in _row(hit)] for hit in hits)
    return stream.getvalue().removesuffix("\n")


def _cell(value: Any) -> Any:
    """The value of a cell. An apostrophe stands before a text that a spreadsheet would run."""
    if not isinstance(value, str):
        return value
    text = printable_lines(value)
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) else text


def _xml(hits: list[dict[str, Any]]) -> str:
    from xml.sax.saxutils import escape, quoteattr

    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<hits>"]
    for hit in hits:
        values = zip(_COLUMNS[:-1], _row(hit), strict=False)
        attributes = [
            f"{name}={_referred(quoteattr(_clean(str(value))))}"
            for name, value in values
            if value is not None
        ]
        lines.append(f"  <hit {' '.join(attributes)}>{_referred(escape(_clean(hit['text'] or '')))}</hit>")
    return "\n".join([*lines, "</hits>"])


def _clean(text: str) -> str:
    return _NOT_XML.sub("", text)


def _referred(text: str) -> str:
    """XML with a reference for each character that steers a terminal, but the ends of lines and the tabs."""
    return CONTROLS.sub(lambda sign: sign[0] if sign[0] in "\n\t" else f"&#{ord(sign[0])};", text)


def _files(hits: list[dict[str, Any]]) -> str:
    names = (hit.get("path") or hit["source"] or hit["doc_id"] for hit in hits)
    return "\n".join(map(printable_name, dict.fromkeys(names)))
