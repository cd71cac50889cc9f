"""The result of `index` and `add`: the passages that they wrote."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mlx_colbert.cli.render import Result, left_out, left_out_lines
from mlx_colbert.counts import counted
from mlx_colbert.stores.location import shown_location

if TYPE_CHECKING:
    from mlx_colbert.retriever.retriever import Retriever

__all__ = ["JSON_KEYS", "render", "written"]

JSON_KEYS = """{"index", "added", "unchanged", "deleted", "truncated", "passages", "passed",
"unread": {path: reason}, "waiting": {extra: count}, "skipped": {kind: count}, "blank_rows"}"""


def written(args: argparse.Namespace, retriever: Retriever) -> Result:
    """The number of passages that were added, and what was not read. "passed" if no file failed."""
    stats = retriever.stats
    return {
        "index": str(shown_location(args.index)),
        "added": stats.passages,
        "unchanged": stats.unchanged,
        "deleted": stats.deleted,
        "truncated": stats.truncated,
        "passages": len(retriever),
        **left_out(retriever.unread),
    }


def render(result: Result, args: argparse.Namespace) -> str:
    """The same as text for people, in two or three lines."""
    # `index` has no --upsert: it only adds.
    done = "added or replaced" if getattr(args, "upsert", False) else "added"
    lines = [
        f"{result['index']}: {counted(result['added'], 'passage')} {done}, {result['passages']:,} in all."
    ]
    if result["unchanged"]:
        total = result["unchanged"] + result["added"]
        lines.insert(0, f"Already in the index: {result['unchanged']:,} of {counted(total, 'passage')}.")
    if n_deleted := result["deleted"]:
        lines.append(f"Deleted: {counted(n_deleted, 'passage')} that the files no longer have.")
    if result["truncated"]:
        lines.append(
            f"{counted(result['truncated'], 'passage')} too long for the model: the end is not searched."
        )
    return "\n".join([*lines, *left_out_lines(result)])
