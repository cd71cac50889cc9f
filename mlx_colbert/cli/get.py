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
  mlx-colbert get notes/bees.md:12:20
  mlx-colbert get papers/bees.pdf:3"""
JSON_KEYS = """{"collection", "source", "path", "text", "lines": [first, last],
"is_indexed"} for lines of a file; {"collection", "source", "path", "text", "passages": [hits]} for a file
without lines, such as a PDF; or the keys of a hit of search for a passage. "is_indexed" is false if the file
has changed since it was indexed"""
# Lines that PATH:LINE prints.
_N_LINES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to print."""
    parser.add_argument(
        "reference",
        metavar="ID|PATH[:LINE[:COUNT]]",
        help=f"the id of a passage, in quotes; or a file: all of it, or COUNT lines (default: {_N_LINES}). "
        "Of a PDF, slides or a notebook: the passages of it, or of COUNT pages (default: 1)",
    )
    add_collections(parser)


def run(args: argparse.Namespace) -> Result:
    """Print a passage, or lines of a file in a collection. Other files are not read."""
    from mlx_colbert.collection.lookup import PlaceInFile, find_file, find_passage
    from mlx_colbert.collection.source_files import has_lines
    from mlx_colbert.errors import InputError

    reference = typed_name(args.reference)
    with opened_collections(args.collections, backend="numpy") as collections:
        if "#" not in reference:
            asked = PlaceInFile.parse(reference)
            try:
                collection, uri = find_file(collections, asked)
                part = _lines if has_lines(uri) else _passages
                return part(collection, uri, asked)
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


def _passages(collection: Collection, uri: str, asked: PlaceInFile) -> dict[str, Any]:
    """What the index has of a file without lines. Its bytes are nothing for people."""
    from mlx_colbert.collection.lookup import passages_in

    hits = passages_in(collection, uri, asked)
    return {
        "collection": collection.name,
        "source": uri,
        "path": hits[0].path,
        "text": "\n\n".join(hit.text or "" for hit in hits),
        "passages": [hit_object(hit) for hit in hits],
    }


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
