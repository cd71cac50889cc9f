"""`mlx-colbert rm`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.render import Result, printable

EXAMPLE = "mlx-colbert rm papers"
JSON_KEYS = '{"removed", "path"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name."""
    parser.add_argument(
        "name", metavar="NAME", help="a collection, or the path of a folder with .mlx-colbert/"
    )


def run(args: argparse.Namespace) -> Result:
    """Remove the collection."""
    from mlx_colbert.collection.registry import Registry

    place = Registry().remove(args.name)
    return {"removed": place.name, "path": str(place.path)}


def render(result: Result, args: argparse.Namespace) -> str:
    """A line that says what was removed."""
    return printable(f"Removed collection {result['removed']}: its settings and its index. Your files stay.")
