"""`mlx-colbert delete`."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert.cli.arguments import add_filter, add_index, filter_notes
from mlx_colbert.cli.render import Result, printable, printable_name, typed_name
from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError, UnknownIdError

if TYPE_CHECKING:
    from mlx_colbert.index import Index

EXAMPLE = "mlx-colbert delete --source notes/tea.md --index notes.index"
JSON_KEYS = """{"index", "deleted", "passages", "notes": [texts]}; a note says why --filter or
--source may find nothing"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ids, the index, --filter and --source."""
    parser.add_argument("doc_ids", nargs="*", metavar="ID", help="a doc_id in quotes, as search prints it")
    add_index(parser)
    add_filter(parser, "instead of IDs: delete the passages whose metadata match")
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="instead of IDs: delete the passages of this source, such as notes/tea.md",
    )


def run(args: argparse.Namespace) -> Result:
    """Delete passages."""
    from mlx_colbert.index import Index

    if bool(args.doc_ids) + (args.filter is not None) + (args.source is not None) != 1:
        raise InputError("delete takes IDs, --filter or --source. Give one of them.")
    with Index.open(args.index, backend="numpy") as index:
        # Read before the passages are deleted.
        notes = filter_notes(index, args.filter)
        doc_ids = [typed_name(doc_id) for doc_id in args.doc_ids]
        source = None if args.source is None else typed_name(args.source)
        try:
            deleted = index.delete(doc_ids or None, filter=args.filter, source=source)
        except UnknownIdError as error:
            if hint := _source_hint(index, error.doc_ids):
                error.add_note(hint)
            raise
        if source is not None and not deleted:
            name = "Search prints the name, such as notes/tea.md."
            notes.append(f"No passage is from {source!r}. {_source_hint(index, [source]) or name}")
        return {"index": str(args.index), "deleted": deleted, "passages": len(index), "notes": notes}


def _source_hint(index: Index, doc_ids: list[str]) -> str | None:
    """A sentence for a user who gave the name or the path of a file in place of an id."""
    # No path has a NUL.
    paths = {os.path.realpath(doc_id) for doc_id in doc_ids if "\0" not in doc_id}
    for source in index.sources():
        inner = source.uri.partition("/")[2]
        if source.uri in doc_ids or (source.folder and str(Path(source.folder, inner)) in paths):
            return f"To delete the passages of this file: --source {shlex.quote(printable_name(source.uri))}"
    return None


def render(result: Result, args: argparse.Namespace) -> str:
    """The number of passages that were deleted, and what is odd about the filter or the source."""
    told = (
        f"{result['index']}: {counted(result['deleted'], 'passage')} deleted, {result['passages']:,} in all."
    )
    return "\n".join([told, *map(printable, result["notes"])])
