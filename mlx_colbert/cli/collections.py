"""`mlx-colbert collections`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.render import Result, printable

EXAMPLE = "mlx-colbert collections"
JSON_KEYS = """{"collections": [{"name", "path", "folders": {label: path}, "model", "is_trusted", "error"}]};
"error" is null, or says what is wrong with the settings"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(args: argparse.Namespace) -> Result:
    """List the collections. No index is opened."""
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.collection.settings import CollectionSettings
    from mlx_colbert.errors import ColBERTError
    from mlx_colbert.places import here

    found = []
    for place in Registry().list(near=here()):
        error = None
        try:
            settings = place.settings()
        except (ColBERTError, OSError) as problem:
            settings, error = CollectionSettings(), str(problem)
        found.append(
            {
                "name": place.name,
                "path": str(place.path),
                "folders": dict(settings.folders),
                "model": settings.model,
                "is_trusted": place.is_trusted,
                "error": error,
            }
        )
    return {"collections": found}


def render(result: Result, args: argparse.Namespace) -> str:
    """A line for each collection: its name and its folders."""
    if not result["collections"]:
        return "There is no collection yet. Make one: mlx-colbert sync FOLDER"
    width = max(len(item["name"]) for item in result["collections"])
    lines = []
    for item in result["collections"]:
        what = item["error"] or ", ".join(item["folders"].values()) or "no folder"
        note = "" if item["is_trusted"] else "  (settings not trusted: see mlx-colbert trust)"
        lines.append(printable(f"{item['name']:<{width}}  {what}{note}"))
    return "\n".join(lines)
