"""`mlx-colbert rerank`."""

from __future__ import annotations

import argparse
import sys

from mlx_colbert.cli.arguments import add_full, add_lengths, add_model, load_model, location, positive
from mlx_colbert.cli.render import Result, hits
from mlx_colbert.errors import InputError

EXAMPLE = 'grep -i tea notes.txt | mlx-colbert rerank "how long to steep tea" --model mlx_model -k 3'
JSON_KEYS = '{"query", "hits": [{"rank", "score", "doc_id", "text", "metadata"}]}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a query, the passages and a model."""
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        type=location,
        help="as for index; without it, a text per line of stdin",
    )
    parser.add_argument("-k", type=positive, help="hits to print (default: all)")
    add_full(parser)
    add_model(parser, required=True)
    add_lengths(parser)


def run(args: argparse.Namespace) -> Result:
    """Orders the passages of files, or the lines of stdin."""
    from mlx_colbert.documents.files import read_lines, read_passages

    if not args.inputs and sys.stdin is None:
        raise InputError("stdin is closed. Name a file, or pipe in a text per line.")
    model = load_model(args)
    if args.inputs:
        passages = list(read_passages(args.inputs, fits=model.fits))
    else:
        passages = list(read_lines(sys.stdin.buffer, name="stdin"))
    texts, doc_ids = [passage.text for passage in passages], [passage.doc_id for passage in passages]
    found = model.rerank(args.query, texts, args.k, doc_ids=doc_ids)
    return {"query": args.query, "hits": [hit.to_dict() for hit in found]}


def render(result: Result, args: argparse.Namespace) -> str:
    """The passages, best first."""
    return hits(result, args)
