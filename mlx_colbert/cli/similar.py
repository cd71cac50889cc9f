"""`mlx-colbert similar`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import add_backend, configurable, filter_notes, positive
from mlx_colbert.cli.render import HIT_KEYS, Result, typed_name
from mlx_colbert.cli.searched import (
    COLLECTION_HIT_KEYS,
    OF_COLLECTIONS,
    add_restriction,
    add_shown,
    add_where,
    check_where,
    opened_collections,
    refresh_notes,
    render_hits,
    restriction_of,
)

EXAMPLE = """mlx-colbert similar '#1a2b3c4d'
  mlx-colbert similar notes/bees.md:12 -k 3"""
JSON_KEYS = f"""{{"passage", "hits": [{HIT_KEYS}],
"notes": [texts]}}. Hits of collections also have
{COLLECTION_HIT_KEYS}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the passage, where to search, and the options that choose and show the hits."""
    parser.add_argument(
        "reference",
        metavar="ID|PATH:LINE",
        help="the id of a passage, in quotes, a line of its file, or a file with one passage",
    )
    add_where(parser)
    n_hits = parser.add_argument("-k", type=positive, default=10, help="hits to print (default: 10)")
    configurable(n_hits, "k")
    add_restriction(parser)
    add_shown(parser)
    add_backend(parser)


def run(args: argparse.Namespace) -> Result:
    """Find passages that are related to a passage. A model is loaded only if files have changed."""
    check_where(args, OF_COLLECTIONS)
    from mlx_colbert.collection.lookup import find_passage, passage_of
    from mlx_colbert.collection.related import like_vectors, similar

    reference = typed_name(args.reference)
    if args.index is not None:
        from mlx_colbert.index import Index

        with Index.open(args.index, backend=args.backend) as index:
            doc_id = passage_of(index, reference).doc_id
            found = like_vectors(index, index.embeddings([doc_id]), args.k, doc_id, filter=args.filter)
            notes = filter_notes(index, args.filter)
            return {"passage": doc_id, "hits": [hit.to_dict() for hit in found], "notes": notes}
    restriction = restriction_of(args)
    with opened_collections(args.collections, backend=args.backend) as collections:
        notes = refresh_notes(args, collections)
        collection, passage = find_passage(collections, reference)
        hits = similar(collections, collection, passage, args.k, restriction=restriction)
        notes += filter_notes(collection.index, args.filter)
        return {"passage": passage.doc_id, "hits": [hit.to_dict() for hit in hits], "notes": notes}


def render(result: Result, args: argparse.Namespace) -> str:
    """The passages, the most similar first."""
    return render_hits(result, args)
