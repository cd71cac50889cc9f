"""`mlx-colbert verify-model`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mlx_colbert.cli.arguments import add_backend, location
from mlx_colbert.cli.render import Result, printable, shortened

EXAMPLE = "mlx-colbert verify-model colbert-ir/colbertv2.0"
JSON_KEYS = """{"id", "revision", "device", "passed", "notes": [texts],
"checks": [{"name", "expected", "measured", "passed", "difference", "allowed"}]}"""

# Characters of the name of a comparison that are shown.
TITLE_CHARS = 48


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model."""
    parser.add_argument(
        "model", metavar="MODEL", type=location, help="a hub id, or a folder, converted or not"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument(
        "--published", metavar="ID", help="hub id of the checkpoint, if MODEL is a copy of it in a folder"
    )
    add_backend(parser)


def run(args: argparse.Namespace) -> Result:
    """Compare the model with its published values."""
    from mlx_colbert.convert.verify import verify_published

    report = verify_published(
        args.model, revision=args.revision, backend=args.backend, published=args.published
    )
    return {**asdict(report), "passed": report.passed}


def render(result: Result, args: argparse.Namespace) -> str:
    """A table of expected and measured values, and whether all comparisons passed."""
    rows = [("", "case", "expected", "measured", "difference", "allowed")]
    for check in result["checks"]:
        numbers = ["" if check[key] is None else f"{check[key]:.2g}" for key in ("difference", "allowed")]
        verdict = "ok" if check["passed"] else "FAILED"
        name = shortened(check["name"], TITLE_CHARS)
        rows.append((verdict, name, check["expected"], check["measured"], *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += result["notes"]
    failed = sum(not check["passed"] for check in result["checks"])
    revision = f" at revision {result['revision']}" if result["revision"] else ""
    verdict = f"{failed} of {len(result['checks'])} FAILED" if failed else "passed"
    lines.append(f"{result['id']}{revision}, {result['device']}: {verdict}.")
    return "\n".join(printable(line) for line in lines)
