"""`mlx-colbert collections`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.paragraphs import paragraphs
from mlx_colbert.cli.render import Result

EXAMPLE = "mlx-colbert collections"
JSON_KEYS = """{"collections": [{"name", "path", "is_trusted", "folders": {label: path}, "model", "context",
"files", "passages", "documents", "bytes", "n_failed", "waiting", "synced_at", "error"}]}; "documents" is the
number of passages that come from no file, "n_failed" that of files that could not be read, "waiting" is
{extra: files}; "error" is null, or says why it cannot be used"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(args: argparse.Namespace) -> Result:
    """List the collections. No file is looked at."""
    from mlx_colbert.collection.overview import overview
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.places import here

    return {"collections": [overview(place).to_dict() for place in Registry().list(near=here())]}


def render(result: Result, args: argparse.Namespace) -> str:
    """A line for each collection: its name and its folders."""
    if not result["collections"]:
        return "There is no collection yet. Make one: mlx-colbert sync FOLDER"
    width = max(len(item["name"]) for item in result["collections"])
    lines = []
    for item in result["collections"]:
        what = item["error"] or ", ".join(item["folders"].values()) or "no folder"
        note = "" if item["is_trusted"] else "  (settings not trusted: see mlx-colbert trust)"
        lines.append(f"{item['name']:<{width}}  {what}{note}")
    return paragraphs(lines, hang=min(width + 2, 12))
