"""`mlx-colbert verify-index`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import add_index
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.counts import counted

EXAMPLE = "mlx-colbert verify-index --index notes.index"
JSON_KEYS = '{"index", "passages", "problems", "passed"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the index."""
    add_index(parser)


def run(args: argparse.Namespace) -> Result:
    """Compare every byte of the index with its checksums."""
    from mlx_colbert.index import Index, verify

    n_passages = None
    if not (problems := verify(args.index)):
        with Index.open(args.index, backend="numpy") as index:
            n_passages = len(index)
    return {
        "index": str(args.index),
        "passages": n_passages,
        "problems": problems,
        "passed": not problems,
    }


def render(result: Result, args: argparse.Namespace) -> str:
    """A line that says that there is no damage, or a line for each problem."""
    if result["passed"]:
        return f"{result['index']}: {counted(result['passages'], 'passage')}, no damage found."
    return "\n".join(printable(problem) for problem in result["problems"])
