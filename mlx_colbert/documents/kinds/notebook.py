"""Jupyter notebooks: the Markdown and the code of the cells, and short outputs that are text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mlx_colbert.documents.blocks import Block, Heading, Parts
from mlx_colbert.documents.decoding import decode
from mlx_colbert.documents.kinds import markdown
from mlx_colbert.errors import InputError
from mlx_colbert.types import Position

__all__ = ["parts"]

# Longer outputs are cut: they are data, and not what somebody wrote.
_OUTPUT_CHARACTERS = 1000
# Half a pair of UTF-16: JSON can write it, but it is no character, and no UTF-8 has it.
_HALF = re.compile("[\ud800-\udfff]")


def parts(data: bytes, name: str) -> Parts:
    """The headings and blocks of a notebook. The position is the cell.

    Raises:
        InputError: if the bytes are not a notebook.
    """
    try:
        notebook = json.loads(decode(data, name))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: is damaged: it is not JSON, or is nested too deeply.") from None
    for number, cell in enumerate(_cells(notebook, name), start=1):
        position: Position = {"cell": number}
        source = _text(cell.get("source", cell.get("input")))
        kind = cell.get("cell_type")
        if kind == "markdown":
            for part in markdown.parts_of_lines(source.split("\n")):
                yield replace(part, position=position, verbatim=False)
        elif kind == "heading":
            # An old format has cells that are headings.
            level = cell.get("level")
            yield Heading(" ".join(source.split()), level if type(level) is int else 1, source, position)
        elif source.strip():
            yield Block(source.strip("\n"), position, "lines" if kind == "code" else "sentences")
        if kind == "code":
            yield from (Block(output, position, "lines") for output in _outputs(cell))


def _cells(notebook: Any, name: str) -> list[dict[str, Any]]:
    """The cells of a notebook, also of the old format with worksheets."""
    if isinstance(notebook, dict):
        found = notebook.get("cells")
        sheets = notebook.get("worksheets")
        if found is None and isinstance(sheets, list):
            found = [cell for sheet in sheets if isinstance(sheet, dict) for cell in sheet.get("cells") or []]
        if isinstance(found, list):
            return [cell if isinstance(cell, dict) else {} for cell in found]
    raise InputError(f"{name}: is not a notebook: it has no cells.")


def _text(lines: Any) -> str:
    """A text that is a string or a list of lines."""
    if isinstance(lines, list):
        lines = "".join(line for line in lines if isinstance(line, str))
    return _HALF.sub("\ufffd", lines) if isinstance(lines, str) else ""


def _outputs(cell: dict[str, Any]) -> Iterator[str]:
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        if not isinstance(output, dict):
            continue
        bundle = output.get("data")
        text = _text(output.get("text") or (bundle.get("text/plain") if isinstance(bundle, dict) else ""))
        if output.get("output_type") == "error":
            text = _text(f"{output.get('ename', '')}: {output.get('evalue', '')}")
        text = text.strip("\n").rstrip()
        if len(text) > _OUTPUT_CHARACTERS:
            text = text[:_OUTPUT_CHARACTERS].rstrip() + " …"
        if text:
            yield text
