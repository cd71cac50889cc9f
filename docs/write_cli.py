"""Writes the list of commands from their `--help`.

python docs/write_cli.py > docs/cli.md
"""

from __future__ import annotations

import os

from mlx_colbert.cli import GROUPS
from mlx_colbert.cli.program import command_parser, parser

HEADER = """\
# Commands

`python docs/write_cli.py > docs/cli.md` makes this page from `--help`.

Every command has `--json` for programs. Results go to the standard output. Progress and errors go to the
standard error.
"""


def page() -> str:
    """The page, as Markdown."""
    # argparse breaks lines for the terminal that it finds.
    os.environ["COLUMNS"] = "110"
    parts = [HEADER, f"```text\n{parser([]).format_help().rstrip()}\n```\n"]
    for title, group in GROUPS.items():
        parts.append(f"## {title}\n")
        for name in group:
            parts.append(f"### {name}\n\n```text\n{command_parser(name).format_help().rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
