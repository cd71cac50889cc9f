r"""Compare search in an index with exact search and other engines: build time, size, memory, latency, recall.

Encode a collection once, outside this repository. Then measure engines on its first documents. Each engine
builds in one process and searches in another, so that its memory is its own. All get the same vectors. Recall
compares with exact search, which is always measured.

    python examples/bench/search.py encode --model MODEL --data medquad --cache ~/.cache/bench
    python examples/bench/search.py run --cache ~/.cache/bench/medquad --engines nbits-4 nbits-2 nbits-1
    python examples/bench/search.py run --cache ~/.cache/bench/medquad --documents 2000 \
        --engines nbits-4 fast-plaid lancedb --peer-python other-venv/bin/python

fast-plaid and LanceDB may have their own environment, because fast-plaid needs one release of torch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from engines import CHUNK_DOCUMENTS, ENGINES, Encoded, Engine, Hits

BATCH_QUERIES = 32
DEPTH = 100


def encode(args: argparse.Namespace) -> None:
    """Encode a BEIR collection in the order of its file."""
    from tqdm import tqdm

    from mlx_colbert import ColBERT
    from mlx_colbert.evaluation.beir import read_beir

    dataset = read_beir(args.data)
    model = ColBERT.load(args.model)
    cache = args.cache / args.data.name
    cache.mkdir(parents=True, exist_ok=True)
    doc_ids = list(dataset.documents)[: args.documents]
    texts = list(dataset.documents.values())[: args.documents]
    ordinals = {doc_id: ordinal for ordinal, doc_id in enumerate(doc_ids)}
    queries = model.encode_query(list(dataset.queries.values()), show_progress=False)
    np.savez(cache / "queries.npz", vectors=queries.vectors, lengths=queries.lengths)
    lengths = []
    with (cache / "vectors.f16").open("wb") as file:
        for start in tqdm(range(0, len(texts), CHUNK_DOCUMENTS), unit=f" x {CHUNK_DOCUMENTS} documents"):
            part = model.encode_document(texts[start : start + CHUNK_DOCUMENTS], show_progress=False)
            file.write(part.vectors.astype(np.float16).tobytes())
            lengths.append(part.lengths)
    np.save(cache / "lengths.npy", np.concatenate(lengths))
    qrels = [
        {ordinals[d]: r for d, r in dataset.qrels[query].items() if d in ordinals and r > 0}
        for query in dataset.queries
    ]
    meta = {"dim": model.dim, "model": model.fingerprint, "qrels": qrels}
    (cache / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def folder_bytes(folder: Path) -> int:
    """The sizes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def anonymous_mb() -> int | None:
    """Megabytes that this process uses now, without mapped files. Linux only, else None."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines["RssAnon"].split()[0]) // 1024


class Memory(threading.Thread):
    """A thread that watches the anonymous memory of this process, which the system cannot drop.

    Attributes:
        peak_mb: the largest value so far, or None.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mb = anonymous_mb()
        self.start()

    def run(self) -> None:
        """Look twenty times a second."""
        while self.peak_mb is not None:
            self.peak_mb = max(self.peak_mb, anonymous_mb() or 0)
            time.sleep(0.05)


def child(args: argparse.Namespace) -> None:
    """Build an engine, or search in it. Print JSON as the last line."""
    engine = ENGINES[args.engine]
    data = Encoded.read(args.cache, args.documents, args.queries)
    if args.step == "build":
        memory = Memory()
        start = time.perf_counter()
        engine.build(data, args.folder)
        result: dict[str, Any] = {"build_s": time.perf_counter() - start, "build_mb": memory.peak_mb}
    else:
        search = engine.open(args.folder)
        search(data.queries[:2], 10)
        seconds, hits = [], []
        for query in data.queries:
            start = time.perf_counter()
            hits += search([query], 10)
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        for first in range(0, len(data.queries), BATCH_QUERIES):
            search(data.queries[first : first + BATCH_QUERIES], 10)
        batch = (time.perf_counter() - start) / len(data.queries)
        anonymous = anonymous_mb()
        deep = [found for query in data.queries for found in search([query], DEPTH)]
        result = {
            "p50_ms": float(np.median(seconds)) * 1e3,
            "p95_ms": float(np.quantile(seconds, 0.95)) * 1e3,
            "batch_ms": batch * 1e3,
            "search_mb": anonymous,
            "hits": hits,
            "deep": deep,
        }
    print(json.dumps(result))


