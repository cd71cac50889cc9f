"""The subcommands: what each takes, and the library call it makes.

Libraries are imported by the command that needs them, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert.cli import render
from mlx_colbert.cli.render import Result
from mlx_colbert.errors import IndexDamagedError, InputError

if TYPE_CHECKING:
    from mlx_colbert.retriever import Retriever
    from mlx_colbert.types import Hit

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: as typed.
        summary: one line of help.
        example: a command line that works.
        json_keys: what `--json` prints.
        add_arguments: adds its own arguments to a parser.
        run: does it; the JSON object to print.
        render: the same for people.
    """

    name: str
    summary: str
    example: str
    json_keys: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Result]
    render: Callable[[Result, argparse.Namespace], str]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text}")
    return int(text)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, metavar="DIR", type=Path, help="the index folder")


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=".jsonl or .csv (a passage per row: text, doc_id, title, metadata), .txt or .md, or a folder of "
        ".txt and .md (split into passages of at most 120 words)",
    )


def _add_model(
    parser: argparse.ArgumentParser, *, required: bool, otherwise: str = "the one that the index records"
) -> None:
    advice = "a model folder or hub id" + ("" if required else f"; without it, {otherwise}")
    parser.add_argument("--model", required=required, metavar="MODEL", help=advice)
    _add_backend(parser)


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", choices=["auto", "mlx", "numpy"], default="auto", help="auto: MLX where it has a GPU"
    )


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    from mlx_colbert.convert import cli

    cli.add_arguments(parser)


def _convert(args: argparse.Namespace) -> Result:
    from mlx_colbert.convert import cli

    return cli.run(args)


def _index_arguments(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    _add_index(parser)
    parser.add_argument(
        "--nbits",
        type=int,
        choices=[1, 2, 4, 8],
        default=4,
        help="bits per component once the index is large (default: 4)",
    )
    parser.add_argument("--exact", action="store_true", help="keep float16 and exact search at any size")
    parser.add_argument(
        "--pool-factor",
        type=_positive,
        default=1,
        metavar="N",
        help="keep one token embedding of N, the mean of similar ones (default: 1, all)",
    )
    _add_model(parser, required=True)


def _index(args: argparse.Namespace) -> Result:
    from mlx_colbert.retriever import Retriever

    settings = {} if not args.exact else {"exact_tokens": None}
    with Retriever.from_files(
        args.index,
        args.model,
        args.inputs,
        nbits=args.nbits,
        pool_factor=args.pool_factor,
        backend=args.backend,
        **settings,
    ) as retriever:
        return _written(args, retriever, len(retriever))


def _written(args: argparse.Namespace, retriever: Retriever, added: int) -> Result:
    counts = {"added": added, "truncated": retriever.n_truncated, "documents": len(retriever)}
    return {"index": str(args.index), **counts}


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="an index of colbert-ai, RAGatouille, PyLate, fast-plaid or next-plaid",
    )
    _add_index(parser)
    parser.add_argument(
        "--collection",
        metavar="FILE",
        help="its texts, where it keeps none: .tsv (id, text, title), .jsonl or .csv",
    )
    _add_model(parser, required=False, otherwise="each search has to name it")


def _import(args: argparse.Namespace) -> Result:
    from mlx_colbert.importing import import_index

    found = import_index(
        args.index, args.source, args.model, collection=args.collection, backend=args.backend
    )
    return {"index": str(args.index), **asdict(found)}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    _add_index(parser)
    parser.add_argument("--upsert", action="store_true", help="replace the passages whose ids exist")
    _add_model(parser, required=False)


def _add(args: argparse.Namespace) -> Result:
    from mlx_colbert.retriever import Retriever

    with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
        added = retriever.add_files(args.inputs, upsert=args.upsert)
        return _written(args, retriever, added)


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("doc_ids", nargs="*", metavar="ID", help="a doc_id, as search prints it")
    _add_index(parser)
    _add_filter(parser, "delete the passages whose metadata satisfy this, in place of IDs")


def _delete(args: argparse.Namespace) -> Result:
    from mlx_colbert.index import Index

    with Index.open(args.index, backend="numpy") as index:
        deleted = index.delete(args.doc_ids or None, filter=args.filter)
        return {"index": str(args.index), "deleted": deleted, "documents": len(index)}


