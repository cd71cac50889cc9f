"""`mlx-colbert sync`."""

from __future__ import annotations

import argparse
import os
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mlx_colbert.cli.arguments import add_model, location
from mlx_colbert.cli.output import note
from mlx_colbert.cli.paragraphs import paragraphs
from mlx_colbert.cli.render import Result
from mlx_colbert.counts import counted

if TYPE_CHECKING:
    from mlx_colbert.collection.place import Place

EXAMPLE = "mlx-colbert sync ~/notes ~/papers --exclude '*.log'"
JSON_KEYS = """{"passed", "dry_run", "collections": [{"name", "is_trusted", "error", "files", "new": [names],
"changed": [names], "moved": {old: new}, "touched", "deleted": [names], "passages", "unchanged",
"empty", "failed": {path: reason}, "waiting": {extra: files}, "missing": {folder: files}, "kept",
"skipped": {kind: count}}]}; "error" is null, or says why this collection is not in step"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folders, and the settings of their collections."""
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        type=location,
        help="a folder; each becomes a collection with its name, if it is in none. Without folders: all "
        "collections",
    )
    parser.add_argument("--name", help="one collection with this name, of all these folders")
    parser.add_argument(
        "--local", action="store_true", help="keep a new collection in .mlx-colbert/ in its folder"
    )
    for option, advice in (
        ("--include", "read only files that match, as in a .gitignore: '*.md'; again for more"),
        ("--exclude", "leave out files and folders that match: 'drafts/'; again for more"),
    ):
        parser.add_argument(option, metavar="GLOB", action="append", help=advice)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--prune",
        action="store_true",
        help="delete what is in the index from folders that are missing or empty now; else it stays",
    )
    parser.add_argument(
        "--rebuild", action="store_true", help="make the index again, for example with another model"
    )
    add_model(parser, required=False, otherwise="that of the collection's settings")


def run(args: argparse.Namespace) -> Result:
    """Bring collections in step with their files."""
    from mlx_colbert.collection.choosing import Wanted, chosen
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.collection.settings import DEFAULT_MODEL
    from mlx_colbert.configuration import KEYS
    from mlx_colbert.model.kept import keeping
    from mlx_colbert.places import here

    places = chosen(
        Registry(),
        args.folders,
        name=args.name,
        wanted=Wanted(args.model, args.include, args.exclude),
        local=args.local,
        near=here(),
        dry_run=args.dry_run,
        rebuild=args.rebuild,
        on_taken=note,
        model=os.environ.get(KEYS["model"].variable) or DEFAULT_MODEL,
    )
    with keeping():
        results = [_synced(args, place, is_one=len(places) == 1) for place in places]
    passed = not any(result["error"] or result["failed"] or result["missing"] for result in results)
    return {"passed": passed, "dry_run": args.dry_run, "collections": results}


def _synced(args: argparse.Namespace, place: Place, *, is_one: bool) -> dict[str, Any]:
    """The result for one collection. If there are others, an error does not stop them."""
    from mlx_colbert.cli.sync_progress import sync_progress
    from mlx_colbert.collection.collection import Collection
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.collection.sync import SyncResult
    from mlx_colbert.errors import CheckpointError, ColBERTError, message_of

    error = None
    try:
        with Collection(place, backend=args.backend) as collection, sync_progress(place.name) as progress:
            result = collection.sync(
                dry_run=args.dry_run,
                prune=args.prune,
                rebuild=args.rebuild,
                progress=progress,
                on_wait=note,
            )
    except (ColBERTError, OSError) as problem:
        if isinstance(problem, CheckpointError) and place.is_new and not place.index_path.exists():
            # Else it fails at each later sync of all collections.
            with suppress(ColBERTError, OSError):
                Registry().remove(place.name if place.beside is None else str(place.beside))
                problem.add_note(f"Collection {place.name} was not made.")
        if is_one:
            raise
        result, error = SyncResult(), message_of(problem)
    return {"name": place.name, "is_trusted": place.is_trusted, "error": error, **result.to_dict()}


def render(result: Result, args: argparse.Namespace) -> str:
    """For each collection what was done, and what could not be read."""
    lines = []
    for item in result["collections"]:
        lines += _lines(item, is_dry=result["dry_run"])
    return paragraphs(lines)


def _lines(item: dict[str, Any], *, is_dry: bool) -> list[str]:
    name = item["name"]
    lines = []
    if not item["is_trusted"]:
        lines.append(f"{name}: its settings are not used, because you do not trust them: mlx-colbert trust")
    if item["error"]:
        return [*lines, f"{name}: {item['error']}"]
    numbers = [f"{len(item[key]):,} {key}" for key in ("new", "changed", "moved", "deleted") if item[key]]
    done = ", ".join(numbers) or ("nothing changed" if item["missing"] else "in step")
    encoded = f"; {counted(item['passages'], 'passage')} encoded" if item["passages"] else ""
    would = "would be " if is_dry and numbers else ""
    empty = f", {item['empty']:,} empty" if item["empty"] else ""
    lines += [f"{name}: {would}{done}{encoded}. {counted(item['files'], 'file')}{empty}."]
    if is_dry:
        lines += [f"  {key:<8} {uri}" for key in ("new", "changed", "deleted") for uri in item[key]]
        lines += [f"  moved    {old} → {new}" for old, new in item["moved"].items()]
    for folder, n_files in item["missing"].items():
        lines.append(
            f"Folder {folder} is missing or empty. "
            f"What the index has of its {counted(n_files, 'file')} stays. "
            f"If they are gone for good: mlx-colbert sync --name {shlex.quote(name)} --prune"
        )
    for extra, n_files in item["waiting"].items():
        advice = f"pip install 'mlx-colbert[{extra}]', then sync again."
        lines.append(f"{counted(n_files, 'file')} must wait: {advice}")
    if failed := item["failed"]:
        lines.append(f"Not read, because of errors ({len(failed):,}):")
        lines += [f"  {path}: {reason}" for path, reason in failed.items()]
    return lines
