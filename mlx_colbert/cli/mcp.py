"""`mlx-colbert mcp`."""

from __future__ import annotations

import argparse
import sys

from mlx_colbert.cli.arguments import add_backend
from mlx_colbert.cli.output import note
from mlx_colbert.cli.render import Result
from mlx_colbert.cli.searched import add_collections

EXAMPLE = "mlx-colbert mcp -c notes"
JSON_KEYS = "nothing: the standard output is for the host alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the collections, and --allow-write."""
    add_collections(parser)
    parser.add_argument(
        "--allow-write", action="store_true", help="let the assistant bring collections in step (tool sync)"
    )
    add_backend(parser)


def run(args: argparse.Namespace) -> Result:
    """Serve the assistant that started this process, until it closes the standard input."""
    from mlx_colbert.errors import MissingExtraError
    from mlx_colbert.places import here

    try:
        from mlx_colbert.mcp.served import Served
        from mlx_colbert.mcp.stdio import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mlx_colbert"):
            raise
        raise MissingExtraError("mlx-colbert mcp", "mcp") from error
    served = Served(tuple(args.collections or ()), here(), backend=args.backend)
    # A wrong name must be told now, not at the first search. That there is no collection yet is no error.
    if served.names:
        served.places()
    if sys.stdin.isatty() and not args.quiet:
        note("This command is for an assistant, which starts it. Ctrl-C ends it.")
    serve(served, may_write=args.allow_write, is_verbose=args.verbose)


def render(result: Result, args: argparse.Namespace) -> None:
    """Nothing is printed: the process ends in `run`."""
