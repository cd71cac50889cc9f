"""`mlx-colbert context`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import location
from mlx_colbert.cli.paragraphs import paragraphs
from mlx_colbert.cli.render import Result

EXAMPLE = 'mlx-colbert context ~/notes/coop "Minutes of the housing co-op, 2019–2024"'
JSON_KEYS = '{"contexts": [{"collection", "path", "sentence"}]}; a path is seen from the collection'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the path and the sentence."""
    parser.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        type=location,
        help="a file or a folder of a collection; with -c also / for the whole collection. Without a path: "
        "list all sentences",
    )
    parser.add_argument(
        "sentence",
        nargs="?",
        metavar="SENTENCE",
        help="what it is about; without it, show what is known of PATH",
    )
    parser.add_argument("-c", "--collection", metavar="NAME", help="(default: the collection that has PATH)")
    parser.add_argument("--remove", action="store_true", help="remove the sentence of PATH")


def run(args: argparse.Namespace) -> Result:
    """List, show, set or remove sentences."""
    from mlx_colbert.collection.choosing import chosen
    from mlx_colbert.collection.contexts import context_key, set_context
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.errors import InputError
    from mlx_colbert.places import here

    registry = Registry()
    if args.remove and (args.path is None or args.sentence is not None):
        raise InputError("--remove needs a path and no sentence.")
    if args.path is None:
        places = chosen(registry, name=args.collection, near=here())
        return {
            "contexts": [
                _row(place.name, *item) for place in places for item in place.settings().contexts.items()
            ]
        }
    if args.sentence is not None or args.remove:
        sentence = None if args.remove else args.sentence
        collection, key = set_context(registry, args.path, sentence, name=args.collection)
        known = collection.settings.contexts
        return {"contexts": [_row(collection.name, key, known[key])] if key in known else []}
    collection, key = context_key(registry, args.path, name=args.collection)
    above = collection.settings.context_of(key)
    rows = [_row(collection.name, *item) for item in collection.settings.contexts.items() if item[1] in above]
    return {"contexts": rows}


def _row(collection: str, path: str, sentence: str) -> dict[str, str]:
    return {"collection": collection, "path": path, "sentence": sentence}


def render(result: Result, args: argparse.Namespace) -> str:
    """A line for each sentence."""
    lines = [f"{_place(item)}: {item['sentence']}" for item in result["contexts"]]
    return paragraphs(lines) or ("Removed." if args.remove else "There is no sentence.")


def _place(item: dict[str, str]) -> str:
    """What a sentence is about. The label of a folder is often the name of the collection."""
    name, path = item["collection"], item["path"]
    if path == "/":
        return f"{name}, all of it"
    return path if path.partition("/")[0] == name else f"{name}: {path}"
