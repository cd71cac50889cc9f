"""`mlx-colbert export`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import location
from mlx_colbert.cli.render import Result, printable

EXAMPLE = "mlx-colbert export mlx_model my-colbert"
JSON_KEYS = """{"path"}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two folders and the layout."""
    parser.add_argument("folder", metavar="FOLDER", type=location, help="a model folder that convert wrote")
    parser.add_argument("out", metavar="OUT", type=location, help="the folder to write. It must not exist")
    parser.add_argument(
        "--to",
        choices=("pylate", "sentence-transformers"),
        default="pylate",
        help="the layout (default: pylate). sentence-transformers 6 reads both; "
        "its own has a place for all settings",
    )


def run(args: argparse.Namespace) -> Result:
    """Write the checkpoint."""
    from mlx_colbert.convert.export import export

    return {"path": str(export(args.folder, args.out, to=args.to))}


def render(result: Result, args: argparse.Namespace) -> str:
    """The folder of the checkpoint."""
    return printable(f"{result['path']}: written for {args.to}.")
