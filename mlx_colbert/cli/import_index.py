"""`mlx-colbert import-index`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mlx_colbert.cli.arguments import add_index, add_model, location
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.counts import counted

EXAMPLE = "mlx-colbert import-index .ragatouille/colbert/indexes/notes --index notes.index --model mlx_model"
JSON_KEYS = '{"index", "engine", "passages", "texts", "dim", "nbits", "checkpoint", "model"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the old index, the new index, the texts and a model."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=location,
        help="an index of colbert-ai, RAGatouille, PyLate, fast-plaid or next-plaid, or an export to Parquet",
    )
    add_index(parser)
    parser.add_argument(
        "--collection",
        metavar="FILE",
        type=location,
        help="its texts, if it does not store them: .tsv (id, text, title), .jsonl or .csv",
    )
    add_model(parser, required=False, otherwise="give it with each search")


def run(args: argparse.Namespace) -> Result:
    """Import the old index."""
    from mlx_colbert.index_import import import_index

    found = import_index(
        args.index, args.source, args.model, collection=args.collection, backend=args.backend
    )
    return {"index": str(args.index), **asdict(found)}


def render(result: Result, args: argparse.Namespace) -> str:
    """The number of passages, their engine, and what the new index lacks."""
    lines = [f"{result['index']}: {counted(result['passages'], 'passage')} of {result['engine']} imported."]
    if result["model"] is None:
        named = f"; the old index names {result['checkpoint']}" if result["checkpoint"] else ""
        lines.append(f"It records no model: search with --model{named}.")
    if not result["texts"]:
        lines.append(
            "It has no texts, because the old index has none. Import it with --collection to add them."
        )
    return "\n".join(printable(line) for line in lines)
