"""Time MaxSim of one query with many documents: this package, maxsim-cpu and torch.

All run in one process on the same random data, in turns, so that a busy moment of the machine affects all of
them. Each gets the data in the form that its users have. Libraries that are not installed are skipped. There
are two ways to write MaxSim in torch; the faster one counts.

    python examples/bench/maxsim.py --dim 128 96
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_colbert import TokenEmbeddings, maxsim
from mlx_colbert.errors import BackendError
from mlx_colbert.kernels import get_encoder_ops

Array = npt.NDArray[Any]
Scorer = Callable[[], Array]

# All scores are sums of Q cosines in float32. Implementations of ColBERT publish this tolerance.
TOLERANCE = 1e-3
# float16 rounds a component by at most 2^-11 of its value, and a cosine by about as much.
TOLERANCE_PER_TOKEN_FLOAT16 = 2.0**-10
BASELINE = "mlx-colbert numpy, packed"
PACKAGES = ("mlx-colbert", "numpy", "mlx", "maxsim-cpu", "torch")
# These change the speed of a BLAS. They are printed if they are set.
SETTINGS = (
    "OPENBLAS_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OMP_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
    "LD_PRELOAD",
)


@dataclass(frozen=True)
class Problem:
    """One query and its documents, all rows of unit norm, float32.

    Attributes:
        query: (Q, D).
        documents: N arrays (n_tokens, D) of their own memory, as an encoder returns them one by one.
    """

    query: Array
    documents: list[Array]


def make_problem(args: argparse.Namespace, dim: int) -> Problem:
    """A seeded problem with lengths uniform in `args.length`."""
    rng = np.random.default_rng(args.seed)

    def rows(n_rows: int) -> Array:
        vectors = rng.standard_normal((n_rows, dim), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    shortest, longest = args.length
    lengths = rng.integers(shortest, longest + 1, args.documents)
    return Problem(rows(args.query_tokens), [rows(int(length)) for length in lengths])


def mlx_device() -> str | None:
    """The device of MLX. None if MLX cannot be used."""
    try:
        return get_encoder_ops("mlx").device()
    except BackendError:
        return None


def own_scorers(problem: Problem) -> dict[str, Scorer]:
    """The backends of this package: on packed vectors, on a list that is packed each time, on float16."""
    packed = TokenEmbeddings.pack(problem.documents)
    half = TokenEmbeddings(packed.vectors.astype(np.float16), packed.lengths)
    scorers: dict[str, Scorer] = {}
    for backend in ("numpy", "mlx"):
        if backend == "mlx" and mlx_device() is None:
            continue

        def score(documents: TokenEmbeddings | list[Array], backend: Any = backend) -> Array:
            return maxsim(problem.query, documents, backend=backend)

        scorers[f"mlx-colbert {backend}, packed"] = lambda score=score: score(packed)
        scorers[f"mlx-colbert {backend}, list of arrays"] = lambda score=score: score(problem.documents)
        scorers[f"mlx-colbert {backend}, packed float16"] = lambda score=score: score(half)
    return scorers


def maxsim_cpu_scorers(problem: Problem) -> dict[str, Scorer]:
    """maxsim-cpu's function for documents of different lengths, on a list of arrays."""
    if importlib.util.find_spec("maxsim_cpu") is None:
        return {}
    import maxsim_cpu

    return {"maxsim-cpu": lambda: maxsim_cpu.maxsim_scores_variable(problem.query, problem.documents)}


