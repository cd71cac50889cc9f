"""`mlx-colbert watch`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from mlx_colbert.cli.arguments import add_backend
from mlx_colbert.cli.output import as_json, write
from mlx_colbert.cli.paragraphs import paragraphs
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.counts import counted
from mlx_colbert.errors import message_of

if TYPE_CHECKING:
    from mlx_colbert.collection.watch import WatchEvent

EXAMPLE = "mlx-colbert watch notes"
JSON_KEYS = """one line for each event: {"event", "time", "collection"}, and for "watching": "folders";
for "problem": "message"; for "synced": "files", "new", "changed", "moved", "deleted", "passages", "failed",
"waiting", "missing" as sync; the last line is {"event": "ended", "time"}.
With --install or --uninstall: {"path", "changed", "done", "command", "log"}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the names, and what to do in place of watching."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a collection (default: all, also those that are made later)"
    )
    service = parser.add_mutually_exclusive_group()
    service.add_argument(
        "--install", action="store_true", help="watch in the background from now on and after each login"
    )
    service.add_argument("--uninstall", action="store_true", help="end that")
    add_backend(parser)


def run(args: argparse.Namespace) -> Result:
    """Watch until Ctrl-C or SIGTERM, and print each event. Or change the service that does it."""
    if args.install or args.uninstall:
        return _service(args)
    from mlx_colbert.cli.sync_progress import sync_progress
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.collection.watch import Watcher
    from mlx_colbert.places import here

    is_told_to_end = False

    def end(*_: object) -> None:
        nonlocal is_told_to_end
        is_told_to_end = True
        raise KeyboardInterrupt

    # A service is ended in this way, so this is not a failure. Ctrl-C keeps the exit code of an interruption.
    before = signal.signal(signal.SIGTERM, end)
    events = Watcher(Registry(), args.names, near=here(), backend=args.backend, progress=sync_progress).run()
    try:
        for event in events:
            _print(event, args)
    except KeyboardInterrupt:
        if not is_told_to_end:
            raise
    finally:
        events.close()
        signal.signal(signal.SIGTERM, before)
    return {"event": "ended", "time": _iso(time.time())}


def _service(args: argparse.Namespace) -> Result:
    """Install or uninstall the service."""
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.collection.service import Service, command_line

    if args.uninstall:
        done = Service().uninstall()
    else:
        places = [Registry().find(name) for name in args.names]
        names = [str(place.beside or place.name) for place in places]
        done = Service().install(command_line(names, backend=args.backend))
    return {
        "path": str(done.path),
        "changed": done.is_changed,
        "done": done.is_done,
        "command": done.command,
        "log": done.log,
    }


def render(result: Result, args: argparse.Namespace) -> str | None:
    """The last line of a watcher, or what was done with the service."""
    if not (args.install or args.uninstall):
        return None if args.quiet else "Ended."
    path, command = printable(result["path"]), printable(result["command"])
    if args.uninstall:
        lines = [f"Removed {path}." if result["changed"] else f"There is no {path}: nothing to remove."]
        if not result["done"]:
            lines.append(f"If it still runs, end it: {command}")
        return "\n".join(lines)
    return "\n".join(
        [
            f"Wrote {path}." if result["changed"] else f"{path} is as it must be.",
            "It watches now, and after each login." if result["done"] else f"Start it: {command}",
            f"What it says: {printable(result['log'])}",
        ]
    )


def _print(event: WatchEvent, args: argparse.Namespace) -> None:
    is_problem = event.kind == "problem"
    if args.quiet and not is_problem:
        return
    if args.json:
        write(as_json(_values(event)))
        return
    # A log has more than one day.
    form = "%H:%M:%S" if sys.stdout.isatty() else "%Y-%m-%d %H:%M:%S"
    clock = time.strftime(form, time.localtime(event.time))
    for line in _lines(event):
        stream = "stderr" if is_problem else "stdout"
        write(paragraphs([f"{clock} {line}"], stream=stream), stream=stream)


def _values(event: WatchEvent) -> dict[str, Any]:
    values: dict[str, Any] = {
        "event": event.kind,
        "time": _iso(event.time),
        "collection": event.collection,
    }
    if event.error is not None:
        values["message"] = message_of(event.error)
    if event.kind == "watching":
        values["folders"] = list(event.folders)
    if event.result is not None:
        result = event.result
        keys = ("new", "changed", "moved", "deleted", "passages", "failed", "waiting", "missing")
        values |= {"files": result.n_files, **{key: getattr(result, key) for key in keys}}
    return values


def _lines(event: WatchEvent) -> list[str]:
    if event.error is not None:
        about = f"{event.collection}: " if event.collection else ""
        return [f"{about}{message_of(event.error)}"]
    if event.kind == "watching":
        return [f"{event.collection}: watching {', '.join(event.folders) or 'no folder'}"]
    result = event.result
    if result is None:
        return [f"{event.collection}: is gone."]
    numbers = [
        f"{len(items):,} {word}"
        for word, items in (
            ("new", result.new),
            ("changed", result.changed),
            ("moved", result.moved),
            ("deleted", result.deleted),
            ("not read (mlx-colbert status says why)", result.failed),
        )
        if items
    ]
    encoded = f"; {counted(result.passages, 'passage')} encoded" if result.passages else ""
    done = ", ".join(numbers) or ("nothing changed" if result.missing else "in step")
    empty = f", {result.empty:,} empty" if result.empty else ""
    lines = [f"{event.collection}: {done}{encoded}. {counted(result.n_files, 'file')}{empty}."]
    for folder, n_files in result.missing.items():
        lines.append(
            f"{event.collection}: folder {folder} is missing or empty. What the index has of its "
            f"{counted(n_files, 'file')} stays."
        )
    return lines


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
