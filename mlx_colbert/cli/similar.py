"""`mlx-colbert similar`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import add_backend, add_full, positive
from mlx_colbert.cli.hit_formats import FORMATS, formatted
from mlx_colbert.cli.hit_text import found_text
from mlx_colbert.cli.render import HIT_KEYS, Result, typed_name
from mlx_colbert.cli.searched import HIT_KEYS as COLLECTION_HIT_KEYS
from mlx_colbert.cli.searched import add_collections, opened_collections
from mlx_colbert.cli.terminal import Terminal

EXAMPLE = """mlx-colbert similar '#1a2b3c4d'
  mlx-colbert similar notes/bees.md:12 -k 3"""
JSON_KEYS = f"""{{"passage", "hits": [{HIT_KEYS}, with
{COLLECTION_HIT_KEYS}], "notes": []}}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the passage, and where to search."""
    parser.add_argument(
        "reference", metavar="ID|PATH:LINE", help="the id of a passage, in quotes, or a line of its file"
    )
    add_collections(parser)
    parser.add_argument("-k", type=positive, default=10, help="passages to print (default: 10)")
    add_full(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="how to print passages (default: text)"
    )
    add_backend(parser)


def run(args: argparse.Namespace) -> Result:
    """Find passages that are related to a passage. Nothing is encoded, so no model is loaded."""
    from mlx_colbert.collection.lookup import find_passage
    from mlx_colbert.collection.related import similar

    with opened_collections(args.collections, backend=args.backend) as collections:
        collection, passage = find_passage(collections, typed_name(args.reference))
        hits = similar(collections, collection, passage, args.k)
        return {"passage": passage.doc_id, "hits": [hit.to_dict() for hit in hits], "notes": []}


def render(result: Result, args: argparse.Namespace) -> str:
    """The passages, the most similar first."""
    if args.format != "text":
        return formatted(result, args.format)
    return found_text(result | {"below": 0, "best_below": None}, Terminal.of_stdout(), full=args.full)
