"""`mlx-colbert rerank`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlx_colbert.cli.arguments import add_full, add_lengths, add_model, load_model, location, positive
from mlx_colbert.cli.hit_text import found_text
from mlx_colbert.cli.render import HIT_KEYS, Result, left_out, left_out_lines
from mlx_colbert.cli.terminal import Terminal
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

    from mlx_colbert.documents.files import read_lines, read_passages
    from mlx_colbert.documents.passage import encoded_text
    from mlx_colbert.documents.unread import Unread

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
    found = []
    for hit in model.rerank(args.query, texts, args.k, doc_ids=list(by_id)):
        passage = by_id[hit.doc_id]
        source = None if passage.source is None else passage.source.uri
        found.append(replace(hit, text=passage.text, source=source, position=passage.position).to_dict())
    return {"query": args.query, "hits": found, **left_out(unread)}


def render(result: Result, args: argparse.Namespace) -> str:
    """The passages, best first, and what was not read."""
    return "\n".join([found_text(result, Terminal.of_stdout(), full=args.full), *left_out_lines(result)])
