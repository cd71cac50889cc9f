"""The subcommands: what each takes, and the library call it makes.

Libraries are imported by the command that needs them, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import reprlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert.cli import render
from mlx_colbert.cli.render import Result
from mlx_colbert.errors import InputError

if TYPE_CHECKING:
    from mlx_colbert.model.colbert import ColBERT
    from mlx_colbert.retriever.indexing import IndexingStats
    from mlx_colbert.retriever.retriever import Retriever
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
    if not (text.isdecimal() and len(text) < 10) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of 1 to 999,999,999, got {reprlib.repr(text)}")
    return int(text)


def _path(text: str) -> Path:
    # Path("") is the current folder; what is meant is a variable that was not set.
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, metavar="DIR", type=_path, help="the index folder")


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
    parser.add_argument(
        "--on-overflow",
        choices=["truncate", "error", "chunk"],
        default="truncate",
        help="what becomes of a passage longer than the model reads: its end is dropped, it is refused, or "
        "it is read in overlapping windows and scored as one (default: truncate)",
    )
    parser.add_argument("--stats", action="store_true", help="print what encoding and writing took")
    _add_model(parser, required=True)
    _add_lengths(parser)


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--document-length",
        type=_positive,
        metavar="N",
        help="tokens of a passage that the model reads, up to the encoder's limit (default: as published)",
    )
    parser.add_argument(
        "--query-length", type=_positive, metavar="N", help="tokens of a query that the model reads"
    )


def _loaded(args: argparse.Namespace) -> ColBERT:
    from mlx_colbert.model.colbert import ColBERT

    return ColBERT.load(
        args.model,
        backend=args.backend,
        document_length=args.document_length,
        query_length=args.query_length,
    )


def _index(args: argparse.Namespace) -> Result:
    from mlx_colbert.retriever.retriever import Retriever

    settings = {} if not args.exact else {"exact_tokens": None}
    # By its name where it can be: the files are read before it is loaded then, or even converted.
    as_published = args.document_length is None and args.query_length is None
    with Retriever.from_files(
        args.index,
        args.model if as_published else _loaded(args),
        args.inputs,
        nbits=args.nbits,
        pool_factor=args.pool_factor,
        on_overflow=args.on_overflow,
        backend=args.backend,
        **settings,
    ) as retriever:
        result = _written(args, retriever)
        return result | {"stats": _stats(retriever.stats)} if args.stats else result


def _written(args: argparse.Namespace, retriever: Retriever) -> Result:
    stats = retriever.stats
    return {
        "index": str(args.index),
        "added": stats.passages,
        "unchanged": stats.unchanged,
        "truncated": stats.truncated,
        "passages": len(retriever),
    }


def _peak_memory_bytes() -> int:
    """The most memory that this process had resident."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's getrusage counts what the parent held when it started the process.
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
    from mlx_colbert.index_import import import_index

    found = import_index(
        args.index, args.source, args.model, collection=args.collection, backend=args.backend
    )
    return {"index": str(args.index), **asdict(found)}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    _add_index(parser)
    parser.add_argument(
        "--upsert",
        action="store_true",
        help="replace the passages whose ids exist, and delete what a file given no longer has",
    )
    _add_model(parser, required=False)


def _add(args: argparse.Namespace) -> Result:
    from mlx_colbert.retriever.retriever import Retriever

    with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
        retriever.add_files(args.inputs, upsert=args.upsert)
        return _written(args, retriever)


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("doc_ids", nargs="*", metavar="ID", help="a doc_id, as search prints it")
    _add_index(parser)
    _add_filter(parser, "delete the passages whose metadata satisfy this, in place of IDs")
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="delete the passages of this source, such as notes/tea.md, in place of IDs",
    )


def _delete(args: argparse.Namespace) -> Result:
    from mlx_colbert.index import Index

    with Index.open(args.index, backend="numpy") as index:
        deleted = index.delete(args.doc_ids or None, filter=args.filter, source=args.source)
        return {"index": str(args.index), "deleted": deleted, "passages": len(index)}


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
        from mlx_colbert.retriever.retriever import Retriever

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
    _add_lengths(parser)


def _rerank(args: argparse.Namespace) -> Result:
    from mlx_colbert.documents.files import read_lines, read_passages

    if not args.inputs and sys.stdin is None:
        raise InputError("stdin is closed. Name a file, or pipe in a text per line.")
    model = _loaded(args)
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
        "source": hit.source,
        "position": hit.position,
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


def _verify_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a hub id, or a folder converted from one")
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
    from mlx_colbert.model import folder as checkpoint

    if checkpoint.is_converted(args.folder):
        return {"kind": "model", "path": str(args.folder), **asdict(checkpoint.read_config(args.folder))}
    from mlx_colbert.index import Index

    with Index.open(args.folder, backend="numpy") as index:
        return {"kind": "index", "path": str(args.folder), **asdict(index.info())}


HITS_KEYS = '{"query", "hits": [{"rank", "score", "doc_id", "text", "metadata", "source", "position"}]}'

COMMANDS = (
    Command(
        "convert",
        "Turn a PyTorch ColBERT checkpoint into an MLX model folder.",
        "mlx-colbert convert --hf-path colbert-ir/colbertv2.0 --mlx-path mlx_model --verify",
        '{"path"}; with --dim also "notes"; with --verify also "notes", "passed" and\n'
        '"checks": [{"name", "expected", "measured", "passed", "difference"}]',
        _convert_arguments,
        _convert,
        render.conversion,
    ),
    Command(
        "index",
        "Make an index of the passages of files and folders; the same command goes on where one was stopped.",
        "mlx-colbert index notes/ --index notes.index --model mlx_model",
        '{"index", "added", "unchanged", "truncated", "passages"}; with --stats also\n'
        '"stats": {"passages", "tokens", "padding_waste", "tokens_per_s", "tokenize_s", "encode_s",\n'
        '"write_s", "peak_memory_bytes"}',
        _index_arguments,
        _index,
        render.added,
    ),
    Command(
        "import-index",
        "Make a new index of one that another engine wrote.",
        "mlx-colbert import-index .ragatouille/colbert/indexes/notes --index notes.index --model mlx_model",
        '{"index", "engine", "passages", "texts", "dim", "nbits", "checkpoint", "model"}',
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
        '{"index", "added", "unchanged", "truncated", "passages"}',
        _add_arguments,
        _add,
        render.added,
    ),
    Command(
        "delete",
        "Delete passages from an index.",
        "mlx-colbert delete --source notes/tea.md --index notes.index",
        '{"index", "deleted", "passages"}',
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
        '{"index", "passages", "problems", "passed"}',
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
