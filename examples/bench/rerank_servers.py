"""Rerank requests per second: `mlx-colbert serve` beside sentence-transformers in a plain FastAPI server.

Both have the same weights and the same cores, and get the same requests, in turns. Before anything is timed,
both must give the same scores.

    python examples/bench/rerank_servers.py --checkpoint .cache/all-MiniLM-L6-v2 \
        --peer-python other-venv/bin/python

The peer needs an environment with torch, sentence-transformers, fastapi and uvicorn. Its server is the step
`peer` of this file: what one would write by hand, with one call of the model for each request, in threads.

With `--infinity PROGRAM`, the program `infinity_emb` stands beside both. It has no MaxSim, so it embeds the
query and the documents of each request as one vector each: the same texts through the same weights.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# The largest difference of a relevance score.
TOLERANCE = 1e-3


def peer(args: argparse.Namespace) -> None:
    """Serve rerank with sentence-transformers."""
    import uvicorn
    from fastapi import FastAPI
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    # Modules as this package reads a checkpoint that has no projection.
    transformer = Transformer(str(args.checkpoint), max_seq_length=args.tokens)
    normalize = Normalize(module_input_name="token_embeddings")
    model = MultiVectorEncoder(modules=[transformer, MultiVectorMask(), normalize], device="cpu")

    app = FastAPI()

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/rerank")
    def rerank(body: dict[str, Any]) -> dict[str, Any]:
        query = model.encode_query([body["query"]], show_progress_bar=False)[0]
        documents = model.encode_document(body["documents"], show_progress_bar=False)
        scores = [float((query @ document.T).max(dim=1).values.mean()) for document in documents]
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        return {"results": [{"index": number, "relevance_score": scores[number]} for number in order]}

    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning")


def bodies(texts: Sequence[str], n: int, n_documents: int) -> list[dict[str, Any]]:
    """Requests. Their queries are the first words of paragraphs."""
    chance = random.Random(0)
    return [
        {
            "query": " ".join(chance.choice(texts).split()[:8]),
            "documents": [chance.choice(texts)[:500] for _ in range(n_documents)],
        }
        for _ in range(n)
    ]


def requests_per_s(url: str, requests: Sequence[dict[str, Any]], n_clients: int) -> tuple[float, list[float]]:
    """Requests per second of so many clients, and the seconds of each request."""
    import httpx

    local, took = threading.local(), []
    path = "/embeddings" if "input" in requests[0] else "/rerank"

    def ask(body: dict[str, Any]) -> None:
        if not hasattr(local, "client"):
            local.client = httpx.Client(timeout=300)
        begun = time.perf_counter()
        local.client.post(f"{url}{path}", json=body).raise_for_status()
        took.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    with ThreadPoolExecutor(n_clients) as pool:
        list(pool.map(ask, requests))
    return len(requests) / (time.perf_counter() - begun), took


def scores_of(url: str, body: dict[str, Any]) -> list[float]:
    """The relevance scores in the order of the documents."""
    import httpx

    results = httpx.post(f"{url}/rerank", json=body, timeout=300).raise_for_status().json()["results"]
    return [item["relevance_score"] for item in sorted(results, key=lambda item: item["index"])]


def run(args: argparse.Namespace) -> None:
    """Measure, and print a Markdown table."""
    from served import paragraphs, percentile, served

    from mlx_colbert import ColBERT

    # Converted once, into the user's cache. The peer reads texts as far as this model.
    length = ColBERT.load(args.checkpoint).config.colbert.document_length
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [door.getsockname()[1] for door in doors]
        for door in doors:
            door.close()
        model = str(args.checkpoint.absolute())
        ours = [sys.executable, "-m", "mlx_colbert", "serve", "--port", str(ports[0]), "--model", model]
        theirs = [args.peer_python, __file__, "peer", "--checkpoint", model, "--port", str(ports[1])]
        theirs += ["--tokens", str(length)]
        servers = [
            stack.enter_context(served("mlx-colbert", ours, ports[0], folder / "ours.log", home=folder)),
            stack.enter_context(served("sentence-transformers", theirs, ports[1], folder / "theirs.log")),
        ]
        if args.infinity:
            infinity = [args.infinity, "v2", "--model-id", model, "--device", "cpu", "--engine", "torch"]
            infinity += ["--host", "127.0.0.1", "--port", str(ports[2])]
            servers.append(
                stack.enter_context(
                    served("infinity", infinity, ports[2], folder / "infinity.log", ready="/health")
                )
            )
        texts = paragraphs(args.folder)
        for body in bodies(texts, 5, args.documents):
            found, expected = (scores_of(server.url, body) for server in servers[:2])
            off = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            if off > TOLERANCE:
                raise SystemExit(f"the scores differ by {off:.4f}, so the servers do not do the same work.")
        print("| clients | server | requests/s | p50 ms | p95 ms | CPU ms per request | MB | times as many |")
        print("|--:|---|--:|--:|--:|--:|--:|--:|")
        for n_clients in args.clients:
            speeds: dict[str, list[float]] = {server.name: [] for server in servers}
            took: dict[str, list[float]] = {server.name: [] for server in servers}
            cpu: dict[str, list[float]] = {server.name: [] for server in servers}
            requests = bodies(texts, args.requests, args.documents)
            inputs = [{"model": model, "input": [body["query"], *body["documents"]]} for body in requests]
            for number in range(args.rounds):
                for server in servers if number % 2 else servers[::-1]:
                    before = server.cpu_s()
                    speed, seconds = requests_per_s(
                        server.url, inputs if server.name == "infinity" else requests, n_clients
                    )
                    speeds[server.name].append(speed)
                    took[server.name] += seconds
                    cpu[server.name].append((server.cpu_s() - before) / len(requests))
            for server in servers:
                pairs = zip(speeds[server.name], speeds[servers[1].name], strict=True)
                ratio = statistics.median(ours / theirs for ours, theirs in pairs)
                times = [1000 * percentile(took[server.name], percent) for percent in (50, 95)]
                print(
                    f"| {n_clients} | {server.name} | {statistics.median(speeds[server.name]):.1f} "
                    f"| {times[0]:,.0f} | {times[1]:,.0f} "
                    f"| {1000 * statistics.median(cpu[server.name]):.0f} | {server.memory_mb():.0f} "
                    f"| {ratio:.2f} |",
                    flush=True,
                )
        print(f"\nload {', '.join(f'{value:.0f}' for value in os.getloadavg())}, {os.cpu_count()} cores")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", nargs="?", choices=("run", "peer"), default="run")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a BERT in the layout of transformers")
    parser.add_argument("--peer-python", help="the interpreter of the peer's environment")
    parser.add_argument("--infinity", metavar="PROGRAM", help="infinity_emb, in an environment of its own")
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="Markdown files (default: docs)")
    parser.add_argument("--documents", type=int, default=10, help="of each request")
    parser.add_argument("--requests", type=int, default=48, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    {"run": run, "peer": peer}[args.step](args)


if __name__ == "__main__":
    main()
