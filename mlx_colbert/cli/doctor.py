"""`mlx-colbert doctor`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mlx_colbert.cli.arguments import add_model
from mlx_colbert.cli.render import Result, printable

EXAMPLE = "mlx-colbert doctor --model mlx_model"
JSON_KEYS = """{"version", "python", "packages", "backend", "device", "gpu", "dtype", "blas", "threads",
"gflops", "numpy_gflops", "model", "tokens_per_s", "advice": [texts]}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a model."""
    add_model(parser, required=False, otherwise="one of the size of MiniLM with random weights")


def run(args: argparse.Namespace) -> Result:
    """Measure this machine."""
    from mlx_colbert.doctor import diagnose

    return asdict(diagnose(args.model, backend=args.backend))


def render(result: Result, args: argparse.Namespace) -> str:
    """The findings and measurements, a line each, and the advice."""
    packages = " ".join(f"{name} {version or '-'}" for name, version in result["packages"].items())
    lines = {
        "mlx-colbert": f"{result['version']}, Python {result['python']}",
        "packages": packages,
        "backend": f"{result['backend']}, {result['device']}; models in {result['dtype']}",
        "GPU": result["gpu"],
        "numpy's BLAS": result["blas"] or "unknown",
        "threads": f"{result['threads']} at most (MLX_COLBERT_THREADS)",
        "sgemm": f"{result['gflops']:,.0f} GFLOP/s, numpy {result['numpy_gflops']:,.0f}",
        "encoding": f"{result['tokens_per_s']:,.0f} tokens/s ({result['model']})",
    }
    shown = [f"{name:<14}{printable(value)}" for name, value in lines.items()]
    return "\n".join([*shown, *(f"- {printable(text)}" for text in result["advice"])])
