"""`mlx-colbert config`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.render import Result, printable

EXAMPLE = "mlx-colbert config set k 5"
JSON_KEYS = """{"path", "values": {key: {"value", "origin": "environment" | "file" | "default"}},
"changed"}; a value is a text, or null; "changed" says whether the file was written"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do, a key and a value."""
    parser.add_argument(
        "action", nargs="?", choices=["set", "unset"], help="without it: list the values and their origins"
    )
    parser.add_argument("key", nargs="?", metavar="KEY", help="the name of a setting, as the list has it")
    parser.add_argument("value", nargs="?", metavar="VALUE", help="its value")


def run(args: argparse.Namespace) -> Result:
    """List the values, or change the configuration file."""
    from mlx_colbert.configuration import config_path, set_key, unset_key, values

    n_needed = {None: 0, "unset": 1, "set": 2}[args.action]
    if sum(word is not None for word in (args.key, args.value)) != n_needed:
        args.parser.error("give `set KEY VALUE`, `unset KEY`, or nothing to list the values")
    changed = False
    if args.action == "set":
        set_key(args.key, args.value)
        changed = True
    elif args.action == "unset":
        changed = unset_key(args.key)
    return {
        "path": str(config_path()),
        "values": {name: {"value": value.text, "origin": value.origin} for name, value in values().items()},
        "changed": changed,
    }


def render(result: Result, args: argparse.Namespace) -> str:
    """What was changed, or a line for each setting: its value, its origin and its meaning."""
    from mlx_colbert.configuration import KEYS

    if args.action is not None:
        return printable(_changed(result, args.key))
    rows = []
    for name, value in result["values"].items():
        key = KEYS[name]
        origin = key.variable if value["origin"] == "environment" else value["origin"]
        rows.append((name, value["value"] or key.default, origin, key.meaning))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    return "\n".join(map(printable, [*lines, "", f"file: {result['path']}"]))


def _changed(result: Result, name: str) -> str:
    from mlx_colbert.configuration import KEYS

    done = f"{result['path']}: {'written' if result['changed'] else f'has no {name}'}."
    if name not in KEYS:
        return done
    value = result["values"][name]
    return f"{done} Now {name} = {value['value'] or KEYS[name].default} ({value['origin']})."
