"""`mlx-colbert install`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mlx_colbert.cli.render import Result, printable, printable_lines
from mlx_colbert.cli.searched import add_collections

if TYPE_CHECKING:
    from mlx_colbert.assistants.installation import Outcome

__all__ = ["EXAMPLE", "JSON_KEYS", "add_arguments", "add_host", "outcome", "outcome_lines", "render", "run"]

EXAMPLE = """mlx-colbert install
  mlx-colbert install claude-code
  mlx-colbert install zed -c notes --print"""
JSON_KEYS = """{"host", "path", "change": "written" | "unchanged", "backup", "entry", "skill", "skill_change",
"notes": [texts]}; without a program
{"hosts": [{"host", "title", "path", "present", "installed", "problem"}]}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the program, what its server may do, and what to do in place of writing."""
    add_host(parser)
    add_collections(parser)
    parser.add_argument(
        "--allow-write", action="store_true", help="let the assistant bring collections in step with files"
    )


def add_host(parser: argparse.ArgumentParser, *, is_needed: bool = False) -> None:
    """Add the program, whose settings, and --print."""
    from mlx_colbert.assistants.hosts import HOSTS

    parser.add_argument(
        "host",
        nargs=None if is_needed else "?",
        metavar="PROGRAM",
        choices=HOSTS,
        help=", ".join(HOSTS) + ("" if is_needed else ". Without it, list them"),
    )
    parser.add_argument(
        "--scope",
        choices=["user", "project"],
        default="user",
        help="your settings, or those of the project in the current folder (default: user)",
    )
    parser.add_argument("--print", action="store_true", help="only show what would be done, and where")


def run(args: argparse.Namespace) -> Result:
    """Write the settings of a program, or list the programs."""
    from mlx_colbert.assistants.installation import Assistants, server_command

    if args.host is None:
        if args.collections or args.allow_write or args.print:
            args.parser.error("the following arguments are required: PROGRAM")
        return {"hosts": _states(args.scope)}
    command = server_command(_names(args.collections or []), allow_write=args.allow_write)
    # Before: the program seems to be there when its file is.
    notes = _notes(args)
    done = Assistants().install(args.host, command, scope=args.scope, is_dry=args.print)
    return outcome(done) | {"notes": notes}


def _names(given: list[str]) -> list[str]:
    """The names of collections, which must exist. One beside its files has the path of these as its name."""
    from mlx_colbert.collection.registry import Registry

    places = [Registry().find(name) for name in given]
    return [str(place.beside or place.name) for place in places]


def _notes(args: argparse.Namespace) -> list[str]:
    from importlib.util import find_spec

    from mlx_colbert.assistants.hosts import HOSTS

    notes = []
    if find_spec("mcp") is None:
        notes.append("The server needs the extra 'mcp'. Run: pip install 'mlx-colbert[mcp]'")
    if args.scope == "project":
        notes.append(
            "The entry has paths of this machine: other people of the project install for themselves."
        )
    elif not any(state["host"] == args.host and state["present"] for state in _states("user")):
        notes.append(f"{HOSTS[args.host].title} was not found on this machine.")
    return notes


def _states(scope: Any) -> list[dict[str, Any]]:
    from mlx_colbert.assistants.installation import Assistants

    return [
        {
            "host": state.host,
            "title": state.title,
            "path": str(state.path),
            "present": state.is_present,
            "installed": state.is_installed,
            "problem": state.problem,
        }
        for state in Assistants().states(scope)
    ]


def outcome(done: Outcome) -> Result:
    """What was done, as a JSON object."""
    return {
        "host": done.host,
        "path": str(done.path),
        "change": done.change,
        "backup": done.backup and str(done.backup),
        "entry": done.entry,
        "skill": done.skill and str(done.skill),
        "skill_change": done.skill_change,
    }


def render(result: Result, args: argparse.Namespace) -> str:
    """What was written and where, or a line for each program."""
    if args.host is None:
        return _list(result["hosts"])
    path = printable(result["path"])
    if args.print:
        done = {
            "written": f"Would write this entry into {path}:",
            "unchanged": f"{path} has this entry already:",
        }
        lines = [done[result["change"]], "", printable_lines(result["entry"]).rstrip(), ""]
    else:
        done = {"written": f"Wrote the entry into {path}.", "unchanged": f"{path} is as it must be."}
        lines = [done[result["change"]]]
        if result["change"] == "written":
            if result["backup"]:
                lines.append(f"The file without it: {printable(result['backup'])}")
            lines.append("Start the program again, so that it reads the entry.")
    return "\n".join([*lines, *outcome_lines(result, args), *map(printable, result["notes"])])


def outcome_lines(result: Result, args: argparse.Namespace) -> list[str]:
    """What was done with the skill, as text for people."""
    path = printable(result["skill"] or "")
    done = {
        "written": f"Would write the skill {path}." if args.print else f"Wrote the skill {path}.",
        "removed": f"Would remove the skill {path}." if args.print else f"Removed the skill {path}.",
        "kept": f"You have changed the skill {path}, so it stays.",
    }
    return [done[result["skill_change"]]] if result["skill_change"] in done else []


def _list(hosts: list[dict[str, Any]]) -> str:
    rows = []
    for host in hosts:
        state = "installed" if host["installed"] else "found" if host["present"] else "-"
        problem = f"  ({host['problem']})" if host["problem"] else ""
        rows.append((host["host"], state, printable(f"{host['path']}{problem}")))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {state:<{widths[1]}}  {path}" for name, state, path in rows]
    return "\n".join([*lines, "", "Install in one: mlx-colbert install PROGRAM"])
