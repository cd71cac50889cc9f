"""`mlx-colbert explain`."""

from __future__ import annotations

import argparse

from mlx_colbert.cli.arguments import add_backend
from mlx_colbert.cli.excerpt import wrapped
from mlx_colbert.cli.hit_text import found_text
from mlx_colbert.cli.render import Result, printable, typed_name
from mlx_colbert.cli.searched import add_collections, opened_collections
from mlx_colbert.cli.terminal import Terminal, width_of

EXAMPLE = "mlx-colbert explain \"how do bees tell where flowers are\" '#1a2b3c4d'"
JSON_KEYS = """{"query", "hit", "words": [{"query_word", "passage_word", "in_heading", "similarity",
"above"}]}; the keys of "hit" are those of search. "above" is small for a word that is near to everything"""
_LEGEND = "Number: how similar the two words are. Bar: how much more than most words of the passage."
# The widest bar, in columns.
_BAR = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the query and the passage."""
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument(
        "reference", metavar="ID|PATH:LINE", help="the id of a passage, in quotes, or a line of its file"
    )
    add_collections(parser)
    add_backend(parser)


def run(args: argparse.Namespace) -> Result:
    """Show which word of a query met which word of a passage."""
    from mlx_colbert.collection.lookup import find_passage
    from mlx_colbert.collection.related import explain

    with opened_collections(args.collections, backend=args.backend) as collections:
        collection, passage = find_passage(collections, typed_name(args.reference))
        found = explain(collection, args.query, passage)
        words = [dict(vars(word)) for word in found.words]
        return {"query": args.query, "hit": found.hit.to_dict(), "words": words}


def render(result: Result, args: argparse.Namespace) -> str:
    """A line for each word of the query with a bar; then the passage."""
    terminal = Terminal.of_stdout()
    left = min(
        max((width_of(word["query_word"]) for word in result["words"]), default=0), terminal.width // 3
    )
    right = max((width_of(_answer(word)) for word in result["words"]), default=0)
    room = max(min(_BAR, terminal.width - left - right - 9), 4)
    largest = max((word["above"] for word in result["words"]), default=0) or 1
    lines = []
    for word in result["words"]:
        name, answer = printable(word["query_word"]), printable(_answer(word))
        bar = "━" * max(1, round(word["above"] / largest * room))
        style = "bold" if word["above"] >= largest / 2 else "dim"
        shown = terminal.styled(f"{bar}▶ {answer}", style)
        gap = " " * max(room - len(bar) + right - width_of(answer), 0)
        lines.append(f"{name}{' ' * max(left - width_of(name), 0)} {shown}{gap} {word['similarity']:.2f}")
    lines += ["", *wrapped(_LEGEND, terminal, "", "")]
    passage = {"hits": [result["hit"]], "below": 0, "best_below": None, "notes": []}
    return "\n".join([*lines, "", found_text(passage, terminal, full=True)])


def _answer(word: dict[str, str]) -> str:
    answer = word["passage_word"] or "(none)"
    return f"{answer} (heading)" if word["in_heading"] else answer
