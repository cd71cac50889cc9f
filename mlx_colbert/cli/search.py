"""`mlx-colbert search`."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from mlx_colbert.cli.arguments import (
    add_filter,
    add_full,
    add_model,
    configurable,
    filter_notes,
    folder,
    positive,
)
from mlx_colbert.cli.hit_formats import FORMATS, formatted
from mlx_colbert.cli.hit_text import found_text
from mlx_colbert.cli.render import HIT_KEYS, Result, hits, printable
from mlx_colbert.cli.searched import HIT_KEYS as COLLECTION_HIT_KEYS
from mlx_colbert.cli.searched import add_collections, opened_collections
from mlx_colbert.cli.terminal import Terminal

EXAMPLE = """mlx-colbert search "how do bees tell where flowers are"
  mlx-colbert search "boiler" -c minutes --in '2019/*.md' --since 2019-03 -k 3
  mlx-colbert search "how long to steep tea" --index notes.index"""
JSON_KEYS = f"""{{"query", "hits": [{HIT_KEYS}],
"notes": [texts]}}; a note says why the query or a condition may find nothing. Hits of collections also have
{COLLECTION_HIT_KEYS};
then "below" is the number of hits with too little confidence, and "best_below" the best of them;
"query_words": [{{"start", "end", "text"}}]"""
# Options that an index folder does not have.
_OF_COLLECTIONS = ("paths", "kinds", "since", "before", "regex", "min_score", "context")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a query, where to search, and the options that choose, order and show the hits."""
    parser.add_argument("query", metavar="QUERY")
    add_collections(parser)
    parser.add_argument(
        "--index", metavar="DIR", type=folder, help="the folder of an index, in place of collections"
    )
    n_hits = parser.add_argument("-k", type=positive, default=10, help="hits to print (default: 10)")
    configurable(n_hits, "k")
    parser.add_argument(
        "--mode",
        choices=["semantic", "keyword", "hybrid"],
        help="rank by meaning, by words, or by both (default: hybrid; with --index: semantic)",
    )
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
    add_filter(parser, "search only passages whose metadata match")
    parser.add_argument(
        "--min-score", type=_confidence, metavar="N", help="leave out hits with a lower confidence, 0 to 1"
    )
    parser.add_argument("--all", action="store_true", help="also show hits that are not relevant")
    parser.add_argument("--no-refresh", action="store_true", help="do not look for changed files first")
    parser.add_argument(
        "--context", type=positive, metavar="N", help="show N lines of the file before and after a passage"
    )
    add_full(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="how to print hits (default: text)")
    add_model(parser, required=False)


def _confidence(text: str) -> float:
    """A number of 0 to 1."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"must be a number of 0 to 1, got {text!r:.40}")


def run(args: argparse.Namespace) -> Result:
    """Search. A keyword search loads no model."""
    if args.index is None:
        return _search_collections(args)
    return _search_index(args)


def _search_collections(args: argparse.Namespace) -> Result:
    from mlx_colbert.collection.confidence import least_confidence
    from mlx_colbert.collection.restriction import Restriction
    from mlx_colbert.collection.search import search
    from mlx_colbert.configuration import refresh_limit
    from mlx_colbert.places import here

    if args.model is not None:
        args.parser.error("--model is only for --index: a collection has its model.")
    # Checked before anything is opened.
    least = least_confidence(args.min_score, args.mode, all=args.all)
    restriction = Restriction(
        args.paths or (), args.kinds or (), args.since, args.before, args.regex, args.filter, here()
    )
    with opened_collections(args.collections, backend=args.backend) as collections:
        return search(
            collections,
            args.query,
            args.k,
            mode=args.mode or "hybrid",
            restriction=restriction,
            min_confidence=least,
            with_matches=True,
            n_lines=args.context,
            refresh_s=None if args.no_refresh else refresh_limit(),
        ).to_dict()


def _search_index(args: argparse.Namespace) -> Result:
    if args.collections:
        args.parser.error("give --collection or --index, not both.")
    if given := [name for name in _OF_COLLECTIONS if getattr(args, name) is not None]:
        args.parser.error(f"--index has no {', '.join(given)}: only collections have.")
    if args.mode == "keyword":
        from mlx_colbert.index import Index

        with Index.open(args.index, backend="numpy") as index:
            found = index.search_keywords(args.query, args.k, filter=args.filter)
            notes = index.keyword_problems(args.query) + filter_notes(index, args.filter)
    else:
        from mlx_colbert.retriever.retriever import Retriever

        with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
            found = retriever.search(args.query, args.k, mode=args.mode or "semantic", filter=args.filter)
            notes = filter_notes(retriever.index, args.filter)
    return {"query": args.query, "hits": [hit.to_dict() for hit in found], "notes": notes}


def render(result: Result, args: argparse.Namespace) -> str:
    """The hits, best first, and why the query or a condition may find nothing."""
    if args.format != "text":
        for note in result["notes"]:
            print(printable(note), file=sys.stderr)
        return formatted(result, args.format)
    if args.index is None:
        return found_text(result, Terminal.of_stdout(), full=args.full)
    return "\n".join([hits(result, args), *map(printable, result["notes"])])
