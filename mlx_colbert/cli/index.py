"""`mlx-colbert index`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert.cli import written
from mlx_colbert.cli.arguments import add_index, add_inputs, add_lengths, add_model, load_model, positive
from mlx_colbert.cli.render import Result
from mlx_colbert.counts import counted

if TYPE_CHECKING:
    from mlx_colbert.retriever.indexing import IndexingStats

EXAMPLE = "mlx-colbert index notes/ --index notes.index --model mlx_model"
JSON_KEYS = f"""{written.JSON_KEYS}; with --stats also
"stats": {{"passages", "tokens", "padding_waste", "tokens_per_s", "tokenize_s", "encode_s",
"write_s", "peak_memory_bytes"}}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the inputs, the index and its settings, and a model."""
    add_index(parser)
    add_inputs(parser)
    parser.add_argument(
        "--nbits",
        type=int,
        choices=[1, 2, 4, 8],
        default=4,
        help="bits per number of a vector, once the index is large (default: 4)",
    )
    parser.add_argument("--exact", action="store_true", help="never compress: search exactly at any size")
    parser.add_argument(
        "--pool-factor",
        type=positive,
        default=1,
        metavar="N",
        help="keep one vector for every N tokens, the mean of similar vectors (default: 1, keep all)",
    )
    parser.add_argument(
        "--on-overflow",
        choices=["truncate", "error", "chunk"],
        default="truncate",
        help="for a passage that is longer than the model reads: drop its end, stop with an error, or read "
        "it in overlapping windows as one passage (default: truncate)",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="encode only part I of N, so that N machines share the work: give each the same inputs and "
        "options, and an --index of its own (then: merge-index)",
    )
    parser.add_argument("--stats", action="store_true", help="print speed, seconds and memory")
    add_model(parser, required=True)
    add_lengths(parser)


def run(args: argparse.Namespace) -> Result:
    """Make the index, or complete it."""
    from mlx_colbert.retriever.retriever import Retriever

    settings = {} if not args.exact else {"exact_tokens": None}
    # A name, if possible: then the files are checked before the model is loaded, or even converted.
    as_published = args.document_length is None and args.query_length is None
    with Retriever.from_files(
        args.index,
        args.model if as_published else load_model(args),
        args.inputs,
        nbits=args.nbits,
        pool_factor=args.pool_factor,
        on_overflow=args.on_overflow,
        max_file_bytes=args.max_file_bytes,
        shard=args.shard,
        backend=args.backend,
        **settings,
    ) as retriever:
        result = written.written(args, retriever)
        return result | {"stats": _stats(retriever.stats)} if args.stats else result


def render(result: Result, args: argparse.Namespace) -> str:
    """The number of passages that were added. With --stats also the speed, the seconds and the memory."""
    lines = [written.render(result, args)]
    if stats := result.get("stats"):
        lines += [
            f"encoded: {counted(stats['passages'], 'passage')}, {counted(stats['tokens'], 'token')}, "
            f"{stats['padding_waste']:.1%} padding, {stats['tokens_per_s']:,.0f} tokens/s",
            f"seconds: tokenise {stats['tokenize_s']:.1f} (beside the encoding), "
            f"encode {stats['encode_s']:.1f}, write {stats['write_s']:.1f}; "
            f"peak memory {stats['peak_memory_bytes'] / 1e6:,.0f} MB",
        ]
    return "\n".join(lines)


def _peak_memory_bytes() -> int:
    """The most memory that this process used at once (resident)."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux, getrusage includes the memory of the parent when it started this process.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _stats(stats: IndexingStats) -> Result:
    return {
        "passages": stats.passages,
        "tokens": stats.tokens,
        "padding_waste": stats.padding_waste,
        "tokens_per_s": stats.tokens_per_s,
        "tokenize_s": stats.tokenize_s,
        "encode_s": stats.encode_s,
        "write_s": stats.write_s,
        "peak_memory_bytes": _peak_memory_bytes(),
    }
