"""`mlx-colbert get`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.hit_text import heading_path, place
from mlx_colbert.cli.render import Result, printable_lines, typed_name
from mlx_colbert.cli.searched import add_collections, opened_collections
from mlx_colbert.cli.terminal import Terminal

EXAMPLE = """mlx-colbert get '#1a2b3c4d'
  mlx-colbert get notes/bees.md:12:20"""
JSON_KEYS = """{"collection", "source", "path", "text", "lines": [first, last], "n_lines",
"is_indexed"} for lines of a file, or the keys of a hit of search for a passage. "n_lines" is the number of
lines of the file; "is_indexed" is false if it has changed since it was indexed"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to print."""
    parser.add_argument(
        "reference",
        metavar="ID|PATH[:LINE[:COUNT]]",
        help="the id of a passage, in quotes; or a file: all of it, or COUNT lines (default: 20)",
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
    lines = [printable_lines(result["text"] or "")]
    if terminal.is_styled and "position" in result:
        title = " › ".join(filter(None, [place(result), heading_path(result)]))
        lines = [terminal.linked(terminal.styled(title, "bold"), result["link"]), *lines]
    return "\n".join(lines)
