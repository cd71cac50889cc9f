"""`mlx-colbert rename`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.render import Result, printable

EXAMPLE = "mlx-colbert rename notes diary"
JSON_KEYS = '{"old", "name"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add both names."""
    parser.add_argument("old", metavar="OLD", help="the name of a collection")
    parser.add_argument("new", metavar="NEW", help="its new name")


def run(args: argparse.Namespace) -> Result:
    """Rename the collection."""
    from mlx_colbert.collection.registry import Registry

    return {"old": args.old, "name": Registry().rename(args.old, args.new).name}


def render(result: Result, args: argparse.Namespace) -> str:
    """A line with both names."""
    return printable(f"Collection {result['old']} is {result['name']} now.")
