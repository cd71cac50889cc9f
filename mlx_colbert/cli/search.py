"""`mlx-colbert search`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import (
    add_filter,
    add_full,
    add_index,
    add_model,
    configurable,
    filter_notes,
    positive,
)
from mlx_colbert.cli.render import HIT_KEYS, Result, hits, printable

EXAMPLE = 'mlx-colbert search "how long to steep tea" --index notes.index -k 3'
JSON_KEYS = f"""{{"query", "hits": [{HIT_KEYS}],
"notes": [texts]}}; a note says why the query or --filter may find nothing"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a query, the index, and the options that choose and order the hits."""
    parser.add_argument("query", metavar="QUERY")
    add_index(parser)
    configurable(
        parser.add_argument("-k", type=positive, default=10, help="hits to print (default: 10)"), "k"
    )
    parser.add_argument(
        "--mode",
        choices=["semantic", "keyword", "hybrid"],
        default="semantic",
        help="rank by meaning, by words, or by both (default: semantic)",
    )
    add_filter(parser, "search only passages whose metadata match")
    add_full(parser)
    add_model(parser, required=False)


def run(args: argparse.Namespace) -> Result:
    """Search. A keyword search loads no model."""
    if args.mode == "keyword":
        from mlx_colbert.index import Index

        with Index.open(args.index, backend="numpy") as index:
            found = index.search_keywords(args.query, args.k, filter=args.filter)
            notes = index.keyword_problems(args.query) + filter_notes(index, args.filter)
    else:
        from mlx_colbert.retriever.retriever import Retriever

        with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
            found = retriever.search(args.query, args.k, mode=args.mode, filter=args.filter)
            notes = filter_notes(retriever.index, args.filter)
    return {"query": args.query, "hits": [hit.to_dict() for hit in found], "notes": notes}


def render(result: Result, args: argparse.Namespace) -> str:
    """The hits, best first, and why the query or the filter may find nothing."""
    return "\n".join([hits(result, args), *map(printable, result["notes"])])
