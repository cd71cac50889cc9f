"""Time one search in a new process, as a whole and by step.

python examples/bench/startup.py --index demo/index --model demo/answerai-colbert-small-v1
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STEPS = """
import sys, time
last = time.perf_counter()
def step(name):
    global last
    now = time.perf_counter()
    print(f"{name}\\t{1000 * (now - last):.1f}")
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
    """Print the median time of each step and of the whole command, over several processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", required=True, help="the model that the index was made with")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    command = [sys.executable, "-m", "mlx_colbert", "search", "Why do divers get decompression sickness?"]
    wholes: list[float] = []
    steps: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        start = time.perf_counter()
        subprocess.run([*command, "--index", args.index], check=True, capture_output=True)
        wholes.append(1000 * (time.perf_counter() - start))
        done = subprocess.run(
            [sys.executable, "-c", STEPS, args.index, args.model], check=True, capture_output=True, text=True
        )
        for line in done.stdout.splitlines():
            name, milliseconds = line.split("\t")
            steps.setdefault(name, []).append(float(milliseconds))
    for name, values in steps.items():
        print(f"{name:<28} {statistics.median(values):7.1f} ms")
    print(f"{'mlx-colbert search, in all':<28} {statistics.median(wholes):7.1f} ms")


if __name__ == "__main__":
    main()
