"""`mlx-colbert eval`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_colbert.cli.arguments import add_lengths, add_model, folder, load_model, location, positive
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.counts import counted

if TYPE_CHECKING:
    from mlx_colbert.evaluation.dataset import Dataset
    from mlx_colbert.evaluation.experiment import Evaluation
    from mlx_colbert.model.colbert import ColBERT

EXAMPLE = "mlx-colbert eval xquad-en --model mlx_model --systems exact,4bit,pool2,hybrid,bm25"
JSON_KEYS = """{"model", "device", "versions", "datasets": [{"dataset", "fingerprint", "query_length",
"document_length", "n_documents", "n_queries", "n_tokens", "n_unknown", "k", "against", "systems": {name:
{"bytes", "vectors", "build_s", "ms", "cpu_ms", "measures": {measure: {"mean", "low", "high", "against":
{"difference", "low", "high", "p_value", "n_better", "n_worse"}}}}}}]}"""
_SYSTEMS = "exact,4bit,2bit,1bit,pool2,hybrid,mean,bm25"
# A measure may have parameters: "RBP(p=0.8,rel=1)".
_COMMA = re.compile(r",(?![^()]*\))")
_MEASURES = "nDCG@10,AP@100,RR@10,R@100,Success@5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the datasets, the systems, the model, and where the results go."""
    parser.add_argument(
        "datasets",
        nargs="+",
        metavar="DATASET",
        type=location,
        help="a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv (BEIR), or irds:NAME for a "
        "dataset of ir_datasets",
    )
    add_model(parser, required=False, otherwise="only bm25 and --run-file are measured")
    add_lengths(parser)
    parser.add_argument(
        "--published-lengths",
        action="store_true",
        help="for datasets of BEIR, read as many tokens as PyLate did for its published figures",
    )
    parser.add_argument(
        "--systems",
        metavar="NAMES",
        help="what to compare, with commas: exact, 8bit, 4bit, 2bit, 1bit, poolN, chunk, hybrid, muvera, and "
        "several of these joined by +; by themselves mean and muvera (one vector for each text), and bm25 "
        f"(default: {_SYSTEMS})",
    )
    parser.add_argument(
        "--run-file",
        action="append",
        default=[],
        metavar="FILE",
        type=location,
        help="a TREC run file of another program, to measure as a further system. It may be given again",
    )
    parser.add_argument(
        "--measures",
        default=_MEASURES,
        metavar="NAMES",
        help=f"measures of ir-measures, with commas (default: {_MEASURES})",
    )
    parser.add_argument("--against", metavar="SYSTEM", help="compare with this system (default: the first)")
    parser.add_argument("-k", type=positive, default=100, help="documents of a ranking (default: 100)")
    parser.add_argument("--split", default="test", help="the judgements of a folder (default: test)")
    parser.add_argument(
        "--max-queries", type=positive, metavar="N", help="the first judged queries by id (default: all)"
    )
    parser.add_argument(
        "--allow-unknown",
        action="store_true",
        help="allow judgements of documents and queries that are not there: such a document is not found, "
        "and such a query is left out",
    )
    parser.add_argument(
        "--keep-self-hits",
        action="store_true",
        help="keep a hit that has the id of the query. Without it, it is left out unless it is judged",
    )
    parser.add_argument(
        "--cache", metavar="DIR", type=folder, help="keep token embeddings here, for the next time"
    )
    parser.add_argument(
        "--write-runs", metavar="DIR", type=folder, help="write the rankings as TREC run files"
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=location,
        help="draw the first measure against bytes and against ms: a .png, .svg or .pdf file",
    )


def run(args: argparse.Namespace) -> Result:
    """Measure the systems on each dataset."""
    from mlx_colbert.evaluation.plots import draw
    from mlx_colbert.evaluation.versions import versions

    # All datasets are read before the first is measured: an error must not come after hours of work.
    datasets = [_read(place, args) for place in args.datasets]
    _check_files(args, [dataset.name for dataset in datasets])
    model = None if args.model is None else load_model(args)
    results: list[dict[str, Any]] = []
    for dataset in datasets:
        reader = _reader(dataset, args, model)
        evaluation = _evaluated(dataset, args, reader)
        results.append(evaluation.to_dict() | _settings(reader))
        if args.write_runs:
            _write_runs(evaluation, args.write_runs)
    if args.plot:
        draw(results, args.plot, next(iter(next(iter(results[0]["systems"].values()))["measures"])))
    of_model = {
        "model": None if model is None else model.source,
        "device": None if model is None else model.device,
    }
    return {**of_model, "versions": versions(), "datasets": results}


def _read(place: str, args: argparse.Namespace) -> Dataset:
    from mlx_colbert.evaluation.reading import read_dataset

    return read_dataset(
        place, split=args.split, allow_unknown=args.allow_unknown, max_queries=args.max_queries
    )


