"""`mlx-colbert export-index`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mlx_colbert.cli.arguments import folder, location
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.counts import counted

EXAMPLE = "mlx-colbert export-index notes.index notes.lance --to lancedb"
JSON_KEYS = '{"index", "output", "to", "passages", "continued", "tokens", "dim", "exact"}'

# What to do with the result.
_NEXT = {
    "lancedb": "Open it with mlx_colbert.store.open_store: lancedb://, then this path.",
    "qdrant": "Open it with mlx_colbert.store.open_store: qdrant://, then this path.",
    "vespa": "Deploy application, then feed the files in feed (vespa feed).",
    "elasticsearch": "Create the index with mapping.json, then send the files in bulk to _bulk.",
    "parquet": "mlx-colbert import-index reads it back.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the index, the output and the engine."""
    parser.add_argument("index", metavar="INDEX", type=folder, help="the folder of the index")
    parser.add_argument(
        "output",
        metavar="OUT",
        type=location,
        help="a path that does not exist, or the same export that was interrupted; for lancedb also "
        "s3://bucket/prefix, for qdrant also http://host:6333/collection",
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=["lancedb", "qdrant", "vespa", "elasticsearch", "parquet"],
        help="the engine, or the format",
    )


def run(args: argparse.Namespace) -> Result:
    """Export the index."""
    from mlx_colbert.index_export import export_index

    return {"index": str(args.index), **asdict(export_index(args.index, args.output, args.to))}


def render(result: Result, args: argparse.Namespace) -> str:
    """The number of passages, whether they are exact, and what to do next."""
    again = f" ({result['continued']:,} of them before)" if result["continued"] else ""
    lines = [f"{result['output']}: {counted(result['passages'], 'passage')} for {result['to']}{again}."]
    if not result["exact"]:
        lines.append("The index is compressed, so its token embeddings were decoded.")
    lines.append(_NEXT[result["to"]])
    return "\n".join(printable(line) for line in lines)
