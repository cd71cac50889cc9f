"""`mlx-colbert bench`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from mlx_colbert.cli.arguments import add_backend, location, positive
from mlx_colbert.cli.render import Result, printable, shortened
from mlx_colbert.cli.searched import add_collections, opened_collections
from mlx_colbert.counts import counted

EXAMPLE = "mlx-colbert bench questions.jsonl -c notes"
JSON_KEYS = """{"fixture", "n_questions", "n_without_answer", "k", "unknown": [files], "modes": {mode:
{"recall", "mrr", "ndcg", "silent_rightly", "silent_wrongly", "ms", "missed": [queries]}}}"""
# Files and questions that are shown.
_MAX_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file of questions, and where to search."""
    parser.add_argument(
        "fixture",
        metavar="FIXTURE.jsonl",
        type=location,
        help='questions, one a line: {"query": "…", "files": ["notes/bees.md"]}. "files": [] if nothing '
        "answers it",
    )
    add_collections(parser)
    parser.add_argument("-k", type=positive, default=10, help="hits of a search (default: 10)")
    add_backend(parser)


def run(args: argparse.Namespace) -> Result:
    """Measure how well a search finds the files that answer your own questions."""
    from mlx_colbert.collection.benchmark import bench, read_questions

    questions = read_questions(Path(args.fixture))
    with opened_collections(args.collections, backend=args.backend) as collections:
        return {"fixture": args.fixture, **asdict(bench(collections, questions, args.k))}


def render(result: Result, args: argparse.Namespace) -> str:
    """A row for each mode, and the questions that none of them could answer."""
    k = result["k"]
    rows = [["mode", f"recall@{k}", "MRR", f"nDCG@{k}", "wrongly silent", "rightly silent", "ms"]]
    for mode, values in result["modes"].items():
        numbers = (values[name] for name in ("recall", "mrr", "ndcg", "silent_wrongly", "silent_rightly"))
        rows.append(
            [mode, *("–" if value is None else f"{value:.3f}" for value in numbers), f"{values['ms']:.0f}"]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    without = result["n_without_answer"]
    told = f", {without:,} without an answer" if without else ""
    lines.append(f"{counted(result['n_questions'], 'question')}{told}")
    if unknown := result["unknown"]:
        more = ", …" if len(unknown) > _MAX_SHOWN else ""
        lines.append(printable(f"In no collection: {', '.join(unknown[:_MAX_SHOWN])}{more}"))
    if missed := result["modes"]["hybrid"]["missed"]:
        lines.append(f"Not found by hybrid ({len(missed):,}):")
        lines += [f"  {shortened(printable(query), 100)}" for query in missed[:_MAX_SHOWN]]
    return "\n".join(lines)
