"""`mlx-colbert compact`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import add_index
from mlx_colbert.cli.render import Result

EXAMPLE = "mlx-colbert compact --index notes.index"
JSON_KEYS = '{"index", "bytes_before", "bytes", "segments"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the index, --retrain and --erase-lost."""
    add_index(parser)
    parser.add_argument(
        "--retrain", action="store_true", help="train the centroids of a compressed index again"
    )
    parser.add_argument(
        "--erase-lost",
        action="store_true",
        help="if changes are missing, continue without them, and erase the segments that belong to them",
    )


def run(args: argparse.Namespace) -> Result:
    """Compact the index."""
    from mlx_colbert.index import Index
    from mlx_colbert.progress import shown

    with Index.open(args.index) as index:
        before = index.info().bytes
        with shown() as progress:
            index.compact(retrain=args.retrain, progress=progress, erase_lost=args.erase_lost)
        info = index.info()
    return {"index": str(args.index), "bytes_before": before, "bytes": info.bytes, "segments": info.segments}


def render(result: Result, args: argparse.Namespace) -> str:
    """The size of the index before and after, and the number of segments."""
    before, after = (f"{result[name] / 1e6:,.1f} MB" for name in ("bytes_before", "bytes"))
    return f"{result['index']}: {before} before, {after} now, segments: {result['segments']}."