def measure(engine: Engine, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The measurements of one engine. An index that another engine has built is used again."""
    folder, built = work / engine.built_as, work / f"{engine.built_as}.json"
    if not built.exists():
        try:
            result = step("build", engine, args, folder)
        except subprocess.TimeoutExpired:
            # Otherwise a half-made index would look complete.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        built.write_text(json.dumps(result | {"bytes": folder_bytes(folder)}))
    searched = step("search", engine, args, folder)
    return {"engine": engine.name, **json.loads(built.read_text()), **searched}


def step(name: str, engine: Engine, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The JSON of a process that builds an engine or searches in it."""
    python = args.peer_python if engine.is_peer else sys.executable
    command = [python, __file__, "child", name, engine.name]
    command += ["--cache", str(args.cache), "--folder", str(folder)]
    command += ["--documents", str(args.documents)] if args.documents else []
    command += ["--queries", str(args.queries)] if args.queries else []
    environment = os.environ | {"MLX_COLBERT_BACKEND": args.backend}
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=args.timeout
    )
    if run.returncode:
        raise RuntimeError(f"{engine.name}, {name}: {run.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return measured


def overlap(found: Hits, expected: Hits, k: int) -> float:
    """The part of the first k expected documents that was found.

    >>> overlap([[1, 2]], [[2, 3]], 2)
    0.5
    """
    shares = [len(set(a[:k]) & set(b[:k])) / len(b[:k]) for a, b in zip(found, expected, strict=True)]
    return float(np.mean(shares))


def mean_ndcg(found: Hits, qrels: list[dict[int, int]]) -> float:
    """nDCG@10 over the queries that have a relevant document."""
    from mlx_colbert.evaluation.measures import measured

    judged = {str(place): {str(d): r for d, r in row.items()} for place, row in enumerate(qrels) if row}
    if not judged:
        return float("nan")
    run = {str(place): {str(d): -float(n) for n, d in enumerate(hits)} for place, hits in enumerate(found)}
    return float(np.mean(list(measured(run, judged, ["nDCG@10"])["nDCG@10"].values())))


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that are installed."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("mlx-colbert", "numpy", "mlx", "fast-plaid", "lancedb", "qdrant-client"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run(args: argparse.Namespace) -> None:
    """Measure the engines one after the other, and print a table."""
    data = Encoded.read(args.cache, args.documents, args.queries)
    n_documents, n_tokens = len(data.lengths), int(data.lengths.sum())
    print(f"{args.cache.name}: {n_documents} documents, {n_tokens} tokens, {len(data.queries)} queries")
    print(json.dumps(versions()))
    work = Path(tempfile.mkdtemp(dir=args.work))
    rows: list[dict[str, Any]] = []
    print(
        "| engine | build s | MB | bytes/token | search MB | ms p50 | ms p95 | ms batched "
        "| recall@10 | recall@100 | nDCG@10 |\n|---|" + "--:|" * 10
    )
    try:
        for engine in ["exact", *(name for name in args.engines if name != "exact")]:
            try:
                row = measure(ENGINES[engine], args, work)
            except subprocess.TimeoutExpired:
                print(f"| {engine} | not done after {args.timeout} s |")
                if engine == "exact":  # what all others are compared with
                    raise SystemExit(1) from None
                continue
            rows.append(row)
            row["bytes_per_token"] = row["bytes"] / n_tokens
            row["recall10"] = overlap(row["hits"], rows[0]["hits"], 10)
            row["recall100"] = overlap(row["deep"], rows[0]["deep"], 100)
            row["ndcg10"] = mean_ndcg(row["hits"], data.qrels)
            print(
                f"| {engine} | {row['build_s']:.1f} | {row['build_mb']} | {row['bytes_per_token']:.1f} "
                f"| {row['search_mb']} | {row['p50_ms']:.1f} | {row['p95_ms']:.1f} "
                f"| {row['batch_ms']:.1f} | {row['recall10']:.3f} | {row['recall100']:.3f} "
                f"| {row['ndcg10']:.3f} |",
                flush=True,
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if args.out:
        for row in rows:
            del row["hits"], row["deep"]
        summary = {"collection": args.cache.name, "documents": n_documents, "tokens": n_tokens}
        args.out.write_text(json.dumps(summary | {"versions": versions(), "engines": rows}, indent=1))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("encode", help="encode a BEIR collection into a cache")
    first.add_argument("--model", required=True)
    first.add_argument("--data", required=True, type=Path, help="a folder in BEIR's layout")
    first.add_argument("--cache", required=True, type=Path)
    first.add_argument("--documents", type=int, help="the first so many only")
    first.set_defaults(command=encode)
    second = commands.add_parser("run", help="measure engines")
    second.add_argument("--cache", required=True, type=Path, help="the folder of one encoded collection")
    second.add_argument("--engines", nargs="+", choices=ENGINES, default=["nbits-4"])
    second.add_argument("--documents", type=int, help="the first so many only")
    second.add_argument("--queries", type=int, help="the first so many only")
    second.add_argument(
        "--peer-python", default=sys.executable, help="interpreter with fast-plaid or lancedb"
    )
    second.add_argument("--backend", choices=("numpy", "mlx"), default="numpy")
    second.add_argument("--timeout", type=float, default=1800, help="seconds for one step of one engine")
    second.add_argument("--work", help="where the indexes are built (default: the temporary folder)")
    second.add_argument("--out", type=Path, help="write everything as JSON")
    second.set_defaults(command=run)
    third = commands.add_parser("child")
    third.add_argument("step", choices=("build", "search"))
    third.add_argument("engine", choices=ENGINES)
    third.add_argument("--cache", required=True, type=Path)
    third.add_argument("--folder", required=True, type=Path)
    third.add_argument("--documents", type=int)
    third.add_argument("--queries", type=int)
    third.set_defaults(command=child)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line."""
    args = parse_args(argv)
    args.command(args)


if __name__ == "__main__":
    main()
