"""Time a collection of a folder: syncs, searches with and without the daemon, beside grep and bm25s.

    python examples/bench/collection.py run --folder ~/notes --model demo/answerai-colbert-small-v1
    python examples/bench/collection.py make --model demo/answerai-colbert-small-v1 --out /tmp/many
    python examples/bench/collection.py run --folder /tmp/many/files --model /tmp/many/model

The folder is copied, and the collection and the daemon are in a temporary folder. So nothing of the user is
touched. Each row is a process of its own, with its start and end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

PROGRAM = [sys.executable, "-m", "mlx_colbert"]
QUERY = "How do I undo the last change?"
# A passage has at most 120 words, so each paragraph becomes a passage.
PARAGRAPH_WORDS = 100


class Run(NamedTuple):
    """What one process took. `peak_mb` has the mapped files too."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def run_process(
    command: list[str], home: Path, *, daemon: bool = False, own_mb: list[float] | None = None
) -> Run:
    """Run a process to its end, with its own place for collections.

    Args:
        command: the command.
        home: the place for collections.
        daemon: whether it may use the daemon.
        own_mb: receives the anonymous memory of the process, without mapped files, again and again (Linux).
    """
    environment = {**os.environ, "MLX_COLBERT_HOME": str(home), "MLX_COLBERT_DAEMON": str(daemon).lower()}
    # Modules are compiled once, as those of an installed package are.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, env=environment)
        if own_mb is not None:
            note_own_memory(process.pid, own_mb)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    process.returncode = os.waitstatus_to_exitcode(status)
    # grep says 1 if it finds nothing, and sync if it cannot read a file. After an error, there is no output.
    if process.returncode not in (0, 1) or not (text or command[0] == "grep"):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / unit, text)


