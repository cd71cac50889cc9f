"""Time from an empty folder and empty caches to the first answer: installation, model, sync, search, ask.

python examples/bench/first_answer.py --wheel dist/mlx_colbert-0.1.0-py3-none-any.whl --installer uv pip --ask

Each command runs as a user types it, in a new environment, with a new home and new caches of pip and uv. The
models are those that examples/fetch_models.py takes from the Python package index. With --python, nothing is
installed: the commands run in that environment.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent
COLBERT, CHAT = "answerai-colbert-small-v1", "SmolLM2-135M-Instruct"
QUESTION = "why do my plants have yellow leaves"
Step = tuple[str, list[str]]


def installation(installer: str, wheel: Path, extras: str) -> list[Step]:
    """The commands that make an environment in .venv and install the wheel into it."""
    what = f"mlx-colbert{extras} @ {wheel.resolve().as_uri()}"
    if installer == "uv":
        return [
            ("make an environment (uv)", ["uv", "venv", "--seed", "--python", sys.executable, ".venv"]),
            (
                f"install mlx-colbert{extras} (uv)",
                ["uv", "pip", "install", "--python", ".venv/bin/python", what],
            ),
        ]
    return [
        ("make an environment (venv)", [sys.executable, "-m", "venv", ".venv"]),
        (f"install mlx-colbert{extras} (pip)", [".venv/bin/python", "-m", "pip", "install", what]),
    ]


def usage(python: str, model: str | None, ask: bool) -> Iterator[Step]:
    """The commands from the model to the answer."""
    program = [python, "-m", "mlx_colbert"]
    fetch = [python, str(EXAMPLES / "fetch_models.py"), "--folder", "models"]
    if model is None:
        model = f"models/{COLBERT}"
        yield f"fetch {COLBERT}", [*fetch, COLBERT]
    yield "sync a folder of 6 notes", [*program, "sync", str(EXAMPLES / "data" / "notes"), "--model", model]
    yield "the first search", [*program, "search", QUESTION]
    yield "the second search", [*program, "search", QUESTION]
    if ask:
        yield f"fetch {CHAT}", [*fetch, CHAT]
        yield "ask, 40 tokens", [*program, "ask", QUESTION, "--llm", f"models/{CHAT}", "--max-tokens", "40"]


def measure(steps: Iterator[Step] | list[Step], folder: Path, environment: dict[str, str]) -> float:
    """Runs the steps, prints a row of a table for each, and returns their seconds together."""
    whole = 0.0
    for name, command in steps:
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        if done.returncode:
            sys.exit(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
        whole += seconds
        print(f"| {name} | {seconds:.1f} |", flush=True)
    return whole


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description="Time from an empty folder to the first answer.")
    parser.add_argument("--wheel", type=Path, help="the wheel to install, as `python -m build` makes it")
    parser.add_argument("--installer", nargs="+", choices=["pip", "uv"], default=["pip"])
    parser.add_argument("--python", help="run in this environment, and install nothing")
    parser.add_argument("--model", help="a checkpoint; default: fetch answerai-colbert-small-v1")
    parser.add_argument("--ask", action="store_true", help="fetch SmolLM2 too, and let it answer")
    args = parser.parse_args()
    if (args.wheel is None) == (args.python is None):
        parser.error("give --wheel or --python")
    extras = "" if not args.ask else "[rag]" if sys.platform == "darwin" else "[rag,cpu]"
    print(f"Load of the last minute: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores.\n")
    print("| step | s |\n|---|--:|")
    for installer in [""] if args.python else args.installer:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            environment = {
                key: value for key, value in os.environ.items() if not key.startswith("MLX_COLBERT_")
            }
            environment |= {
                "HOME": name,
                "MLX_COLBERT_HOME": str(folder / "home"),
                "MLX_COLBERT_CACHE": str(folder / "converted"),
                "PIP_CACHE_DIR": str(folder / "pip-cache"),
                "UV_CACHE_DIR": str(folder / "uv-cache"),
                "HF_HUB_OFFLINE": "1",
            }
            whole = 0.0
            if args.wheel:
                whole = measure(installation(installer, args.wheel, extras), folder, environment)
            python = args.python or str(folder / ".venv" / "bin" / "python")
            whole += measure(usage(python, args.model, args.ask), folder, environment)
            print(f"| all | {whole:.1f} |", flush=True)


if __name__ == "__main__":
    main()
