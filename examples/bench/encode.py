"""Time the encoding of this package on each backend, and of sentence-transformers on torch.

    python examples/bench/encode.py run --checkpoint MODEL --data FOLDER [--peer-python PYTHON]

All use the same weights: MODEL is a checkpoint that both libraries read. FOLDER is a collection in BEIR
layout. Each engine runs in its own process. `--peer-python` names a Python with sentence-transformers 6 and
torch. It can also make a checkpoint of another size, with random weights and the tokenizer of another
checkpoint:

    PYTHON examples/bench/encode.py make --size modernbert-base --tokenizer FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata as metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Name -> what the child computes with. The engines of the peer need another Python.
ENGINES = ("numpy", "mlx", "torch", "torch-fp16")
SIZES = ("minilm", "modernbert-base")


def texts_of(folder: Path, n_passages: int, n_queries: int) -> tuple[list[str], list[str]]:
    """Evenly spaced passages of a collection, with their titles, and its first queries."""
    with (folder / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    step = max(len(rows) // n_passages, 1)
    passages = [f"{row.get('title', '')} {row['text']}".strip() for row in rows[::step][:n_passages]]
    with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
        return passages, [json.loads(line)["text"] for line, _ in zip(lines, range(n_queries), strict=False)]


def ours(backend: str, checkpoint: Path) -> tuple[Callable[[str], Any], Callable[[list[str]], Any], str]:
    """A function that encodes a query, one that encodes passages, and the name of the device."""
    from mlx_colbert import ColBERT

    model = ColBERT.load(checkpoint, backend=backend)
    return model.encode_query, lambda texts: model.encode_document(texts, show_progress=False), model.device


def peer(engine: str, checkpoint: Path) -> tuple[Callable[[str], Any], Callable[[list[str]], Any], str]:
    """The same for sentence-transformers, on the GPU if torch has one."""
    import torch
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(checkpoint))
    if engine == "torch-fp16":
        model.half()

    def documents(texts: list[str]) -> Any:
        return model.encode_document(texts, batch_size=32, show_progress_bar=False, convert_to_numpy=True)

    name = torch.cuda.get_device_name() if model.device.type == "cuda" else model.device.type.upper()
    return lambda text: model.encode_query(text, convert_to_numpy=True), documents, name


def child(args: argparse.Namespace) -> None:
    """Measure one engine and print a line of JSON."""
    passages, queries = texts_of(args.data, args.passages, args.queries)
    start = time.perf_counter()
    make = ours if args.engine in ("numpy", "mlx") else peer
    encode_query, encode_passages, device = make(args.engine, args.checkpoint)
    load_s = time.perf_counter() - start
    encode_query(queries[0])
    encode_passages(passages[:32])
    query_ms = []
    for text in queries:
        start = time.perf_counter()
        encode_query(text)
        query_ms.append(1000 * (time.perf_counter() - start))
    passage_s = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        vectors = encode_passages(passages)
        passage_s.append(time.perf_counter() - start)
    # Kilobytes on Linux, bytes on a Mac.
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    result = {
        "engine": args.engine,
        "device": device,
        "load_s": load_s,
        "query_ms": statistics.median(query_ms),
        "passages_per_s": len(passages) / min(passage_s),
        "vectors": sum(len(part) for part in vectors),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }
    print(json.dumps(result))


def make(args: argparse.Namespace) -> None:
    """Write a checkpoint with random weights, with sentence-transformers."""
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from transformers import AutoTokenizer, BertConfig, BertModel, ModernBertConfig, ModernBertModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    if args.size == "minilm":
        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
        backbone = BertModel(BertConfig(vocab_size=len(tokenizer), num_attention_heads=12, **sizes))
    else:
        backbone = ModernBertModel(ModernBertConfig(**ids, bos_token_id=None, eos_token_id=None))
    args.out.mkdir(parents=True)
    backbone.save_pretrained(args.out / "backbone")
    tokenizer.save_pretrained(args.out / "backbone")
    head = Dense(
        backbone.config.hidden_size,
        128,
        bias=False,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
        module_output_name="token_embeddings",
    )
    normalize = Normalize(module_input_name="token_embeddings")
    transformer = Transformer(str(args.out / "backbone"), max_seq_length=300)
    model = MultiVectorEncoder(modules=[transformer, head, MultiVectorMask(), normalize])
    model.save_pretrained(str(args.out / "checkpoint"))


def in_child(command: list[str], python: str, timeout: float) -> str:
    """The output of this script in another process."""
    run = subprocess.run(
        [python, __file__, *command], capture_output=True, text=True, check=False, timeout=timeout
    )
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return run.stdout


def versions() -> str:
    """The machine, and the versions of the libraries."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    found = []
    for name in ("mlx-colbert", "numpy", "mlx"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join([machine, *found])


def run(args: argparse.Namespace) -> None:
    """Measure every engine that is installed, and print a Markdown table."""
    common = ["--checkpoint", str(args.checkpoint), "--data", str(args.data)]
    common += ["--passages", str(args.passages), "--queries", str(args.queries), "--rounds", str(args.rounds)]
    print(f"{versions()}; {args.checkpoint.name}, {args.passages} passages, {args.queries} queries\n")
    print("| engine | device | load s | ms per query | passages/s | peak MB |\n|---|---|--:|--:|--:|--:|")
    if {"numpy", "mlx"} & set(args.engines):
        from mlx_colbert import ColBERT

        # Converted once, into the user's cache. The conversion is not measured.
        ColBERT.load(args.checkpoint)
    counts = set()
    for engine in args.engines:
        python = sys.executable if engine in ("numpy", "mlx") else args.peer_python
        if python is None:
            print(f"| {engine} | not measured: no --peer-python |")
            continue
        try:
            row = json.loads(in_child(["child", engine, *common], python, args.timeout).splitlines()[-1])
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"| {engine} | not measured: {(str(error).splitlines() or ['killed'])[-1]} |")
            continue
        counts.add(row["vectors"])
        print(
            f"| {engine} | {row['device']} | {row['load_s']:.2f} | {row['query_ms']:.1f} "
            f"| {row['passages_per_s']:.1f} | {row['peak_mb']:.0f} |",
            flush=True,
        )
    if len(counts) > 1:
        raise SystemExit(f"the engines made different numbers of vectors: {sorted(counts)}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    making = steps.add_parser("make")
    making.add_argument("--size", choices=SIZES, required=True)
    making.add_argument("--tokenizer", type=Path, required=True)
    making.add_argument("--out", type=Path, required=True)
    for name in ("run", "child"):
        step = steps.add_parser(name)
        if name == "child":
            step.add_argument("engine", choices=ENGINES)
        else:
            step.add_argument("--engines", nargs="+", choices=ENGINES, default=["numpy", "torch"])
            step.add_argument("--peer-python")
            step.add_argument("--timeout", type=float, default=1800.0)
        step.add_argument("--checkpoint", type=Path, required=True)
        step.add_argument("--data", type=Path, required=True)
        step.add_argument("--passages", type=int, default=256)
        step.add_argument("--queries", type=int, default=50)
        step.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    {"run": run, "child": child, "make": make}[args.step](args)


if __name__ == "__main__":
    main()