def note_own_memory(pid: int, own_mb: list[float]) -> None:
    """Note the anonymous memory of a process until it ends."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        found = re.search(r"RssAnon:\s+(\d+)", status)
        # A process that has ended has no memory. On macOS there is no such file.
        if found is None:
            return
        own_mb.append(int(found[1]) / 1024)
        time.sleep(0.1)


def middle(runs: list[Run]) -> Run:
    """The medians of the times, and the largest peak."""
    wall, cpu = (statistics.median(column) for column in list(zip(*runs, strict=True))[:2])
    return Run(wall, cpu, max(run.peak_mb for run in runs), runs[-1].output)


def measure_syncs(folder: Path, args: argparse.Namespace, home: Path) -> list[str]:
    """The rows of the first sync, of the next ones without a change, and of those after a changed file."""
    command = [*PROGRAM, "sync", "--json", "--quiet", str(folder)]
    own_mb: list[float] = []
    first = run_process([*command, "--model", str(args.model)], home, own_mb=own_mb)
    result = json.loads(first.output)["collections"][0]
    n_files, n_passages = result["files"], result["passages"]
    second = middle([run_process(command, home) for _ in range(args.rounds)])
    largest = max((folder / path.split("/", 1)[1] for path in result["new"]), key=lambda p: p.stat().st_size)
    changed = []
    for number in range(args.rounds):
        with largest.open("a", encoding="utf-8") as file:
            file.write(f"\n\nA new line at the end, the {number}th.\n")
        changed.append(run_process(command, home))
    n_encoded = json.loads(changed[-1].output)["collections"][0]["passages"]
    walked = run_process([sys.executable, __file__, "walk", "--folder", str(folder)], home)
    floor_s = float(walked.output)
    return [
        f"{n_files:,} files, {n_passages:,} passages.\n",
        "| sync | wall s | CPU s | files/s | passages/s | peak MB |",
        "|---|--:|--:|--:|--:|--:|",
        _sync_row("first", first, n_files, n_passages),
        _sync_row("second, nothing changed", second, n_files, None),
        _sync_row(f"after one changed file ({n_encoded} passages encoded)", middle(changed), n_files, None),
        f"| the walk alone, without a process | {floor_s:.3f} | | {n_files / floor_s:,.0f} | | |",
        f"\nThe first sync has {max(own_mb, default=0):.0f} MB of its own at most, and half of the time"
        f" {statistics.median(own_mb or [0]):.0f} MB or less.",
    ]


def measure_searches(folder: Path, args: argparse.Namespace, home: Path) -> list[str]:
    """The rows of a search: in a new process, with the daemon, with grep and with bm25s."""
    words = "|".join(word for word in re.findall(r"\w+", args.query) if len(word) > 3)
    search = [*PROGRAM, "search", args.query, "--format", "json", "--quiet"]
    bm25s = [sys.executable, __file__, "bm25s", "--saved", str(home / "bm25s"), "--query", args.query]
    indexes = [str(path.parent) for path in home.rglob("catalog.db")]
    build = run_process([*bm25s, "--index", *indexes], home)
    ways = {
        "`mlx-colbert search`": (search, False),
        "`mlx-colbert search --mode keyword`": ([*search, "--mode", "keyword"], False),
        "`mlx-colbert search`, with the daemon": (search, True),
        f"`grep -rniE '{words}'`".replace("|", "\\|"): (["grep", "-rniE", words, str(folder)], False),
        "bm25s, a saved index": (bm25s, False),
    }
    run_process([*PROGRAM, "daemon", "start", "--quiet"], home)
    try:
        for command, daemon in ways.values():
            run_process(command, home, daemon=daemon)
        took: dict[str, list[Run]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, (command, daemon) in ways.items():
                took[name].append(run_process(command, home, daemon=daemon))
    finally:
        run_process([*PROGRAM, "daemon", "stop", "--quiet"], home)
    rows = ["| search, the whole process | ms (least) | ms of CPU time | peak MB |", "|---|--:|--:|--:|"]
    for name, runs in took.items():
        run, least = middle(runs), min(run.wall_s for run in runs)
        times = f"{1e3 * run.wall_s:.0f} ({1e3 * least:.0f}) | {1e3 * run.cpu_s:.0f}"
        rows.append(f"| {name} | {times} | {run.peak_mb:.0f} |")
    return [*rows, f"\nTo make the index of bm25s took {build.wall_s:.1f} s and {build.peak_mb:.0f} MB."]


def run(args: argparse.Namespace) -> None:
    """Measure everything, and print the tables."""
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as work:
        folder, home = Path(work, "files"), Path(work, "home")
        shutil.copytree(args.folder, folder)
        home.mkdir()
        rows = measure_syncs(folder, args, home)
        loads.append(os.getloadavg()[0])
        if not args.no_search:
            rows += ["", *measure_searches(folder, args, home)]
        loads.append(os.getloadavg()[0])
    packages = ("mlx-colbert", "numpy", "tokenizers", "bm25s")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, Python {platform.python_version()}, {', '.join(map(_versioned, packages))}.")
    print(
        f"Load of the last minute: {min(loads):.1f} to {max(loads):.1f}. Medians of {args.rounds} processes."
    )
    print("\n".join(rows))


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def _sync_row(name: str, run: Run, n_files: int, n_passages: int | None) -> str:
    passages = "" if n_passages is None else f"{n_passages / run.wall_s:,.1f}"
    per_s = n_files / run.wall_s
    files = f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"
    return f"| {name} | {run.wall_s:.2f} | {run.cpu_s:.2f} | {files} | {passages} | {run.peak_mb:.0f} |"


def walk_alone(args: argparse.Namespace) -> None:
    """Print the median of the seconds that a walk over the files takes."""
    from mlx_colbert.documents.ignore_rules import Rules
    from mlx_colbert.documents.walk import walk

    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        walk(args.folder, Rules())
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds))


def search_bm25s(args: argparse.Namespace) -> None:
    """Save an index of the passages of our indexes if they are given, else search in the saved one."""
    import bm25s

    if args.index:
        from mlx_colbert import Index

        texts = [passage.text for path in args.index for passage in Index.open(path).passages()]
        retriever = bm25s.BM25()
        retriever.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
        retriever.save(args.saved, corpus=texts, show_progress=False)
        print(len(texts))
    else:
        retriever = bm25s.BM25.load(args.saved, load_corpus=True, mmap=True)
        k = min(10, len(retriever.corpus))
        found, _ = retriever.retrieve(
            bm25s.tokenize(args.query, show_progress=False), k=k, show_progress=False
        )
        print(json.dumps([hit["text"] for hit in found[0]]))


def make(args: argparse.Namespace) -> None:
    """Write files of random words, and a model of one narrow layer with the tokenizer of another model.

    The model is as fast as a model can be, so that the time of the rest is seen. Its vectors have as many
    dimensions as those of the other model.
    """
    from mlx_colbert.model.safetensors_file import read_safetensors, write_safetensors

    (args.out / "model").mkdir(parents=True)
    shutil.copy(args.model / "tokenizer.json", args.out / "model")
    config = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    for key in ("hidden_size", "n_heads", "intermediate_size"):
        config["encoder"][key] //= 4
    config["encoder"]["n_layers"] = 1
    if config["projection"]:
        config["projection"][0]["in_features"] //= 4
    weights = {}
    for name, array in read_safetensors(args.model / "model.safetensors").items():
        if not name.startswith("layers.") or name.startswith("layers.0."):
            keep = 0 if name.startswith("layers.") else array.ndim - 1
            shape = [*array.shape[:keep], *(n // 4 for n in array.shape[keep:])]
            weights[name] = array[tuple(map(slice, shape))].copy()
    write_safetensors(args.out / "model" / "model.safetensors", weights)
    written = (args.out / "model" / "model.safetensors").read_bytes()
    config["weights_sha256"] = hashlib.sha256(written).hexdigest()
    (args.out / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")

    vocabulary = json.loads((args.model / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = [word for word in vocabulary if re.fullmatch("[a-z]{3,}", word)] or ["word"]
    choose = random.Random(0)
    for number in range(args.files):
        folder = args.out / "files" / f"{number // 100:03}"
        folder.mkdir(parents=True, exist_ok=True)
        paragraphs = (" ".join(choose.choices(words, k=args.words)) + "." for _ in range(args.paragraphs))
        (folder / f"{number:06}.md").write_text(f"# Note {number}\n\n" + "\n\n".join(paragraphs) + "\n")


def main() -> None:
    """Measure a folder, or make one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="measure a folder")
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--model", type=Path, required=True)
    command.add_argument("--query", default=QUERY)
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--no-search", action="store_true", help="only the syncs")
    command.set_defaults(run=run)
    command = commands.add_parser("make", help="make a folder of many files, and a fast model")
    command.add_argument("--model", type=Path, required=True, help="a converted model")
    command.add_argument("--files", type=int, default=10_000)
    command.add_argument("--paragraphs", type=int, default=5, help="paragraphs of each file")
    command.add_argument("--words", type=int, default=PARAGRAPH_WORDS, help="words of each paragraph")
    command.add_argument("--out", type=Path, required=True)
    command.set_defaults(run=make)
    command = commands.add_parser("walk", help="a step of run")
    command.add_argument("--folder", type=Path, required=True)
    command.set_defaults(run=walk_alone)
    command = commands.add_parser("bm25s", help="a step of run")
    command.add_argument("--index", nargs="*")
    command.add_argument("--saved", required=True)
    command.add_argument("--query", required=True)
    command.set_defaults(run=search_bm25s)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
