"""`mlx-colbert search`."""

from __future__ import annotations

import argparse
from contextlib import closing, suppress

from mlx_colbert.cli.arguments import add_model, configurable, filter_notes, positive
from mlx_colbert.cli.render import HIT_KEYS, Result
from mlx_colbert.cli.searched import (
    COLLECTION_HIT_KEYS,
    OF_COLLECTIONS,
    add_restriction,
    add_shown,
    add_where,
    check_where,
    opened_collections,
    render_hits,
    restriction_of,
)

EXAMPLE = """mlx-colbert search "how do bees tell where flowers are"
  mlx-colbert search "boiler" -c minutes --in '2019/*.md' --since 2019-03 -k 3
  mlx-colbert search "how long to steep tea" --index notes.index"""
JSON_KEYS = f"""{{"query", "hits": [{HIT_KEYS}],
"notes": [texts]}}; a note says why the query or a condition may find nothing. Hits of collections also have
{COLLECTION_HIT_KEYS};
then "below" is the number of hits with too little confidence, and "best_below" the best of them;
"query_words": [{{"start", "end", "text"}}]"""
# Options that an index folder does not have.
_OF_COLLECTIONS = (*OF_COLLECTIONS, "min_score", "context")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a query, where to search, and the options that choose, order and show the hits."""
    parser.add_argument("query", metavar="QUERY")
    add_where(parser)
    n_hits = parser.add_argument("-k", type=positive, default=10, help="hits to print (default: 10)")
    configurable(n_hits, "k")
    parser.add_argument(
        "--mode",
        choices=["semantic", "keyword", "hybrid"],
        help="rank by meaning, by words, or by both (default: hybrid; with --index: semantic)",
    )
    add_restriction(parser)
    parser.add_argument(
        "--min-score", type=_confidence, metavar="N", help="leave out hits with a lower confidence, 0 to 1"
    )
    parser.add_argument("--all", action="store_true", help="also show hits that are not relevant")
    parser.add_argument(
        "--context", type=positive, metavar="N", help="show N lines of the file before and after a passage"
    )
    add_shown(parser)
    add_model(parser, required=False)


def _confidence(text: str) -> float:
    """A number of 0 to 1."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"must be a number of 0 to 1, got {text!r:.40}")


def run(args: argparse.Namespace) -> Result:
    """Search. A keyword search loads no model."""
    check_where(args, _OF_COLLECTIONS)
    if args.index is None:
        return _search_collections(args)
    return _search_index(args)


def _search_collections(args: argparse.Namespace) -> Result:
    from mlx_colbert.collection.confidence import least_confidence
    from mlx_colbert.collection.search import search
    from mlx_colbert.configuration import refresh_limit

    # Checked before anything is opened.
    least = least_confidence(args.min_score, args.mode, all=args.all)
    restriction = restriction_of(args)
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
    if args.mode == "keyword":
        from mlx_colbert.store import open_store

        with closing(open_store(args.index, backend="numpy")) as store:
            found = store.search_keywords(args.query, args.k, filter=args.filter)
            notes = store.keyword_problems(args.query) + filter_notes(store, args.filter)
    else:
        from mlx_colbert.retriever.retriever import Retriever

        with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
            found = retriever.search(args.query, args.k, mode=args.mode or "semantic", filter=args.filter)
            notes = filter_notes(retriever.store, args.filter)
    return {"query": args.query, "hits": [hit.to_dict() for hit in found], "notes": notes}


def render(result: Result, args: argparse.Namespace) -> str:
    """The hits, best first, and why the query or a condition may find nothing."""
    return render_hits(result, args)
