"""What commands print for people."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from typing import Any

__all__ = [
    "Result",
    "added",
    "compacted",
    "comparisons",
    "conversion",
    "deleted",
    "diagnosis",
    "fields",
    "hits",
    "imported",
    "printable",
    "verified",
]

# What is shown of a passage unless --full is given.
SNIPPET_CHARS = 300
# What is shown of a comparison's name.
TITLE_CHARS = 48
INDENT = " " * 5

# The JSON object that a command returns.
Result = dict[str, Any]


def added(result: Result, args: argparse.Namespace) -> str:
    """How many passages were added, were there already, and were not read to their ends."""
    lines = [f"{result['index']}: {_passages(result['added'])} added, {result['passages']:,} in all."]
    if result["unchanged"]:
        total = result["unchanged"] + result["added"]
        lines.insert(0, f"{result['unchanged']:,} of {total:,} were in the index already, and are kept.")
    if result["truncated"]:
        lines.append(f"{_passages(result['truncated'])} too long for the model; their ends cannot be found.")
    if "stats" in result:
        lines += _stats(result["stats"])
    return "\n".join(lines)


def _stats(stats: Result) -> list[str]:
    return [
        f"encoded: {_passages(stats['passages'])}, {stats['tokens']:,} tokens, "
        f"{stats['padding_waste']:.1%} padding, {stats['tokens_per_s']:,.0f} tokens/s",
        f"seconds: tokenise {stats['tokenize_s']:.1f} (beside the encoding), encode {stats['encode_s']:.1f}, "
        f"write {stats['write_s']:.1f}; peak memory {stats['peak_memory_bytes'] / 1e6:,.0f} MB",
    ]


def conversion(result: Result, args: argparse.Namespace) -> str:
    """Where the model is, then a line per comparison made, and what was not compared."""
    lines = [f"{result['path']}: converted."]
    for check in result.get("checks", []):
        verdict = "ok" if check["passed"] else "FAILED"
        lines.append(f"{verdict:>6}  {check['name']}: {check['measured']}, expected {check['expected']}")
    lines += result.get("notes", [])
    if not result.get("passed", True) and all(check["passed"] for check in result["checks"]):
        lines.append(
            "Not verified: there was nothing to compare with. sentence-transformers and torch would do."
        )
    return "\n".join(printable(line) for line in lines)


def comparisons(result: Result, args: argparse.Namespace) -> str:
    """A table of what was expected and measured, and whether all of it passed."""
    rows = [("", "case", "expected", "measured", "difference")]
    for check in result["checks"]:
        difference = "" if check["difference"] is None else f"{check['difference']:.1e}"
        verdict = "ok" if check["passed"] else "FAILED"
        rows.append((verdict, _cut(check["name"]), check["expected"], check["measured"], difference))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    failed = sum(not check["passed"] for check in result["checks"])
    revision = f" at revision {result['revision']}" if result["revision"] else ""
    verdict = f"{failed} of {len(result['checks'])} FAILED" if failed else "passed"
    lines.append(f"{result['id']}{revision}, {result['device']}: {verdict}.")
    return "\n".join(printable(line) for line in lines)


def _cut(text: str) -> str:
    return text if len(text) <= TITLE_CHARS else text[: TITLE_CHARS - 1] + "…"


def deleted(result: Result, args: argparse.Namespace) -> str:
    """How many passages were deleted, in one line."""
    return f"{result['index']}: {_passages(result['deleted'])} deleted, {result['passages']:,} in all."


def imported(result: Result, args: argparse.Namespace) -> str:
    """How many passages came from which engine, and what the new index lacks."""
    lines = [f"{result['index']}: {_passages(result['passages'])} of {result['engine']} imported."]
    if result["model"] is None:
        named = f"; the old index names {result['checkpoint']}" if result["checkpoint"] else ""
        lines.append(f"It records no model: search with --model{named}.")
    if not result["texts"]:
        lines.append("It has no texts, since the old index keeps none: --collection brings them.")
    return "\n".join(printable(line) for line in lines)


def compacted(result: Result, args: argparse.Namespace) -> str:
    """The sizes before and after, in one line."""
    before, after = (f"{result[name] / 1e6:,.1f} MB" for name in ("bytes_before", "bytes"))
    return f"{result['index']}: {before} before, {after} now, segments: {result['segments']}."


def verified(result: Result, args: argparse.Namespace) -> str:
    """That all is well, or a line per problem."""
    if result["passed"]:
        return f"{result['index']}: {_passages(result['passages'])}, no damage found."
    return "\n".join(printable(problem) for problem in result["problems"])


def hits(result: Result, args: argparse.Namespace) -> str:
    """Rank, score and doc_id in a line, the passage below it."""
    blocks = []
    for hit in result["hits"]:
        passage = _whole(hit["text"] or "") if args.full else _snippet(hit["text"] or "")
        # BM25 of a word that is in most texts is next to nothing.
        score = f"{hit['score']:.3f}" if abs(hit["score"]) >= 0.01 else f"{hit['score']:.2g}"
        line = f"{hit['rank']:>3}  {score}  {printable(hit['doc_id'])}{_place(hit)}"
        blocks.append(f"{line}\n{passage}" if passage else line)
    return "\n\n".join(blocks) or "Nothing was found."


def _place(hit: Result) -> str:
    """Where a passage stands in its source, as far as its id does not say it."""
    position = dict(hit["position"] or {})
    lines, headings = position.pop("lines", None), position.pop("headings", [])
    parts = [f"{name} {number}" for name, number in position.items()]
    if lines:
        parts.append(f"line {lines[0]}" if lines[0] == lines[1] else f"lines {lines[0]}–{lines[1]}")
    if hit["source"] and not hit["doc_id"].startswith(hit["source"]):
        parts.insert(0, hit["source"])
    parts += [" › ".join(headings)] if headings else []
    return f"  ({printable(', '.join(parts))})" if parts else ""


def diagnosis(result: Result, args: argparse.Namespace) -> str:
    """What was found and measured, a line each, and the advice."""
    packages = " ".join(f"{name} {version or '-'}" for name, version in result["packages"].items())
    lines = {
        "mlx-colbert": f"{result['version']}, Python {result['python']}",
        "packages": packages,
        "backend": f"{result['backend']}, {result['device']}; models in {result['dtype']}",
        "GPU": result["gpu"],
        "numpy's BLAS": result["blas"] or "unknown",
        "sgemm": f"{result['gflops']:,.0f} GFLOP/s, numpy {result['numpy_gflops']:,.0f}",
        "encoding": f"{result['tokens_per_s']:,.0f} tokens/s ({result['model']})",
    }
    shown = [f"{name:<14}{printable(value)}" for name, value in lines.items()]
    return "\n".join([*shown, *(f"- {printable(text)}" for text in result["advice"])])


def fields(result: Result, args: argparse.Namespace) -> str:
    """Name and value in a line, names of nested objects dotted."""
    values = _flat(result)
    width = max((len(name) for name in values), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def _snippet(text: str) -> str:
    line = " ".join(text.split())
    return _wrapped(line if len(line) <= SNIPPET_CHARS else line[: SNIPPET_CHARS - 1].rstrip() + "…")


def _whole(text: str) -> str:
    return "\n".join(_wrapped(line) for line in text.splitlines())


def _wrapped(line: str) -> str:
    width = max(shutil.get_terminal_size().columns, 40)
    return textwrap.fill(printable(line), width, initial_indent=INDENT, subsequent_indent=INDENT)


def printable(text: str) -> str:
    """Without control characters: a document must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _flat(values: dict[Any, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{name}"] = printable(" ".join(map(str, value)))
        else:
            flat[f"{prefix}{name}"] = f"{value:,}" if type(value) is int else printable(str(value))
    return flat


def _passages(n: int) -> str:
    return f"{n:,} passage" + ("" if n == 1 else "s")
