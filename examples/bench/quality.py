"""A table and a picture of the results of `mlx-colbert eval`, and runs of sentence-transformers to compare.

mlx-colbert eval xquad-en pubmedqa --model demo/answerai-colbert-small-v1 --json > quality.json
python examples/bench/quality.py table quality.json
python examples/bench/quality.py plot quality.json --out quality.png
python examples/bench/quality.py run sentence-transformers/all-MiniLM-L6-v2 xquad-en --out minilm.run
mlx-colbert eval xquad-en --model demo/answerai-colbert-small-v1 --run-file minilm.run
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_colbert.errors import ColBERTError
from mlx_colbert.evaluation.experiment import without_self_hits
from mlx_colbert.evaluation.judgements import write_run
from mlx_colbert.evaluation.measures import ordered
from mlx_colbert.evaluation.plots import draw
from mlx_colbert.evaluation.reading import read_dataset

# Documents of a ranking, and one more for a query that finds itself.
DEPTH = 101


def results(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The results of all datasets in files that `mlx-colbert eval --json` printed."""
    return [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))["datasets"]]


def table(files: Sequence[Path], measure: str, *, bytes_too: bool = False, intervals: bool = False) -> str:
    """The table: a row for each dataset, a column for each system.

    Args:
        files: what `mlx-colbert eval --json` printed, with the same systems in each.
        measure: the measure of the cells.
        bytes_too: add the bytes of an average document to each cell.
        intervals: add the interval to each cell.
    """
    rows = results(files)
    names = list(dict.fromkeys(name for row in rows for name in row["systems"]))
    lines = [
        f"| {measure} | documents | queries | {' | '.join(names)} |",
        f"|---|{'--:|' * (len(names) + 2)}",
    ]
    for row in rows:
        cells = [_cell(row, name, measure, bytes_too=bytes_too, intervals=intervals) for name in names]
        lines.append(
            f"| {row['dataset']} | {row['n_documents']:,} | {row['n_queries']:,} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _cell(row: dict[str, Any], name: str, measure: str, *, bytes_too: bool, intervals: bool) -> str:
    system = row["systems"].get(name)
    if system is None:
        return ""
    found = system["measures"][measure]
    # Significant: below 0.05, divided by the number of comparisons of the row (Bonferroni).
    limit = 0.05 / max(len(row["systems"]) - 1, 1)
    sign = "*" if found["against"] is not None and found["against"]["p_value"] < limit else ""
    size = f" ({system['bytes'] / row['n_documents'] / 1e3:,.1f} kB)" if bytes_too and system["bytes"] else ""
    interval = f" [{found['low']:.3f}, {found['high']:.3f}]" if intervals else ""
    return f"{found['mean']:.3f}{sign}{interval}{size}"


def sentence_transformers_run(checkpoint: str, place: str, out: Path) -> None:
    """Write the rankings by the cosine of the sentence vectors that sentence-transformers computes."""
    from sentence_transformers import SentenceTransformer

    dataset = read_dataset(place)
    model = SentenceTransformer(checkpoint, device="cpu")
    queries, documents = (
        model.encode(list(texts.values()), normalize_embeddings=True, show_progress_bar=True, batch_size=64)
        for texts in (dataset.queries, dataset.documents)
    )
    doc_ids = np.array(list(dataset.documents))
    run = {}
    for query_id, query in zip(dataset.queries, queries, strict=True):
        scores = documents @ query
        best = np.argsort(-scores)[:DEPTH]
        run[query_id] = ordered(dict(zip(doc_ids[best].tolist(), scores[best].tolist(), strict=True)))
    write_run(out, without_self_hits(run, dataset), Path(checkpoint).name)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    first = commands.add_parser("table", help="print the table of JSON files")
    first.add_argument("files", nargs="+", type=Path, help="what `mlx-colbert eval --json` printed")
    first.add_argument("--measure", default="nDCG@10")
    first.add_argument("--bytes", action="store_true", help="add the bytes of an average document")
    first.add_argument("--intervals", action="store_true", help="add the interval to each cell")
    plot = commands.add_parser("plot", help="draw a measure against bytes and against ms")
    plot.add_argument("files", nargs="+", type=Path, help="what `mlx-colbert eval --json` printed")
    plot.add_argument("--measure", default="nDCG@10")
    plot.add_argument("--out", type=Path, required=True, help="a .png, .svg or .pdf file")
    plot.add_argument("--dark", action="store_true", help="for a dark page")
    run = commands.add_parser("run", help="write a run of sentence-transformers (needs torch)")
    run.add_argument("checkpoint")
    run.add_argument("dataset", help="a folder in BEIR's layout")
    run.add_argument("--out", type=Path, required=True, help="the run file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, draw the picture, or write the run."""
    args = parse_args(argv)
    try:
        if args.command == "table":
            print(table(args.files, args.measure, bytes_too=args.bytes, intervals=args.intervals))
        elif args.command == "plot":
            draw(results(args.files), args.out, args.measure, dark=args.dark)
        else:
            sentence_transformers_run(args.checkpoint, args.dataset, args.out)
    except ColBERTError as error:
        sys.exit(f"quality.py: {error}")


if __name__ == "__main__":
    main()
