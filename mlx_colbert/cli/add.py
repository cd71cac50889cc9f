"""`mlx-colbert add`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli import written
from mlx_colbert.cli.arguments import add_index, add_inputs, add_model
from mlx_colbert.cli.render import Result

EXAMPLE = "mlx-colbert add more.jsonl --index notes.index"
JSON_KEYS = written.JSON_KEYS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the inputs, the index and a model."""
    add_index(parser, or_store=True)
    add_inputs(parser)
    parser.add_argument(
        "--upsert",
        action="store_true",
        help="replace what the index has from these files, and delete what they no longer have",
    )
    add_model(parser, required=False)


def run(args: argparse.Namespace) -> Result:
    """Add the passages of files and folders."""
    from mlx_colbert.retriever.retriever import Retriever

    with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
        retriever.add_files(args.inputs, upsert=args.upsert, max_file_bytes=args.max_file_bytes)
        return written.written(args, retriever)


def render(result: Result, args: argparse.Namespace) -> str:
    """The number of passages that were added, and what was not read."""
    return written.render(result, args)
