"""Where a command looks for passages: collections or an index, brought in step first; and its hits, shown."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_colbert.cli.arguments import add_filter, add_full, store_location
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.cli.terminal import Terminal

if TYPE_CHECKING:
    from mlx_colbert.collection.collection import Collection
    from mlx_colbert.collection.restriction import Restriction
    from mlx_colbert.kernels import Backend

__all__ = [
    "COLLECTION_HIT_KEYS",
    "FORMATS",
    "OF_COLLECTIONS",
    "add_collections",
    "add_restriction",
    "add_shown",
    "add_where",
    "check_where",
    "opened_collections",
    "refresh_notes",
    "render_hits",
    "restriction_of",
]

COLLECTION_HIT_KEYS = """{"collection", "short_id", "path", "link", "similarity", "confidence",
"context": [sentences], "matches": [[start, end, similarity, query_word]], "words": [],
"surroundings": {"first", "before": [lines], "after": [lines]} | null}"""
# "text" and "json" are made elsewhere than the others.
FORMATS = ("text", "json", "jsonl", "md", "csv", "xml", "files")
# Options of `add_restriction` that an index folder does not have.
OF_COLLECTIONS = ("paths", "kinds", "since", "before", "regex")


def add_collections(parser: argparse.ArgumentParser) -> None:
    """Add --collection."""
    parser.add_argument(
        "-c",
        "--collection",
        dest="collections",
        metavar="NAME",
        action="append",
        help="the name of a collection, or '.' for that beside the files here; again for more (default: all)",
    )


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add --collection, --index and --no-refresh."""
    add_collections(parser)
    parser.add_argument(
        "--index",
        metavar="DIR",
        type=store_location,
        help="the folder of an index, or a store such as lancedb://notes, in place of collections",
    )
    parser.add_argument("--no-refresh", action="store_true", help="do not look for changed files first")


def add_restriction(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which passages may be found."""
    parser.add_argument(
        "--in",
        dest="paths",
        metavar="PATH",
        action="append",
        help="only this file or folder, or files that match a pattern such as '*.md'; again for more",
    )
    parser.add_argument(
        "--type", dest="kinds", metavar="KIND", action="append", help="only files such as markdown, pdf, py"
    )
    parser.add_argument(
        "--since", metavar="DATE", help="only files changed since a day (2024-05-31), a year, or an age (7d)"
    )
    parser.add_argument("--before", metavar="DATE", help="only files changed before a day, a year, or an age")
    parser.add_argument(
        "-e", "--regex", metavar="REGEX", help="only passages that a regular expression is found in"
    )
    add_filter(parser, "only passages whose metadata match")


def add_shown(parser: argparse.ArgumentParser) -> None:
    """Add --full and --format."""
    add_full(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="how to print hits (default: text)")


def restriction_of(args: argparse.Namespace) -> Restriction:
    """What `add_restriction` was given. It is checked here.

    Raises:
        InputError: if a value cannot be used.
    """
    from mlx_colbert.collection.restriction import Restriction
    from mlx_colbert.places import here

    return Restriction(
        args.paths or (), args.kinds or (), args.since, args.before, args.regex, args.filter, here()
    )


def check_where(args: argparse.Namespace, of_collections: Sequence[str] = ()) -> None:
    """Refuse options that do not go with --index, or only with it.

    Args:
        args: the command line.
        of_collections: the names of options that an index does not have.
    """
    if args.index is None:
        if getattr(args, "model", None) is not None:
            args.parser.error("--model is only for --index: a collection has its model.")
        return
    if args.collections:
        args.parser.error("give --collection or --index, not both.")
    if given := [name for name in of_collections if getattr(args, name) is not None]:
        args.parser.error(f"--index has no {', '.join(given)}: only collections have.")


def refresh_notes(args: argparse.Namespace, collections: Sequence[Collection]) -> list[str]:
    """Bring collections in step with their files, without --no-refresh; returns what is not in step."""
    from mlx_colbert.collection.fresh_search import refreshed
    from mlx_colbert.configuration import refresh_limit

    return [] if args.no_refresh else refreshed(collections, refresh_limit())


@contextmanager
def opened_collections(
    names: Sequence[str] | None, *, backend: Backend = "auto"
) -> Iterator[list[Collection]]:
    """A block that has the collections with these names, or all of them. Each model is loaded once.

    Without names, one that cannot be opened is left out, and a line on the standard error says why.

    Raises:
        CollectionNotFoundError: if one of them does not exist, or there is none.
        ConfigError: if the settings of one of them, or of all, are not valid.
    """
    from mlx_colbert.cli.output import note
    from mlx_colbert.collection.choosing import opened
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.counts import listed
    from mlx_colbert.errors import SeveralFoundError
    from mlx_colbert.places import here

    with opened(Registry(), names or (), near=here(), backend=backend, on_left_out=note) as collections:
        try:
            yield collections
        except SeveralFoundError as error:
            if error.collections:
                options = [f"-c {shlex.quote(name)}" for name in error.collections]
                error.add_note(f"Add {listed(options, 'or')}.")
            raise


def render_hits(result: Result, args: argparse.Namespace) -> str:
    """The hits, best first, and why there may be none, as --format and --full say."""
    if args.format == "text":
        from mlx_colbert.cli.hit_text import found_text

        # The scores of a ranking by words, and of rankings that are merged, tell people nothing.
        has_scores = getattr(args, "mode", None) not in ("keyword", "hybrid")
        return found_text(result, Terminal.of_stdout(), full=args.full, has_scores=has_scores)
    for note in result["notes"]:
        print(printable(note), file=sys.stderr)
    from mlx_colbert.cli.hit_formats import formatted

    return formatted(result, args.format)
