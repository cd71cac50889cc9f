"""`mlx-colbert info`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from mlx_colbert.cli.arguments import folder
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.errors import InputError

EXAMPLE = "mlx-colbert info notes.index"
JSON_KEYS = '{"kind": "index" or "model", …} with its settings and counts'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder."""
    parser.add_argument("folder", metavar="DIR", type=folder, help="an index, or a converted model")


def run(args: argparse.Namespace) -> Result:
    """Read the settings and counts of an index or a model."""
    from mlx_colbert.model.folder import is_converted, read_config

    if is_converted(args.folder):
        return {"kind": "model", "path": str(args.folder), **asdict(read_config(args.folder))}
    from mlx_colbert.index import Index
    from mlx_colbert.index.catalog.database_errors import CATALOG_NAME

    if not (args.folder / CATALOG_NAME).is_file():
        problem = "is not an index or a converted model" if args.folder.exists() else "does not exist"
        advice = "Give the folder of an index (mlx-colbert index) or of a model (mlx-colbert convert)."
        raise InputError(f"{args.folder}: {problem}. {advice}")
    with Index.open(args.folder, backend="numpy") as index:
        return {"kind": "index", "path": str(args.folder), **asdict(index.info())}


def render(result: Result, args: argparse.Namespace) -> str:
    """A line with name and value for each setting. Dots join the names of nested objects."""
    values = _flat(result)
    width = max((len(name) for name in values), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def _flat(values: dict[Any, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{name}"] = printable(" ".join(map(str, value)))
        else:
            flat[f"{prefix}{name}"] = f"{value:,}" if type(value) is int else printable(str(value))
    return flat
