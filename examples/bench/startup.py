"""Time one search in a new process, as a whole and by step, with the load of the machine.

python examples/bench/startup.py --index demo/index --model demo/answerai-colbert-small-v1

If a daemon runs, the search is timed with it too, without the CPU time of the daemon.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

STEPS = """
import sys, time
last = (time.perf_counter(), time.process_time())
def step(name):
    global last
    now = (time.perf_counter(), time.process_time())
    print(name, *(1000 * (end - start) for start, end in zip(last, now)), sep="\\t")
    last = now
import numpy
step("import numpy")
import mlx_colbert
step("import mlx_colbert")
import mlx_colbert.cli, mlx_colbert.retriever.retriever
step("the package's other modules")
index = mlx_colbert.Index.open(sys.argv[1])
step("open the index")
model = mlx_colbert.ColBERT.load(sys.argv[2])
step("load the model")
query = model.encode_query("Why do divers get decompression sickness?")
step("encode the query")
index.search(query, k=10)
step("search")
"""


def main() -> None:
    """Print a table of the median time of each step and of the whole command, over several processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", required=True, help="the model that the index was made with")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    command = [sys.executable, "-m", "mlx_colbert", "search", "Why do divers get decompression sickness?"]
    command += ["--index", args.index]
    wholes = {"`mlx-colbert search`, the whole command": {**os.environ, "MLX_COLBERT_DAEMON": "false"}}
    if _has_daemon():
        wholes["the whole command with the daemon"] = {**os.environ}
    steps: dict[str, list[tuple[float, float]]] = {}
    loads: list[float] = []
    for _ in range(args.rounds):
        loads.append(os.getloadavg()[0])
        took = {}
        for whole, environment in wholes.items():
            start, cpu_start = time.perf_counter(), _cpu_of_children()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            took[whole] = (1000 * (time.perf_counter() - start), 1000 * (_cpu_of_children() - cpu_start))
        done = subprocess.run(
            [sys.executable, "-c", STEPS, args.index, args.model], check=True, capture_output=True, text=True
        )
        for line in done.stdout.splitlines():
            name, milliseconds, cpu = line.split("\t")
            steps.setdefault(name, []).append((float(milliseconds), float(cpu)))
        for whole, both in took.items():
            steps.setdefault(whole, []).append(both)
    print(f"{os.cpu_count()} cores, load of the last minute {min(loads):.1f} to {max(loads):.1f} (quiet: 0).")
    print(f"Medians of {args.rounds} processes; the least in brackets.\n")
    print("| step | ms | ms of CPU time, all cores |\n|---|--:|--:|")
    for name, values in steps.items():
        columns = (
            f"{statistics.median(column):.1f} ({min(column):.1f})" for column in zip(*values, strict=True)
        )
        print(f"| {name} | {' | '.join(columns)} |")


def _has_daemon() -> bool:
    status = [sys.executable, "-m", "mlx_colbert", "daemon", "status", "--json"]
    return bool(json.loads(subprocess.run(status, check=True, capture_output=True).stdout)["running"])


def _cpu_of_children() -> float:
    """Seconds of CPU time of the processes that this one has started, and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