def _add_filter(parser: argparse.ArgumentParser, advice: str) -> None:
    parser.add_argument("--filter", metavar="EXPRESSION", help=f"{advice}: lang = 'en' and year >= 2020")


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY")
    _add_index(parser)
    parser.add_argument("-k", type=_positive, default=10, help="hits to print (default: 10)")
    parser.add_argument(
        "--mode",
        choices=["semantic", "keyword", "hybrid"],
        default="semantic",
        help="rank by meaning, by words (no model is loaded), or by both (default: semantic)",
    )
    _add_filter(parser, "find only passages whose metadata satisfy this")
    _add_full(parser)
    _add_model(parser, required=False)


def _search(args: argparse.Namespace) -> Result:
    if args.mode == "keyword":
        from mlx_colbert.index import Index

        with Index.open(args.index, backend="numpy") as index:
            hits = index.search_keywords(args.query, args.k, filter=args.filter)
    else:
        from mlx_colbert.retriever import Retriever

        with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
            hits = retriever.search(args.query, args.k, mode=args.mode, filter=args.filter)
    return {"query": args.query, "hits": [_hit(hit) for hit in hits]}


def _rerank_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="as for index; without it, a text per line of stdin"
    )
    parser.add_argument("-k", type=_positive, help="hits to print (default: all)")
    _add_full(parser)
    _add_model(parser, required=True)


def _rerank(args: argparse.Namespace) -> Result:
    from mlx_colbert.ingestion import read_lines, read_passages
    from mlx_colbert.model import ColBERT

    if not args.inputs and sys.stdin is None:
        raise InputError("stdin is closed. Name a file, or pipe in a text per line.")
    model = ColBERT.load(args.model, backend=args.backend)
    if args.inputs:
        passages = list(read_passages(args.inputs, fits=model.fits))
    else:
        passages = list(read_lines(sys.stdin.buffer, name="stdin"))
    texts, doc_ids = [passage.text for passage in passages], [passage.doc_id for passage in passages]
    hits = model.rerank(args.query, texts, args.k, doc_ids=doc_ids)
    return {"query": args.query, "hits": [_hit(hit) for hit in hits]}


def _add_full(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help="print whole passages, not their beginnings")


def _hit(hit: Hit) -> Result:
    metadata = None if hit.metadata is None else dict(hit.metadata)
    return {
        "rank": hit.rank,
        "score": hit.score,
        "doc_id": hit.doc_id,
        "text": hit.text,
        "metadata": metadata,
    }


def _compact_arguments(parser: argparse.ArgumentParser) -> None:
    _add_index(parser)
    parser.add_argument("--retrain", action="store_true", help="train the centroids anew in any case")


def _compact(args: argparse.Namespace) -> Result:
    from mlx_colbert.index import Index

    with Index.open(args.index) as index:
        before = index.info().bytes
        index.compact(retrain=args.retrain)
        info = index.info()
    return {"index": str(args.index), "bytes_before": before, "bytes": info.bytes, "segments": info.segments}


def _verify(args: argparse.Namespace) -> Result:
    from mlx_colbert.index import Index

    n_documents = None
    try:
        with Index.open(args.index, backend="numpy") as index:
            problems = index.verify()
            n_documents = len(index) if not problems else None
    except IndexDamagedError as error:
        problems = [str(error)]
    return {
        "index": str(args.index),
        "documents": n_documents,
        "problems": problems,
        "passed": not problems,
    }


def _verify_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a hub id, or a folder, converted or not")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    _add_backend(parser)


def _verify_model(args: argparse.Namespace) -> Result:
    from mlx_colbert.convert.verify import verify_published

    report = verify_published(args.model, revision=args.revision, backend=args.backend)
    return {**asdict(report), "passed": report.passed}


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, required=False, otherwise="one of MiniLM's size with random weights")


def _doctor(args: argparse.Namespace) -> Result:
    from mlx_colbert.doctor import diagnose

    return asdict(diagnose(args.model, backend=args.backend))


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="an index, or a converted model")


