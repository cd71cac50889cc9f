"""`mlx-colbert rerank`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlx_colbert.cli.arguments import add_full, add_lengths, add_model, load_model, location, positive
from mlx_colbert.cli.render import HIT_KEYS, Result, hits, left_out, left_out_lines
from mlx_colbert.errors import InputError

EXAMPLE = 'grep -i tea notes.txt | mlx-colbert rerank "how long to steep tea" --model mlx_model -k 3'
JSON_KEYS = f"""{{"query", "hits": [{HIT_KEYS}], "passed",
"unread": {{path: reason}}, "waiting": {{extra: count}}, "skipped": {{kind: count}}, "blank_rows"}}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a query, the passages and a model."""
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        type=location,
        help="as for index; without it, one text per line of stdin",
    )
    parser.add_argument("-k", type=positive, help="hits to print (default: all)")
    add_full(parser)
    add_model(parser, required=True)
    add_lengths(parser)


def run(args: argparse.Namespace) -> Result:
    """Sort the passages of files, or the lines of stdin."""
    from dataclasses import replace

    from mlx_colbert.documents.files import Unread, read_lines, read_passages
    from mlx_colbert.documents.passage import encoded_text

    if not args.inputs and sys.stdin is None:
        raise InputError("stdin is closed. Name a file, or pipe in one text per line.")
    for path in args.inputs:
        if not Path(path).exists():
            hint = f'If it is a word of the query, put the query in quotes: "{args.query} {path}".'
            raise InputError(f"{path}: there is no such file. {hint}")
    model, unread = load_model(args), Unread()
    if args.inputs:
        passages = list(read_passages(args.inputs, fits=model.fits, unread=unread))
    else:
        passages = list(read_lines(sys.stdin.buffer, name="stdin"))
    texts = [encoded_text(passage.text, passage.position) for passage in passages]
    by_id = {passage.doc_id: passage for passage in passages}
    found = [
        replace(hit, text=by_id[hit.doc_id].text, position=by_id[hit.doc_id].position).to_dict()
        for hit in model.rerank(args.query, texts, args.k, doc_ids=list(by_id))
    ]
    return {"query": args.query, "hits": found, **left_out(unread)}


def render(result: Result, args: argparse.Namespace) -> str:
    """The passages, best first, and what was not read."""
    return "\n".join([hits(result, args), *left_out_lines(result)])
