"""`mlx-colbert merge-index`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mlx_colbert.cli.arguments import add_backend, folder
from mlx_colbert.cli.render import Result
from mlx_colbert.counts import counted

EXAMPLE = "mlx-colbert merge-index notes.index part-1.index part-2.index part-3.index"
JSON_KEYS = '{"index", "parts", "passages", "tokens"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the new index and the parts."""
    parser.add_argument("index", metavar="OUT", type=folder, help="the folder of the new index")
    parser.add_argument(
        "parts", nargs="+", metavar="PART", type=folder, help="the index of each shard (index --shard)"
    )
    add_backend(parser)


def run(args: argparse.Namespace) -> Result:
    """Merge the parts."""
    from mlx_colbert.index_merge import merge_index

    merged = merge_index(args.index, args.parts, backend=args.backend)
    return {"index": str(args.index), **asdict(merged)}


def render(result: Result, args: argparse.Namespace) -> str:
    """The number of passages and parts."""
    parts = counted(result["parts"], "part")
    return f"{result['index']}: {counted(result['passages'], 'passage')} from {parts}."
