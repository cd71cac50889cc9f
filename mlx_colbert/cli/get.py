"""`mlx-colbert get`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mlx_colbert.cli.hit_text import heading_path, place
from mlx_colbert.cli.render import Result, printable_lines, typed_name
from mlx_colbert.cli.searched import add_collections, hit_object, opened_collections
from mlx_colbert.cli.terminal import Terminal

if TYPE_CHECKING:
    from mlx_colbert.collection.collection import Collection
    from mlx_colbert.collection.lookup import PlaceInFile

EXAMPLE = """mlx-colbert get '#1a2b3c4d'
  mlx-colbert get notes/bees.md:12:20"""
JSON_KEYS = """{"collection", "source", "path", "text", "lines": [first, last],
"is_indexed"} for lines of a file, or the keys of a hit of search for a passage. "is_indexed" is false if
the file has changed since it was indexed"""
# Lines that PATH:LINE prints.
_N_LINES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to print."""
    parser.add_argument(
        "reference",
        metavar="ID|PATH[:LINE[:COUNT]]",
        help=f"the id of a passage, in quotes; or a file: all of it, or COUNT lines (default: {_N_LINES})",
    )
    add_collections(parser)


def run(args: argparse.Namespace) -> Result:
    """Print a passage, or lines of a file in a collection. Other files are not read."""
    from mlx_colbert.collection.lookup import PlaceInFile, find_file, find_passage
    from mlx_colbert.errors import InputError

    reference = typed_name(args.reference)
    with opened_collections(args.collections, backend="numpy") as collections:
        if "#" not in reference:
            asked = PlaceInFile.parse(reference)
            try:
                return _lines(*find_file(collections, asked), asked)
            except InputError:
                # A short id may be without its sign.
                if asked.line is not None or "/" in reference:
                    raise
        _, hit = find_passage(collections, reference)
        return hit_object(hit)


def _lines(collection: Collection, uri: str, asked: PlaceInFile) -> dict[str, Any]:
    from mlx_colbert.collection.source_files import lines_of
    from mlx_colbert.errors import InputError

    file = lines_of(collection, uri)
    first = asked.line or 1
    if first > len(file.lines):
        raise InputError(f"{uri}: has {len(file.lines):,} lines, so there is no line {first:,}.")
    n_lines = len(file.lines) if asked.line is None else asked.n_lines or _N_LINES
    chosen = file.lines[first - 1 : first - 1 + n_lines]
    return {
        "collection": collection.name,
        "source": uri,
        "path": str(file.path),
        "text": "\n".join(chosen),
        "lines": [first, first - 1 + len(chosen)],
        "is_indexed": file.is_indexed,
    }


def render(result: Result, args: argparse.Namespace) -> str:
    """The text alone. A terminal shows the place of a passage above it."""
    terminal = Terminal.of_stdout()
    lines = [printable_lines(result["text"] or "")]
    if terminal.is_styled and "position" in result:
        title = " › ".join(filter(None, [place(result), heading_path(result)]))
        lines = [terminal.linked(terminal.styled(title, "bold"), result["link"]), *lines]
    return "\n".join(lines)
