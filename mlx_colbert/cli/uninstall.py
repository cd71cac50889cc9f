"""`mlx-colbert uninstall`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.install import add_host, outcome, outcome_lines
from mlx_colbert.cli.render import Result, printable

EXAMPLE = "mlx-colbert uninstall claude-code"
JSON_KEYS = '{"host", "path", "change": "removed" | "absent", "backup", "entry", "skill", "skill_change"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the program, whose settings, and what to do in place of writing."""
    add_host(parser, is_needed=True)


def run(args: argparse.Namespace) -> Result:
    """Take our entry out of the settings of a program."""
    from mlx_colbert.assistants.installation import Assistants

    return outcome(Assistants().uninstall(args.host, scope=args.scope, is_dry=args.print))


def render(result: Result, args: argparse.Namespace) -> str:
    """What was removed."""
    path = printable(result["path"])
    removed = f"Would remove the entry from {path}." if args.print else f"Removed the entry from {path}."
    done = {"removed": removed, "absent": f"{path} has no entry of mlx-colbert."}
    return "\n".join([done[result["change"]], *outcome_lines(result, args)])