def _info(args: argparse.Namespace) -> Result:
    from mlx_colbert import checkpoint

    if checkpoint.is_converted(args.folder):
        return {"kind": "model", "path": str(args.folder), **asdict(checkpoint.read_config(args.folder))}
    from mlx_colbert.index import Index

    with Index.open(args.folder, backend="numpy") as index:
        return {"kind": "index", "path": str(args.folder), **asdict(index.info())}


HITS_KEYS = '{"query", "hits": [{"rank", "score", "doc_id", "text", "metadata"}]}'

COMMANDS = (
    Command(
        "convert",
        "Turn a PyTorch ColBERT checkpoint into an MLX model folder.",
        "mlx-colbert convert --hf-path colbert-ir/colbertv2.0 --mlx-path mlx_model --verify",
        '{"path"}; with --verify also "notes", "passed" and\n'
        '"checks": [{"name", "expected", "measured", "passed", "difference"}]',
        _convert_arguments,
        _convert,
        render.conversion,
    ),
    Command(
        "index",
        "Make a new index of the passages of files and folders.",
        "mlx-colbert index notes/ --index notes.index --model mlx_model",
        '{"index", "added", "truncated", "documents"}',
        _index_arguments,
        _index,
        render.added,
    ),
    Command(
        "import-index",
        "Make a new index of one that another engine wrote.",
        "mlx-colbert import-index .ragatouille/colbert/indexes/notes --index notes.index --model mlx_model",
        '{"index", "engine", "documents", "texts", "dim", "nbits", "checkpoint", "model"}',
        _import_arguments,
        _import,
        render.imported,
    ),
    Command(
        "search",
        "Find the passages of an index that answer a query.",
        'mlx-colbert search "how long to steep tea" --index notes.index -k 3',
        HITS_KEYS,
        _search_arguments,
        _search,
        render.hits,
    ),
    Command(
        "add",
        "Add the passages of files and folders to an index.",
        "mlx-colbert add more.jsonl --index notes.index",
        '{"index", "added", "truncated", "documents"}',
        _add_arguments,
        _add,
        render.added,
    ),
    Command(
        "delete",
        "Delete passages from an index.",
        "mlx-colbert delete 'tea.md#1' 'tea.md#2' --index notes.index",
        '{"index", "deleted", "documents"}',
        _delete_arguments,
        _delete,
        render.deleted,
    ),
    Command(
        "compact",
        "Write an index anew, without the rows of deleted passages.",
        "mlx-colbert compact --index notes.index",
        '{"index", "bytes_before", "bytes", "segments"}',
        _compact_arguments,
        _compact,
        render.compacted,
    ),
    Command(
        "verify-index",
        "Compare every byte of an index with its checksums.",
        "mlx-colbert verify-index --index notes.index",
        '{"index", "documents", "problems", "passed"}',
        _add_index,
        _verify,
        render.verified,
    ),
    Command(
        "verify-model",
        "Compare a checkpoint of the hub with its published values.",
        "mlx-colbert verify-model colbert-ir/colbertv2.0",
        '{"id", "revision", "device", "passed",\n'
        '"checks": [{"name", "expected", "measured", "passed", "difference"}]}',
        _verify_model_arguments,
        _verify_model,
        render.comparisons,
    ),
    Command(
        "rerank",
        "Order texts by how well they answer a query, without an index.",
        'grep -i tea notes.txt | mlx-colbert rerank "how long to steep tea" --model mlx_model -k 3',
        HITS_KEYS,
        _rerank_arguments,
        _rerank,
        render.hits,
    ),
    Command(
        "doctor",
        "Tell what this machine computes with, how fast, and what is in the way.",
        "mlx-colbert doctor --model mlx_model",
        '{"version", "python", "packages", "backend", "device", "gpu", "dtype", "blas", "gflops",\n'
        '"numpy_gflops", "model", "tokens_per_s", "advice": [texts]}',
        _doctor_arguments,
        _doctor,
        render.diagnosis,
    ),
    Command(
        "info",
        "Describe an index or a converted model.",
        "mlx-colbert info notes.index",
        '{"kind": "index" or "model", …} with its settings and counts',
        _info_arguments,
        _info,
        render.fields,
    ),
)
