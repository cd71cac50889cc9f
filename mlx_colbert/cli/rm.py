"""`mlx-colbert rm`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.render import Result, printable

EXAMPLE = "mlx-colbert rm papers"
JSON_KEYS = '{"removed": [{"name", "path"}]}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the names."""
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="a collection, or the path of a folder with .mlx-colbert/"
    )


def run(args: argparse.Namespace) -> Result:
    """Remove the collections. If one of them does not exist, none is removed."""
    from mlx_colbert.collection.registry import Registry

    registry = Registry()
    names = {registry.removable(name).path: name for name in args.names}
    places = [registry.remove(name) for name in names.values()]
    return {"removed": [{"name": place.name, "path": str(place.path)} for place in places]}


def render(result: Result, args: argparse.Namespace) -> str:
    """A line for each collection that was removed."""
    return "\n".join(
        printable(f"Removed collection {item['name']}: its settings and its index. Your files stay.")
        for item in result["removed"]
    )
