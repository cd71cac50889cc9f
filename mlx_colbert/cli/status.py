"""`mlx-colbert status`."""

from __future__ import annotations

import argparse
import time
from typing import Any

from mlx_colbert.cli.paragraphs import paragraphs
from mlx_colbert.cli.render import Result
from mlx_colbert.collection.status import missing_text
from mlx_colbert.counts import counted

EXAMPLE = "mlx-colbert status notes"
JSON_KEYS = """{"collections": [{"name", "path", "is_trusted", "folders": {label: path}, "model",
"index_model", "files", "passages", "documents", "bytes", "new", "changed", "vanished",
"missing": {folder: files}, "failed": {path: reason}, "waiting": {extra: files}, "synced_at", "error"}]};
"documents" is the number of passages that come from no file; "error" is null or a sentence"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the names."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="a collection (default: all)")


def run(args: argparse.Namespace) -> Result:
    """Compare collections with their files. No file is read."""
    from mlx_colbert.collection.collection import Collection
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.errors import ColBERTError, message_of
    from mlx_colbert.places import here

    registry = Registry()
    places = [registry.find(name) for name in args.names] or registry.list(near=here())
    found: list[dict[str, Any]] = []
    for place in places:
        try:
            with Collection(place, backend="numpy") as collection:
                found.append({**collection.status().to_dict(), "error": None})
        except (ColBERTError, OSError) as problem:
            if args.names:
                raise
            found.append({"name": place.name, "path": str(place.path), "error": message_of(problem)})
    return {"collections": found}


def render(result: Result, args: argparse.Namespace) -> str:
    """A few lines for each collection."""
    blocks = [paragraphs(_lines(item), hang=12) for item in result["collections"]]
    return "\n\n".join(blocks) or "There is no collection yet. Make one: mlx-colbert sync FOLDER"


def _lines(item: dict[str, Any]) -> list[str]:
    if item["error"]:
        return [f"{item['name']}: {item['error']}"]
    lines = [item["name"] + ("" if item["is_trusted"] else " (settings not trusted: the defaults are used)")]
    lines += [f"  folder    {path}" for path in item["folders"].values()]
    documents = f" ({item['documents']:,} from no file)" if item["documents"] else ""
    lines.append(
        f"  contents  {counted(item['files'], 'file')}, {counted(item['passages'], 'passage')}{documents}"
    )
    lines.append(f"  index     {item['path']}, {item['bytes'] / 1e6:,.1f} MB")
    lines.append(f"  model     {item['model']}")
    numbers = [f"{item[key]:,} {key}" for key in ("new", "changed", "vanished") if item[key]]
    if item["missing"]:
        numbers.append(f"{sum(item['missing'].values()):,} missing")
    last = item["synced_at"]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(last)) if last else "never"
    lines.append(f"  files     {', '.join(numbers) or 'in step'} (last complete sync: {when})")
    lines += [
        f"  missing   {missing_text(item['name'], folder, n_files)}"
        for folder, n_files in item["missing"].items()
    ]
    lines += [
        f"  waiting   {counted(n_files, 'file')}, for pip install 'mlx-colbert[{extra}]'"
        for extra, n_files in item["waiting"].items()
    ]
    lines += [f"  not read  {path}: {reason}" for path, reason in item["failed"].items()]
    return lines