def _check_files(args: argparse.Namespace, names: list[str]) -> None:
    """Raise an error if a result would have no place, or two would have the same."""
    from mlx_colbert.errors import InputError
    from mlx_colbert.evaluation.plots import check_picture

    if args.run_file and len(names) > 1:
        raise InputError(f"--run-file is for one dataset, but there are {len(names)}. Give one of them.")
    runs = [Path(file).name for file in args.run_file]
    for what, found in (("--run-file", runs), ("--write-runs", names if args.write_runs else [])):
        if twice := [name for name in found if found.count(name) > 1]:
            raise InputError(f"{what}: the name {twice[0]} is there twice. Rename one of them.")
    if args.plot:
        check_picture(args.plot)
    for place in (args.cache, args.write_runs):
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)


def _reader(dataset: Dataset, args: argparse.Namespace, model: ColBERT | None) -> ColBERT | None:
    """The model with the lengths for a dataset."""
    from mlx_colbert.evaluation.published import published_lengths

    if model is None or not args.published_lengths:
        return model
    lengths = published_lengths(dataset.name) or {}
    # What is given on the command line is wanted even so.
    return model.with_lengths(**{name: n for name, n in lengths.items() if getattr(args, name) is None})


def _settings(model: ColBERT | None) -> dict[str, Any]:
    """What decides the token embeddings of a dataset."""
    if model is None:
        return dict.fromkeys(("fingerprint", "query_length", "document_length"))
    settings = model.config.colbert
    return {
        "fingerprint": model.fingerprint,
        "query_length": settings.query_length,
        "document_length": settings.document_length,
    }


def _evaluated(dataset: Dataset, args: argparse.Namespace, model: ColBERT | None) -> Evaluation:
    from mlx_colbert.evaluation.experiment import evaluate
    from mlx_colbert.evaluation.judgements import read_run
    from mlx_colbert.progress import shown

    systems = args.systems if args.systems is not None else _SYSTEMS if args.model else "bm25"
    with shown() as progress:
        return evaluate(
            dataset,
            [name for name in systems.split(",") if name],
            model=model,
            runs={Path(file).name: read_run(file) for file in args.run_file},
            measures=_COMMA.split(args.measures),
            against=args.against,
            k=args.k,
            cache=args.cache,
            keep_self_hits=args.keep_self_hits,
            progress=progress,
        )


def _write_runs(evaluation: Evaluation, folder: Path) -> None:
    from mlx_colbert.evaluation.judgements import write_run

    # Names of ir_datasets have slashes.
    dataset = evaluation.dataset.name.replace("/", "-")
    for result in evaluation.systems:
        write_run(folder / f"{dataset}-{result.name}.run", result.run, result.name)


def render(result: Result, args: argparse.Namespace) -> str:
    """A table for each dataset: the measures, the difference of the first one, bytes and ms."""
    lines = []
    for found in result["datasets"]:
        tokens = ""
        if found["n_tokens"]:
            of_query = counted(found["query_length"], "token")
            lengths = f"{of_query} of a query and {found['document_length']} of a document"
            tokens = f", {counted(found['n_tokens'], 'token embedding')}; at most {lengths}"
        lines.append(
            printable(
                f"{found['dataset']}: {counted(found['n_documents'], 'document')}, "
                f"{counted(found['n_queries'], 'judged query', 'judged queries')}{tokens}"
            )
        )
        lines += [*_table(found), ""]
        if found["n_unknown"]:
            lines[-1:] = [f"Judged ids that are not in the dataset: {found['n_unknown']:,}.", ""]
    lines.append(
        "[ ]: 95 % interval over the queries. p: paired randomisation test. MB: what is stored of documents."
    )
    return "\n".join(lines)


def _table(found: Result) -> list[str]:
    first, *others = next(iter(found["systems"].values()))["measures"]
    head = ["system", f"{first} [95 %]", *others, f"{first} - {found['against']} [95 %]", "p"]
    rows = [[*head, "better/worse", "MB", "ms"]]
    for name, result in found["systems"].items():
        measures = result["measures"]
        against = measures[first]["against"]
        gap, p_value, counts = "", "", ""
        if against is not None:
            gap = f"{against['difference']:+.3f} [{against['low']:+.3f}, {against['high']:+.3f}]"
            p_value = f"{against['p_value']:.4f}"
            counts = f"{against['n_better']:,}/{against['n_worse']:,}"
        size = "–" if result["bytes"] is None else f"{result['bytes'] / 1e6:,.2f}"
        ms = "–" if result["ms"] is None else f"{result['ms']:,.1f}"
        mean = measures[first]
        rows.append(
            [
                printable(name),
                f"{mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]",
                *(f"{measures[measure]['mean']:.3f}" for measure in others),
                *(gap, p_value, counts, size, ms),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return lines