def torch_scorers(problem: Problem) -> dict[str, Scorer]:
    """Two ways to write MaxSim in torch: on a padded tensor with a mask, and on packed rows."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    query = torch.from_numpy(problem.query)
    rows = [torch.from_numpy(document) for document in problem.documents]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    outside = torch.arange(padded.shape[1])[None, :, None] >= lengths[:, None, None]
    packed = torch.cat(rows)

    @torch.inference_mode()
    def on_padded() -> Array:
        similarities = (padded @ query.T).masked_fill_(outside, -torch.inf)
        return similarities.amax(dim=1).sum(dim=1).numpy()

    @torch.inference_mode()
    def on_packed() -> Array:
        best = torch.segment_reduce(packed @ query.T, "max", lengths=lengths, axis=0)
        return best.sum(dim=1).numpy()

    return {"torch, padded and masked": on_padded, "torch, packed, segment_reduce": on_packed}


def largest_difference(scorers: dict[str, Scorer], query_tokens: int) -> float:
    """The largest difference of any float32 score from the baseline's.

    Raises:
        SystemExit: if an implementation has other scores. Then its time has no meaning.
    """
    reference = scorers[BASELINE]()
    largest = 0.0
    for name, scorer in scorers.items():
        difference = float(np.abs(np.asarray(scorer()) - reference).max())
        half = "float16" in name
        limit = TOLERANCE_PER_TOKEN_FLOAT16 * query_tokens if half else TOLERANCE
        if not difference <= limit:
            raise SystemExit(f"{name} differs from {BASELINE} by {difference:.3g}, more than {limit:.3g}.")
        largest = largest if half else max(largest, difference)
    return largest


def measure(scorers: dict[str, Scorer], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each scorer in each round. A round runs all scorers; each round starts with another.

    Before each timed call there is an untimed one. The threads of the scorer before may still be busy, and
    would slow this one down.
    """
    times: dict[str, list[float]] = {name: [] for name in scorers}
    names = list(scorers)
    for number in range(rounds):
        for shift in range(len(names)):
            name = names[(number + shift) % len(names)]
            scorers[name]()
            start = time.perf_counter()
            scorers[name]()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def summary(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Median and range of each scorer, and the ratio of its time to that of the baseline.

    The ratio is taken within each round; this is the median over the rounds.
    """
    return [
        {
            "name": name,
            "median_ms": statistics.median(values),
            "min_ms": min(values),
            "max_ms": max(values),
            "ratio": statistics.median(a / b for a, b in zip(values, times[BASELINE], strict=True)),
        }
        for name, values in times.items()
    ]


def run(args: argparse.Namespace, dim: int) -> dict[str, Any]:
    """The figures for one D, as a JSON object."""
    problem = make_problem(args, dim)
    scorers = {**own_scorers(problem), **maxsim_cpu_scorers(problem), **torch_scorers(problem)}
    difference = largest_difference(scorers, args.query_tokens)
    return {
        "dim": dim,
        "query_tokens": args.query_tokens,
        "documents": len(problem.documents),
        "document_tokens": sum(map(len, problem.documents)),
        "largest_difference": difference,
        "results": summary(measure(scorers, args.rounds)),
    }


def cpu_model() -> str:
    """The name of the processor, as text for people."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """The properties of the machine that change the figures."""
    versions = {"python": platform.python_version()}
    missing = []
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    return {
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "mlx_device": mlx_device(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "versions": versions,
        "skipped": missing,
    }


def show(report: dict[str, Any]) -> None:
    """Print a report as Markdown."""
    where = report["machine"]
    print(f"`{report['command']}`\n")
    print(f"{where['cpu']}, {where['cpu_count']} CPUs, {where['system']}; MLX: {where['mlx_device']}  ")
    print(", ".join(f"{name} {number}" for name, number in where["versions"].items()) + "  ")
    if where["settings"]:
        print("settings: " + " ".join(f"{name}={value}" for name, value in where["settings"].items()) + "  ")
    if where["skipped"]:
        print(f"not installed, skipped: {', '.join(where['skipped'])}  ")
    for run_report in report["runs"]:
        print(
            f"\nD = {run_report['dim']}: {run_report['query_tokens']} query tokens x "
            f"{run_report['documents']:,} documents of {run_report['document_tokens']:,} tokens, "
            f"{report['rounds']} rounds; largest difference {run_report['largest_difference']:.1e}\n"
        )
        print("| implementation | median ms (min-max) | x mlx-colbert numpy |\n|---|--:|--:|")
        for row in run_report["results"]:
            spread = f"{row['median_ms']:.1f} ({row['min_ms']:.1f}-{row['max_ms']:.1f})"
            print(f"| {row['name']} | {spread} | {row['ratio']:.2f} |")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dim", type=int, nargs="+", default=[128], metavar="D")
    parser.add_argument("--documents", type=int, default=1000, metavar="N")
    parser.add_argument("--query-tokens", type=int, default=32, metavar="Q")
    parser.add_argument("--length", type=int, nargs=2, default=[50, 300], metavar=("MIN", "MAX"))
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Check that all scorers agree, time them, and print a table."""
    args = parse_args(argv)
    options = list(sys.argv[1:] if argv is None else argv)
    report = {
        "command": shlex.join(["python", "examples/bench/maxsim.py", *options]),
        "machine": machine(),
        "rounds": args.rounds,
        "runs": [run(args, dim) for dim in args.dim],
    }
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)


if __name__ == "__main__":
    main()
