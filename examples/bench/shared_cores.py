"""Measure time and CPU time of MaxSim, encode_query, an index search and k-means, beside busy processes.

This script starts and stops the busy processes. In every round, tasks and checkouts take turns, and each
checkout has its own process, so that other work on the machine affects all of them. maxsim-cpu is compared if
it is installed.

    python examples/bench/shared_cores.py --model demo/minilm --checkout before=../before after=.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

DIM = 128
QUERY_TOKENS = 32


def unit_rows(rng: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    """Random unit rows (n, 128) float32."""
    rows = rng.standard_normal((n, DIM), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tasks(model: str | None, n_documents: int, folder: Path) -> dict[str, Callable[[], object]]:
    """The tasks of a checkout: name -> function that runs the task once."""
    from mlx_colbert import ColBERT, Index, maxsim

    rng = np.random.default_rng(0)
    documents = [unit_rows(rng, int(n)) for n in rng.integers(50, 301, n_documents)]
    query = unit_rows(rng, QUERY_TOKENS)
    index = Index.create(folder / "index", DIM, exact_tokens=0, backend="numpy")
    index.add([str(i) for i in range(n_documents)], documents)
    index.compact()
    sample = np.concatenate(documents)[:60_000]
    found: dict[str, Callable[[], object]] = {
        "maxsim": lambda: maxsim(query, documents, backend="numpy"),
        "search": lambda: index.search(query),
        "kmeans": lambda: kmeans(sample),
    }
    if model is not None:
        colbert = ColBERT.load(model, backend="numpy")
        found["encode_query"] = lambda: colbert.encode_query("How do viruses hide from the immune system?")
    if importlib.util.find_spec("maxsim_cpu") is not None:
        import maxsim_cpu

        found["maxsim-cpu"] = lambda: maxsim_cpu.maxsim_scores_variable(query, documents)
    return found


def kmeans(sample: np.ndarray[Any, Any]) -> object:
    """1,500 centroids of 60,000 vectors."""
    from mlx_colbert import kernels
    from mlx_colbert.index.storage.kmeans import train_centroids

    # Before 0.3, the name was get_ops.
    ops = getattr(kernels, "get_search_ops", None) or kernels.get_ops  # type: ignore[attr-defined]
    return train_centroids(ops("numpy"), sample, 1500, seed=0)


def work(model: str | None, n_documents: int) -> None:
    """Run the tasks that standard input names. Write seconds and CPU seconds of each run."""
    with tempfile.TemporaryDirectory() as folder:
        known = tasks(model, n_documents, Path(folder))
        for run in known.values():
            run()
        print(json.dumps(list(known)), flush=True)
        for line in sys.stdin:
            run = known[line.strip()]
            # One run without timing: then its data is in the cache, and the threads of the last run sleep.
            run()
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


@contextmanager
def worker(checkout: str, options: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that uses one checkout of this package."""
    command = [sys.executable, __file__, "--worker", *options]
    path = os.pathsep.join([str(Path(checkout).resolve()), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdin=-1, stdout=-1, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def busy(n: int) -> Iterator[None]:
    """Processes that each keep a core busy."""
    # They end by themselves if this process is killed.
    code = f"import os\nwhile os.getppid() == {os.getpid()}:\n    for _ in range(10**6): pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def asked(process: subprocess.Popen[str], task: str) -> tuple[float, float]:
    """Milliseconds and CPU milliseconds of one run."""
    assert process.stdin is not None and process.stdout is not None
    # After a product, the threads of a BLAS are busy for a while. They must not slow down the next checkout.
    time.sleep(0.2)
    process.stdin.write(f"{task}\n")
    process.stdin.flush()
    wall, cpu = json.loads(process.stdout.readline())
    return 1000 * wall, 1000 * cpu


def table(args: argparse.Namespace) -> Iterator[str]:
    """The rows of the result. Each comes as soon as it is known."""
    checkouts = dict(pair.split("=", 1) for pair in args.checkout)
    options = ["--documents", str(args.documents), *(["--model", args.model] if args.model else [])]
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(worker(checkout, options)) for name, checkout in checkouts.items()
        }
        known = [json.loads(process.stdout.readline()) for process in workers.values() if process.stdout]
        names = list(checkouts)
        yield (
            f"| task | busy | {' | '.join(f'{name}: ms' for name in names)} | "
            + " | ".join(f"{name}: CPU ms" for name in names)
            + " | last ÷ first (paired) |"
        )
        yield "|---|--:|" + "--:|" * (2 * len(names) + 1)
        chosen = args.tasks or known[0]
        for n in args.busy:
            found: dict[str, list[list[tuple[float, float]]]] = {task: [] for task in chosen}
            with busy(n):
                for _ in range(args.rounds):
                    for task, rounds in found.items():
                        rounds.append([asked(process, task) for process in workers.values()])
            for task, rounds in found.items():
                walls, cpus = (
                    [statistics.median(r[i][j] for r in rounds) for i in range(len(names))] for j in (0, 1)
                )
                ratio = statistics.median(r[-1][0] / r[0][0] for r in rounds)
                numbers = [f"{value:.1f}" for value in (*walls, *cpus)]
                yield f"| {task} | {n} | {' | '.join(numbers)} | {ratio:.2f} |"
            if "maxsim" in found and "maxsim-cpu" in found:
                pairs = list(zip(found["maxsim"], found["maxsim-cpu"], strict=True))
                ratios = [
                    f"{statistics.median(own[i][j] / other[i][j] for own, other in pairs):.2f}"
                    for j in (0, 1)
                    for i in range(len(names))
                ]
                yield f"| maxsim ÷ maxsim-cpu (paired) | {n} | {' | '.join(ratios)} | |"


def main() -> None:
    """Print the table. With --worker, run tasks for the process that prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a converted model for encode_query; without it that is left out")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--tasks", nargs="+", help="some of maxsim, search, kmeans, encode_query, maxsim-cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--checkout", nargs="+", default=["this=."], help="NAME=FOLDER")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.model, args.documents)
        return
    for row in table(args):
        print(row, flush=True)


if __name__ == "__main__":
    main()
