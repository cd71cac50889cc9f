"""`mlx-colbert get`."""

from __future__ import annotations

import argparse
from typing import Any

from mlx_colbert.cli.hit_text import heading_path, place
from mlx_colbert.cli.render import Result, printable_lines, typed_name
from mlx_colbert.cli.searched import add_collections, opened_collections
from mlx_colbert.cli.terminal import Terminal

EXAMPLE = """mlx-colbert get '#1a2b3c4d'
  mlx-colbert get notes/bees.md:12:20
  mlx-colbert get papers/bees.pdf:3"""
JSON_KEYS = """{"collection", "source", "path", "text", "lines": [first, last], "n_lines",
"is_indexed"} for lines of a file; {"collection", "source", "path", "text", "passages": [hits]} for a file
without lines, such as a PDF; or the keys of a hit of search for a passage. "n_lines" is the number of lines
of the file; "is_indexed" is false if it has changed since it was indexed"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to print."""
    parser.add_argument(
        "reference",
        metavar="ID|PATH[:LINE[:COUNT]]",
        help="the id of a passage, in quotes; or a file: all of it, or COUNT lines (default: 20). "
        "Of a PDF, slides or a notebook: the passages of it, or of COUNT pages (default: 1)",
    )
    add_collections(parser)


def run(args: argparse.Namespace) -> Result:
    """Print a passage, or lines of a file in a collection. Other files are not read."""
    from mlx_colbert.collection.quotes import quote

    with opened_collections(args.collections, backend="numpy") as collections:
        return quote(collections, typed_name(args.reference)).to_dict()


def render(result: Result, args: argparse.Namespace) -> str:
    """The text alone. A terminal shows the place of a passage above it."""
    terminal = Terminal.of_stdout()
    return "\n\n".join(_shown(part, terminal) for part in result.get("passages", [result]))


def _shown(part: dict[str, Any], terminal: Terminal) -> str:
    lines = [printable_lines(part["text"] or "")]
    if terminal.is_styled and "position" in part:
        title = " › ".join(filter(None, [place(part), heading_path(part)]))
        lines = [terminal.linked(terminal.styled(title, "bold"), part["link"]), *lines]
    return "\n".join(lines)
