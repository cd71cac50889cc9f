"""`mlx-colbert trust`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import folder
from mlx_colbert.cli.paragraphs import paragraphs
from mlx_colbert.cli.render import Result

EXAMPLE = "mlx-colbert trust ~/projects/manual"
JSON_KEYS = '{"name", "path", "folders": {label: path}, "model"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder."""
    parser.add_argument(
        "folder", nargs="?", default=".", metavar="FOLDER", type=folder, help="(default: this folder)"
    )


def run(args: argparse.Namespace) -> Result:
    """Trust the settings beside the files of a folder."""
    from mlx_colbert.collection.registry import Registry

    place = Registry().trust(args.folder)
    settings = place.settings()
    return {
        "name": place.name,
        "path": str(place.settings_path),
        "folders": dict(settings.folders),
        "model": settings.model,
    }


def render(result: Result, args: argparse.Namespace) -> str:
    """What was trusted: the folders and the model."""
    folders = ", ".join(result["folders"].values()) or "no folder"
    return paragraphs(
        [
            f"Trusted as it is now: {result['path']} ({folders}; model {result['model']}). "
            "If it changes, the defaults are used until you trust it again."
        ]
    )
